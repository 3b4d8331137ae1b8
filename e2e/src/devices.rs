//! A device plugin of the tests' own, written against the kubelet's `deviceplugin/v1beta1/api.proto` alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::api::eventually;
use crate::grpc::{self, Frames, Message, framed, number_field, put};

/// A plugin with devices, until dropped.
pub struct Plugin {
    devices: watch::Sender<BTreeMap<String, bool>>,
    given: Arc<Mutex<Vec<Vec<String>>>>,
    socket: PathBuf,
    kubelet: PathBuf,
    resource: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.task.abort();
        drop(fs::remove_file(&self.socket));
    }
}

fn list(devices: &BTreeMap<String, bool>) -> Vec<u8> {
    let mut reply = Vec::new();
    for (id, well) in devices {
        let mut device = Vec::new();
        put(&mut device, 1, id.as_bytes());
        put(&mut device, 2, if *well { b"Healthy" } else { b"Unhealthy" });
        // `a.1` is near NUMA node 1.
        if let Some(node) = id.split_once('.').and_then(|(_, node)| node.parse().ok()) {
            let (mut numa, mut topology) = (Vec::new(), Vec::new());
            numa.extend(number_field(1, node));
            put(&mut topology, 1, &numa);
            put(&mut device, 3, &topology);
        }
        put(&mut reply, 1, &device);
    }
    reply
}

/// The kind of its devices in files of the Container Device Interface.
pub const CDI_KIND: &str = "test.example.com/thing";

/// Every container gets the machine's /dev/zero as its device, and the ids that it was given as a variable; what files say of each
/// of them, and by an annotation of the device `shared`.
fn allocation(ids: &[String], mounted: &Path) -> Vec<u8> {
    let (mut entry, mut device, mut mount) = (Vec::new(), Vec::new(), Vec::new());
    put(&mut entry, 1, b"GIVEN");
    put(&mut entry, 2, ids.join(" ").as_bytes());
    for (field, text) in [(1, "/dev/test"), (2, "/dev/zero"), (3, "rw")] {
        put(&mut device, field, text.as_bytes());
    }
    put(&mut mount, 1, b"/library");
    put(&mut mount, 2, mounted.as_os_str().as_encoded_bytes());
    mount.extend(number_field(3, 1));
    let (mut own, mut reply) = (Vec::new(), Vec::new());
    put(&mut own, 1, &entry);
    put(&mut own, 2, &mount);
    put(&mut own, 3, &device);
    let mut annotation = Vec::new();
    put(&mut annotation, 1, b"cdi.k8s.io/test");
    put(&mut annotation, 2, format!("{CDI_KIND}=shared").as_bytes());
    put(&mut own, 4, &annotation);
    for id in ids {
        let mut named = Vec::new();
        put(&mut named, 1, format!("{CDI_KIND}={id}").as_bytes());
        put(&mut own, 5, &named);
    }
    put(&mut reply, 1, &own);
    reply
}

impl Plugin {
    /// Serves devices of these ids, all well, and registers them.
    pub async fn start(kubelet: &Path, resource: &str, ids: &[&str]) -> Self {
        let dir = kubelet.join("device-plugins");
        let library = dir.join("library");
        fs::create_dir_all(&library).expect("a directory");
        fs::write(library.join("version"), "7\n").expect("a file");
        let socket = dir.join("test.sock");
        drop(fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).expect("a socket");
        let devices = watch::Sender::new(ids.iter().map(|id| ((*id).to_owned(), true)).collect());
        let given = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let (told, noted) = (devices.clone(), Arc::clone(&given));
        let answer = move |method: &str, asked: &Message| answer(method, asked, told.subscribe(), &noted, &library);
        let task = tokio::spawn(grpc::serve(listener, answer));
        let kubelet = kubelet.to_owned();
        let plugin = Self { devices, given, socket, kubelet, resource: resource.to_owned(), task };
        let asks = plugin.kubelet.join("device-plugins/kubelet.sock");
        eventually("the agent listens for plugins", async || asks.exists().then_some(())).await;
        plugin.register().await.expect("it is taken");
        plugin
    }

    /// Registers (again).
    pub async fn register(&self) -> Result<(), String> {
        let mut request = Vec::new();
        for (field, text) in [(1, "v1beta1"), (2, "test.sock"), (3, self.resource.as_str())] {
            put(&mut request, field, text.as_bytes());
        }
        let stream = UnixStream::connect(self.kubelet.join("device-plugins/kubelet.sock")).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::post("http://localhost/v1beta1.Registration/Register")
            .header("content-type", "application/grpc")
            .body(Full::new(framed(&request)))
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        match trailers.get("grpc-status").is_some_and(|status| status == "0") {
            true => Ok(()),
            false => Err(format!("{trailers:?}")),
        }
    }

    /// A device becomes well or ill.
    pub fn set(&self, id: &str, is_well: bool) {
        self.devices.send_modify(|devices| {
            devices.insert(id.to_owned(), is_well);
        });
    }

    /// Which devices were given, in the order of the calls.
    pub fn given(&self) -> Vec<Vec<String>> {
        self.given.lock().expect("nobody panics with it").clone()
    }
}

fn answer(
    method: &str,
    asked: &Message,
    devices: watch::Receiver<BTreeMap<String, bool>>,
    given: &Mutex<Vec<Vec<String>>>,
    library: &Path,
) -> Frames {
    match method {
        "ListAndWatch" => {
            let first = framed(&list(&devices.borrow()));
            let later = stream::unfold(devices, |mut devices| async move {
                devices.changed().await.ok()?;
                let next = framed(&list(&devices.borrow_and_update()));
                Some((Ok(Frame::data(next)), devices))
            });
            stream::iter([Ok(Frame::data(first))]).chain(later).boxed()
        }
        "Allocate" => {
            let container = asked.message(1).unwrap_or_default();
            let ids: Vec<String> = container.all(1).map(|id| String::from_utf8_lossy(id).into_owned()).collect();
            let reply = allocation(&ids, library);
            given.lock().expect("nobody panics with it").push(ids);
            grpc::reply(grpc::OK, &reply)
        }
        _ => grpc::reply(grpc::OK, &[]),
    }
}
