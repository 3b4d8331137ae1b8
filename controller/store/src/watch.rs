//! Watchers: cursors over the history, woken by prefix. A watcher holds no buffer of its own, so a
//! slow one costs nothing; one that falls behind the history is told so and relists.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::model::{Event, Revision, RevisionError};
use crate::store::Shared;

/// Who waits for which prefix.
#[derive(Default)]
pub(crate) struct Subscriptions {
    by_prefix: Mutex<HashMap<Bytes, Arc<Notify>>>,
    /// Bytes of events since everybody was last woken, so that quiet watchers move on before the
    /// history drops what they have not looked at.
    since_all: AtomicUsize,
    history_capacity: usize,
}

impl Subscriptions {
    pub(crate) fn new(history_capacity: usize) -> Self {
        Self { history_capacity, ..Self::default() }
    }

    fn subscribe(&self, prefix: &Bytes) -> Arc<Notify> {
        let mut by_prefix = self.by_prefix.lock().unwrap_or_else(PoisonError::into_inner);
        // Prefixes that nobody waits for any more go when somebody new comes.
        by_prefix.retain(|_, notify| Arc::strong_count(notify) > 1);
        Arc::clone(by_prefix.entry(prefix.clone()).or_default())
    }

    pub(crate) fn wake(&self, events: &[Arc<Event>]) {
        let size: usize = events.iter().map(|event| event.size()).sum();
        let everybody = self.since_all.fetch_add(size, Ordering::Relaxed) + size > self.history_capacity / 4;
        if everybody {
            self.since_all.store(0, Ordering::Relaxed);
        }
        let by_prefix = self.by_prefix.lock().unwrap_or_else(PoisonError::into_inner);
        for (prefix, notify) in by_prefix.iter() {
            if everybody || events.iter().any(|event| event.key().starts_with(prefix)) {
                notify.notify_waiters();
            }
        }
    }
}

/// A cursor over the events of one prefix.
pub struct Watcher {
    shared: Arc<Shared>,
    prefix: Bytes,
    wake: Arc<Notify>,
    position: Revision,
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, prefix: Bytes, after: Revision) -> Self {
        let wake = shared.subscriptions.subscribe(&prefix);
        Self { shared, prefix, wake, position: after }
    }

    /// Every event up to this revision has been returned; what a bookmark says.
    pub fn position(&self) -> Revision {
        self.position
    }

    /// The events since the last call, without waiting; empty when there are none.
    pub fn poll_batch(&mut self) -> Result<Vec<Arc<Event>>, RevisionError> {
        let visible = self.shared.visible();
        visible.history.check(self.position.min(visible.revision))?;
        let events = visible
            .history
            .after(self.position)
            .filter(|event| event.key().starts_with(&self.prefix))
            .cloned()
            .collect();
        self.position = self.position.max(visible.revision);
        Ok(events)
    }

    /// Waits for events of the prefix. Cancel-safe: an event is consumed only when it is returned.
    pub async fn next_batch(&mut self) -> Result<Vec<Arc<Event>>, RevisionError> {
        loop {
            // Registered before looking, so that no event falls between looking and waiting.
            let wake = Arc::clone(&self.wake);
            let mut woken = std::pin::pin!(wake.notified());
            woken.as_mut().enable();
            let events = self.poll_batch()?;
            if !events.is_empty() {
                return Ok(events);
            }
            woken.await;
        }
    }
}
