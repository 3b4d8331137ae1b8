//! What makes commits durable. A driver is used by one thread, the writer's.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::model::{KeyValue, Revision};

/// A point in time that survives a restart, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(pub u64);

impl Expiry {
    pub(crate) fn after(ttl: Duration) -> Self {
        Self(now_millis().saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn remaining(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now_millis()))
    }
}

fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// One key's change on its way to the disk.
#[derive(Debug, Clone)]
pub enum Write {
    /// Store the value.
    Put(KeyValue, Option<Expiry>),
    /// Forget the key.
    Delete(Bytes),
}

/// What a driver held when it was opened.
#[derive(Debug)]
pub struct Loaded {
    /// The last durable revision; never goes back.
    pub revision: Revision,
    /// Every live key.
    pub entries: Vec<(KeyValue, Option<Expiry>)>,
}

/// Why a driver failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Another process has the directory open.
    #[error("the store in {} is in use by another process", path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds a store of a version this program does not know.
    #[error("the store in {} has format {found}, this program reads format {expected}", path.display())]
    Format {
        /// The store's directory.
        path: PathBuf,
        /// The format found.
        found: String,
        /// The format this program reads.
        expected: u32,
    },
    /// What was read is not what was written.
    #[error("the store in {} is damaged: {what}", path.display())]
    Corrupt {
        /// The store's directory.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The engine or the disk failed.
    #[error("the store in {}: {step} failed", path.display())]
    Engine {
        /// The store's directory.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Makes groups of commits durable, in order.
pub trait Driver: Send + 'static {
    /// Reads everything; called once, before the first `persist`.
    fn load(&mut self) -> Result<Loaded, DriverError>;

    /// Makes a group durable, all of it or none, before it returns. `revision` is the group's last.
    /// After an error the driver is not used again.
    fn persist(&mut self, writes: Vec<Write>, revision: Revision) -> Result<(), DriverError>;
}

/// Keeps nothing: for tests and for trying things out.
#[derive(Debug, Default)]
pub struct Memory;

impl Driver for Memory {
    fn load(&mut self) -> Result<Loaded, DriverError> {
        Ok(Loaded { revision: Revision::EMPTY, entries: Vec::new() })
    }

    fn persist(&mut self, _writes: Vec<Write>, _revision: Revision) -> Result<(), DriverError> {
        Ok(())
    }
}
