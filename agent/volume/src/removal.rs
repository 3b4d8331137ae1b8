//! Removing trees that containers wrote into. What is mounted below is unmounted first, and the walk never crosses a
//! mount: a tree that still shows somebody else's files is left as it is.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::atomic::VolumeError;

/// Directories deeper than this are brought up to the top before they are emptied: the depth that a container may make
/// is bounded by nothing, our stack and descriptors are.
const DEPTH_MAX: usize = 64;
/// A mount can cover others at the same place; more rounds than this say that somebody mounts as fast as we unmount.
const ROUNDS_MAX: usize = 64;
const BUSY: i32 = Errno::BUSY.raw_os_error();
const CROSSES: i32 = Errno::XDEV.raw_os_error();

/// Removes a file or a tree with all that is mounted on or below it. Nothing there is no error.
pub fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    let at = |step| move |error: Errno| VolumeError::at(step, path)(error.into());
    let (parent, name) = match place(path) {
        // Somebody else removes it at the same time; that is true of every step.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        place => place.map_err(VolumeError::at("look at", path))?,
    };
    let root = loop {
        match unlinkat(&parent, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if detach(parent.as_fd(), &name).map_err(at("unmount"))? => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(at("remove")(error)),
        }
        match open_below(parent.as_fd(), &name) {
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::XDEV) if detach(parent.as_fd(), &name).map_err(at("unmount"))? => {}
            root => break root.map_err(at("open"))?,
        }
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
    match unlinkat(&parent, &*name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed.map_err(at("remove")),
    }
}

/// Unmounts everything on and below a path. Whoever uses it still keeps it. Only for directories of ours, into which
/// containers cannot write but where something is mounted: each entry is looked at.
pub fn unmount_below(path: &Path) -> Result<(), VolumeError> {
    let at = |error: Errno| VolumeError::at("unmount", path)(error.into());
    match place(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        place => {
            let (parent, name) = place.map_err(VolumeError::at("look at", path))?;
            unmount_entry(parent.as_fd(), &name, DEPTH_MAX).map_err(at)
        }
    }
}

fn unmount_entry(dir: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    // What is below a mount goes with it.
    detach(dir, name)?;
    let below = match open_below(dir, name) {
        // A file, a link, or gone.
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
        below => below?,
    };
    let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::read_from(&below)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            unmount_entry(below.as_fd(), entry.file_name(), depth)?;
        }
    }
    Ok(())
}

/// The directory that a path is in, which may be reached over links, and its name there.
fn place(path: &Path) -> io::Result<(OwnedFd, CString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok((rustix::fs::openat(CWD, parent, flags, Mode::empty())?, CString::new(name.as_bytes())?))
}

/// Unmounts whatever is mounted on an entry of a directory, one upon the other; tells whether anything was. The list of all
/// mounts, which takes as long as there are pods on the node, need not be read for that.
fn detach(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    // The descriptor names the very directory, wherever it is now.
    let mut point = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    point.push(OsStr::from_bytes(name.to_bytes()));
    for round in 0..ROUNDS_MAX {
        match unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there; umount(2).
            Err(Errno::INVAL | Errno::NOENT) => return Ok(round > 0),
            // Nobody but root may ask.
            Err(Errno::PERM) if !is_mount(dir, name)? => return Ok(round > 0),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::BUSY)
}

/// Whether something is mounted on an entry of a directory; statx(2).
fn is_mount(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    // Who serves the files is not asked: it may be gone.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(dir, name, flags, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether something is mounted at just this place.
pub fn is_mount_point(path: &Path) -> Result<bool, VolumeError> {
    let (parent, name) = place(path).map_err(VolumeError::at("look at", path))?;
    is_mount(parent.as_fd(), &name).map_err(|error| VolumeError::at("look at", path)(error.into()))
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
            // What is mounted on it is in the way of each of these; the second time nothing is.
            let mut gone = self.remove(dir, name, path, depth);
            if gone.as_ref().is_err_and(|error| matches!(error.source.raw_os_error(), Some(BUSY | CROSSES)))
                && detach(dir, name).map_err(at("unmount", name))?
            {
                gone = self.remove(dir, name, path, depth);
            }
            gone?;
        }
        Ok(())
    }

    /// Removes an entry with all that is below it.
    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &Path, depth: usize) -> Result<(), VolumeError> {
        let path = path.join(OsStr::from_bytes(name.to_bytes()));
        let at = |step| VolumeError::at(step, &path);
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(at("remove")(error.into())),
        }
        if depth == DEPTH_MAX {
            return self.bring_up(dir, name).map_err(|error| at("bring up")(error.into()));
        }
        let below = match open_below(dir, name) {
            Err(Errno::NOENT) => return Ok(()),
            below => below.map_err(|error| at("open")(error.into()))?,
        };
        self.empty(below.as_fd(), &path, depth + 1)?;
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.map_err(|error| at("remove")(error.into())),
        }
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
    use std::fs;

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
        let below = open_below(fs::File::open(tree.join("x")).unwrap().as_fd(), c"one");
        assert_eq!(below.unwrap_err(), Errno::XDEV, "the walk does not cross a mount");
        assert!(is_mount_point(&first).unwrap() && is_mount_point(&second).unwrap());
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("precious").exists() && outside.join("two").exists());
        assert_eq!(mounted_below(&tree), 0);
    }

    fn mounted_below(path: &Path) -> usize {
        let path = path.to_str().unwrap().replace(' ', "\\040");
        fs::read_to_string("/proc/self/mountinfo").unwrap().matches(&path).count()
    }

    #[test]
    fn what_is_mounted_on_files_and_on_the_root_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("t"), dir.path().join("outside"));
        for place in [&tree, &outside] {
            fs::create_dir_all(place.join("d")).unwrap();
            fs::write(place.join("d/f"), place.to_str().unwrap()).unwrap();
        }
        let bind = |from: &Path, to: &Path| mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        let file = (outside.join("d/f"), tree.join("d/f"));
        if let Err(error) = bind(&file.0, &file.1) {
            println!("skipped: bind mounts need root: {error}");
            return;
        }
        bind(&outside, &tree).unwrap();
        unmount_below(&tree).unwrap();
        assert_eq!(mounted_below(&tree), 0);
        assert_eq!(fs::read_to_string(&file.1).unwrap(), tree.to_str().unwrap(), "its own file is there again");
        unmount_below(&tree).unwrap();
        unmount_below(&dir.path().join("nothing/here")).unwrap();

        bind(&file.0, &file.1).unwrap();
        bind(&outside, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && mounted_below(&tree) == 0);
        assert_eq!(fs::read_to_string(&file.0).unwrap(), outside.to_str().unwrap());
    }
}
