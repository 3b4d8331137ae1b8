//! Hooks: programs that are told of a container on their standard input.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be run.
    #[error("run")]
    Spawn(#[source] io::Error),
    /// It did not end in time.
    #[error("it did not end within {0} seconds")]
    Timeout(u64),
    /// It did not succeed.
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
}

impl HookError {
    /// The nearest kernel error, for the narrow way out of a starting container.
    pub(crate) fn errno(&self) -> agent_sys::Errno {
        match self {
            HookError::Spawn(error) => agent_sys::Errno::from_io_error(error).unwrap_or(agent_sys::Errno::IO),
            HookError::Timeout(_) => agent_sys::Errno::TIMEDOUT,
            HookError::Failed(_) => agent_sys::Errno::CANCELED,
        }
    }
}

/// Runs one hook to its end.
pub fn run(hook: &Hook, state: &[u8]) -> Result<(), HookError> {
    let mut command = Command::new(hook.path());
    let args = hook.args().clone().unwrap_or_default();
    if let Some((name, rest)) = args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(HookError::Spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its input.
        let _ = stdin.write_all(state);
    }
    if let Some(seconds) = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| HookError::Spawn(error.into()))?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut events = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Ok(0) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(HookError::Timeout(seconds));
                }
                Ok(_) => break,
                Err(agent_sys::Errno::INTR) => {}
                Err(error) => return Err(HookError::Spawn(error.into())),
            }
        }
    }
    let status = child.wait().map_err(HookError::Spawn)?;
    if status.success() { Ok(()) } else { Err(HookError::Failed(status)) }
}
