//! Directories that a pod brings or borrows: emptyDir and hostPath, and the tmpfs that secrets live in.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;

use nix::mount::{MsFlags, mount};

use crate::atomic::VolumeError;
use crate::removal;

/// Makes an emptyDir on disk: for all, as Kubernetes does, or for a group with the set-group-ID bit.
pub fn empty_dir(dir: &Path, gid: Option<u32>) -> Result<(), VolumeError> {
    fs::create_dir_all(dir).map_err(VolumeError::at("create", dir))?;
    chown(dir, None, gid).map_err(VolumeError::at("set owner of", dir))?;
    let mode = if gid.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(VolumeError::at("set mode of", dir))
}

/// Mounts a tmpfs of at most `size` bytes, unless one is mounted there already.
pub fn tmpfs(dir: &Path, size: Option<u64>, mode: u32) -> Result<(), VolumeError> {
    fs::create_dir_all(dir).map_err(VolumeError::at("create", dir))?;
    if removal::is_mount_point(dir)? {
        return Ok(());
    }
    let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
    let options = format!("mode={mode:o}{size}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|error| VolumeError::at("mount tmpfs on", dir)(error.into()))
}

/// Mounts a file system of huge pages of `page` bytes (the machine's usual ones if not told), at most `size` bytes of them,
/// unless one is mounted there already.
pub fn huge_pages(dir: &Path, page: Option<u64>, size: Option<u64>) -> Result<(), VolumeError> {
    fs::create_dir_all(dir).map_err(VolumeError::at("create", dir))?;
    if removal::is_mount_point(dir)? {
        return Ok(());
    }
    let options = [("pagesize", page), ("size", size)].into_iter();
    let options: Vec<String> =
        options.filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("hugetlbfs"), dir, Some("hugetlbfs"), flags, Some(options.join(",").as_str()))
        .map_err(|error| VolumeError::at("mount hugetlbfs on", dir)(error.into()))
}

/// Checks a hostPath against its type and makes what `DirectoryOrCreate` and `FileOrCreate` allow.
pub fn host_path(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let refuse = |what: &str| {
        VolumeError::at("use hostPath", path)(io::Error::other(format!(
            "hostPath type check failed: it is not a {what}"
        )))
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(VolumeError::at("look at hostPath", path)(error)),
    };
    match (kind, metadata) {
        ("", None) => Err(VolumeError::at("use hostPath", path)(io::ErrorKind::NotFound.into())),
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate", None) => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(VolumeError::at("create", path))
        }
        ("FileOrCreate", None) => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(VolumeError::at("create", path))
            .map(drop),
        ("Directory" | "DirectoryOrCreate", Some(found)) if found.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(found)) if found.is_file() => Ok(()),
        ("Socket", Some(found)) if found.file_type().is_socket() => Ok(()),
        ("CharDevice", Some(found)) if found.file_type().is_char_device() => Ok(()),
        ("BlockDevice", Some(found)) if found.file_type().is_block_device() => Ok(()),
        (kind, _) => Err(refuse(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::removal::remove_tree;

    #[test]
    fn host_paths_are_what_their_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        assert!(host_path(&file, "File").is_err());
        host_path(&file, "FileOrCreate").unwrap();
        host_path(&file, "File").unwrap();
        assert!(host_path(&file, "Directory").unwrap_err().source.to_string().contains("not a Directory"));
        host_path(&dir.path().join("a/b"), "DirectoryOrCreate").unwrap();
        host_path(&dir.path().join("a/b"), "").unwrap();
        assert!(host_path(&dir.path().join("none"), "").is_err());
    }

    #[test]
    fn empty_dirs_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        empty_dir(&volume, None).unwrap();
        assert_eq!(fs::metadata(&volume).unwrap().permissions().mode() & 0o7777, 0o777);
        remove_tree(&volume).unwrap();
        remove_tree(&volume).unwrap();
        if let Err(error) = tmpfs(&volume, Some(1 << 20), 0o700) {
            println!("skipped: mounting a tmpfs needs root: {}", error.source);
            return;
        }
        tmpfs(&volume, Some(1 << 20), 0o700).unwrap();
        assert!(removal::is_mount_point(&volume).unwrap());
        remove_tree(&volume).unwrap();
        assert!(!volume.exists());
    }
}
