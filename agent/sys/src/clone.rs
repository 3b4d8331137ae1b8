//! clone3: a child in new namespaces (and, on cgroup v2, already in its cgroup), with a pidfd.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, check};

/// Kernel 5.7; the constant of libc is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child shares no longer with its parent.
#[derive(Debug, Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// A cgroup v2 directory the child is born into (kernel 5.7).
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Makes the child a sibling: its parent is our parent.
    pub sibling: bool,
}

/// A process made by [`clone3`].
#[derive(Debug)]
pub struct Child {
    /// Its id in our PID namespace.
    pub pid: i32,
    /// A descriptor that becomes readable when it ends (close-on-exec).
    pub pidfd: OwnedFd,
}

/// Makes a child that runs `child` on a copy of our memory and exits with what it returns.
///
/// # Assumptions
///
/// The caller has one thread: the copy holds the locks of threads that do not exist in it. The closure should not
/// allocate, must not unwind past its end (the release profile aborts on panic; in others the exit code is 101).
pub fn clone3(args: &CloneArgs<'_>, child: impl FnOnce() -> i32) -> Result<Child, Errno> {
    let mut pidfd: RawFd = -1;
    let mut flags = args.namespaces | libc::CLONE_PIDFD as u64;
    // SAFETY: clone_args is plain integers, for which zero is a valid value.
    let mut raw: libc::clone_args = unsafe { std::mem::zeroed() };
    raw.pidfd = (&raw mut pidfd) as u64;
    if args.sibling {
        flags |= libc::CLONE_PARENT as u64;
    } else {
        raw.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(fd) = args.cgroup {
        flags |= CLONE_INTO_CGROUP;
        raw.cgroup = fd.as_raw_fd() as u64;
    }
    raw.flags = flags;
    // SAFETY: without CLONE_VM the child gets a copy of this address space and of this stack, so it returns here with
    // its own locals; `raw` and `pidfd` live on this stack until the call returns. The caller is single-threaded.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
        // SAFETY: _exit never returns and touches none of our memory; destructors belong to the parent.
        unsafe { libc::_exit(code) }
    }
    // SAFETY: the kernel stored a fresh descriptor that nobody else owns.
    Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}
