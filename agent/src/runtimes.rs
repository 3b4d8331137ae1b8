//! Other OCI runtimes of this machine, by the handlers of the RuntimeClasses whose pods they run.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The handler of a class whose pods our own runtime runs.
pub(crate) const OWN: &str = "gantry";

/// The handlers whose runtimes are called by their command line, where they are on the machine.
pub const OTHERS: [&str; 2] = ["crun", "runc"];

/// Programs of other runtimes, by handler.
pub type Runtimes = BTreeMap<String, PathBuf>;

/// Those that are named, and those that stand in a directory of `path`, which is written as the variable PATH is.
///
/// # Errors
///
/// A handler that is not one of [`OTHERS`], or a named file that is not a program.
pub fn find(named: &[(String, PathBuf)], path: Option<&OsStr>) -> Result<Runtimes, String> {
    let mut found = Runtimes::new();
    for (handler, program) in named {
        if !OTHERS.contains(&handler.as_str()) {
            return Err(format!("{handler:?}: expected one of {}", OTHERS.join(", ")));
        }
        if !program.is_absolute() || !is_program(program) {
            return Err(format!("{handler}: {}: expected the absolute path of a program", program.display()));
        }
        found.insert(handler.clone(), program.clone());
    }
    for handler in OTHERS {
        let mut places = path.into_iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute());
        if let Some(program) = places.find_map(|dir| Some(dir.join(handler)).filter(|program| is_program(program))) {
            found.entry(handler.to_owned()).or_insert(program);
        }
    }
    Ok(found)
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_programs_win_over_those_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (crun, mine) = (place("crun", 0o755), place("my-crun", 0o755));
        place("runc", 0o644);
        let path = Some(dir.path().as_os_str());
        assert_eq!(find(&[], None), Ok(Runtimes::new()));
        assert_eq!(find(&[], path), Ok([("crun".to_owned(), crun)].into()), "the other cannot be run");
        assert_eq!(find(&[("crun".into(), mine.clone())], path), Ok([("crun".to_owned(), mine)].into()));
        let wrong = |handler: &str, program: PathBuf| find(&[(handler.to_owned(), program)], path).unwrap_err();
        assert!(wrong("kata", "/bin/sh".into()).contains("expected one of crun, runc"));
        assert!(wrong("runc", dir.path().join("runc")).contains("absolute path of a program"));
    }
}
