//! The pod's containers, and what control connections ask for.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use agent_sys::clone::Child;
use rustix::process::WaitStatus;
use serde::Serialize;

use super::{
    io::{Got, Io},
    log::{LogWriter, Source},
    other::{Made, Other, OtherError},
    protocol::{
        ContainerState, ErrorBody, ErrorKind, ExecRequest, Exit, LogLimits, MonitorConfig, RequestBody, ResponseBody,
        VERSION,
    },
};
use crate::{
    cgroup::Cgroup,
    container::{
        self, Container, ContainerError, CreateOptions, Created, Doorway, ExecOptions, GateKind, Status, clock,
    },
    plan::Streams,
};

/// More containers than any pod has.
const CONTAINERS_MAX: usize = 512;

/// So often it is looked for what a killed process left; one that forks faster meets its cgroup's limit.
const KILL_ROUNDS: usize = 8;

/// The first process of a container, by who made it.
#[derive(Debug)]
enum First {
    Own(Box<Created>),
    Others(Made),
}

impl First {
    fn child(&self) -> &Child {
        match self {
            Self::Own(created) => &created.child,
            Self::Others(made) => &made.child,
        }
    }

    fn cgroup(&self) -> &dyn Cgroup {
        match self {
            Self::Own(created) => created.cgroup.as_ref(),
            Self::Others(made) => made.cgroup.as_ref(),
        }
    }

    fn take_terminal(&mut self) -> Option<std::os::fd::OwnedFd> {
        match self {
            Self::Own(created) => created.terminal.take(),
            Self::Others(made) => made.terminal.take(),
        }
    }
}

/// One container.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: ContainerState,
    pub(super) io: Io,
    first: Option<First>,
    /// The way in, once a process went it: probes go it each second.
    doorway: Option<Doorway>,
    log: Option<LogWriter>,
    pub(super) stdin_once: bool,
}

/// A process of an exec connection.
#[derive(Debug)]
pub(super) struct Session {
    /// Where.
    container: String,
    pub(super) child: Child,
    pub(super) io: Io,
    /// Set once it ended: what is left is to pass on its last output.
    pub(super) code: Option<i32>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) config: MonitorConfig,
    reaper: Option<Child>,
    pub(super) slots: BTreeMap<String, Slot>,
}

#[derive(Serialize)]
struct Record<'a> {
    version: u32,
    #[serde(flatten)]
    state: &'a ContainerState,
}

fn refuse(kind: ErrorKind, message: impl Into<String>) -> ErrorBody {
    ErrorBody { kind, message: message.into() }
}

fn describe(error: &ContainerError) -> ErrorBody {
    let kind = match error {
        ContainerError::NotFound(_) => ErrorKind::NotFound,
        ContainerError::Exists(_) | ContainerError::Status { .. } => ErrorKind::Conflict,
        ContainerError::Id(_) | ContainerError::Spec(_) | ContainerError::Plan(_) | ContainerError::ConsoleWanted => {
            ErrorKind::Invalid
        }
        error if error.is_missing_program() => ErrorKind::MissingProgram,
        _ => ErrorKind::Failed,
    };
    ErrorBody { kind, message: container::error::chain(error) }
}

fn describe_other(error: &OtherError) -> ErrorBody {
    let kind = if error.is_missing_program() { ErrorKind::MissingProgram } else { ErrorKind::Failed };
    ErrorBody { kind, message: container::error::chain(error) }
}

impl Pod {
    pub(super) fn new(config: MonitorConfig, reaper: Option<Child>) -> Pod {
        Pod { config, reaper, slots: BTreeMap::new() }
    }

    fn root(&self) -> PathBuf {
        self.config.state_dir.join("oci")
    }

    /// Who makes the pod's containers, if not we.
    fn other(&self) -> Option<Other<'_>> {
        self.config.runtime.as_ref().map(|runtime| Other::new(runtime, &self.config.state_dir))
    }

    /// What the pod's id 0 is on the machine.
    fn first_id(&self) -> u32 {
        self.config.users.map_or(0, |users| users.first)
    }

    fn record(&self, id: &str) -> PathBuf {
        self.config.state_dir.join("containers").join(format!("{id}.json"))
    }

    fn slot(&mut self, id: &str) -> Result<&mut Slot, ErrorBody> {
        self.slots.get_mut(id).ok_or_else(|| refuse(ErrorKind::NotFound, format!("container {id:?} does not exist")))
    }

    /// An exit must not be lost while no agent listens: the file says it.
    fn persist(&self, id: &str) {
        let Some(slot) = self.slots.get(id) else { return };
        let record = Record { version: VERSION, state: &slot.state };
        let path = self.record(id);
        let written = serde_json::to_vec(&record)
            .map_err(std::io::Error::from)
            .and_then(|bytes| container::state::replace(&path, &bytes));
        if let Err(error) = written {
            eprintln!("{} write {}: {error}", clock(), path.display());
        }
    }

    pub(super) fn handle(&mut self, body: RequestBody) -> Result<ResponseBody, ErrorBody> {
        match body {
            RequestBody::Create { container, bundle, log, log_limits, stdin, stdin_once, tty } => {
                self.create(&container, bundle, log.map(|path| (path, log_limits)), stdin, stdin_once, tty)
            }
            RequestBody::Start { container } => self.start(&container),
            RequestBody::Signal { container, signal, all } => self.signal(&container, signal, all),
            RequestBody::Delete { container } => self.delete(&container),
            RequestBody::ReopenLog { container } => match &mut self.slot(&container)?.log {
                Some(log) => {
                    log.reopen().map_err(|error| refuse(ErrorKind::Failed, format!("reopen the log: {error}")))?;
                    Ok(ResponseBody::Done)
                }
                None => Err(refuse(ErrorKind::Invalid, format!("container {container:?} has no log"))),
            },
            RequestBody::List => {
                Ok(ResponseBody::List { containers: self.slots.values().map(|slot| slot.state.clone()).collect() })
            }
            RequestBody::Resize { container, width, height } => {
                let resized = self.slot(&container)?.io.resize(width, height);
                resized.map_err(|error| refuse(ErrorKind::Invalid, format!("resize the terminal: {error}")))?;
                Ok(ResponseBody::Done)
            }
            RequestBody::Shutdown => {
                self.shutdown();
                Ok(ResponseBody::Done)
            }
        }
    }

    fn create(
        &mut self,
        id: &str,
        bundle: PathBuf,
        log: Option<(PathBuf, Option<LogLimits>)>,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
    ) -> Result<ResponseBody, ErrorBody> {
        match self.slots.get(id).map(|slot| slot.state.status) {
            // An agent that was killed before it could start this one makes it anew.
            Some(Status::Created) => drop(self.delete(id)?),
            Some(_) => return Err(refuse(ErrorKind::Conflict, format!("container {id:?} exists already"))),
            None => {}
        }
        if self.slots.len() >= CONTAINERS_MAX {
            return Err(refuse(ErrorKind::Conflict, format!("the pod has {CONTAINERS_MAX} containers already")));
        }
        let log = log.map(|(path, limits)| LogWriter::open(path, limits)).transpose();
        let log = log.map_err(|error| refuse(ErrorKind::Failed, format!("open the log: {error}")))?;
        let streams = Io::pipes(stdin).map_err(|error| refuse(ErrorKind::Failed, format!("make pipes: {error}")))?;
        let (mut io, theirs) = if tty { (Io::default(), Default::default()) } else { streams };
        let mut first = match self.other() {
            Some(other) => {
                let reaper = self.reaper.as_ref().map(|reaper| reaper.pid);
                First::Others(other.create(id, &bundle, theirs, tty, reaper).map_err(|error| describe_other(&error))?)
            }
            None => First::Own(Box::new(self.make(id, &bundle, theirs, tty)?)),
        };
        if let Some(master) = first.take_terminal() {
            io = Io::terminal(master, stdin).map_err(|error| refuse(ErrorKind::Failed, error.to_string()))?;
        }
        let state = ContainerState {
            id: id.to_owned(),
            status: Status::Created,
            pid: Some(first.child().pid),
            created_at: clock(),
            started_at: None,
            exit: None,
        };
        let slot = Slot { state: state.clone(), io, first: Some(first), doorway: None, log, stdin_once };
        self.slots.insert(id.to_owned(), slot);
        self.persist(id);
        Ok(ResponseBody::Container { state })
    }

    fn make(&self, id: &str, bundle: &Path, streams: Streams, tty: bool) -> Result<Created, ErrorBody> {
        let pid_namespace = match &self.reaper {
            Some(child) => {
                let path = format!("/proc/{}/ns/pid", child.pid);
                let file = fs::File::open(&path);
                Some(file.map_err(|error| refuse(ErrorKind::Failed, format!("open {path}: {error}")))?.into())
            }
            None => None,
        };
        container::create(CreateOptions {
            root: &self.root(),
            id,
            bundle,
            gate: GateKind::Parent,
            no_pivot: false,
            die_with_parent: true,
            streams,
            takes_terminal: tty,
            preserve_fds: 0,
            pid_namespace,
            first_id: self.first_id(),
        })
        .map_err(|error| describe(&error))
    }

    fn start(&mut self, id: &str) -> Result<ResponseBody, ErrorBody> {
        let slot = self.slot(id)?;
        let status = slot.state.status;
        match slot.first.as_ref().filter(|_| status == Status::Created) {
            Some(First::Own(created)) => created.start().map_err(|error| describe(&error))?,
            Some(First::Others(_)) => {
                let started = self.other().map_or(Ok(()), |other| other.start(id));
                started.map_err(|error| describe_other(&error))?;
            }
            None => {
                let message = format!("cannot start container {id:?}: it is {status}");
                return Err(refuse(ErrorKind::Conflict, message));
            }
        }
        let slot = self.slot(id)?;
        slot.state.status = Status::Running;
        slot.state.started_at = Some(clock());
        let state = slot.state.clone();
        self.persist(id);
        Ok(ResponseBody::Container { state })
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<ResponseBody, ErrorBody> {
        if !(0..=64).contains(&signal) {
            return Err(refuse(ErrorKind::Invalid, format!("signal {signal}: expected 0 to 64")));
        }
        let slot = self.slot(id)?;
        let Some(first) = slot.first.as_ref() else {
            return Err(refuse(ErrorKind::Conflict, format!("cannot signal container {id:?}: it is stopped")));
        };
        if all {
            first.cgroup().signal(signal).map_err(|error| describe(&error.into()))?;
        } else {
            agent_sys::signal::pidfd_kill(first.child().pidfd.as_fd(), signal)
                .map_err(|source| describe(&ContainerError::Kernel { what: "send the signal", source }))?;
        }
        Ok(ResponseBody::Done)
    }

    fn delete(&mut self, id: &str) -> Result<ResponseBody, ErrorBody> {
        let slot = self.slot(id)?;
        if slot.state.status == Status::Running {
            return Err(refuse(ErrorKind::Conflict, format!("cannot delete container {id:?}: it is running")));
        }
        self.remove(id)?;
        Ok(ResponseBody::Done)
    }

    fn remove(&mut self, id: &str) -> Result<(), ErrorBody> {
        let result = match (self.other(), Container::load(&self.root(), id)) {
            (Some(other), _) => other.delete(id).map_err(|error| describe_other(&error)),
            (None, Err(ContainerError::NotFound(_))) => Ok(()),
            (None, found) => found.and_then(|container| container.delete(true)).map_err(|error| describe(&error)),
        };
        if result.is_ok() {
            self.slots.remove(id);
            let _ = fs::remove_file(self.record(id));
        }
        result
    }

    /// Kills and removes everything. What fails is told in the monitor's log; the agent empties the pod's cgroup anyway.
    pub(super) fn shutdown(&mut self) {
        for id in self.slots.keys().cloned().collect::<Vec<_>>() {
            if let Err(error) = self.remove(&id) {
                eprintln!("{} remove container {id}: {error}", clock());
            }
        }
        if let Some(reaper) = self.reaper.take() {
            let _ = agent_sys::signal::pidfd_kill(reaper.pidfd.as_fd(), libc::SIGKILL);
            // Its end waits for that of all in its namespace; some of them are children of ours, who wait for us.
            while rustix::process::wait(rustix::process::WaitOptions::empty())
                .is_ok_and(|ended| ended.is_some_and(|(pid, _)| pid.as_raw_nonzero().get() != reaper.pid))
            {}
        }
        let _ = fs::remove_dir(self.root());
        if let Some(other) = self.other() {
            other.clear();
        }
        let _ = fs::remove_dir(self.config.state_dir.join("containers"));
        let _ = fs::remove_file(&self.config.socket);
    }

    /// Runs a process for an exec connection.
    pub(super) fn exec(&mut self, request: ExecRequest) -> Result<Session, ErrorBody> {
        if self.config.runtime.is_some() {
            return self.exec_by_other(request);
        }
        let (root, first_id) = (self.root(), self.first_id());
        let slot = self.slot(&request.container)?;
        if slot.doorway.is_none() {
            let container = Container::load(&root, &request.container).map_err(|error| describe(&error))?;
            slot.doorway = Some(Doorway::of(&container).map_err(|error| describe(&error))?);
        }
        let Some(doorway) = &slot.doorway else {
            return Err(refuse(ErrorKind::Failed, "there is no way into the container"));
        };
        let mut process = request.process;
        process.set_terminal(Some(request.tty));
        let failed = |error: agent_sys::Errno| refuse(ErrorKind::Failed, format!("make streams: {error}"));
        let (mut io, streams) =
            if request.tty { Default::default() } else { Io::pipes(request.stdin).map_err(failed)? };
        let options = ExecOptions { process: &process, streams, die_with_parent: true, preserve_fds: 0, first_id };
        let joined = container::exec(doorway, options).map_err(|error| describe(&error))?;
        if let Some(master) = joined.terminal {
            io = Io::terminal(master, request.stdin).map_err(failed)?;
        }
        Ok(Session { container: request.container, child: joined.child, io, code: None })
    }

    fn exec_by_other(&mut self, request: ExecRequest) -> Result<Session, ErrorBody> {
        self.slot(&request.container)?;
        let mut process = request.process;
        process.set_terminal(Some(request.tty));
        let failed = |error: agent_sys::Errno| refuse(ErrorKind::Failed, format!("make streams: {error}"));
        let (mut io, streams) =
            if request.tty { Default::default() } else { Io::pipes(request.stdin).map_err(failed)? };
        let Some(other) = self.other() else { return Err(refuse(ErrorKind::Failed, "the pod has no other runtime")) };
        let joined = other.exec(&request.container, &process, streams, request.tty);
        let (child, terminal) = joined.map_err(|error| describe_other(&error))?;
        if let Some(master) = terminal {
            io = Io::terminal(master, request.stdin).map_err(failed)?;
        }
        Ok(Session { container: request.container, child, io, code: None })
    }

    /// Ends a process that joined a container, with all that it started: its descendants, and those of its session that
    /// nobody waits for any more. What made itself a daemon on purpose is the container's.
    pub(super) fn kill(&self, session: &Session) {
        let cgroup = self.slots.get(&session.container).and_then(|slot| slot.first.as_ref()).map(First::cgroup);
        for round in 0..KILL_ROUNDS {
            // Looked at before the first one dies: its children are told by their parent.
            let pids = cgroup.and_then(|cgroup| cgroup.pids().ok()).unwrap_or_default();
            let family = container::state::family(session.child.pid, &pids);
            if round == 0 {
                let _ = agent_sys::signal::pidfd_kill(session.child.pidfd.as_fd(), libc::SIGKILL);
            } else if family.is_empty() {
                break;
            }
            for pid in family {
                // Gone already is what was wished for.
                let _ = agent_sys::signal::kill(pid, libc::SIGKILL);
            }
        }
    }

    /// Takes output of a container: into its log; gives it for those attached.
    pub(super) fn output(&mut self, id: &str, index: usize, buffer: &mut [u8]) -> Got {
        let Some(slot) = self.slots.get_mut(id) else { return Got::End };
        let got = slot.io.read(index, buffer);
        if let (Got::Bytes(length), Some(log)) = (&got, &mut slot.log) {
            let source = if index == 0 { Source::Stdout } else { Source::Stderr };
            if let Err(error) = log.write(source, &buffer[..*length]) {
                eprintln!("{} write the log of {id}: {error}", clock());
            }
        }
        got
    }

    /// Whether a container's log got a new file since this was last asked.
    pub(super) fn take_rotated(&mut self, id: &str) -> bool {
        self.slots.get_mut(id).and_then(|slot| slot.log.as_mut()).is_some_and(LogWriter::take_rotated)
    }

    /// Which container this process is the first of.
    pub(super) fn container_of(&self, pid: i32) -> Option<String> {
        let mut slots = self.slots.iter();
        slots
            .find(|(_, slot)| slot.first.as_ref().is_some_and(|first| first.child().pid == pid))
            .map(|(id, _)| id.clone())
    }

    /// Takes note of a container's end, after its last output was read.
    pub(super) fn ended(&mut self, id: &str, status: WaitStatus) -> Option<Exit> {
        let slot = self.slots.get_mut(id)?;
        let first = slot.first.take()?;
        let signal = status.terminating_signal();
        let code = exit_code(status);
        let exit = Exit { code, signal, oom_killed: code != 0 && first.cgroup().oom_kills() > 0, finished_at: clock() };
        // Its processes in a shared PID namespace, and execs, do not outlive it.
        let _ = first.cgroup().signal(libc::SIGKILL);
        if let Some(log) = &mut slot.log
            && let Err(error) = log.finish()
        {
            eprintln!("{} finish the log of {id}: {error}", clock());
        }
        slot.io = Io::default();
        slot.doorway = None;
        slot.state.status = Status::Stopped;
        slot.state.pid = None;
        slot.state.exit = Some(exit.clone());
        self.persist(id);
        Some(exit)
    }
}

/// The code a shell would show.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255)
}
