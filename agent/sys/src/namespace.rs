//! Entering and leaving namespaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, check};

/// Joins the namespaces named by `flags` (`CLONE_NEW*`): of one namespace descriptor, or several of a process by its
/// pidfd (kernel 5.8). Zero joins whatever the descriptor is.
pub fn setns(fd: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    // SAFETY: takes numbers only; memory is not shared with another task, so nothing of ours changes meaning but paths.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), flags as libc::c_int) })?;
    Ok(())
}

/// Leaves the namespaces named by `flags` (`CLONE_NEW*`) for new ones.
pub fn unshare(flags: u64) -> Result<(), Errno> {
    // SAFETY: only namespace flags are meant; CLONE_FILES, which could surprise owners of descriptors, is masked out.
    check(unsafe { libc::syscall(libc::SYS_unshare, (flags & !(libc::CLONE_FILES as u64)) as libc::c_int) })?;
    Ok(())
}
