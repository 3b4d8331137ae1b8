//! The words of the contract: revisions, keys and values, compares, operations, events.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// The order of commits. The first commit of an empty store has revision 2: Kubernetes clients read
/// `resourceVersion` "0" as "any" and "1" is what an empty store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store nothing was ever committed to.
    pub const EMPTY: Self = Self(1);

    /// The revision of the commit that follows.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key with its value and the commits that made and last changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value, uninterpreted.
    pub value: Bytes,
    /// The commit that created the key (since it was last absent).
    pub create_revision: Revision,
    /// The commit that last changed it.
    pub mod_revision: Revision,
}

/// A condition on the pending head that must hold for a commit to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key must not exist.
    Absent(Bytes),
    /// The key must exist and have been changed last by this commit.
    ModRevision(Bytes, Revision),
}

impl Compare {
    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::Absent(key) | Self::ModRevision(key, _) => key,
        }
    }
}

/// A change of one key. A commit names each key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Write a value; with `ttl` the key expires that long after the commit.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Time to live; an expired key is deleted by a commit of its own.
        ttl: Option<Duration>,
    },
    /// Delete the key if it exists.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A durable change of one key, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The commit.
    pub revision: Revision,
    /// The key and value after the change; `None` for a deletion.
    pub current: Option<KeyValue>,
    /// The key and value before the change; `None` for a creation.
    pub previous: Option<KeyValue>,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match (&self.current, &self.previous) {
            (Some(kv), _) | (None, Some(kv)) => &kv.key,
            (None, None) => unreachable!("an event has a value before or after it"),
        }
    }

    /// Bytes of the key and of the value after the change.
    pub(crate) fn current_size(&self) -> usize {
        self.key().len() + self.current.as_ref().map_or(0, |kv| kv.value.len())
    }

    pub(crate) fn size(&self) -> usize {
        let of = |kv: &Option<KeyValue>| kv.as_ref().map_or(0, |kv| kv.value.len());
        // The previous value is charged too: the ring may be the last to hold it.
        self.key().len() + of(&self.current) + of(&self.previous) + std::mem::size_of::<Self>()
    }
}

/// Which keys a range reads.
#[derive(Debug, Clone, Default)]
pub struct RangeRequest {
    /// Only keys that begin so.
    pub prefix: Bytes,
    /// Only keys after this one (the last of the page before).
    pub after: Option<Bytes>,
    /// At most this many; 0 for all.
    pub limit: usize,
    /// As of this commit; `None` for the newest durable one.
    pub at: Option<Revision>,
}

/// What a range read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub items: Vec<KeyValue>,
    /// The commit that the page shows.
    pub revision: Revision,
    /// How many keys of the prefix follow the page.
    pub remaining: usize,
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A compare did not hold; `current` is what the pending head holds instead.
    #[error("key {} changed meanwhile", String::from_utf8_lossy(key))]
    Conflict {
        /// The key whose compare failed.
        key: Bytes,
        /// Its value at the pending head.
        current: Option<KeyValue>,
    },
    /// The disk refused a write; none is accepted until it takes writes again, reads and watches go on. A write
    /// that was under way may be found after a crash, as with any write whose answer was lost.
    #[error("the store accepts no writes: {reason}")]
    Unavailable {
        /// What the disk driver said.
        reason: String,
    },
}

/// Why a read at a given revision is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// History before `oldest` is gone (410 Expired to a client).
    #[error("revision {requested} is compacted, the oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision was not reached yet.
    #[error("revision {requested} is in the future, the newest is {newest}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest durable revision.
        newest: Revision,
    },
}
