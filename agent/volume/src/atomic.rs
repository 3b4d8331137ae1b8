//! Replaces all files of a volume at once, as readers in containers expect it: the files live in a
//! directory with a time in its name, `..data` points there, and every visible name points through `..data`.
//! One rename of `..data` changes everything. Layout as the kubelet's, which programs rely on.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use crate::payload::{FileContent, Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Why a volume could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", path.display())]
pub struct VolumeError {
    /// What was being done.
    pub step: &'static str,
    /// To which path.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl VolumeError {
    pub(crate) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { step, path, source }
    }
}

/// Makes `dir` show exactly `payload`. `version` must differ from the one shown before. `gid` owns the
/// files if given, and then may read them. What is shown already is left as it is: programs that watch see no change.
pub fn write(dir: &Path, payload: &Payload, version: &str, gid: Option<u32>) -> Result<(), VolumeError> {
    if is_shown(dir, payload, gid) {
        return show_names(dir, payload);
    }
    let fresh_name = format!("..{version}");
    let fresh = dir.join(&fresh_name);
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(VolumeError::at("remove", &fresh))?;
    }
    fs::create_dir(&fresh).map_err(VolumeError::at("create", &fresh))?;
    set_owner(&fresh, 0o755, None, gid)?;
    for (path, content) in payload {
        write_file(&fresh, path, content, gid)?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    let (new_link, link) = (dir.join(NEW_DATA), dir.join(DATA));
    if new_link.symlink_metadata().is_ok() {
        fs::remove_file(&new_link).map_err(VolumeError::at("remove", &new_link))?;
    }
    symlink(&fresh_name, &new_link).map_err(VolumeError::at("link", &new_link))?;
    fs::rename(&new_link, &link).map_err(VolumeError::at("rename to", &link))?;
    show_names(dir, payload)?;
    if let Some(old) = old.filter(|old| *old != Path::new(&fresh_name)) {
        let path = dir.join(old);
        fs::remove_dir_all(&path).map_err(VolumeError::at("remove", &path))?;
    }
    Ok(())
}

/// Whether just these files are there, with these bytes, owners and modes.
fn is_shown(dir: &Path, payload: &Payload, gid: Option<u32>) -> bool {
    let Ok(data) = fs::canonicalize(dir.join(DATA)) else { return false };
    let same = |path: &str, content: &FileContent| {
        let file = data.join(path);
        let metadata = fs::symlink_metadata(&file).ok()?;
        let is_same = metadata.is_file()
            && metadata.len() == content.bytes.len() as u64
            && metadata.mode() & 0o7777 == mode_of(content, gid)
            && gid.is_none_or(|gid| metadata.gid() == gid)
            && content.uid.is_none_or(|uid| metadata.uid() == uid)
            && fs::read(&file).ok()? == content.bytes;
        Some(is_same)
    };
    payload.iter().all(|(path, content)| same(path, content) == Some(true)) && count_files(&data) == Some(payload.len())
}

fn count_files(dir: &Path) -> Option<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        count += match entry.file_type().ok()?.is_dir() {
            true => count_files(&entry.path())?,
            false => 1,
        };
    }
    Some(count)
}

/// A group that owns the files is there to read them.
fn mode_of(content: &FileContent, gid: Option<u32>) -> u32 {
    if gid.is_some() { content.mode | 0o440 } else { content.mode }
}

fn write_file(fresh: &Path, path: &str, content: &FileContent, gid: Option<u32>) -> Result<(), VolumeError> {
    let target = fresh.join(path);
    if let Some(parent) = Path::new(path).parent() {
        let mut so_far = fresh.to_owned();
        for part in parent.components() {
            so_far.push(part);
            if !so_far.exists() {
                fs::create_dir(&so_far).map_err(VolumeError::at("create", &so_far))?;
                set_owner(&so_far, 0o755, None, gid)?;
            }
        }
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&target)
        .map_err(VolumeError::at("create", &target))?;
    file.write_all(&content.bytes).map_err(VolumeError::at("write", &target))?;
    set_owner(&target, mode_of(content, gid), content.uid, gid)
}

fn set_owner(path: &Path, mode: u32, uid: Option<u32>, gid: Option<u32>) -> Result<(), VolumeError> {
    chown(path, uid, gid).map_err(VolumeError::at("set owner of", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).map_err(VolumeError::at("set mode of", path))
}

/// The visible names: first path components, each a link through `..data`.
fn show_names(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let path = dir.join(name);
        if path.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &path).map_err(VolumeError::at("link", &path))?;
        }
    }
    for entry in fs::read_dir(dir).map_err(VolumeError::at("list", dir))? {
        let entry = entry.map_err(VolumeError::at("list", dir))?;
        let name = entry.file_name();
        let stale = name.to_str().is_none_or(|name| !name.starts_with("..") && !wanted.contains(name));
        if stale {
            fs::remove_file(entry.path()).map_err(VolumeError::at("remove", &entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let content = |text: &str| FileContent { bytes: text.as_bytes().to_vec(), mode: 0o640, uid: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), content(text))).collect()
    }

    #[test]
    fn a_volume_shows_exactly_its_payload_after_each_write() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("d/e", "2"), ("gone", "3")]), "v1", None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("d/e")).unwrap(), "2");
        let held = fs::File::open(dir.path().join("a")).unwrap();
        write(dir.path(), &payload(&[("a", "one"), ("new", "4")]), "v2", None).unwrap();
        assert_eq!(io::read_to_string(held).unwrap(), "1", "who has a file open keeps it");
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "one");
        assert!(!dir.path().join("gone").exists() && !dir.path().join("d").exists());
        let mode = fs::metadata(dir.path().join("new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        let hidden: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(".."))
            .collect();
        assert_eq!(hidden.len(), 2, "{hidden:?}: ..data and one directory");
        let shown = || fs::read_link(dir.path().join("..data")).unwrap();
        write(dir.path(), &payload(&[("a", "one"), ("new", "4")]), "v3", None).unwrap();
        assert_eq!(shown(), Path::new("..v2"), "nothing changed, nothing moves");
        write(dir.path(), &payload(&[("a", "one")]), "v4", None).unwrap();
        assert_eq!(shown(), Path::new("..v4"));
    }
}
