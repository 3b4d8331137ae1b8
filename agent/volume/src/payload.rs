//! What a ConfigMap, Secret, downward API or projected volume shows: files by relative path. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Who owns it, where that is not root.
    pub uid: Option<u32>,
}

/// Files by path below the volume.
pub type Payload = BTreeMap<String, FileContent>;

/// Why a volume cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// An item names a key that is not there.
    #[error("references non-existent config key: {key}")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// An item's path leads out of the volume.
    #[error("invalid path {path:?}: expected a relative path without '..'")]
    Path {
        /// The path.
        path: String,
    },
}

/// The data of an object that becomes files.
#[derive(Debug, Clone, Default)]
pub struct Data(BTreeMap<String, Vec<u8>>);

impl From<&ConfigMap> for Data {
    fn from(map: &ConfigMap) -> Self {
        let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        Self(text.chain(binary).collect())
    }
}

impl From<&Secret> for Data {
    fn from(secret: &Secret) -> Self {
        Self(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }
}

/// The files of an object's data: all keys, or the items that were picked.
pub fn files(
    data: &Data,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: bool,
) -> Result<Payload, PayloadError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let all = data
            .0
            .iter()
            .map(|(key, bytes)| (key.clone(), FileContent { bytes: bytes.clone(), mode: default_mode, uid: None }));
        return Ok(all.collect());
    };
    let mut payload = Payload::new();
    for item in items {
        let path = relative(&item.path)?;
        match data.0.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default_mode);
                payload.insert(path, FileContent { bytes: bytes.clone(), mode, uid: None });
            }
            None if optional => {}
            None => return Err(PayloadError::MissingKey { key: item.key.clone() }),
        }
    }
    Ok(payload)
}

/// A path that stays below the volume, without `.` parts.
pub fn relative(path: &str) -> Result<String, PayloadError> {
    let parts: Option<Vec<&str>> = Path::new(path)
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    match parts {
        // `..data` and its like are ours: see `atomic`.
        Some(parts) if !parts.is_empty() && !parts[0].starts_with("..") => Ok(parts.join("/")),
        _ => Err(PayloadError::Path { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Data {
        Data(BTreeMap::from([("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]))
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode, ..Default::default() }
    }

    #[test]
    fn items_pick_keys_and_paths_stay_inside() {
        assert_eq!(files(&data(), None, 0o644, false).unwrap().len(), 2);
        let picked = files(&data(), Some(&[item("a", "x/./y", Some(0o400))]), 0o644, false).unwrap();
        assert_eq!(picked["x/y"], FileContent { bytes: b"1".to_vec(), mode: 0o400, uid: None });
        let missing = files(&data(), Some(&[item("z", "z", None)]), 0o644, false);
        assert_eq!(missing, Err(PayloadError::MissingKey { key: "z".into() }));
        assert!(files(&data(), Some(&[item("z", "z", None)]), 0o644, true).unwrap().is_empty());
        for path in ["../x", "/etc/passwd", "a/../../b", "", ".", "..data", "..2024"] {
            assert!(relative(path).is_err(), "{path}");
        }
    }
}
