//! What was done for a pod's claims, in the pod's directory: written before a driver is asked, so that an agent that comes
//! after one that was killed takes it back, and read by containers that start.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A claim of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// Who is told when it ends.
    pub(super) drivers: Vec<String>,
    /// What they answered; `None` until all of them have.
    pub(super) devices: Option<Vec<Device>>,
}

/// A device that was prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Device {
    /// The requests that it is for; none: all.
    pub(super) requests: Vec<String>,
    /// What a container that has it is given, by the names of the Container Device Interface.
    pub(super) cdi_ids: Vec<String>,
}

fn dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("resource-claims")
}

/// Notes a claim; uids come from the API server and are names of files all the same.
pub(super) fn keep(pod_dir: &Path, record: &Record) -> std::io::Result<()> {
    let dir = dir(pod_dir);
    fs::create_dir_all(&dir)?;
    let (path, fresh) = (dir.join(file(&record.uid)), dir.join(format!(".{}", file(&record.uid))));
    fs::write(&fresh, serde_json::to_vec(record)?)?;
    fs::rename(fresh, path)
}

fn file(uid: &str) -> String {
    let plain = uid.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' });
    format!("{}.json", plain.collect::<String>())
}

/// All claims of a pod, with their files.
pub(super) fn all(pod_dir: &Path) -> Vec<(PathBuf, Record)> {
    let entries = fs::read_dir(dir(pod_dir)).into_iter().flatten().flatten();
    let read = |path: PathBuf| {
        let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((path, record))
    };
    let is_whole = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
    entries.map(|entry| entry.path()).filter(is_whole).filter_map(read).collect()
}

/// Whether a pod's directory knows of claims.
pub(crate) fn has_any(pod_dir: &Path) -> bool {
    !all(pod_dir).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_again_and_stays_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let device = Device { requests: vec!["r".into()], cdi_ids: vec!["a.com/b=c".into()] };
        let mut record = Record {
            namespace: "n".into(),
            name: "c".into(),
            uid: "../../x".into(),
            drivers: vec!["d".into()],
            devices: None,
        };
        assert!(!has_any(dir.path()));
        keep(dir.path(), &record).unwrap();
        record.devices = Some(vec![device]);
        keep(dir.path(), &record).unwrap();
        let held = all(dir.path());
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].1, record);
        assert!(held[0].0.starts_with(dir.path().join("resource-claims")));
    }
}
