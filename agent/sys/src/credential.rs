//! Who the calling thread is: ids and capability sets. Raw calls: the C library would signal other threads.

use crate::{Errno, check};

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The three sets of a thread as bit masks of capability numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// In force now.
    pub effective: u64,
    /// May be put in force.
    pub permitted: u64,
    /// Kept by programs that declare them.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Reads the calling thread's sets.
pub fn capabilities() -> Result<CapabilitySets, Errno> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [Data { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 reads one header and writes exactly two data elements.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Sets the calling thread's sets.
pub fn set_capabilities(sets: CapabilitySets) -> Result<(), Errno> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let part = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [part(0), part(32)];
    // SAFETY: version 3 reads one header and exactly two data elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Takes every capability that is not in `keep` out of the bounding set.
pub fn limit_bounding(keep: u64) -> Result<(), Errno> {
    for number in 0..64u64 {
        // SAFETY: PR_CAPBSET_READ takes a number and no pointers.
        let present = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        if present < 0 {
            return Ok(()); // past the last capability of this kernel
        }
        if present == 1 && keep & (1 << number) == 0 {
            // SAFETY: PR_CAPBSET_DROP takes a number and no pointers.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into())?;
        }
    }
    Ok(())
}

/// Makes the ambient set exactly `mask`; each must be permitted and inheritable.
pub fn set_ambient(mask: u64) -> Result<(), Errno> {
    // SAFETY: PR_CAP_AMBIENT takes numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }.into())?;
    for number in (0..64u64).filter(|n| mask & (1 << n) != 0) {
        // SAFETY: PR_CAP_AMBIENT takes numbers only.
        check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) }.into())?;
    }
    Ok(())
}

/// Keeps permitted capabilities when the user id changes from 0; cleared by exec.
pub fn keep_capabilities(keep: bool) -> Result<(), Errno> {
    // SAFETY: PR_SET_KEEPCAPS takes a number.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, u64::from(keep), 0, 0, 0) }.into())?;
    Ok(())
}

/// Sets the supplementary groups of the calling thread.
pub fn set_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `len` ids from the slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Sets the real, effective and saved group id of the calling thread.
pub fn set_gid(gid: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// Sets the real, effective and saved user id of the calling thread.
pub fn set_uid(uid: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}
