//! `subPath` mounts: a container may swap links inside its volume at any time, so the path is resolved
//! once, beneath the volume, and what was found is bind-mounted by descriptor to a place of ours.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};

/// Mounts `sub_path` of `volume` at `target`, making directories that are missing. Answers `target`.
pub(crate) fn bind(volume: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let open = |path: &Path| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let sub_path = Path::new(sub_path);
    if let Err(rustix::io::Errno::NOENT) = open(sub_path) {
        let mut so_far = PathBuf::new();
        for part in sub_path.components() {
            let parent = if so_far.as_os_str().is_empty() { open(Path::new("."))? } else { open(&so_far)? };
            match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o750)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => so_far.push(part),
                Err(error) => return Err(error.into()),
            }
        }
    }
    let found = open(sub_path)?;
    let is_directory = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_dir();
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match is_directory {
        true => fs::create_dir_all(target)?,
        false => drop(fs::OpenOptions::new().create(true).append(true).open(target)?),
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_out_of_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("../..", volume.join("up")).unwrap();
        for path in ["out", "out/passwd", "up", "../x", "/etc"] {
            assert!(bind(&volume, path, &dir.path().join("t")).is_err(), "{path}");
        }
    }
}
