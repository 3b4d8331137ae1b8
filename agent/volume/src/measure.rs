//! How much of the disk a volume takes. Its content is hostile: no link is followed, no mount below is crossed, and the
//! work is bounded.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use crate::atomic::VolumeError;

/// Each level holds a descriptor; what lies deeper is not counted.
const DEPTH_MAX: usize = 256;
/// More entries than this are not looked at: so many take a while, and their directories alone take room that is counted.
const ENTRIES_MAX: u64 = 1_000_000;

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Of its blocks.
    pub bytes: u64,
    /// Files and directories in it.
    pub inodes: u64,
}

impl Used {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

/// What a tree takes, files with several names once. One that is not there takes nothing.
pub fn used(dir: &Path) -> Result<Used, VolumeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, dir, flags, Mode::empty());
    let root = match root {
        Err(Errno::NOENT) => return Ok(Used::default()),
        root => root.map_err(|error| VolumeError::at("open", dir)(error.into()))?,
    };
    let mut walk = Walk { used: Used::default(), entries: 0, seen: HashSet::new() };
    walk.count(root.as_fd(), 0).map_err(|error| VolumeError::at("measure", dir)(error.into()))?;
    Ok(walk.used)
}

struct Walk {
    used: Used,
    entries: u64,
    /// Files with several names that were counted.
    seen: HashSet<u64>,
}

impl Walk {
    fn count(&mut self, dir: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Ok(());
            }
            let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            if is_dir || stat.st_nlink == 1 || self.seen.insert(stat.st_ino) {
                // stat(2): blocks are of 512 bytes whatever the file system's are.
                let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                self.used = self.used.plus(Used { bytes, inodes: 1 });
            }
            if !is_dir || depth == DEPTH_MAX {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
            match openat2(dir, name, flags, Mode::empty(), resolve) {
                Ok(below) => self.count(below.as_fd(), depth + 1)?,
                Err(Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn blocks_are_counted_once_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a")).unwrap();
        fs::write(&outside, vec![1; 4 << 20]).unwrap();
        let empty = used(&volume).unwrap();
        fs::write(volume.join("a/f"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(volume.join("a/f"), volume.join("again")).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        let file = fs::File::create(volume.join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        file.sync_all().unwrap();
        fs::File::open(volume.join("a/f")).unwrap().sync_all().unwrap();
        let now = used(&volume).unwrap();
        let taken = now.bytes - empty.bytes;
        assert_eq!((empty.inodes, now.inodes), (1, 4));
        assert!((1 << 20..2 << 20).contains(&taken), "{taken}");
        assert_eq!(used(&dir.path().join("absent")).unwrap(), Used::default());
    }
}
