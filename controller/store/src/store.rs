//! The store: one ordered map, one history, one writer thread over a driver.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use crate::driver::{Driver, DriverError, Live};
use crate::health::Trouble;
use crate::history::History;
pub use crate::history::TopicOf;
use crate::metrics::Metrics;
use crate::model::{CommitError, Compare, KeyValue, Op, Page, RangeRequest, Revision, RevisionError};
use crate::seal::{self, Seal, SealError, Sealed};
use crate::snapshot::Snapshot;
use crate::visible::Visible;
use crate::watch::{Subscriptions, Watcher};
use crate::writer::Queue;

/// Sizes of a store, and what measures it.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many bytes of recent events are kept for watches and consistent pages.
    pub history_bytes: usize,
    /// How long they are kept at most. Clients that were away longer list again; etcd under Kubernetes keeps five
    /// minutes as well.
    pub history_age: Duration,
    /// What values are about besides their keys. It is asked again and again, and has to answer the same.
    pub topic_of: Option<TopicOf>,
    /// Seals values on their way to the disk and into backups.
    pub seal: Option<Arc<dyn Seal>>,
    /// What it is measured with.
    pub metrics: Metrics,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history_bytes: 8 << 20,
            history_age: Duration::from_secs(300),
            topic_of: None,
            seal: None,
            metrics: Metrics::default(),
        }
    }
}

/// What readers, watchers and the writer share.
pub(crate) struct Shared {
    visible: RwLock<Visible>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) topic_of: Option<TopicOf>,
}

impl Shared {
    pub(crate) fn visible(&self) -> RwLockReadGuard<'_, Visible> {
        self.visible.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn visible_mut(&self) -> RwLockWriteGuard<'_, Visible> {
        self.visible.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live for Shared {
    fn mod_revision(&self, key: &[u8]) -> Option<Revision> {
        self.visible().map.get(key).map(|kv| kv.mod_revision)
    }
}

/// What a replacement of the state did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement {
    /// The commit.
    pub revision: Revision,
    /// How many keys it changed.
    pub changed: usize,
}

/// Why a state was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The differences do not fit into one commit.
    #[error("the differences have {bytes} bytes, one commit takes {limit}")]
    TooLarge {
        /// Bytes of keys and values that would change.
        bytes: usize,
        /// How many a commit takes.
        limit: usize,
    },
    /// A value cannot be opened with the keys that are configured.
    #[error("opening a sealed value")]
    Sealed(#[source] SealError),
    /// The store took no commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Keys to bytes at revisions. Shared by reference; dropping it makes the last commits durable first.
pub struct Store {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    seal: Option<Arc<dyn Seal>>,
    /// Keys that are to be written again to be sealed as they should.
    stale: Mutex<Vec<Bytes>>,
    writer: Option<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
}

impl Store {
    /// Loads everything that the driver holds and starts the writer.
    pub fn open(driver: impl Driver, config: Config) -> Result<Self, DriverError> {
        let mut driver = Sealed::new(driver, config.seal.clone());
        let loaded = driver.load()?;
        let stale = Mutex::new(std::mem::take(&mut driver.stale));
        let expiring = loaded
            .entries
            .iter()
            .filter_map(|(kv, expiry)| expiry.map(|at| (at, kv.key.clone(), kv.mod_revision)))
            .collect();
        let entries = loaded.entries.into_iter().map(|(kv, _)| kv).collect();
        let history = History::new(config.history_bytes, config.history_age, loaded.revision);
        let visible = Visible::new(entries, loaded.revision, history);
        let subscriptions = Subscriptions::default();
        let shared = Arc::new(Shared { visible: RwLock::new(visible), subscriptions, topic_of: config.topic_of });
        driver.attach(Arc::clone(&shared) as Arc<dyn Live>);
        let queue = Arc::new(Queue::new(loaded.revision, expiring, config.metrics));
        let watchdog = thread("store-watchdog", {
            let queue = Arc::clone(&queue);
            move || queue.health().guard()
        })?;
        // From here on the drop of the store ends what was started, if the next thread does not start.
        let mut store = Self { shared, queue, seal: config.seal, stale, writer: None, watchdog: Some(watchdog) };
        store.writer = Some(thread("store-writer", {
            let (shared, queue) = (Arc::clone(&store.shared), Arc::clone(&store.queue));
            move || queue.run(&shared, &mut driver)
        })?);
        Ok(store)
    }

    /// The newest durable revision.
    pub fn revision(&self) -> Revision {
        self.shared.visible().revision
    }

    /// The durable value of one key.
    pub fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.shared.visible().map.get(key).cloned()
    }

    /// The durable keys of a prefix, in order, optionally as of a recent revision.
    pub fn range(&self, request: &RangeRequest) -> Result<Page, RevisionError> {
        self.shared.visible().range(request)
    }

    /// Checks `compares` against everything promised so far and, if all hold, does all `ops` at once.
    ///
    /// # Guarantees
    /// When it returns a revision, the change is durable and visible. When the future is dropped, the
    /// change may still happen. Waits as long as the disk hangs.
    pub async fn commit(&self, compares: &[Compare], ops: Vec<Op>) -> Result<Revision, CommitError> {
        let answer = self.queue.submit(&self.shared, compares, ops)?.await;
        answer.unwrap_or_else(|_| Err(CommitError::Unavailable { reason: "the store was closed".into() }))
    }

    /// What keeps the store from writing, as it comes and goes.
    pub fn trouble(&self) -> tokio::sync::watch::Receiver<Option<Trouble>> {
        self.queue.health().watch()
    }

    /// Waits until everything promised so far is visible. Who lost a compare against the pending head calls it
    /// before reading again: without it the read may show the same old value over and over.
    pub async fn settle(&self) {
        if let Some(done) = self.queue.wait_in_line() {
            // A store that failed meanwhile says so at the next commit.
            drop(done.await);
        }
    }

    /// Why no writes are accepted now, if so: the disk refused one. Accepted again once it takes writes again.
    pub fn refused(&self) -> Option<String> {
        self.queue.refused()
    }

    /// Every durable key at the newest durable revision, sealed as on the disk.
    pub fn snapshot(&self) -> Result<Snapshot, SealError> {
        seal::sealed(self.queue.snapshot(&self.shared), self.seal.as_ref())
    }

    /// Writes again what is not sealed as it should be, and says how many keys that were.
    pub async fn reseal(&self) -> Result<usize, CommitError> {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        let mut written = 0;
        for key in stale {
            let Some(kv) = self.get(&key) else { continue };
            let compare = Compare::ModRevision(key.clone(), kv.mod_revision);
            match self.commit(&[compare], vec![Op::Put { key, value: kv.value, ttl: None }]).await {
                Ok(_) => written += 1,
                // Whoever changed it has sealed it.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Makes the state that of a snapshot, in one commit of the differences; keys that have the right value are not
    /// touched.
    pub async fn replace(&self, snapshot: &Snapshot) -> Result<Replacement, ReplaceError> {
        let snapshot = seal::opened(snapshot, self.seal.as_ref()).map_err(ReplaceError::Sealed)?;
        let (changed, done) = self.queue.replace(&self.shared, &snapshot)?;
        let done =
            done.await.unwrap_or_else(|_| Err(CommitError::Unavailable { reason: "the store was closed".into() }));
        Ok(Replacement { revision: done?, changed })
    }

    #[cfg(test)]
    pub(crate) fn shorten_patience(&self, slow: std::time::Duration, stalled: std::time::Duration) {
        self.queue.health().shorten(slow, stalled);
    }

    /// Watches a prefix for events after `after`.
    pub fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watcher, RevisionError> {
        self.watcher(prefix, None, after)
    }

    /// Watches those events of a prefix after `after` that are about a topic, before or after them. A store that does
    /// not know topics tells of all events of the prefix.
    pub fn watch_topic(&self, prefix: Bytes, topic: Bytes, after: Revision) -> Result<Watcher, RevisionError> {
        self.watcher(prefix, self.shared.topic_of.map(|_| topic), after)
    }

    fn watcher(&self, prefix: Bytes, topic: Option<Bytes>, after: Revision) -> Result<Watcher, RevisionError> {
        let visible = self.shared.visible();
        if after > visible.revision {
            return Err(RevisionError::Future { requested: after, newest: visible.revision });
        }
        visible.history.check(after)?;
        Ok(Watcher::new(&self.shared, prefix, topic, after, visible.revision))
    }

    /// Forgets the history up to `revision`: reads and watches from before it fail as compacted.
    pub fn compact(&self, revision: Revision) {
        let mut visible = self.shared.visible_mut();
        let revision = revision.min(visible.revision);
        let dropped = visible.history.compact(revision);
        self.shared.subscriptions.forget(&dropped);
    }
}

fn thread(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DriverError> {
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(|source| DriverError::Engine {
        path: Default::default(),
        step: "starting a thread of the store",
        source: source.into(),
    })
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
        // The last write was watched as well.
        self.queue.health().close();
        if let Some(watchdog) = self.watchdog.take() {
            drop(watchdog.join());
        }
    }
}
