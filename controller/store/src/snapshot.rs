//! A whole state as a stream of bytes: what a backup holds of the store, and how a store is made of one.

use std::io::{self, Read, Write};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::driver::{self, Driver, DriverError, Expiry};
use crate::model::{KeyValue, Revision};

const MAGIC: [u8; 8] = *b"gantrySn";
/// The layout of the stream; a newer one is refused.
const FORMAT: u32 = 1;
/// magic: 8 bytes; format, zero: u32; revision, count of entries: u64.
const HEADER: usize = 32;
/// length of key, length of value: u32; create revision, mod revision, expiry in ms (0: never): u64.
const ENTRY: usize = 32;
/// What a driver is given at once.
const GROUP: usize = 4 << 20;

/// Revisions that a store made of a snapshot leaves out. Clients may have seen revisions after the snapshot; were
/// these given again, a watch that goes on from one would miss events. etcd's documentation ("Disaster recovery",
/// `--bump-revision`) advises the same figure.
const LEFT_OUT: u64 = 1_000_000_000;

/// Every key of a store at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision that it shows.
    pub revision: Revision,
    /// The keys, in order, and when they expire.
    pub entries: Vec<(KeyValue, Option<Expiry>)>,
}

/// Why a stream is no snapshot, or no store could be made of one.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The stream ended early or could not be read.
    #[error("reading the snapshot")]
    Read(#[source] io::Error),
    /// It does not begin as a snapshot does.
    #[error("this is no snapshot of a store")]
    Foreign,
    /// It was written by a newer program.
    #[error("the snapshot has format {found}, this program reads up to {FORMAT}")]
    Format {
        /// The format found.
        found: u32,
    },
    /// What was read is not what was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// The driver that should take it holds something already.
    #[error("the store is not empty")]
    NotEmpty,
    /// The driver failed.
    #[error("writing the store")]
    Driver(#[from] DriverError),
}

/// A reader or a writer that sums up what passes through it.
struct Summed<T> {
    inner: T,
    sum: Xxh3,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self { inner, sum: Xxh3::new() }
    }
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<R: Read> Summed<R> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(SnapshotError::Read)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    /// Memory grows with what arrives, not with what a length claims.
    fn take_bytes(&mut self, length: u32) -> Result<Bytes, SnapshotError> {
        let mut bytes = Vec::new();
        let read = (&mut self.inner).take(length.into()).read_to_end(&mut bytes).map_err(SnapshotError::Read)?;
        if read != length as usize {
            return Err(SnapshotError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        self.sum.update(&bytes);
        Ok(bytes.into())
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

impl Snapshot {
    /// How many bytes `write` writes.
    pub fn size(&self) -> u64 {
        let entries = self.entries.iter().map(|(kv, _)| ENTRY + kv.key.len() + kv.value.len());
        (HEADER + size_of::<u64>() + entries.sum::<usize>()) as u64
    }

    /// Writes it all, a checksum at the end.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = Summed::new(out);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        header[16..24].copy_from_slice(&self.revision.0.to_le_bytes());
        header[24..].copy_from_slice(&(self.entries.len() as u64).to_le_bytes());
        out.put(&header)?;
        for (kv, expiry) in &self.entries {
            let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
            let mut header = [0; ENTRY];
            header[..4].copy_from_slice(&u32::try_from(kv.key.len()).map_err(too_long)?.to_le_bytes());
            header[4..8].copy_from_slice(&u32::try_from(kv.value.len()).map_err(too_long)?.to_le_bytes());
            header[8..16].copy_from_slice(&kv.create_revision.0.to_le_bytes());
            header[16..24].copy_from_slice(&kv.mod_revision.0.to_le_bytes());
            header[24..].copy_from_slice(&expiry.map_or(0, |at| at.0).to_le_bytes());
            out.put(&header)?;
            out.put(&kv.key)?;
            out.put(&kv.value)?;
        }
        let sum = out.sum.digest();
        out.inner.write_all(&sum.to_le_bytes())
    }

    /// Reads what `write` wrote, and nothing else.
    pub fn read(from: impl Read) -> Result<Self, SnapshotError> {
        let mut from = Summed::new(from);
        let header: [u8; HEADER] = from.take()?;
        if header[..8] != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        match half(&header, 8) {
            FORMAT => {}
            found => return Err(SnapshotError::Format { found }),
        }
        let revision = Revision(word(&header, 16));
        let mut entries = Vec::<(KeyValue, Option<Expiry>)>::new();
        for _ in 0..word(&header, 24) {
            let header: [u8; ENTRY] = from.take()?;
            let key = from.take_bytes(half(&header, 0))?;
            let value = from.take_bytes(half(&header, 4))?;
            let (create_revision, mod_revision) = (Revision(word(&header, 8)), Revision(word(&header, 16)));
            if entries.last().is_some_and(|(last, _)| last.key >= key) {
                return Err(SnapshotError::Damaged("its keys are out of order"));
            }
            if create_revision > mod_revision || mod_revision > revision || create_revision <= Revision::EMPTY {
                return Err(SnapshotError::Damaged("a key has an impossible revision"));
            }
            let expiry = Some(word(&header, 24)).filter(|at| *at != 0).map(Expiry);
            entries.push((KeyValue { key, value, create_revision, mod_revision }, expiry));
        }
        let sum = from.sum.digest();
        let mut written = [0; 8];
        from.inner.read_exact(&mut written).map_err(SnapshotError::Read)?;
        match u64::from_le_bytes(written) == sum {
            true => Ok(Self { revision, entries }),
            false => Err(SnapshotError::Damaged("its checksum does not match")),
        }
    }

    /// Makes the state of an empty driver this one, but for what expired meanwhile. Keys keep their revisions; the
    /// store goes on far beyond the snapshot's, at the revision that is returned.
    pub fn fill(self, driver: &mut impl Driver) -> Result<Revision, SnapshotError> {
        let held = driver.load()?;
        if held.revision != Revision::EMPTY || !held.entries.is_empty() {
            return Err(SnapshotError::NotEmpty);
        }
        let mut entries = self.entries;
        entries.retain(|(_, expiry)| expiry.is_none_or(|at| !at.remaining().is_zero()));
        // As they were committed: a driver may rely on revisions that never go back.
        entries.sort_by_key(|(kv, _)| kv.mod_revision);
        let (mut group, mut bytes, mut last) = (Vec::new(), 0, Revision::EMPTY);
        for (kv, expiry) in entries {
            // What one commit changed stays together.
            if bytes >= GROUP && kv.mod_revision != last {
                driver.persist(std::mem::take(&mut group), last)?;
                bytes = 0;
            }
            last = kv.mod_revision;
            bytes += kv.key.len() + kv.value.len();
            group.push(driver::Write::Put { kv, expiry, previous: None });
        }
        let end = Revision(self.revision.0.saturating_add(LEFT_OUT));
        if !group.is_empty() {
            driver.persist(group, last)?;
        }
        driver.persist(Vec::new(), end)?;
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::disk::Disk;
    use crate::model::Op;
    use crate::store::{Config, Store};

    fn put(key: &str, value: impl Into<Bytes>, ttl: Option<Duration>) -> Op {
        Op::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into(), ttl }
    }

    fn open(path: &std::path::Path) -> Store {
        Store::open(Disk::open(path).unwrap(), Config::default()).unwrap()
    }

    async fn example(path: &std::path::Path) -> Store {
        let store = open(path);
        store.commit(&[], vec![put("b", "1", None), put("a", "1", None)]).await.unwrap();
        store.commit(&[], vec![put("b", "2", None)]).await.unwrap();
        // More than one group, and more than one segment.
        for n in 0..40 {
            store.commit(&[], vec![put(&format!("large/{n:02}"), vec![n; 1 << 20], None)]).await.unwrap();
        }
        store.commit(&[], vec![put("gone", "x", Some(Duration::ZERO))]).await.unwrap();
        store.commit(&[], vec![put("stays", "x", Some(Duration::from_secs(3600)))]).await.unwrap();
        store.settle().await;
        store
    }

    #[tokio::test]
    async fn a_store_made_of_a_snapshot_is_the_store_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = example(&dir.path().join("first")).await;
        let snapshot = store.snapshot().unwrap();
        let mut bytes = Vec::new();
        snapshot.write(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, snapshot.size());
        let read = Snapshot::read(&*bytes).unwrap();
        assert_eq!(read, snapshot);

        let second = dir.path().join("second");
        let end = {
            let mut disk = Disk::open(&second).unwrap();
            read.clone().fill(&mut disk).unwrap()
        };
        let restored = open(&second);
        assert_eq!(restored.revision(), end);
        assert!(end.0 > snapshot.revision.0 + 1_000_000, "revisions that were given are not given again");
        let live: Vec<_> = snapshot.entries.iter().filter(|(kv, _)| kv.key != "gone").cloned().collect();
        assert_eq!(restored.snapshot().unwrap().entries, live, "keys, values, revisions and expiries");
        assert!(live.iter().any(|(kv, expiry)| kv.key == "stays" && expiry.is_some()));

        let again = read.fill(&mut Disk::open(&dir.path().join("first-copy")).unwrap());
        assert!(again.is_ok());
        drop(restored);
        let refused = snapshot.fill(&mut Disk::open(&second).unwrap());
        assert!(matches!(refused, Err(SnapshotError::NotEmpty)), "{refused:?}");
    }

    #[tokio::test]
    async fn a_snapshot_that_was_changed_is_refused() {
        let store = Store::open(crate::driver::Memory, Config::default()).unwrap();
        store.commit(&[], vec![put("a", "1", None), put("b", "2", Some(Duration::from_secs(60)))]).await.unwrap();
        let mut bytes = Vec::new();
        store.snapshot().unwrap().write(&mut bytes).unwrap();
        assert!(Snapshot::read(&*bytes).is_ok());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(Snapshot::read(&*changed).is_err(), "byte {at}");
            assert!(Snapshot::read(&bytes[..at]).is_err(), "cut at {at}");
        }
        bytes[8] = 2;
        assert!(matches!(Snapshot::read(&*bytes), Err(SnapshotError::Format { found: 2 })));
    }

    #[tokio::test]
    async fn a_running_store_becomes_the_snapshot_in_one_commit() {
        let store = Store::open(crate::driver::Memory, Config::default()).unwrap();
        store.commit(&[], vec![put("a", "1", None), put("b", "1", None), put("same", "s", None)]).await.unwrap();
        let snapshot = store.snapshot().unwrap();
        store
            .commit(&[], vec![put("a", "2", None), put("new", "n", None), Op::Delete { key: "b".into() }])
            .await
            .unwrap();
        let same = store.get(b"same").unwrap();
        let mut watcher = store.watch(Bytes::new(), store.revision()).unwrap();
        let before = store.revision();
        let replaced = store.replace(&snapshot).await.unwrap();
        assert_eq!(replaced.changed, 3);
        assert_eq!(replaced.revision, before.next());
        let values = |store: &Store| -> Vec<_> {
            store.snapshot().unwrap().entries.into_iter().map(|(kv, _)| (kv.key, kv.value)).collect()
        };
        let wanted: Vec<_> = snapshot.entries.iter().map(|(kv, _)| (kv.key.clone(), kv.value.clone())).collect();
        assert_eq!(values(&store), wanted);
        assert_eq!(store.get(b"same").unwrap(), same, "what is right already is not touched");
        assert_eq!(watcher.next_batch().await.unwrap().len(), 3, "watchers see it as changes");
        assert_eq!(store.replace(&snapshot).await.unwrap().changed, 0);
    }
}
