//! Removing trees that containers wrote into. What is mounted below is unmounted first, and the walk never crosses a
//! mount: a tree that still shows somebody else's files is left as it is.

use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat2, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::atomic::VolumeError;

/// Directories deeper than this are brought up to the top before they are emptied: the depth that a container may make
/// is bounded by nothing, our stack and descriptors are.
const DEPTH_MAX: usize = 64;
/// A mount can cover others at the same place; more rounds than this say that somebody mounts as fast as we unmount.
const ROUNDS_MAX: usize = 64;

/// Removes a file or a tree with all that is mounted on or below it. Nothing there is no error.
pub fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    unmount_below(path)?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(VolumeError::at("look at", path)(error)),
        Ok(metadata) if !metadata.is_dir() => {
            return fs::remove_file(path).map_err(VolumeError::at("remove", path));
        }
        Ok(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, path, flags, Mode::empty());
    let root = match root {
        // Somebody else removes it at the same time; that is true of every step.
        Err(Errno::NOENT) => return Ok(()),
        root => root.map_err(|error| VolumeError::at("open", path)(error.into()))?,
    };
    let mut walk = Walk { root: root.as_fd(), moved: 0 };
    // What was brought up to the top after its listing was read is found by the next round.
    loop {
        let before = walk.moved;
        walk.empty(root.as_fd(), path, 0)?;
        if walk.moved == before {
            break;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(VolumeError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Unmounts everything on and below a path, the newest first. Whoever uses it still keeps it.
pub fn unmount_below(path: &Path) -> Result<(), VolumeError> {
    let Ok(path) = resolve(path) else { return Ok(()) };
    for _ in 0..ROUNDS_MAX {
        let points = mount_points(&path)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points.iter().rev() {
            match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // It went with one that was above it.
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(error) => return Err(VolumeError::at("unmount", point)(error.into())),
            }
        }
    }
    Err(VolumeError::at("unmount everything below", &path)(io::ErrorKind::ResourceBusy.into()))
}

/// The real path, the last component not followed.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// Whether something is mounted at just this place.
pub fn is_mount_point(path: &Path) -> Result<bool, VolumeError> {
    let path = resolve(path).map_err(VolumeError::at("look at", path))?;
    Ok(mount_points(&path)?.contains(&path))
}

/// Mount points on and below a path, in the order of their making; proc(5), mountinfo.
fn mount_points(path: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let table = Path::new("/proc/self/mountinfo");
    let bytes = fs::read(table).map_err(VolumeError::at("read", table))?;
    let lines = bytes.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape);
    Ok(points.map(PathBuf::from).filter(|point| point.starts_with(path)).collect())
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescape(text: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain)
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// How many directories were brought up to the top.
    moved: u64,
}

impl Walk<'_> {
    fn empty(&mut self, dir: BorrowedFd<'_>, path: &Path, depth: usize) -> Result<(), VolumeError> {
        let at = |step, name: &CStr| {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            move |error: Errno| VolumeError::at(step, &path)(error.into())
        };
        let list = |error: Errno| VolumeError::at("list", path)(error.into());
        for entry in Dir::read_from(dir).map_err(list)? {
            let entry = entry.map_err(list)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(at("remove", name)(error)),
            }
            if depth == DEPTH_MAX {
                self.bring_up(dir, name).map_err(at("bring up", name))?;
                continue;
            }
            let below = match open_below(dir, name) {
                Err(Errno::NOENT) => continue,
                below => below.map_err(at("open", name))?,
            };
            self.empty(below.as_fd(), &path.join(OsStr::from_bytes(name.to_bytes())), depth + 1)?;
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) => {}
                removed => removed.map_err(at("remove", name))?,
            }
        }
        Ok(())
    }

    /// Moves a directory to the top of the tree; the next round takes it from there.
    fn bring_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        // A name that is there already costs a try; more would be somebody's attack.
        for _ in 0..1024 {
            self.moved += 1;
            let new = format!(".deep-{}-{}", std::process::id(), self.moved);
            match renameat_with(dir, name, self.root, new.as_str(), rustix::fs::RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                moved => return moved,
            }
        }
        Err(Errno::EXIST)
    }
}

/// Opens a directory, unless something is mounted on it (EXDEV).
fn open_below(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn deep_trees_and_links_go_and_what_they_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("t"), dir.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), "f").unwrap();
        let mut deep = tree.clone();
        for _ in 0..3 * DEPTH_MAX + 5 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "f").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("f").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn mounts_are_undone_and_never_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("a b"), dir.path().join("outside"));
        let (first, second) = (tree.join("x/one"), tree.join("x/one/two"));
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(outside.join("two")).unwrap();
        fs::write(outside.join("precious"), "p").unwrap();
        for point in [&first, &second, &second] {
            if let Err(error) = mount(Some(&outside), point, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
                println!("skipped: bind mounts need root: {error}");
                return;
            }
        }
        let error = Walk { root: fs::File::open(&tree).unwrap().as_fd(), moved: 0 }
            .empty(fs::File::open(&tree).unwrap().as_fd(), &tree, 0)
            .unwrap_err();
        assert!(
            error.source.kind() == io::ErrorKind::CrossesDevices || error.source.kind() == io::ErrorKind::ResourceBusy
        );
        assert!(outside.join("precious").exists(), "the walk does not cross a mount");
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("precious").exists());
        assert_eq!(mount_points(&tree).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn octal_escapes_are_read() {
        assert_eq!(unescape(b"/a\\040b\\134040"), "/a b\\040");
        assert_eq!(unescape(b"/a\\"), "/a\\");
    }
}
