//! mount_setattr (kernel 5.12), which rustix lacks.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::{Errno, check};

/// What to change on a mount; bits are the kernel's `MOUNT_ATTR_*` and, for propagation, `MS_*`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MountAttributes {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// New propagation, 0 to leave it.
    pub propagation: u64,
}

/// Changes one mount, or with `recursive` its whole tree. `path` is relative to `dir`; empty means `dir` itself.
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attributes: MountAttributes,
    userns: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut set = attributes.set;
    let userns_fd = match userns {
        Some(fd) => {
            set |= libc::MOUNT_ATTR_IDMAP;
            fd.as_raw_fd() as u64
        }
        None => 0,
    };
    let raw =
        libc::mount_attr { attr_set: set, attr_clr: attributes.clear, propagation: attributes.propagation, userns_fd };
    let flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 } | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path is null-terminated; the kernel reads one mount_attr of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}
