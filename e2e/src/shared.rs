//! A server that all tests of one program share. It ends with the program, however that ends.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::cluster::Cluster;
use crate::machine;

/// The server, started by the first who asks.
pub struct Shared(OnceLock<Place>);

/// Where a shared server is.
#[derive(Debug, Clone)]
pub struct Place {
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
}

impl Shared {
    /// One that nobody has asked for yet; for statics.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The server, with these images.
    pub fn place(&self, recipes: &[&str]) -> &Place {
        self.0.get_or_init(|| {
            let images: Vec<PathBuf> =
                recipes.iter().map(|recipe| machine::image(recipe).expect("hack/image makes the images")).collect();
            let images: Vec<_> = images.iter().map(PathBuf::as_path).collect();
            let cluster = Cluster::start(&images);
            let place = Place { kubeconfig: cluster.kubeconfig(), data_dir: cluster.data_dir() };
            outlive(&cluster);
            // Its end is the watchman's business.
            std::mem::forget(cluster);
            place
        })
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// Statics are never dropped: a shell waits for the end of this process, which closes its input, and cleans up.
fn outlive(cluster: &Cluster) {
    // A reset refuses while the server still holds its lock.
    let script = "read -r _; kill -9 \"$1\"; tail --pid=\"$1\" -f /dev/null; \"$2\" reset --purge --data-dir \"$3\" && rm -rf \"$4\"";
    let (data, pid) = (cluster.data_dir(), cluster.server_pid().to_string());
    let dir = data.parent().expect("a data directory lies in another");
    // Nobody waits for the watchman: it outlives this process.
    #[expect(clippy::zombie_processes, reason = "it ends after this process does")]
    let mut watchman = Command::new("sh")
        .args(["-c", script, "watchman", &pid])
        .args([machine::gantry().as_path(), &data, dir])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell runs");
    let mut input = watchman.stdin.take().expect("piped");
    input.flush().expect("an open pipe");
    std::mem::forget(input);
}
