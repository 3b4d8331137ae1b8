//! execve with vectors that were laid out beforehand, so that calling it allocates nothing.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::{Errno, last_errno};

/// A null-terminated vector of C strings.
#[derive(Debug)]
pub struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// Lays the strings out.
    pub fn new(strings: Vec<CString>) -> CStrings {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        CStrings { strings, pointers }
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    /// Puts another string in the place of number `index`; does nothing when there is none.
    pub fn replace(&mut self, index: usize, string: CString) {
        if let Some(slot) = self.strings.get_mut(index) {
            self.pointers[index] = string.as_ptr();
            *slot = string;
        }
    }
}

/// Replaces the program; returns only when that failed.
pub fn execve(path: &CStr, args: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: path and the strings behind both pointer vectors are alive and null-terminated, as are the vectors.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    last_errno()
}

/// Replaces the program by the file behind a descriptor; returns only when that failed.
pub fn execveat(file: BorrowedFd<'_>, args: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: as for execve; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}
