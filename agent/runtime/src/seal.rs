//! Our own program, out of reach of containers.
//!
//! A container that gets us to run its `/proc/self/exe` (as an interpreter, say) holds our program file open and could
//! overwrite it on the host (CVE-2019-5736). So a process that is about to make containers first runs itself again from
//! a read-only mount that exists nowhere but in its descriptor: no copy, 0.3 ms, and writing gives EROFS. Kernels
//! without mount_setattr (before 5.12) get a sealed copy in memory.

use std::{
    ffi::{CString, OsString},
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use agent_sys::{
    Errno,
    exec::{CStrings, execveat},
    mount::{MountAttributes, mount_setattr},
};
use rustix::fs::{CWD, MemfdFlags, SealFlags, StatVfsMountFlags};

/// Why the program could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// /proc/self/exe cannot be looked at.
    #[error("open /proc/self/exe")]
    Open(#[source] std::io::Error),
    /// Neither a read-only mount nor a copy could be made.
    #[error("make a sealed copy of the program")]
    Copy(#[source] std::io::Error),
    /// It does not run.
    #[error("run the sealed program")]
    Exec(#[source] Errno),
}

/// Returns at once in a program that is sealed; otherwise runs it again, sealed, with the same arguments.
pub fn ensure(args: &[OsString]) -> Result<(), SealError> {
    let own = File::open("/proc/self/exe").map_err(SealError::Open)?;
    let flags = rustix::fs::fstatvfs(&own).map_err(|error| SealError::Open(error.into()))?.f_flag;
    let is_copy = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    if flags.contains(StatVfsMountFlags::RDONLY) || is_copy {
        return Ok(());
    }
    let program = match read_only_mount() {
        Ok(program) => program,
        Err(_) => copy(own).map_err(SealError::Copy)?,
    };
    let strings = |list: Vec<Vec<u8>>| CStrings::new(list.into_iter().filter_map(|s| CString::new(s).ok()).collect());
    let args = strings(args.iter().map(|arg| arg.as_bytes().to_vec()).collect());
    let env = strings(std::env::vars_os().map(|(k, v)| [k.into_vec(), b"=".to_vec(), v.into_vec()].concat()).collect());
    Err(SealError::Exec(execveat(program.as_fd(), &args, &env)))
}

fn read_only_mount() -> Result<OwnedFd, Errno> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, c"/proc/self/exe", flags)?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    mount_setattr(mount.as_fd(), c"", false, read_only, None)?;
    Ok(mount)
}

fn copy(mut own: File) -> std::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("gantry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(fd);
    std::io::copy(&mut own, &mut memory)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memory.into())
}
