//! A driver of devices of the tests' own (dynamic resource allocation), written against the kubelet's `dra/v1/api.proto`, its
//! `pluginregistration/v1/api.proto` and the pages of the Container Device Interface alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::api::Api;
use crate::grpc::{self, Frames, Message, put};

/// The driver's name.
pub const NAME: &str = "dra.example.com";

/// What a driver is to do with the next claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mood {
    /// Prepares them.
    #[default]
    Well,
    /// Says why not.
    Refusing(String),
    /// Names a device that no file knows.
    Forgetful,
}

/// The driver, until dropped: its sockets go with it, files of devices stay.
pub struct Driver {
    calls: Arc<Mutex<Vec<(String, String)>>>,
    mood: Arc<Mutex<Mood>>,
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

#[derive(Clone)]
struct Service {
    /// Where files of devices go.
    cdi: PathBuf,
    /// What containers find at /library.
    library: PathBuf,
    endpoint: PathBuf,
    api: Api,
    calls: Arc<Mutex<Vec<(String, String)>>>,
    mood: Arc<Mutex<Mood>>,
}

impl Driver {
    /// Serves below a node's directory of plugins, writes files of devices to `cdi`, and registers. It reads claims by `api`,
    /// as drivers do.
    pub fn start(kubelet: &Path, cdi: &Path, api: &Api) -> Self {
        let dir = kubelet.join("plugins").join(NAME);
        let library = dir.join("library");
        fs::create_dir_all(&library).expect("a directory");
        fs::write(library.join("version"), "7\n").expect("a file");
        let sockets = [dir.join("dra.sock"), kubelet.join("plugins_registry").join(format!("{NAME}-reg.sock"))];
        let (calls, mood) = (Arc::<Mutex<Vec<(String, String)>>>::default(), Arc::<Mutex<Mood>>::default());
        let mut tasks = tokio::task::JoinSet::new();
        let service = Service {
            cdi: cdi.to_owned(),
            library,
            endpoint: sockets[0].clone(),
            api: api.clone(),
            calls: Arc::clone(&calls),
            mood: Arc::clone(&mood),
        };
        for socket in &sockets {
            drop(fs::remove_file(socket));
            let listener = UnixListener::bind(socket).expect("a socket");
            let service = service.clone();
            tasks.spawn(grpc::serve(listener, move |method, asked| service.answer(method, asked)));
        }
        Self { calls, mood, sockets, tasks }
    }

    /// The calls so far, each with the name of its claim, in order.
    pub fn calls(&self) -> Vec<(String, String)> {
        self.calls.lock().expect("nobody panics with it").clone()
    }

    /// How often a method was called for a claim.
    pub fn count(&self, method: &str, claim: &str) -> usize {
        self.calls().iter().filter(|(own, name)| own == method && name == claim).count()
    }

    /// What it does from now on.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock().expect("nobody panics with it") = mood;
    }
}

impl Service {
    fn answer(&self, method: &str, asked: &Message) -> Frames {
        let mut reply = Vec::new();
        match method {
            "GetInfo" => {
                let endpoint = self.endpoint.display().to_string();
                for (field, text) in [(1, "DRAPlugin"), (2, NAME), (3, endpoint.as_str()), (4, "v1.DRAPlugin")] {
                    put(&mut reply, field, text.as_bytes());
                }
                grpc::reply(grpc::OK, &reply)
            }
            "NotifyRegistrationStatus" => {
                self.note(method, &format!("{} {}", asked.number(1), asked.text(2)));
                grpc::reply(grpc::OK, &[])
            }
            "NodePrepareResources" | "NodeUnprepareResources" => {
                let (service, method) = (self.clone(), method.to_owned());
                let claims: Vec<_> =
                    asked.messages(1).map(|claim| (claim.text(1), claim.text(2), claim.text(3))).collect();
                let whole = async move {
                    let mut reply = Vec::new();
                    for (namespace, uid, name) in claims {
                        service.note(&method, &name);
                        let own = match method.as_str() {
                            "NodePrepareResources" => service.prepare(&namespace, &uid, &name).await,
                            _ => service.unprepare(&uid),
                        };
                        let mut entry = Vec::new();
                        put(&mut entry, 1, uid.as_bytes());
                        put(&mut entry, 2, &own);
                        put(&mut reply, 1, &entry);
                    }
                    reply
                };
                stream::once(whole).flat_map(|reply| grpc::reply(grpc::OK, &reply)).boxed()
            }
            _ => grpc::reply(grpc::INTERNAL, &[]),
        }
    }

    fn note(&self, method: &str, claim: &str) {
        self.calls.lock().expect("nobody panics with it").push((method.to_owned(), claim.to_owned()));
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.cdi.join(format!("{NAME}-{uid}.json"))
    }

    /// `NodePrepareResourceResponse`
    async fn prepare(&self, namespace: &str, uid: &str, name: &str) -> Vec<u8> {
        let mood = self.mood.lock().expect("nobody panics with it").clone();
        let mut reply = Vec::new();
        if let Mood::Refusing(why) = &mood {
            put(&mut reply, 2, why.as_bytes());
            return reply;
        }
        let path = format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}");
        let claim = self.api.get(&path).await.ok();
        assert_eq!(claim["metadata"]["uid"], uid);
        let results = claim["status"]["allocation"]["devices"]["results"].as_array().cloned().unwrap_or_default();
        let mut devices: Vec<Value> = Vec::new();
        for result in results.iter().filter(|result| result["driver"] == NAME) {
            let text = |field: &str| result[field].as_str().expect("a result is whole").to_owned();
            let (request, pool, device) = (text("request"), text("pool"), text("device"));
            let own = format!("{uid}-{device}");
            devices.push(json!({"name": own, "containerEdits": {
                "env": [format!("DEVICE_{}={device}", request.to_uppercase())],
                "deviceNodes": [{"path": "/dev/test", "hostPath": "/dev/zero", "permissions": "rw"}]}}));
            let shown = if mood == Mood::Forgetful { format!("{own}-lost") } else { own };
            let mut message = Vec::new();
            put(&mut message, 1, request.as_bytes());
            put(&mut message, 2, pool.as_bytes());
            put(&mut message, 3, device.as_bytes());
            put(&mut message, 4, format!("{NAME}/thing={shown}").as_bytes());
            put(&mut reply, 1, &message);
        }
        let mount = json!({"hostPath": self.library, "containerPath": "/library", "options": ["ro", "nosuid", "nodev", "bind"]});
        let file = json!({"cdiVersion": "0.6.0", "kind": format!("{NAME}/thing"), "devices": devices,
            "containerEdits": {"env": [format!("CLAIM={name}")], "mounts": [mount], "additionalGids": [4711]}});
        fs::write(self.file(uid), file.to_string()).expect("a file");
        reply
    }

    /// `NodeUnprepareResourceResponse`
    fn unprepare(&self, uid: &str) -> Vec<u8> {
        drop(fs::remove_file(self.file(uid)));
        Vec::new()
    }
}
