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
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
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
    /// The program cannot be looked at.
    #[error("open {}", path.display())]
    Open {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Neither a read-only mount nor a copy could be made.
    #[error("make a sealed copy of the program")]
    Copy(#[source] std::io::Error),
    /// It does not run.
    #[error("run the sealed program")]
    Exec(#[source] Errno),
}

const OWN: &str = "/proc/self/exe";

fn opening(path: &Path) -> impl FnOnce(std::io::Error) -> SealError {
    let path = path.to_owned();
    move |source| SealError::Open { path, source }
}

/// A program that is sealed once and run many times. It stays what it was when the file on disk is replaced.
#[derive(Debug)]
pub struct Program {
    sealed: OwnedFd,
}

impl Program {
    /// This process's own program.
    pub fn own() -> Result<Program, SealError> {
        Program::open(Path::new(OWN))
    }

    /// The program at a path.
    pub fn open(path: &Path) -> Result<Program, SealError> {
        let sealed = match read_only_mount(path) {
            Ok(mount) => mount,
            Err(_) => copy(File::open(path).map_err(opening(path))?).map_err(SealError::Copy)?,
        };
        Ok(Program { sealed })
    }

    /// A command that runs it. The program must outlive the start of the command's process.
    pub fn command(&self) -> Command {
        // The descriptor is open in the child until the very exec that is named here.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.sealed.as_raw_fd()));
        command.arg0("gantry");
        command
    }
}

/// Returns at once in a program that is sealed; otherwise runs it again, sealed, with the same arguments.
pub fn ensure(args: &[OsString]) -> Result<(), SealError> {
    let path = Path::new(OWN);
    let own = File::open(path).map_err(opening(path))?;
    let flags = rustix::fs::fstatvfs(&own).map_err(|error| opening(path)(error.into()))?.f_flag;
    let is_copy = rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    if flags.contains(StatVfsMountFlags::RDONLY) || is_copy {
        return Ok(());
    }
    let program = Program::own()?;
    let strings = |list: Vec<Vec<u8>>| CStrings::new(list.into_iter().filter_map(|s| CString::new(s).ok()).collect());
    let args = strings(args.iter().map(|arg| arg.as_bytes().to_vec()).collect());
    let env = strings(std::env::vars_os().map(|(k, v)| [k.into_vec(), b"=".to_vec(), v.into_vec()].concat()).collect());
    Err(SealError::Exec(execveat(program.sealed.as_fd(), &args, &env)))
}

fn read_only_mount(path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, flags)?;
    let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    mount_setattr(mount.as_fd(), c"", false, read_only, None)?;
    Ok(mount)
}

fn copy(mut program: File) -> std::io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("gantry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(fd);
    std::io::copy(&mut program, &mut memory)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memory.into())
}
