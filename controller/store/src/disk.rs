//! The disk driver: fjall makes each group of commits durable with one sequential sync.
//!
//! fjall checksums what it stores and keeps no versions of ours, so the files follow live data. All
//! reads are served from memory; the engine is read once, at start. See `docs/decisions/` for the choice.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::driver::{Driver, DriverError, Expiry, Loaded, Write};
use crate::model::{KeyValue, Revision};

/// The layout of records below. A newer one is refused.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"format";
const REVISION_KEY: &[u8] = b"revision";
/// create revision, mod revision, expiry in ms (0: never): three little-endian u64.
const RECORD_HEADER: usize = 24;

/// The state in one directory, owned by one process.
pub struct Disk {
    path: PathBuf,
    database: Database,
    data: Keyspace,
    meta: Keyspace,
}

impl Disk {
    /// Opens or creates the store in `path`.
    pub fn open(path: &Path) -> Result<Self, DriverError> {
        std::fs::create_dir_all(path).map_err(|source| DriverError::Engine {
            path: path.into(),
            step: "creating the directory",
            source: source.into(),
        })?;
        let failed = |step, source| engine_error(path, step, source);
        // Everything is in memory above us: the engine needs no cache, small buffers and one worker.
        let database = Database::builder(path)
            .cache_size(1 << 20)
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .manual_journal_persist(true)
            .open()
            .map_err(|source| failed("opening it", source))?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(8 << 20);
        let meta = database.keyspace("meta", options).map_err(|source| failed("opening it", source))?;
        let data = database.keyspace("data", options).map_err(|source| failed("opening it", source))?;
        let disk = Self { path: path.into(), database, data, meta };
        disk.check_format()?;
        Ok(disk)
    }

    fn check_format(&self) -> Result<(), DriverError> {
        let found = self.meta.get(FORMAT_KEY).map_err(|source| self.failed("reading its format", source))?;
        match found {
            Some(found) if *found == FORMAT.to_le_bytes() => Ok(()),
            Some(found) => Err(DriverError::Format {
                path: self.path.clone(),
                found: <[u8; 4]>::try_from(&*found).map_or("unknown".into(), |n| u32::from_le_bytes(n).to_string()),
                expected: FORMAT,
            }),
            None => {
                let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(&self.meta, FORMAT_KEY, FORMAT.to_le_bytes());
                batch.commit().map_err(|source| self.failed("writing its format", source))
            }
        }
    }

    fn failed(&self, step: &'static str, source: fjall::Error) -> DriverError {
        engine_error(&self.path, step, source)
    }

    fn corrupt(&self, what: String) -> DriverError {
        DriverError::Corrupt { path: self.path.clone(), what }
    }
}

fn engine_error(path: &Path, step: &'static str, source: fjall::Error) -> DriverError {
    match source {
        fjall::Error::Locked => DriverError::InUse { path: path.into() },
        fjall::Error::Unrecoverable
        | fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Decompress(_) => DriverError::Corrupt { path: path.into(), what: source.to_string() },
        fjall::Error::InvalidVersion(_) => {
            DriverError::Corrupt { path: path.into(), what: "the engine's version marker is unknown".into() }
        }
        other => DriverError::Engine { path: path.into(), step, source: other.into() },
    }
}

impl Driver for Disk {
    fn load(&mut self) -> Result<Loaded, DriverError> {
        let revision =
            match self.meta.get(REVISION_KEY).map_err(|source| self.failed("reading its revision", source))? {
                None => Revision::EMPTY,
                Some(bytes) => <[u8; 8]>::try_from(&*bytes)
                    .map(|n| Revision(u64::from_le_bytes(n)))
                    .map_err(|_| self.corrupt("the last revision is not eight bytes".into()))?,
            };
        let mut entries = Vec::new();
        for record in self.data.iter() {
            let (key, value) = record.into_inner().map_err(|source| self.failed("reading it", source))?;
            let entry = decode_record(&key, &value)
                .ok_or_else(|| self.corrupt(format!("the record of {} is cut short", String::from_utf8_lossy(&key))))?;
            if entry.0.mod_revision > revision {
                return Err(self.corrupt(format!(
                    "{} is of revision {}, after the last revision {revision}",
                    String::from_utf8_lossy(&key),
                    entry.0.mod_revision
                )));
            }
            entries.push(entry);
        }
        Ok(Loaded { revision, entries })
    }

    fn persist(&mut self, writes: Vec<Write>, revision: Revision) -> Result<(), DriverError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for write in writes {
            match write {
                Write::Put(kv, expiry) => batch.insert(&self.data, &*kv.key, encode_record(&kv, expiry)),
                Write::Delete(key) => batch.remove(&self.data, &*key),
            }
        }
        batch.insert(&self.meta, REVISION_KEY, revision.0.to_le_bytes());
        batch.commit().map_err(|source| self.failed("writing a group of commits", source))
    }
}

fn encode_record(kv: &KeyValue, expiry: Option<Expiry>) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER + kv.value.len());
    record.extend_from_slice(&kv.create_revision.0.to_le_bytes());
    record.extend_from_slice(&kv.mod_revision.0.to_le_bytes());
    record.extend_from_slice(&expiry.map_or(0, |at| at.0).to_le_bytes());
    record.extend_from_slice(&kv.value);
    record
}

fn decode_record(key: &[u8], record: &[u8]) -> Option<(KeyValue, Option<Expiry>)> {
    let (create, rest) = record.split_first_chunk::<8>()?;
    let (modified, rest) = rest.split_first_chunk::<8>()?;
    let (expiry, value) = rest.split_first_chunk::<8>()?;
    let kv = KeyValue {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        create_revision: Revision(u64::from_le_bytes(*create)),
        mod_revision: Revision(u64::from_le_bytes(*modified)),
    };
    let expiry = u64::from_le_bytes(*expiry);
    Some((kv, (expiry != 0).then_some(Expiry(expiry))))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
