//! Loading seccomp filters.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Errno, check};

/// One instruction of a classic BPF program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Constant.
    pub k: u32,
}

/// Loads a filter for the calling thread. `flags` are `SECCOMP_FILTER_FLAG_*`; with `NEW_LISTENER` the notification
/// descriptor comes back. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn load_filter(program: &[Instruction], flags: u64) -> Result<Option<OwnedFd>, Errno> {
    #[repr(C)]
    struct Program {
        len: libc::c_ushort,
        filter: *const Instruction,
    }
    let len = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let raw = Program { len, filter: program.as_ptr() };
    // SAFETY: Instruction and Program have the layout of sock_filter and sock_fprog; the kernel copies `len` elements.
    let ret = check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const raw) })?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        // SAFETY: with that flag the return value is a fresh descriptor.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(ret as RawFd) }));
    }
    Ok(None)
}
