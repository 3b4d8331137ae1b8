//! Values that are sealed before they leave memory: what a driver writes and what a backup holds.

use std::sync::Arc;

use bytes::Bytes;

use crate::driver::{Driver, DriverError, Live, Loaded, Size, Write};
use crate::model::Revision;
use crate::snapshot::Snapshot;

/// Seals values and opens them again. Which keys are sealed is its business.
pub trait Seal: Send + Sync + std::fmt::Debug {
    /// The sealed form of a value, or the value itself for keys that are not sealed.
    fn seal(&self, key: &[u8], value: &Bytes) -> Result<Bytes, SealError>;

    /// The value of what `seal` made, now or under an earlier configuration.
    fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Opened, SealError>;
}

/// A value that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The value.
    pub value: Bytes,
    /// Whether it should be written again, because it would be sealed otherwise now.
    pub is_stale: bool,
}

/// Why a value could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", String::from_utf8_lossy(key))]
pub struct SealError {
    /// The key whose value it was.
    pub key: Vec<u8>,
    /// What is wrong.
    pub problem: String,
}

/// A driver behind a seal, if there is one.
pub(crate) struct Sealed<D> {
    driver: D,
    seal: Option<Arc<dyn Seal>>,
    /// Keys that are to be written again; those that expire are not, they go by themselves.
    pub(crate) stale: Vec<Bytes>,
}

impl<D> Sealed<D> {
    pub(crate) fn new(driver: D, seal: Option<Arc<dyn Seal>>) -> Self {
        Self { driver, seal, stale: Vec::new() }
    }
}

fn failed(error: SealError) -> DriverError {
    DriverError::Engine { path: Default::default(), step: "sealing or opening a value", source: error.into() }
}

impl<D: Driver> Driver for Sealed<D> {
    fn load(&mut self) -> Result<Loaded, DriverError> {
        let mut loaded = self.driver.load()?;
        let Some(seal) = &self.seal else { return Ok(loaded) };
        for (kv, expiry) in &mut loaded.entries {
            let opened = seal.open(&kv.key, &kv.value).map_err(failed)?;
            if opened.is_stale && expiry.is_none() {
                self.stale.push(kv.key.clone());
            }
            kv.value = opened.value;
        }
        Ok(loaded)
    }

    fn attach(&mut self, live: Arc<dyn Live>) {
        self.driver.attach(live);
    }

    fn persist(&mut self, mut writes: Vec<Write>, revision: Revision) -> Result<(), DriverError> {
        if let Some(seal) = &self.seal {
            for write in &mut writes {
                if let Write::Put { kv, .. } = write {
                    kv.value = seal.seal(&kv.key, &kv.value).map_err(failed)?;
                }
            }
        }
        self.driver.persist(writes, revision)
    }

    fn size(&self) -> Size {
        self.driver.size()
    }

    fn recover(&mut self) -> Result<(), DriverError> {
        self.driver.recover()
    }
}

/// A snapshot as it may leave memory.
pub(crate) fn sealed(mut snapshot: Snapshot, seal: Option<&Arc<dyn Seal>>) -> Result<Snapshot, SealError> {
    if let Some(seal) = seal {
        for (kv, _) in &mut snapshot.entries {
            kv.value = seal.seal(&kv.key, &kv.value)?;
        }
    }
    Ok(snapshot)
}

/// A snapshot as it was before it left.
pub(crate) fn opened(snapshot: &Snapshot, seal: Option<&Arc<dyn Seal>>) -> Result<Snapshot, SealError> {
    let mut snapshot = snapshot.clone();
    if let Some(seal) = seal {
        for (kv, _) in &mut snapshot.entries {
            kv.value = seal.open(&kv.key, &kv.value)?.value;
        }
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::model::Op;
    use crate::store::{Config, Store};

    /// Turns bytes around, and knows the older way of adding one to each.
    #[derive(Debug)]
    struct Backwards;

    impl Seal for Backwards {
        fn seal(&self, key: &[u8], value: &Bytes) -> Result<Bytes, SealError> {
            match key.starts_with(b"secret/") {
                true => Ok([b"!".as_slice(), &value.iter().rev().copied().collect::<Vec<u8>>()].concat().into()),
                false => Ok(value.clone()),
            }
        }

        fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Opened, SealError> {
            match (key.starts_with(b"secret/"), sealed.strip_prefix(b"!")) {
                (true, Some(rest)) => {
                    Ok(Opened { value: rest.iter().rev().copied().collect::<Vec<u8>>().into(), is_stale: false })
                }
                (is_secret, _) => Ok(Opened { value: sealed.clone(), is_stale: is_secret }),
            }
        }
    }

    fn put(key: &'static str, value: &'static str) -> Op {
        Op::Put { key: key.into(), value: value.into(), ttl: None }
    }

    fn files_hold(dir: &std::path::Path, text: &[u8]) -> bool {
        let mut open = vec![dir.to_owned()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if std::fs::read(&path).unwrap().windows(text.len()).any(|window| window == text) {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn what_leaves_memory_is_sealed_and_what_was_not_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let open = |seal: Option<Arc<dyn Seal>>| {
            Store::open(Disk::open(dir.path()).unwrap(), Config { seal, ..Config::default() }).unwrap()
        };
        let store = open(None);
        store.commit(&[], vec![put("secret/old", "plaintext-one"), put("other", "plaintext-two")]).await.unwrap();
        drop(store);
        assert!(files_hold(dir.path(), b"plaintext-one"));

        let store = open(Some(Arc::new(Backwards)));
        assert_eq!(store.get(b"secret/old").unwrap().value, "plaintext-one");
        assert_eq!(store.reseal().await.unwrap(), 1);
        store.commit(&[], vec![put("secret/new", "plaintext-three")]).await.unwrap();
        assert!(!files_hold(dir.path(), b"plaintext-three") && files_hold(dir.path(), b"eerht-txetnialp"));
        let snapshot = store.snapshot().unwrap();
        let held = |key: &str| snapshot.entries.iter().find(|(kv, _)| kv.key == key).unwrap().0.value.clone();
        assert_eq!((&held("secret/new")[..], &held("other")[..]), (&b"!eerht-txetnialp"[..], &b"plaintext-two"[..]));
        store.commit(&[], vec![put("secret/new", "changed")]).await.unwrap();
        store.replace(&snapshot).await.unwrap();
        assert_eq!(store.get(b"secret/new").unwrap().value, "plaintext-three");
        drop(store);
        let store = open(Some(Arc::new(Backwards)));
        assert_eq!(store.get(b"secret/old").unwrap().value, "plaintext-one");
        assert_eq!(store.reseal().await.unwrap(), 0, "once is enough");
    }
}
