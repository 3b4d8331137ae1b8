//! The controller service of the tests' driver: volumes are directories beside those of its node service. What it is told to
//! refuse it refuses, before or after it did what was asked.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::UnixListener;

use super::{Call, NAME};
use crate::grpc::{self, Frames, Message, number_field, put};

/// A status that says that nobody knows what came of it.
pub const DEADLINE_EXCEEDED: &str = "4";
/// A status that says that there is no room there.
pub const RESOURCE_EXHAUSTED: &str = "8";
/// A status that says that it never can be.
pub const OUT_OF_RANGE: &str = "11";
const NOT_FOUND: &str = "5";

/// A volume that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The driver's name of it.
    pub id: String,
    /// Its size.
    pub bytes: u64,
    /// The node that it is attached to.
    pub node: Option<String>,
}

#[derive(Debug, Clone)]
struct Refusal {
    method: &'static str,
    status: &'static str,
    is_done: bool,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    /// By the name that they were asked for by.
    volumes: BTreeMap<String, Made>,
    refusals: VecDeque<Refusal>,
    made: u32,
    /// How many bytes it says are left.
    room: u64,
}

/// The service, until dropped.
pub struct Controller {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
    tasks: tokio::task::JoinSet<()>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.tasks.abort_all();
        drop(fs::remove_file(&self.socket));
    }
}

impl Controller {
    /// Serves at a socket; `backing` holds the volumes.
    pub fn start(socket: &Path, backing: &Path) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let mut tasks = tokio::task::JoinSet::new();
        let listener = UnixListener::bind(socket).expect("a socket");
        let (shared, backing) = (Arc::clone(&state), backing.to_owned());
        let answer = move |method: &str, asked: &Message| {
            shared.lock().expect("nobody panics with it").answer(&backing, method, asked)
        };
        tasks.spawn(grpc::serve(listener, answer));
        Self { state, socket: socket.to_owned(), tasks }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// The next call of a method is refused, after it was carried out if `is_done`.
    pub fn refuse(&self, method: &'static str, status: &'static str, is_done: bool) {
        self.state().refusals.push_back(Refusal { method, status, is_done });
    }

    /// It says from now on that so many bytes are left.
    pub fn has_room(&self, bytes: u64) {
        self.state().room = bytes;
    }

    /// What was to be refused and was not yet is not refused any more.
    pub fn heal(&self) {
        self.state().refusals.clear();
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.method == method).cloned().collect()
    }

    /// The methods that were called, in order.
    pub fn methods(&self) -> Vec<String> {
        self.state().calls.iter().map(|call| call.method.clone()).collect()
    }

    /// The volumes that there are.
    pub fn volumes(&self) -> Vec<Made> {
        self.state().volumes.values().cloned().collect()
    }
}

/// A capability: a message in a message in the answer.
fn capability(reply: &mut Vec<u8>, field: u64, kind: u64) {
    let mut own = Vec::new();
    put(&mut own, field, &number_field(1, kind));
    put(reply, 1, &own);
}

fn entry(key: &str, value: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    put(&mut entry, 1, key.as_bytes());
    put(&mut entry, 2, value.as_bytes());
    entry
}

impl State {
    fn answer(&mut self, backing: &Path, method: &str, asked: &Message) -> Frames {
        let refusal = self.refusals.iter().position(|own| own.method == method);
        let refusal = refusal.and_then(|index| self.refusals.remove(index));
        let refused = |status: &'static str| grpc::reply(status, &[]);
        let call = Self::noted(method, asked);
        self.calls.push(call.clone());
        if let Some(refusal) = refusal.as_ref().filter(|own| !own.is_done) {
            return refused(refusal.status);
        }
        match (self.call(backing, &call), refusal) {
            (_, Some(refusal)) => refused(refusal.status),
            (Ok(reply), None) => grpc::reply(grpc::OK, &reply),
            (Err(status), None) => refused(status),
        }
    }

    fn noted(method: &str, asked: &Message) -> Call {
        let mut call = Call { method: method.into(), volume: asked.text(1), ..Call::default() };
        let bytes = |field| asked.message(field).map(|range| range.number(1)).unwrap_or_default();
        match method {
            "CreateVolume" => {
                call.required_bytes = bytes(2);
                call.capability(asked.message(3));
                (call.parameters, call.secrets) = (asked.map(4), asked.map(5));
                let source = asked.message(6).and_then(|source| source.message(2));
                call.source = source.map(|source| source.text(1)).unwrap_or_default();
                let places = asked.message(7).unwrap_or_default();
                call.preferred = places.messages(2).map(|place| place.map(1)).collect();
            }
            "DeleteVolume" => call.secrets = asked.map(2),
            "GetCapacity" => {
                call.parameters = asked.map(2);
                call.preferred = asked.message(3).map(|place| place.map(1)).into_iter().collect();
            }
            "ControllerPublishVolume" => {
                call.node = asked.text(2);
                call.capability(asked.message(3));
                (call.secrets, call.volume_context) = (asked.map(5), asked.map(6));
            }
            "ControllerUnpublishVolume" => (call.node, call.secrets) = (asked.text(2), asked.map(3)),
            "ControllerExpandVolume" => {
                call.required_bytes = bytes(2);
                call.secrets = asked.map(3);
                call.capability(asked.message(4));
            }
            _ => {}
        }
        call
    }

    fn call(&mut self, backing: &Path, call: &Call) -> Result<Vec<u8>, &'static str> {
        let mut reply = Vec::new();
        match call.method.as_str() {
            "GetPluginInfo" => {
                put(&mut reply, 1, NAME.as_bytes());
                put(&mut reply, 2, b"1");
            }
            // A controller service, topology; volumes grow while they are used.
            "GetPluginCapabilities" => {
                [(1, 1), (1, 2), (2, 1)].into_iter().for_each(|(field, kind)| capability(&mut reply, field, kind));
            }
            "Probe" => {}
            // Makes, attaches, tells its room, copies, lets grow.
            "ControllerGetCapabilities" => [1, 2, 4, 7, 9].into_iter().for_each(|kind| capability(&mut reply, 1, kind)),
            "CreateVolume" => put(&mut reply, 1, &self.create(backing, call)?),
            "GetCapacity" => reply.extend(number_field(1, self.room)),
            "DeleteVolume" => {
                self.volumes.retain(|_, made| made.id != call.volume);
                drop(fs::remove_dir_all(backing.join(&call.volume)));
            }
            "ControllerPublishVolume" => {
                self.volume(call)?.node = Some(call.node.clone());
                put(&mut reply, 1, &entry("device", "sdq"));
            }
            "ControllerUnpublishVolume" => self.volume(call)?.node = None,
            "ControllerExpandVolume" => {
                let made = self.volume(call)?;
                made.bytes = made.bytes.max(call.required_bytes);
                reply.extend(number_field(1, made.bytes));
                reply.extend(number_field(2, 1));
            }
            _ => return Err("12"),
        }
        Ok(reply)
    }

    fn volume(&mut self, call: &Call) -> Result<&mut Made, &'static str> {
        self.volumes.values_mut().find(|made| made.id == call.volume).ok_or(NOT_FOUND)
    }

    fn create(&mut self, backing: &Path, call: &Call) -> Result<Vec<u8>, &'static str> {
        if !self.volumes.contains_key(&call.volume) {
            self.made += 1;
            let made = Made { id: format!("made-{}", self.made), bytes: call.required_bytes, node: None };
            let dir = backing.join(&made.id);
            fs::create_dir_all(&dir).map_err(|_| grpc::INTERNAL)?;
            if !call.source.is_empty() {
                for file in fs::read_dir(backing.join(&call.source)).map_err(|_| NOT_FOUND)?.flatten() {
                    fs::copy(file.path(), dir.join(file.file_name())).map_err(|_| grpc::INTERNAL)?;
                }
            }
            self.volumes.insert(call.volume.clone(), made);
        }
        let made = &self.volumes[&call.volume];
        let mut volume = number_field(1, made.bytes);
        put(&mut volume, 2, made.id.as_bytes());
        put(&mut volume, 3, &entry("pool", call.parameters.get("pool").map_or("", String::as_str)));
        if !call.source.is_empty() {
            let (mut own, mut source) = (Vec::new(), Vec::new());
            put(&mut own, 1, call.source.as_bytes());
            put(&mut source, 2, &own);
            put(&mut volume, 4, &source);
        }
        let mut place = Vec::new();
        put(&mut place, 1, &entry("topology.test.example.com/rack", "r1"));
        put(&mut volume, 5, &place);
        Ok(volume)
    }
}
