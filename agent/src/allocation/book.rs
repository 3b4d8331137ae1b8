//! What all pods of the node were given, in a file of the run directory: a resize that nobody has decided on while no agent
//! ran is then found out. It means nothing after a reboot, when statuses tell.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Allocation;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    pods: BTreeMap<String, Allocation>,
}

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    written: BTreeMap<String, Allocation>,
}

impl Book {
    /// Reads the file. One that cannot be read is told, and counts as empty.
    pub(crate) fn read(path: PathBuf) -> Self {
        let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Written>(&bytes)?));
        let written = match read {
            Ok(written) if written.version == VERSION => written.pods,
            Ok(Written { version, .. }) => {
                tracing::warn!(version, path = %path.display(), "what pods were given is written in another form");
                BTreeMap::new()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "reading what pods were given");
                BTreeMap::new()
            }
        };
        Self { path, written }
    }

    /// What an agent before this one has written.
    pub(crate) fn pods(&self) -> BTreeMap<String, Allocation> {
        self.written.clone()
    }

    /// Writes what pods have now, if that is something else.
    pub(crate) fn write(&mut self, pods: BTreeMap<String, Allocation>) {
        if pods == self.written {
            return;
        }
        let fresh = self.path.with_extension("new");
        let written = Written { version: VERSION, pods };
        let done = serde_json::to_vec(&written).map_err(std::io::Error::from);
        let done =
            done.and_then(|bytes| std::fs::write(&fresh, bytes)).and_then(|()| std::fs::rename(&fresh, &self.path));
        match done {
            Ok(()) => self.written = written.pods,
            Err(error) => tracing::error!(%error, path = %self.path.display(), "writing what pods were given"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn the_book_outlives_the_agent_and_damage_is_no_ground_to_stand_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resources.json");
        let mut book = Book::read(path.clone());
        assert!(book.pods().is_empty());
        let pod = from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}));
        let pods: BTreeMap<_, _> = [("u".to_owned(), Allocation::of(&pod.unwrap()))].into();
        book.write(pods.clone());
        assert_eq!(Book::read(path.clone()).pods(), pods);
        std::fs::write(&path, "{").unwrap();
        assert!(Book::read(path).pods().is_empty());
    }
}
