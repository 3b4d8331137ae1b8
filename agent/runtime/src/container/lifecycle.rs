//! A container that exists: its status, and the verbs on it.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use agent_sys::Errno;

use super::{
    ContainerError, Status,
    create::{START_SOCKET, hook_state, oci_state, outcome, run_hooks, short_path},
    state::{self, State},
};
use crate::cgroup::{self, Cgroup};

/// Now, in RFC 3339 with nanoseconds.
pub fn clock() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// A container by its state directory.
#[derive(Debug)]
pub struct Container {
    directory: PathBuf,
    /// What was recorded.
    pub state: State,
}

impl Container {
    /// Finds one.
    pub fn load(root: &Path, id: &str) -> Result<Container, ContainerError> {
        state::check_id(id)?;
        let directory = root.join(id);
        Ok(Container { state: State::load(&directory, id)?, directory })
    }

    /// All of a state root, in the order of their names.
    pub fn list(root: &Path) -> Vec<Container> {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let mut found: Vec<Container> =
            entries.filter_map(|entry| Container::load(root, entry.file_name().to_str()?).ok()).collect();
        found.sort_by(|a, b| a.state.id.cmp(&b.state.id));
        found
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> Result<Box<dyn Cgroup>, ContainerError> {
        Ok(cgroup::open(&self.state.cgroup)?)
    }

    /// Where it is in its life, as of now.
    pub fn status(&self) -> Status {
        if !self.state.is_alive() {
            return if self.state.pid.is_none() { Status::Creating } else { Status::Stopped };
        }
        if self.directory.join(START_SOCKET).exists() {
            return Status::Created;
        }
        match self.cgroup() {
            Ok(cgroup) if cgroup.is_frozen() => Status::Paused,
            _ => Status::Running,
        }
    }

    /// The state as the specification words it.
    pub fn oci_state(&self) -> serde_json::Value {
        let status = self.status();
        oci_state(&self.state, status, self.state.pid.filter(|_| status != Status::Stopped))
    }

    fn refuse(&self, verb: &'static str, status: Status) -> ContainerError {
        ContainerError::Status { verb, id: self.state.id.clone(), status }
    }

    /// Starts a created container.
    pub fn start(&self) -> Result<(), ContainerError> {
        let status = self.status();
        if status != Status::Created {
            return Err(self.refuse("start", status));
        }
        let socket = self.connect().map_err(|error| match error {
            ContainerError::Kernel { source: Errno::CONNREFUSED | Errno::NOENT, .. } => {
                self.refuse("start", Status::Stopped)
            }
            other => other,
        })?;
        let _ = fs::remove_file(self.directory.join(START_SOCKET));
        outcome(&socket)?;
        let hooks = self.state.hooks.as_ref();
        if let Some(hooks) = hooks {
            run_hooks("poststart", hooks.poststart(), &hook_state(&self.state, Status::Running, self.state.pid))?;
        }
        Ok(())
    }

    fn connect(&self) -> Result<OwnedFd, ContainerError> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let path = short_path(&self.directory)?;
        let connect = || {
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(&path.1)?)?;
            Ok(socket)
        };
        connect().map_err(ContainerError::kernel("connect to the start socket"))
    }

    /// A descriptor of the first process, proven to be that one.
    pub fn pidfd(&self) -> Result<OwnedFd, ContainerError> {
        let stopped = || self.refuse("signal", Status::Stopped);
        let pid = self.state.pid.and_then(rustix::process::Pid::from_raw).ok_or_else(stopped)?;
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|_| stopped())?;
        // Checked after opening: the descriptor names the process that had the number then.
        if self.state.is_alive() { Ok(pidfd) } else { Err(stopped()) }
    }

    /// Signals the first process, or all of the cgroup.
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), ContainerError> {
        if all {
            return Ok(self.cgroup()?.signal(signal)?);
        }
        match self.status() {
            status @ (Status::Creating | Status::Stopped) => Err(self.refuse("kill", status)),
            Status::Created | Status::Running | Status::Paused => {
                agent_sys::signal::pidfd_kill(self.pidfd()?.as_fd(), signal)
                    .map_err(ContainerError::kernel("send the signal"))?;
                // A process of a shared PID namespace leaves its children behind; one that is frozen dies when thawed.
                if signal == libc::SIGKILL && self.state.namespaces & libc::CLONE_NEWPID as u64 == 0 {
                    self.cgroup()?.signal(signal)?;
                }
                Ok(())
            }
        }
    }

    /// Freezes or thaws.
    pub fn pause(&self, pause: bool) -> Result<(), ContainerError> {
        match (self.status(), pause) {
            (Status::Running, true) | (Status::Paused, false) => Ok(self.cgroup()?.freeze(pause)?),
            (status, true) => Err(self.refuse("pause", status)),
            (status, false) => Err(self.refuse("resume", status)),
        }
    }

    /// Removes a container that is stopped or was never started; with `force` one that runs, too.
    pub fn delete(self, force: bool) -> Result<(), ContainerError> {
        let status = self.status();
        let cgroup = self.cgroup()?;
        match status {
            Status::Stopped | Status::Creating => {}
            Status::Created | Status::Running | Status::Paused if force || status == Status::Created => {
                if let Ok(pidfd) = self.pidfd() {
                    let _ = agent_sys::signal::pidfd_kill(pidfd.as_fd(), libc::SIGKILL);
                    cgroup.signal(libc::SIGKILL)?;
                    let mut events = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
                    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
                    let _ = rustix::event::poll(&mut events, Some(&timeout));
                }
            }
            Status::Created | Status::Running | Status::Paused => return Err(self.refuse("delete", status)),
        }
        cgroup.signal(libc::SIGKILL)?;
        // Everything is tried; the first error is told.
        let removed = cgroup.delete();
        let forgotten = fs::remove_dir_all(&self.directory);
        if let Some(hooks) = &self.state.hooks {
            run_hooks("poststop", hooks.poststop(), &hook_state(&self.state, Status::Stopped, None))?;
        }
        removed?;
        forgotten.map_err(ContainerError::file("remove", &self.directory))
    }
}
