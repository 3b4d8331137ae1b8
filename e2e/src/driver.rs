//! A small storage driver of the tests' own. It speaks the Container Storage Interface (csi.proto 1.11) over gRPC and is
//! written against that page alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::net::UnixListener;

use crate::grpc::{self, Frames, Message, number_field, put};

pub mod controller;

/// The driver's name.
pub const NAME: &str = "test.example.com";
/// The size of a device.
pub const BLOCK_BYTES: u64 = 4 << 20;

/// A call that came.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    /// Such as `NodeStageVolume`.
    pub method: String,
    /// The volume.
    pub volume: String,
    /// The target, or where it is staged.
    pub path: String,
    /// What attaching told.
    pub publish_context: BTreeMap<String, String>,
    /// The secrets.
    pub secrets: BTreeMap<String, String>,
    /// What is known of volume and pod.
    pub volume_context: BTreeMap<String, String>,
    /// The file system that was asked for.
    pub fs_type: String,
    /// The device itself was asked for.
    pub is_block: bool,
    /// The access mode.
    pub access_mode: u64,
    /// The bytes that are wanted.
    pub required_bytes: u64,
    /// The driver's name of the node.
    pub node: String,
    /// What the class says.
    pub parameters: BTreeMap<String, String>,
    /// Where the volume is best.
    pub preferred: Vec<BTreeMap<String, String>>,
    /// The volume that is copied.
    pub source: String,
}

impl Call {
    /// Notes how the volume is used.
    fn capability(&mut self, asked: Option<Message>) {
        let Some(asked) = asked else { return };
        self.is_block = asked.message(1).is_some();
        self.fs_type = asked.message(2).map(|mount| mount.text(1)).unwrap_or_default();
        self.access_mode = asked.message(3).map(|mode| mode.number(1)).unwrap_or_default();
    }
}

/// The driver, until dropped: its sockets go with it, what it has mounted stays.
pub struct Driver {
    calls: Arc<Mutex<Vec<Call>>>,
    sockets: [PathBuf; 2],
    tasks: tokio::task::JoinSet<()>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.tasks.abort_all();
        for socket in &self.sockets {
            drop(fs::remove_file(socket));
        }
    }
}

struct Service {
    /// Where volumes are.
    backing: PathBuf,
    endpoint: PathBuf,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Driver {
    /// Serves below a node's directory of plugins; `backing` holds the volumes. Then it registers.
    pub fn start(kubelet: &Path, backing: &Path) -> Self {
        let dir = kubelet.join("plugins").join(NAME);
        fs::create_dir_all(&dir).expect("a directory");
        let sockets = [dir.join("csi.sock"), kubelet.join("plugins_registry").join(format!("{NAME}-reg.sock"))];
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let mut tasks = tokio::task::JoinSet::new();
        for socket in &sockets {
            drop(fs::remove_file(socket));
            let listener = UnixListener::bind(socket).expect("a socket");
            let (backing, endpoint) = (backing.to_owned(), sockets[0].clone());
            let service = Arc::new(Service { backing, endpoint, calls: Arc::clone(&calls) });
            tasks.spawn(grpc::serve(listener, move |method, asked| service.answer(method, asked)));
        }
        Self { calls, sockets, tasks }
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Call> {
        let calls = self.calls.lock().expect("nobody panics with it");
        calls.iter().filter(|call| call.method == method).cloned().collect()
    }
}

fn bind(from: &Path, to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|error| error.to_string())?;
    if is_mounted(to) {
        return Ok(());
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|error| format!("bind {to:?}: {error}"))
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

fn unbind(path: &Path) -> Result<(), String> {
    if is_mounted(path) {
        umount2(path, MntFlags::empty()).map_err(|error| format!("unmount {path:?}: {error}"))?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Runs `losetup`, and says what it printed.
fn losetup(arguments: &[&str], file: &Path) -> Result<String, String> {
    let output = Command::new("losetup").args(arguments).arg(file).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Makes a loop device of a file, and a path lead to it.
fn show_device(image: &Path, path: &Path) -> Result<(), String> {
    if is_mounted(path) {
        return Ok(());
    }
    let file = File::options().create(true).append(true).open(image).map_err(|error| error.to_string())?;
    file.set_len(BLOCK_BYTES).map_err(|error| error.to_string())?;
    let device = losetup(&["--find", "--show"], image)?;
    File::create(path).map_err(|error| error.to_string())?;
    mount(Some(device.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|error| error.to_string())
}

/// The loop devices of a file.
fn devices(image: &Path) -> Result<String, String> {
    losetup(&["--noheadings", "--output", "NAME", "--associated"], image)
}

/// Whether there is a loop device of a file.
pub fn has_device(image: &Path) -> bool {
    !devices(image).expect("losetup answers").is_empty()
}

fn hide_device(image: &Path, path: &Path) -> Result<(), String> {
    if is_mounted(path) {
        umount2(path, MntFlags::empty()).map_err(|error| format!("unmount {path:?}: {error}"))?;
        fs::remove_file(path).map_err(|error| error.to_string())?;
    }
    devices(image)?.lines().try_for_each(|device| losetup(&["--detach"], Path::new(device.trim())).map(drop))
}

impl Service {
    /// The file behind the device of a volume.
    fn image(&self, volume: &str) -> PathBuf {
        self.backing.join(format!("{volume}.image"))
    }

    fn answer(&self, method: &str, asked: &Message) -> Frames {
        match self.call(method, asked) {
            Ok(reply) => grpc::reply(grpc::OK, &reply),
            Err(why) => {
                eprintln!("{method}: {why}");
                grpc::reply(grpc::INTERNAL, &[])
            }
        }
    }

    fn call(&self, method: &str, asked: &Message) -> Result<Vec<u8>, String> {
        let mut call = Call { method: method.into(), volume: asked.text(1), ..Call::default() };
        let mut reply = Vec::new();
        match method {
            "GetInfo" => {
                let endpoint = self.endpoint.display().to_string();
                for (field, text) in [(1, "CSIPlugin"), (2, NAME), (3, endpoint.as_str()), (4, "1.0.0")] {
                    put(&mut reply, field, text.as_bytes());
                }
            }
            "NotifyRegistrationStatus" => call.volume = format!("{} {}", asked.number(1), asked.text(2)),
            "NodeGetInfo" => {
                put(&mut reply, 1, b"machine-7");
                reply.extend(number_field(2, 5));
                let (mut entry, mut topology) = (Vec::new(), Vec::new());
                put(&mut entry, 1, b"topology.test.example.com/rack");
                put(&mut entry, 2, b"r1");
                put(&mut topology, 1, &entry);
                put(&mut reply, 3, &topology);
            }
            "NodeGetCapabilities" => {
                // Stage and expand.
                for kind in [1, 3] {
                    let mut own = Vec::new();
                    put(&mut own, 1, &number_field(1, kind));
                    put(&mut reply, 1, &own);
                }
            }
            "NodeStageVolume" => {
                call.path = asked.text(3);
                call.publish_context = asked.map(2);
                call.capability(asked.message(4));
                (call.secrets, call.volume_context) = (asked.map(5), asked.map(6));
                let own = self.backing.join(&call.volume);
                if !call.is_block {
                    fs::create_dir_all(&own).map_err(|error| error.to_string())?;
                    bind(&own, Path::new(&call.path))?;
                }
            }
            "NodePublishVolume" => {
                call.path = asked.text(4);
                call.publish_context = asked.map(2);
                call.capability(asked.message(5));
                (call.secrets, call.volume_context) = (asked.map(7), asked.map(8));
                let staged = asked.text(3);
                let from = match staged.is_empty() {
                    true => self.backing.join(&call.volume),
                    false => PathBuf::from(staged),
                };
                if call.is_block {
                    show_device(&self.image(&call.volume), Path::new(&call.path))?;
                } else {
                    fs::create_dir_all(&from).map_err(|error| error.to_string())?;
                    bind(&from, Path::new(&call.path))?;
                    let told: Vec<String> =
                        call.volume_context.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    fs::write(from.join("context"), told.join("\n")).map_err(|error| error.to_string())?;
                }
            }
            "NodeUnpublishVolume" | "NodeUnstageVolume" => {
                call.path = asked.text(2);
                let image = self.image(&call.volume);
                match method == "NodeUnpublishVolume" && image.exists() {
                    true => hide_device(&image, Path::new(&call.path))?,
                    false => unbind(Path::new(&call.path))?,
                }
            }
            "NodeExpandVolume" => {
                call.path = asked.text(2);
                call.required_bytes = asked.message(3).map(|range| range.number(1)).unwrap_or_default();
            }
            other => return Err(format!("no method {other}")),
        }
        self.calls.lock().map_err(|error| error.to_string())?.push(call);
        Ok(reply)
    }
}
