//! The server that all tests of one program share. It ends with the program, however that ends.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::machine;

static SHARED: OnceLock<PathBuf> = OnceLock::new();

/// The kubeconfig of the shared server, started by the first who asks, with the images of these recipes.
pub fn kubeconfig(recipes: &[&str]) -> PathBuf {
    let shared = SHARED.get_or_init(|| {
        let image = |recipe: &&str| machine::image(recipe).expect("hack/image makes the image");
        let images: Vec<PathBuf> = recipes.iter().map(image).collect();
        // Tests leave their pods behind.
        let cluster =
            Cluster::start_with(&images.iter().map(PathBuf::as_path).collect::<Vec<_>>(), &["--max-pods=240"]);
        let kubeconfig = cluster.kubeconfig();
        outlive(&cluster);
        // Its end is the watchman's business.
        std::mem::forget(cluster);
        kubeconfig
    });
    shared.clone()
}

/// Statics are never dropped: a shell waits for the end of this process, which closes its input, and cleans up.
fn outlive(cluster: &Cluster) {
    // A reset refuses while the server still holds its lock.
    let script = "read -r _; kill -9 \"$1\"; tail --pid=\"$1\" -f /dev/null; \"$2\" reset --purge --data-dir \"$3\" && rm -rf \"$4\"";
    let (data, pid) = (cluster.data_dir(), cluster.server_pid().to_string());
    let dir = data.parent().expect("a data directory lies in another");
    #[expect(clippy::zombie_processes, reason = "it outlives this process, and waits for its end")]
    let mut watchman = Command::new("sh")
        .args(["-c", script, "watchman", &pid])
        .args([machine::gantry().as_path(), &data, dir])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Who ends this process and its group does not end the one that cleans up.
        .process_group(0)
        .spawn()
        .expect("a shell runs");
    let mut input = watchman.stdin.take().expect("piped");
    input.flush().expect("an open pipe");
    std::mem::forget(input);
}

/// A client with a namespace of its own.
pub async fn api(recipes: &[&str], name: &str) -> Api {
    Api::fresh(&kubeconfig(recipes), name).await
}
