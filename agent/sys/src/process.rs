//! Attributes of the calling process that rustix does not set.

use crate::{Errno, check};

/// Ends the process at once: no destructors, no buffers flushed.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns.
    unsafe { libc::_exit(code) }
}

/// Sends `signal` to us when the thread that made us ends. Changing credentials clears it.
pub fn die_with_parent(signal: i32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) }.into())?;
    Ok(())
}

/// Makes orphaned descendants our children.
pub fn adopt_orphans() -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// Allows or forbids tracing, and reading `/proc/self` by lesser processes.
pub fn set_dumpable(dumpable: bool) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, u64::from(dumpable), 0, 0, 0) }.into())?;
    Ok(())
}

/// No exec gains privileges from here on.
pub fn set_no_new_privileges() -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// Sets the execution domain.
pub fn set_personality(persona: u64) -> Result<(), Errno> {
    // SAFETY: takes numbers only; our own code does not depend on the flags (address layout of later execs).
    check(unsafe { libc::personality(persona as libc::c_ulong) }.into())?;
    Ok(())
}

/// Sets one resource limit by its kernel number.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit64 and writes none.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    })?;
    Ok(())
}

/// Sets the IO scheduling class and priority of the calling thread.
pub fn set_io_priority(class: u32, priority: u32) -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << CLASS_SHIFT | priority) })?;
    Ok(())
}
