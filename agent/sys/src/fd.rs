//! Descriptors by number: closing ranges, taking over inherited ones.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, check};

/// Marks every descriptor from `first` on close-on-exec (kernel 5.11; before that one by one).
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers only; flags of descriptors change, none is closed under an owner.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match check(ret) {
        Ok(_) => return Ok(()),
        Err(Errno::NOSYS | Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    // SAFETY: takes numbers only.
    let limit = unsafe { libc::sysconf(libc::_SC_OPEN_MAX) }.clamp(0, 1 << 20);
    for fd in first as i64..limit {
        // SAFETY: takes numbers only; EBADF for those that are not open is expected.
        unsafe { libc::fcntl(fd as RawFd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Clears close-on-exec of one descriptor.
pub fn keep_across_exec(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }.into())?;
    Ok(())
}

/// Duplicates `fd` onto the number `target`, which is not close-on-exec then.
/// Meant for 0, 1 and 2, which no owner in this process ever closes.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> Result<(), Errno> {
    if fd.as_raw_fd() == target {
        return keep_across_exec(fd);
    }
    // SAFETY: takes numbers only. The caller names a target that no OwnedFd of this process holds.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())?;
    Ok(())
}

/// Takes a descriptor that the parent process passed by number; `None` when it is not open.
pub fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: takes numbers only.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // SAFETY: the descriptor is open and, being inherited, owned by nobody else in this process.
    (number > 2 && flags >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// A borrowed descriptor by number, for those that stay open for the life of the process (inherited listen sockets).
/// `None` when it is not open.
pub fn borrow_inherited(number: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: takes numbers only.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // SAFETY: it is open, and nobody in this process owns, hence closes it.
    (number >= 0 && flags >= 0).then(|| unsafe { BorrowedFd::borrow_raw(number) })
}
