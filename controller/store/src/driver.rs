//! What makes commits durable. A driver is used by one thread, the writer's.

use std::path::PathBuf;
use std::sync::Arc;
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
    Put {
        /// The new key and value.
        kv: KeyValue,
        /// When it expires, if ever.
        expiry: Option<Expiry>,
        /// What it replaces.
        previous: Option<Replaced>,
    },
    /// Forget the key.
    Delete {
        /// The key.
        key: Bytes,
        /// The commit that deletes it.
        revision: Revision,
        /// What it replaces.
        previous: Option<Replaced>,
    },
}

/// What a change makes obsolete, so that a driver can tell how much of a file still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// The commit that wrote it.
    pub revision: Revision,
    /// Bytes of its value.
    pub value_length: usize,
}

/// What is live now, as readers see it: a driver that tidies its files asks here what still counts.
pub trait Live: Send + Sync {
    /// The commit that last changed a key; `None` when it does not exist.
    fn mod_revision(&self, key: &[u8]) -> Option<Revision>;
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
    /// Reads everything; called once, before anything else.
    fn load(&mut self) -> Result<Loaded, DriverError>;

    /// Says where live keys can be looked up; called once, after `load`. A group is visible there before the next
    /// one is persisted.
    fn attach(&mut self, live: Arc<dyn Live>);

    /// Makes a group durable, all of it or none, before it returns. `revision` is the group's last.
    ///
    /// # Errors
    /// After an error nothing of the group is served, and groups that follow go on from the one before it.
    /// A process that dies before the next success may find the group after all, as with any write whose
    /// answer was lost.
    fn persist(&mut self, writes: Vec<Write>, revision: Revision) -> Result<(), DriverError>;

    /// What the driver takes on the disk.
    fn size(&self) -> Size {
        Size::default()
    }

    /// Called from time to time after `persist` failed: makes the driver ready for more, or says why it is not.
    fn recover(&mut self) -> Result<(), DriverError>;
}

/// What a driver takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Written.
    pub written: u64,
    /// Of these, what still counts.
    pub live: u64,
}

/// Keeps nothing: for tests and for trying things out.
#[derive(Debug, Default)]
pub struct Memory;

impl Driver for Memory {
    fn load(&mut self) -> Result<Loaded, DriverError> {
        Ok(Loaded { revision: Revision::EMPTY, entries: Vec::new() })
    }

    fn attach(&mut self, _live: Arc<dyn Live>) {}

    fn persist(&mut self, _writes: Vec<Write>, _revision: Revision) -> Result<(), DriverError> {
        Ok(())
    }

    fn recover(&mut self) -> Result<(), DriverError> {
        Ok(())
    }
}
