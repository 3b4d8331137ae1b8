//! What devices of drivers need of a machine: files that say what containers are given with them. A machine without such
//! devices has none, and lacks nothing.

use std::path::PathBuf;

use super::Finding;
use crate::cdi;

/// No more files are told of.
const TOLD: usize = 3;

/// What is wrong with the files in these directories.
pub(super) fn findings(dirs: &[PathBuf]) -> Vec<Finding> {
    let told = |why: &String| Finding::Thin(format!("{why}: its devices fail; mend or remove the file"));
    cdi::unread(dirs).iter().take(TOLD).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned(), dir.path().join("none")];
        std::fs::write(dir.path().join("good.json"), r#"{"cdiVersion": "0.6.0", "kind": "v.com/x"}"#).unwrap();
        assert!(findings(&dirs).is_empty());
        std::fs::write(dir.path().join("bad.json"), r#"{"cdiVersion": "9.0.0", "kind": "v.com/x"}"#).unwrap();
        let found = findings(&dirs);
        assert!(matches!(found.as_slice(), [Finding::Thin(why)] if why.contains("bad.json: cdiVersion \"9.0.0\"")));
    }
}
