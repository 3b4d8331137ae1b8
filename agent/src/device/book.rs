//! Who has which device: kept in a file, so that an agent that comes back gives none away twice. The choice is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The devices of one container, by resource.
type OfContainer = BTreeMap<String, BTreeSet<String>>;

/// By pod and container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    version: u32,
    pods: BTreeMap<String, BTreeMap<String, OfContainer>>,
}

const VERSION: u32 = 1;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) pod: &'a str,
    pub(super) container: &'a str,
    pub(super) resource: &'a str,
    pub(super) count: usize,
    /// Containers of the same pod that have ended before this one begins: what they had is free for it.
    pub(super) before: &'a [String],
}

impl Book {
    /// From its file; a file that cannot be read is told, and stands for none.
    pub(super) fn read(path: &Path) -> Self {
        let fresh = Self { version: VERSION, ..Self::default() };
        match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => fresh,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "reading who has which device");
                fresh
            }
            Ok(bytes) => {
                serde_json::from_slice::<Self>(&bytes).ok().filter(|own| own.version == VERSION).unwrap_or(fresh)
            }
        }
    }

    /// Writes its file.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }

    /// What a container has already.
    pub(super) fn held(&self, wish: &Wish<'_>) -> Option<BTreeSet<String>> {
        self.pods.get(wish.pod)?.get(wish.container)?.get(wish.resource).cloned()
    }

    /// Forgets pods that are not here any more.
    pub(super) fn retain(&mut self, is_here: impl Fn(&str) -> bool) {
        self.pods.retain(|uid, _| is_here(uid));
    }

    /// What a container may have of the devices that are well: first what ended containers of its pod had, which it is to
    /// take, then what nobody has. `Err`: how many there are.
    pub(super) fn free(
        &self,
        wish: &Wish<'_>,
        devices: &BTreeMap<String, bool>,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>), usize> {
        let (mut reused, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for (pod, containers) in &self.pods {
            for (container, resources) in containers {
                let own = resources.get(wish.resource).into_iter().flatten().cloned();
                match pod == wish.pod && wish.before.contains(container) {
                    true => reused.extend(own),
                    false => taken.extend(own),
                }
            }
        }
        let is_well = |id: &String| devices.get(id) == Some(&true);
        let reused: BTreeSet<String> = reused.into_iter().filter(|id| is_well(id) && !taken.contains(id)).collect();
        let free: BTreeSet<String> =
            devices.keys().filter(|id| is_well(id) && !taken.contains(*id) && !reused.contains(*id)).cloned().collect();
        match reused.len() + free.len() >= wish.count {
            true => Ok((reused, free)),
            false => Err(reused.len() + free.len()),
        }
    }

    /// Notes what a container has now.
    pub(super) fn give(&mut self, wish: &Wish<'_>, ids: BTreeSet<String>) {
        let of_pod = self.pods.entry(wish.pod.to_owned()).or_default();
        of_pod.entry(wish.container.to_owned()).or_default().insert(wish.resource.to_owned(), ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn nobody_has_what_another_has_and_ended_containers_pass_theirs_on() {
        let devices: BTreeMap<String, bool> =
            [("a", true), ("b", true), ("c", false), ("d", true)].map(|(id, well)| (id.to_owned(), well)).into();
        let wish = |pod, container, count, before| Wish { pod, container, resource: "r", count, before };
        let mut book = Book::default();
        assert_eq!(book.free(&wish("p", "init", 1, &[]), &devices), Ok((set(&[]), set(&["a", "b", "d"]))));
        book.give(&wish("p", "init", 1, &[]), set(&["a"]));
        book.give(&wish("q", "c", 1, &[]), set(&["b"]));
        let before = ["init".to_owned()];
        assert_eq!(book.free(&wish("p", "app", 2, &before), &devices), Ok((set(&["a"]), set(&["d"]))));
        assert_eq!(book.free(&wish("p", "side", 2, &[]), &devices), Err(1), "the other still has it");
        assert_eq!(book.held(&wish("q", "c", 1, &[])), Some(set(&["b"])));
        book.retain(|uid| uid == "p");
        assert_eq!(book.free(&wish("p", "side", 2, &[]), &devices), Ok((set(&[]), set(&["b", "d"]))));

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.json");
        assert_eq!(Book::read(&path).pods, Book::default().pods);
        let book = Book { version: VERSION, ..book };
        book.write(&path).unwrap();
        assert_eq!(Book::read(&path), book);
    }
}
