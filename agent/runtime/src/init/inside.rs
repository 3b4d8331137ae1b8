//! Paths inside a root filesystem whose contents are hostile: every walk is the kernel's own with RESOLVE_IN_ROOT
//! (kernel 5.6), and what it found is used as a descriptor, never as a path again.

use std::{
    ffi::CStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use agent_sys::Errno;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// A path-only descriptor of what `path` names inside `root`.
pub fn resolve(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    open(root, path, ResolveFlags::empty())
}

/// The same, refusing symbolic links anywhere on the way.
pub(super) fn resolve_without_links(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    open(root, path, ResolveFlags::NO_SYMLINKS)
}

fn open(root: BorrowedFd<'_>, path: &CStr, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    loop {
        let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags) {
            // A rename or mount elsewhere made the kernel unsure of `..`; it asks to be tried again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// What is made when a path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Resolves `path` inside `root`, making what is missing; dangling links are followed, inside the root.
pub(super) fn resolve_or_make(root: BorrowedFd<'_>, path: &CStr, missing: Missing) -> Result<OwnedFd, Errno> {
    match resolve(root, path) {
        Err(Errno::NOENT) => make(root, PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())), missing, 0),
        other => other,
    }
}

fn make(root: BorrowedFd<'_>, path: PathBuf, missing: Missing, links: usize) -> Result<OwnedFd, Errno> {
    if links > LINKS_MAX {
        return Err(Errno::LOOP);
    }
    let mut prefix = PathBuf::from("/");
    let mut at = open_path(root, &prefix)?;
    let count = path.components().count();
    for (index, component) in path.components().enumerate() {
        let name = component.as_os_str();
        let parent = prefix.clone();
        prefix.push(name);
        let found = match open_path(root, &prefix) {
            Err(Errno::NOENT) => {
                let last = index + 1 == count;
                let made = if last && missing == Missing::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(&at, name, flags, Mode::from(0o644)).map(drop)
                } else {
                    rustix::fs::mkdirat(&at, name, Mode::from(0o755))
                };
                match made {
                    Ok(()) => {
                        rustix::fs::openat(&at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
                    }
                    Err(Errno::EXIST) => {
                        // A link to nowhere: go on where it points, still inside the root.
                        let target = rustix::fs::readlinkat(&at, name, Vec::new())?;
                        let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
                        let rest: PathBuf = path.components().skip(index + 1).collect();
                        return make(root, parent.join(target).join(rest), missing, links + 1);
                    }
                    Err(error) => return Err(error),
                }
            }
            other => other?,
        };
        at = found;
    }
    Ok(at)
}

fn open_path(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags)
}

/// Splits a cleaned absolute path into the directory and the name.
pub(super) fn split(path: &CStr) -> Option<(Vec<u8>, &CStr)> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes.iter().rposition(|b| *b == b'/')?;
    let name = CStr::from_bytes_with_nul(&bytes[slash + 1..]).ok()?;
    (!name.is_empty()).then(|| (if slash == 0 { b"/".to_vec() } else { bytes[..slash].to_vec() }, name))
}

/// `/proc/self/fd/N`, laid out on the stack: a path to what a descriptor refers to, for calls that take paths only.
pub(super) struct FdPath([u8; 32]);

impl FdPath {
    pub(super) fn new(fd: BorrowedFd<'_>) -> FdPath {
        use std::io::Write as _;
        let mut buffer = [0u8; 32];
        // "/proc/self/fd/" and ten digits fit in 32 bytes with the NUL that is already there.
        let _ = write!(&mut buffer[..31], "/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        FdPath(buffer)
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::CString, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_is_found_or_made_outside() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir_all(root.join("a")).unwrap();
        symlink("/", root.join("slash")).unwrap();
        symlink("../../../..", root.join("a/up")).unwrap();
        symlink(outside.path().join("secret"), root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = std::fs::File::open(&root).unwrap();
        for (path, made) in
            [("/slash/x1/y", "x1/y"), ("/a/up/x2", "x2"), ("/../../x3", "x3"), ("/a/up/../x4/z", "x4/z")]
        {
            resolve_or_make(fd.as_fd(), &CString::new(path).unwrap(), Missing::Directory).unwrap();
            assert!(root.join(made).is_dir(), "{path}");
        }
        resolve_or_make(fd.as_fd(), c"/dangling", Missing::File).unwrap();
        assert!(!outside.path().join("secret").exists());
        let inside = root.join(outside.path().strip_prefix("/").unwrap()).join("secret");
        assert!(inside.is_file(), "{}", inside.display());
        assert_eq!(resolve_or_make(fd.as_fd(), c"/loop/x", Missing::Directory).unwrap_err(), Errno::LOOP);
        let mut names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["root"]);
    }
}
