//! From names of devices to what their files say. All files are read when a container starts that has any such device: they
//! come and go with their drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::edit::{self, Edits};
use super::spec::{Spec, is_device, is_kind, is_known};

/// No file of devices is larger.
const MOST_BYTES: u64 = 4 << 20;
/// Of one directory no more files are read.
const MOST_FILES: usize = 1024;
/// No container has more such devices.
const MOST_DEVICES: usize = 1024;

/// Why a container cannot have a device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CdiError {
    /// The name is none.
    #[error("CDI device {0:?}: expected VENDOR/CLASS=NAME")]
    Name(String),
    /// Too many were asked for.
    #[error("more than {MOST_DEVICES} CDI devices")]
    TooMany,
    /// No file has it.
    #[error("CDI device {name:?} not found in {}", shown(dirs, unread))]
    Missing {
        /// Which.
        name: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
        /// Files that could not be used, and why.
        unread: Vec<String>,
    },
    /// Two files of one directory have it.
    #[error("CDI device {name:?} is in {} and in {}", first.display(), second.display())]
    Twice {
        /// Which.
        name: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// What its file asks for cannot be done.
    #[error("CDI device {name:?} of {}: {why}", file.display())]
    Edit {
        /// Which.
        name: String,
        /// Where it stands.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn shown(dirs: &[PathBuf], unread: &[String]) -> String {
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let unread: String = unread.iter().take(3).map(|why| format!("; {why}")).collect();
    dirs.join(", ") + &unread
}

/// A device, and where it stands.
#[derive(Clone, Copy)]
struct Place {
    file: usize,
    device: usize,
    /// The number of its directory: a later one goes before.
    dir: usize,
}

/// What a container with these devices is given. Of two directories with the same device the later one counts.
pub(crate) fn edits(dirs: &[PathBuf], names: &[String]) -> Result<Edits, CdiError> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    if names.len() > MOST_DEVICES {
        return Err(CdiError::TooMany);
    }
    for name in names {
        let is_name = name.split_once('=').is_some_and(|(kind, device)| is_kind(kind) && is_device(device));
        if !is_name {
            return Err(CdiError::Name(name.chars().take(300).collect()));
        }
    }
    let (files, unread) = read(dirs);
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let mut doubled: BTreeMap<String, usize> = BTreeMap::new();
    for (file, (dir, _, spec)) in files.iter().enumerate() {
        for (device, own) in spec.devices.iter().enumerate() {
            let name = format!("{}={}", spec.kind, own.name);
            match places.get(&name) {
                Some(held) if held.dir == *dir => drop(doubled.insert(name, file)),
                _ => {
                    doubled.remove(&name);
                    places.insert(name, Place { file, device, dir: *dir });
                }
            }
        }
    }
    let mut used = BTreeSet::new();
    for name in names {
        let missing = || CdiError::Missing { name: name.clone(), dirs: dirs.to_vec(), unread: unread.clone() };
        let place = places.get(name).copied().ok_or_else(missing)?;
        let (_, file, spec) = &files[place.file];
        if let Some(second) = doubled.get(name) {
            let second = files[*second].1.clone();
            return Err(CdiError::Twice { name: name.clone(), first: file.clone(), second });
        }
        let failed = |why| CdiError::Edit { name: name.clone(), file: file.clone(), why };
        edit::add(&mut edits, &spec.devices[place.device].container_edits).map_err(failed)?;
        // What all devices of a file need comes once.
        if used.insert(place.file) {
            edit::add(&mut edits, &spec.container_edits).map_err(failed)?;
        }
    }
    Ok(edits)
}

/// What is wrong with files that cannot be used.
pub(crate) fn unread(dirs: &[PathBuf]) -> Vec<String> {
    read(dirs).1
}

type Files = Vec<(usize, PathBuf, Spec)>;

/// All files that can be used, each with the number of its directory; and what is wrong with the others.
fn read(dirs: &[PathBuf]) -> (Files, Vec<String>) {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    for (number, dir) in dirs.iter().enumerate() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let is_spec =
            |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json" || extension == "yaml");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_spec).collect();
        paths.sort();
        if paths.len() > MOST_FILES {
            unread.push(format!("{}: only the first {MOST_FILES} files were read", dir.display()));
        }
        for path in paths.into_iter().take(MOST_FILES) {
            match read_one(&path) {
                Ok(spec) => files.push((number, path, spec)),
                Err(why) => unread.push(format!("{}: {why}", path.display())),
            }
        }
    }
    (files, unread)
}

fn read_one(path: &Path) -> Result<Spec, String> {
    // A pipe would be waited for.
    if !path.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MOST_BYTES {
        return Err(format!("it is larger than {MOST_BYTES} bytes"));
    }
    // JSON is YAML too.
    let value = api::yaml::document(&text).map_err(|error| error.to_string())?;
    let spec: Spec = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if !is_known(&spec.cdi_version) {
        return Err(format!("cdiVersion {:?} is not supported, 0.3.0 to 1.1 are", spec.cdi_version));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("kind {:?}: expected VENDOR/CLASS", spec.kind));
    }
    match spec.devices.iter().find(|device| !is_device(&device.name)) {
        Some(device) => Err(format!("devices: {:?} is no name of a device", device.name)),
        None => Ok(spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn devices_are_found_by_name_in_json_and_yaml() {
        let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [etc.path().to_owned(), run.path().to_owned()];
        write(
            etc.path(),
            "a.json",
            r#"{"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": [
            {"name": "0", "containerEdits": {"env": ["A=old"]}}, {"name": "1", "containerEdits": {"env": ["A=1"]}}],
            "containerEdits": {"env": ["ALL=yes"]}}"#,
        );
        write(
            run.path(),
            "b.yaml",
            "cdiVersion: '1.0.0'\nkind: v.com/gpu\ndevices:\n- name: '0'\n  containerEdits:\n    env: [A=0]\n",
        );
        write(run.path(), "broken.json", "{");
        write(run.path(), "c.txt", "no file of devices");
        let found = edits(&dirs, &names(&["v.com/gpu=0"])).unwrap();
        assert_eq!(found.env, ["A=0"], "the later directory counts");
        let found = edits(&dirs, &names(&["v.com/gpu=1", "v.com/gpu=0"])).unwrap();
        assert_eq!(found.env, ["A=1", "ALL=yes", "A=0"]);
        let error = edits(&dirs, &names(&["v.com/gpu=2"])).unwrap_err().to_string();
        assert!(
            error.starts_with("CDI device \"v.com/gpu=2\" not found in ") && error.contains("broken.json"),
            "{error}"
        );
        write(run.path(), "d.json", r#"{"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": [{"name": "0"}]}"#);
        let error = edits(&dirs, &names(&["v.com/gpu=0"])).unwrap_err().to_string();
        assert!(error.contains("b.yaml and in ") && error.ends_with("d.json"), "{error}");
        assert_eq!(edits(&dirs, &[]).unwrap(), Edits::default());
    }

    #[test]
    fn what_cannot_be_understood_is_told_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned(), dir.path().join("none")];
        for (text, why) in [
            (r#"{"cdiVersion": "2.0.0", "kind": "v.com/x", "devices": []}"#, "cdiVersion \"2.0.0\" is not supported"),
            (r#"{"cdiVersion": "0.5.0", "kind": "../x", "devices": []}"#, "kind \"../x\": expected VENDOR/CLASS"),
            (r#"{"cdiVersion": "0.5.0", "kind": "v.com/x", "devices": [{"name": "a/b"}]}"#, "is no name of a device"),
            (r#"{"cdiVersion": "0.5.0", "kind": "v.com/x", "devices": [], "more": 1}"#, "unknown field `more`"),
        ] {
            write(dir.path(), "a.json", text);
            let error = edits(&dirs, &names(&["v.com/x=a"])).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        std::fs::write(dir.path().join("a.json"), vec![b' '; usize::try_from(MOST_BYTES).unwrap() + 1]).unwrap();
        assert!(edits(&dirs, &names(&["v.com/x=a"])).unwrap_err().to_string().contains("is larger than"));
        for name in ["x", "v.com/x", "v.com/x=", "v.com=a", "/x=a", "v.com/x=a\nb", "v.com/../x=a"] {
            assert!(matches!(edits(&dirs, &names(&[name])), Err(CdiError::Name(_))), "{name}");
        }
        assert!(matches!(edits(&dirs, &vec!["v.com/x=a".to_owned(); MOST_DEVICES + 1]), Err(CdiError::TooMany)));
    }
}
