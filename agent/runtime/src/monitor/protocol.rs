//! What agent and monitor say to each other: frames of a little-endian length and JSON. Pure: no sockets here.
//!
//! A connection begins with a [`Hello`], answered by a [`Message::Response`] with id 0. A control connection then carries
//! [`Request`]s and [`Message`]s; exec and attach connections carry [`stream`] frames both ways.

use std::{collections::BTreeMap, path::PathBuf};

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use super::stream;

/// Version of this protocol and of the files beside it.
pub const VERSION: u32 = 1;

/// No frame is longer.
pub const FRAME_MAX: usize = 1 << 20;

/// What a monitor is started with: the file its command line names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitorConfig {
    /// [`VERSION`].
    pub version: u32,
    /// The pod.
    pub pod_uid: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// Where it keeps `containers/ID.json`, its containers' states and `monitor.log`.
    pub state_dir: PathBuf,
    /// Cgroup of the monitor itself, as `cgroupsPath` words it: on version 2 a leaf.
    #[serde(default)]
    pub cgroup: Option<String>,
    /// Host name of the pod.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Make a network namespace.
    pub new_net: bool,
    /// Make an IPC namespace.
    pub new_ipc: bool,
    /// Make a UTS namespace.
    pub new_uts: bool,
    /// Containers without a PID namespace of their own share one.
    pub share_pid: bool,
    /// Settings of the pod's namespaces.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Make a user namespace, which all of the pod's other namespaces belong to, with these ids of the machine.
    #[serde(default)]
    pub users: Option<IdRange>,
    /// Who makes the pod's containers, if not we ourselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// Another OCI runtime of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `runc` or `crun`: what it is, whatever its program is called.
    pub name: String,
    /// Its program, an absolute path.
    pub program: PathBuf,
}

/// Ids of the machine, of users and of groups alike, that a pod has for its ids from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// What its 0 is.
    pub first: u32,
    /// How many it has.
    pub size: u32,
}

/// First frame of a connection.
#[allow(clippy::large_enum_variant)] // one lives per connection, for a moment
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "hello")]
pub enum Hello {
    /// Requests and events.
    Control {
        /// The client's version.
        version: u32,
        /// It understands [`Event::LogRotated`].
        #[serde(default)]
        log_events: bool,
    },
    /// A process in a container.
    Exec(ExecRequest),
    /// The streams of a container.
    Attach(AttachRequest),
}

/// A process to run in a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    /// Where.
    pub container: String,
    /// What.
    pub process: oci::Process,
    /// Whether it gets input; without, it reads the end of file at once.
    pub stdin: bool,
    /// With a terminal: one output stream.
    pub tty: bool,
}

/// Streams to attach to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRequest {
    /// Whose.
    pub container: String,
    /// Send input.
    pub stdin: bool,
    /// Get output.
    pub stdout: bool,
    /// Get errors.
    pub stderr: bool,
}

/// One request of a control connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the response.
    pub id: u64,
    /// What.
    pub body: RequestBody,
}

/// How large a log may grow. The monitor keeps to it by itself: it counts what it writes, so that no container fills the
/// disk however fast it writes, and whether or not an agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLimits {
    /// A file that would pass this gets a successor; it is renamed to `NAME.N`, with N counting from 1.
    pub max_bytes: u64,
    /// So many files are kept, the current one included; at least 1. Compressed ones (`NAME.N.gz`) count.
    pub max_files: u64,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "request")]
pub enum RequestBody {
    /// Make a container of a bundle.
    Create {
        /// Its name.
        container: String,
        /// Its bundle.
        bundle: PathBuf,
        /// Its log in CRI format.
        #[serde(default)]
        log: Option<PathBuf>,
        /// How large it may grow; without, as large as the disk.
        #[serde(default)]
        log_limits: Option<LogLimits>,
        /// Keep its input open for attach.
        #[serde(default)]
        stdin: bool,
        /// Close the input when the first attached client closes it.
        #[serde(default)]
        stdin_once: bool,
        /// With a terminal (the bundle must say so as well).
        #[serde(default)]
        tty: bool,
    },
    /// Run its program.
    Start {
        /// Which.
        container: String,
    },
    /// Send a signal.
    Signal {
        /// To which.
        container: String,
        /// Number.
        signal: i32,
        /// To every process of its cgroup.
        #[serde(default)]
        all: bool,
    },
    /// Remove a container that ended, or that was never started.
    Delete {
        /// Which.
        container: String,
    },
    /// Open the log anew, after a rotation.
    ReopenLog {
        /// Whose.
        container: String,
    },
    /// States of all containers.
    List,
    /// Size of a container's terminal.
    Resize {
        /// Whose.
        container: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Kill what is left, remove everything and end.
    Shutdown,
}

/// What the monitor sends on a control connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// Answer to a request.
    Response {
        /// Its id; 0 for the hello.
        id: u64,
        /// Outcome.
        result: Result<ResponseBody, ErrorBody>,
    },
    /// Something happened.
    Event(Event),
}

/// What a request gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "response")]
pub enum ResponseBody {
    /// Answer to a control hello.
    Welcome {
        /// The monitor's version.
        version: u32,
        /// Its pod.
        pod_uid: String,
    },
    /// Done.
    Done,
    /// Answer to Create and Start.
    Container {
        /// Its state now.
        state: ContainerState,
    },
    /// Answer to List.
    List {
        /// All.
        containers: Vec<ContainerState>,
    },
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// For people.
    pub message: String,
    /// For programs.
    pub kind: ErrorKind,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// No such container.
    NotFound,
    /// It exists already, or its status does not allow this.
    Conflict,
    /// The program to run does not exist.
    MissingProgram,
    /// The machine refused.
    Failed,
}

/// A container as the monitor knows it; also the content of `containers/ID.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// Name.
    pub id: String,
    /// Status.
    pub status: crate::container::Status,
    /// First process while there is one.
    pub pid: Option<i32>,
    /// RFC 3339 with nanoseconds, as all times here.
    pub created_at: String,
    /// When the program was started.
    pub started_at: Option<String>,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Exit code; 128 and the signal's number when one killed it.
    pub code: i32,
    /// That signal.
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// When.
    pub finished_at: String,
}

/// What happens without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "event")]
pub enum Event {
    /// A container's first process ended.
    Exited {
        /// Which.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A container's log was full and has a new file. Told to clients that asked for it.
    LogRotated {
        /// Whose.
        container: String,
    },
}

/// A frame that cannot be read; its connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Too long.
    #[error("frame of {0} bytes: expected at most {FRAME_MAX}")]
    TooLong(usize),
    /// Not what was expected.
    #[error("parse frame")]
    Parse(#[source] serde_json::Error),
    /// A stream frame of an unknown channel.
    #[error("stream channel {0}: expected 0 to 4 or 255")]
    Channel(u8),
}

/// One value as a frame. A value that does not fit in a frame gives an empty frame, which every decoder refuses.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut frame = vec![0; 4];
    if serde_json::to_writer(&mut frame, value).is_err() || frame.len() - 4 > FRAME_MAX {
        frame.truncate(4);
    }
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Cuts bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame's value.
    #[allow(clippy::should_implement_trait)] // generic in what it gives, and fallible
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = self.buffer.get(4..4 + length) else { return Ok(None) };
        let value = serde_json::from_slice(body).map_err(FrameError::Parse)?;
        self.buffer.drain(..4 + length);
        Ok(Some(value))
    }

    /// What follows the frames taken so far; for the change to stream frames.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    /// How much waits to be taken.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn enums_have_the_documented_words() {
        let hello = serde_json::to_value(Hello::Control { version: 1, log_events: true }).unwrap();
        assert_eq!(hello, serde_json::json!({"hello": "control", "version": 1, "logEvents": true}));
        let request = Request { id: 3, body: RequestBody::Start { container: "a".to_owned() } };
        let json = serde_json::json!({"id": 3, "body": {"request": "start", "container": "a"}});
        assert_eq!(serde_json::to_value(&request).unwrap(), json);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(ids in proptest::collection::vec(any::<u64>(), 0..20), cut in 1usize..50) {
            let requests: Vec<_> = ids.iter().map(|id| Request { id: *id, body: RequestBody::List }).collect();
            let bytes: Vec<u8> = requests.iter().flat_map(encode).collect();
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(request) = decoder.next::<Request>().unwrap() {
                    found.push(request);
                }
            }
            prop_assert_eq!(found, requests);
            prop_assert_eq!(decoder.pending(), 0);
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<Request>() {}
            let mut decoder = stream::Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
