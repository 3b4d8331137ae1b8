//! Waiting for a process: signals pass to it, and its terminal is ours for the time.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use agent_sys::{Errno, clone::Child, signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};

use super::CliError;
use crate::container::create::reap;

/// Sends a terminal to whoever listens on a console socket.
pub(super) fn hand_over(path: &Path, terminal: &OwnedFd) -> Result<(), CliError> {
    let socket = std::os::unix::net::UnixStream::connect(path).map_err(|source| CliError::File {
        what: "connect to console socket",
        path: path.to_owned(),
        source,
    })?;
    crate::init::channel::send_descriptor(socket.as_fd(), b"/dev/ptmx", terminal.as_fd())
        .map_err(|source| CliError::Kernel { what: "send the terminal", source })
}

/// Our terminal in raw mode until dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Raw> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Waits for the end of a child; gives its exit code, 128 and the signal's number when one killed it.
pub(super) fn wait(child: &Child, terminal: Option<&OwnedFd>, signals: &OwnedFd) -> Result<i32, CliError> {
    let fail = |source| CliError::Kernel { what: "wait for the process", source };
    let _raw = terminal.and_then(|_| Raw::enter());
    if let Some(terminal) = terminal {
        resize(terminal);
    }
    let mut input_open = terminal.is_some();
    let mut output_open = terminal.is_some();
    loop {
        let mut events = vec![PollFd::new(&child.pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if let Some(terminal) = terminal.filter(|_| output_open) {
            events.push(PollFd::new(terminal, PollFlags::IN));
        }
        if input_open {
            events.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
        }
        match poll(&mut events, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(fail)?,
        };
        let ready: Vec<bool> = events.iter().map(|event| !event.revents().is_empty()).collect();
        drop(events);
        if ready[1] {
            while let Some(number) = signal::next_signal(signals.as_fd()).map_err(fail)? {
                match (number, terminal) {
                    (libc::SIGWINCH, Some(terminal)) => resize(terminal),
                    (libc::SIGWINCH, None) => {}
                    _ => drop(signal::pidfd_kill(child.pidfd.as_fd(), number)),
                }
            }
        }
        if let Some(terminal) = terminal {
            if output_open && ready[2] {
                output_open = copy(terminal.as_fd(), rustix::stdio::stdout());
            }
            if input_open && ready.last() == Some(&true) && ready.len() > 2 + usize::from(output_open) {
                input_open = copy(rustix::stdio::stdin(), terminal.as_fd());
            }
        }
        if ready[0] && !output_open {
            break;
        }
        if ready[0] {
            // The last output is still in the terminal; reading it ends with an error once nobody holds it.
            drain(terminal);
            break;
        }
    }
    let status = reap(child).ok_or_else(|| fail(Errno::CHILD))?;
    Ok(exit_code(&status))
}

/// The code a shell would show.
pub(crate) fn exit_code(status: &rustix::process::WaitIdStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(255)
}

fn resize(terminal: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
        let _ = tcsetwinsize(terminal, size);
    }
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 8192];
    let Ok(length) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    length > 0
}

fn drain(terminal: Option<&OwnedFd>) {
    let Some(terminal) = terminal else { return };
    loop {
        let mut events = [PollFd::new(terminal, PollFlags::IN)];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut events, Some(&none)) != Ok(1) || !copy(terminal.as_fd(), rustix::stdio::stdout()) {
            return;
        }
    }
}
