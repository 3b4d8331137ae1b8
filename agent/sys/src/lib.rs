//! The Linux calls that need `unsafe` or that no kept crate wraps; everything rustix has is used from rustix.
//! Never holds policy, never knows tokio.
//! Start reading at `clone`.
#![allow(unsafe_code)]

pub mod allocator;
pub mod bpf;
pub mod clone;
pub mod credential;
pub mod exec;
pub mod fd;
pub mod link;
pub mod loop_device;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod profile;
pub mod seccomp;
pub mod signal;

/// The error of every call here: the kernel's number, nothing more.
pub type Errno = rustix::io::Errno;

/// Turns the `-1` convention of libc into a result.
fn check(ret: libc::c_long) -> Result<libc::c_long, Errno> {
    if ret == -1 { Err(last_errno()) } else { Ok(ret) }
}

fn last_errno() -> Errno {
    // SAFETY: __errno_location returns a valid pointer to this thread's errno for as long as the thread lives.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
