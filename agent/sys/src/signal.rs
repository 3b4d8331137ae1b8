//! Signals of the whole process: clean for a program about to start, or read from a descriptor.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, check};

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain bits; zero is the empty set on Linux.
    unsafe { std::mem::zeroed() }
}

/// Default disposition for every signal and an empty mask, as a program expects at its start.
pub fn reset_all() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no handler of ours. Numbers that may not be changed (KILL, STOP, the two that the C
        // library keeps) fail without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = empty_set();
    // SAFETY: reads one set; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Ignores one signal.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Blocks the signals and gives a non-blocking descriptor they are read from.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd, Errno> {
    let mut set = empty_set();
    for &signal in signals {
        // SAFETY: writes into the set on this stack; an invalid number is refused by the call.
        check(unsafe { libc::sigaddset(&raw mut set, signal) }.into())?;
    }
    // SAFETY: reads one set; the old one is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) }.into())?;
    // SAFETY: reads one set, gives a fresh descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) }.into())?;
    // SAFETY: the descriptor is fresh and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The next pending signal of a [`signal_fd`], if any.
pub fn next_signal(fd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    // SAFETY: signalfd_siginfo is plain data for which zero is valid.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: reads at most `size` bytes into a value of that size.
    match check(unsafe { libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size) } as libc::c_long) {
        Ok(_) => Ok(Some(info.ssi_signo as i32)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Blocks until one of the signals is delivered, which must be blocked; gives its number.
pub fn wait_for(signals: &[i32]) -> Result<i32, Errno> {
    let mut set = empty_set();
    for &signal in signals {
        // SAFETY: writes into the set on this stack.
        check(unsafe { libc::sigaddset(&raw mut set, signal) }.into())?;
    }
    // SAFETY: reads one set; no information is asked for.
    Ok(check(unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) }.into())? as i32)
}
/// Sends a signal to a process by number.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::kill(pid, signal) }.into())?;
    Ok(())
}

/// Sends a signal by pidfd; any number the kernel knows, real-time ones too.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers and a null siginfo.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    })?;
    Ok(())
}
