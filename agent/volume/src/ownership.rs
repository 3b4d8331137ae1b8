//! A volume given to a group (`fsGroup`): who is in it may read and write whatever lies there. The volume's content is
//! hostile: no link is followed, and no mount below is crossed.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, chmodat, chownat, openat2, statat};
use rustix::io::Errno;

use crate::atomic::VolumeError;

/// Deeper trees are refused: each level holds a descriptor.
const DEPTH_MAX: usize = 512;
/// What the group gets: reading and writing of files, entering of directories, and that new files there are its own.
const OF_FILES: u32 = 0o660;
const OF_DIRECTORIES: u32 = 0o2770;

/// Gives a tree to a group. With `on_mismatch` only (`fsGroupChangePolicy: OnRootMismatch`) it is left alone where its top
/// is the group's already.
pub fn give(dir: &Path, gid: u32, on_mismatch: bool) -> Result<(), VolumeError> {
    let metadata = fs::metadata(dir).map_err(VolumeError::at("look at", dir))?;
    let mode = metadata.mode();
    if on_mismatch && metadata.gid() == gid && mode & OF_DIRECTORIES == OF_DIRECTORIES {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, dir, flags, Mode::empty());
    let root = root.map_err(|error| VolumeError::at("open", dir)(error.into()))?;
    give_below(root.as_fd(), gid, 0).map_err(|error| VolumeError::at("set the group below", dir)(error.into()))?;
    // The top goes last: it says that all below is done.
    chown(dir, None, Some(gid)).map_err(VolumeError::at("set owner of", dir))?;
    let mode = Permissions::from_mode(mode & 0o7777 | OF_DIRECTORIES);
    fs::set_permissions(dir, mode).map_err(VolumeError::at("set mode of", dir))
}

fn give_below(dir: BorrowedFd<'_>, gid: u32, depth: usize) -> Result<(), Errno> {
    if depth == DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Somebody else may remove and replace at the same time.
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let below: Option<OwnedFd> = match kind.is_dir() {
            true => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
                match openat2(dir, name, flags, Mode::empty(), resolve) {
                    Ok(below) => Some(below),
                    Err(Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => continue,
                    Err(error) => return Err(error),
                }
            }
            false => None,
        };
        if let Some(below) = &below {
            give_below(below.as_fd(), gid, depth + 1)?;
            rustix::fs::fchown(below, None, Some(Gid::from_raw(gid)))?;
            rustix::fs::fchmod(below, Mode::from_raw_mode(stat.st_mode & 0o7777 | OF_DIRECTORIES))?;
            continue;
        }
        match chownat(dir, name, None, Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            done => done?,
        }
        if kind.is_file() {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 | OF_FILES);
            // A file that became a link meanwhile: fchmodat(2) would follow it, so it is opened without.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => continue,
                file => file?,
            };
            let is_file = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_file();
            if is_file {
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                chmodat(CWD, path.as_str(), mode, AtFlags::empty())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_given_and_what_links_point_to_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/f"), "f").unwrap();
        fs::set_permissions(volume.join("a/f"), Permissions::from_mode(0o600)).unwrap();
        fs::write(&outside, "o").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("a/link")).unwrap();
        if let Err(error) = give(&volume, 4242, false) {
            println!("skipped: giving files away needs root: {}", error.source);
            return;
        }
        let of = |path: &str| {
            let metadata = fs::metadata(volume.join(path)).unwrap();
            (metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!((of("a/f"), of("a/b").0, of("a").1 & 0o2070), ((4242, 0o660), 4242, 0o2070));
        let other = fs::metadata(&outside).unwrap();
        assert_eq!((other.gid() == 4242, other.mode() & 0o777), (false, 0o600));
        chown(volume.join("a/f"), None, Some(0)).unwrap();
        give(&volume, 4242, true).unwrap();
        assert_eq!(of("a/f").0, 0, "the top is the group's already");
        give(&volume, 4242, false).unwrap();
        assert_eq!(of("a/f").0, 4242);
    }
}
