//! The version of what a data directory holds: a program never works on state that a newer one wrote.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Rises with every change of a format that an older program would misread.
const CURRENT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Version {
    /// Which formats the directory holds.
    state: u32,
    /// The version of the program that wrote them first.
    program: String,
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("version.json")
}

/// Refuses a directory whose state is newer than this program.
pub(crate) fn check(data_dir: &Path) -> Result<(), Failure> {
    found(data_dir).map(drop)
}

fn found(data_dir: &Path) -> Result<Option<Version>, Failure> {
    let path = file(data_dir);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::error(format!("{}: {error}", path.display()))),
    };
    let version: Version = serde_json::from_slice(&text)
        .map_err(|error| Failure::error(format!("{}: expected the version of the state: {error}", path.display())))?;
    if version.state > CURRENT {
        return Err(Failure::error(format!(
            "the state in {} has version {}, written by gantry {}; this is gantry {}, which reads up to {CURRENT}.\n\
             Run the newer program, or restore a backup of the older one into an empty directory (gantry restore).",
            data_dir.display(),
            version.state,
            version.program,
            env!("CARGO_PKG_VERSION"),
        )));
    }
    Ok(Some(version))
}

/// Makes the directory one of this program's version, before anything in it is touched.
pub(crate) fn claim(data_dir: &Path) -> Result<(), Failure> {
    if found(data_dir)?.is_some_and(|version| version.state == CURRENT) {
        return Ok(());
    }
    let version = Version { state: CURRENT, program: env!("CARGO_PKG_VERSION").into() };
    let mut unnamed = tempfile::NamedTempFile::new_in(data_dir)?;
    unnamed.write_all(serde_json::to_string(&version)?.as_bytes())?;
    unnamed.as_file().sync_all()?;
    unnamed.persist(file(data_dir)).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_state_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path()).unwrap();
        claim(dir.path()).unwrap();
        claim(dir.path()).unwrap();
        check(dir.path()).unwrap();
        let newer = r#"{"state": 2, "program": "7.0.0", "more": true}"#;
        std::fs::write(file(dir.path()), newer).unwrap();
        for refused in [check(dir.path()), claim(dir.path())] {
            let said = refused.unwrap_err().to_string();
            assert!(said.contains("has version 2, written by gantry 7.0.0"), "{said}");
        }
        assert_eq!(std::fs::read_to_string(file(dir.path())).unwrap(), newer);
        std::fs::write(file(dir.path()), "2").unwrap();
        assert!(claim(dir.path()).is_err());
    }
}
