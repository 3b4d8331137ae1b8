//! Watchers: cursors over the history. A watcher holds no buffer of its own, so a slow one costs nothing; one that falls
//! behind the history is told so and relists. An event looks up who waits for its key or its topics, so that it wakes
//! nobody else, however many wait: each node of a cluster watches the pods of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::history::Told;
use crate::model::{Event, Revision, RevisionError};
use crate::store::Shared;

/// What the watchers of one prefix, or of one topic, wait for.
///
/// The numbers change while the visible state is locked for writing, so that who reads it sees them as of its revision.
struct Subscription {
    wake: Notify,
    /// The last event of theirs.
    last: AtomicU64,
    /// The last event of theirs that the history has dropped.
    dropped: AtomicU64,
}

impl Subscription {
    /// Made at a revision: what was before may have been of theirs.
    fn new(now: Revision) -> Self {
        Self { wake: Notify::new(), last: AtomicU64::new(now.0), dropped: AtomicU64::new(0) }
    }
}

/// Who waits for what.
#[derive(Default)]
pub(crate) struct Subscriptions {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_prefix: BTreeMap<Bytes, Arc<Subscription>>,
    by_topic: HashMap<Bytes, Arc<Subscription>>,
}

impl Known {
    fn concerned(&self, told: &Told) -> impl Iterator<Item = &Arc<Subscription>> {
        let by_topic = told.topics.iter().filter_map(|topic| self.by_topic.get(topic));
        prefixes_of(&self.by_prefix, told.event.key()).chain(by_topic)
    }
}

/// The values of all keys of a map that a key begins with, the longest first: a few steps, however many others there are.
fn prefixes_of<'a, V>(map: &'a BTreeMap<Bytes, V>, key: &Bytes) -> impl Iterator<Item = &'a V> {
    let mut bound = Some(key.clone());
    std::iter::from_fn(move || {
        loop {
            let (candidate, value) = map.range(..=bound.take()?).next_back()?;
            let common = candidate.iter().zip(key.iter()).take_while(|(one, other)| one == other).count();
            if common == candidate.len() {
                bound = common.checked_sub(1).map(|shorter| key.slice(..shorter));
                return Some(value);
            }
            // What else the key begins with is no longer than what both have in common.
            bound = Some(key.slice(..common));
        }
    })
}

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of events while the visible state is locked, and answers who is to be woken once it is not.
    pub(crate) fn note<'a>(&self, told: impl Iterator<Item = &'a Told>) -> Woken {
        let known = self.lock();
        let (mut first, mut woken) = (None, Vec::new());
        for told in told {
            let revision = told.event.revision.0;
            let first = *first.get_or_insert(revision);
            for subscription in known.concerned(told) {
                // Each once, however many events of the group are its own.
                if subscription.last.swap(revision, Ordering::Relaxed) < first {
                    woken.push(Arc::clone(subscription));
                }
            }
        }
        Woken(woken)
    }

    /// Takes note of events that the history has dropped, while the visible state is locked.
    pub(crate) fn forget(&self, dropped: &[Told]) {
        let known = self.lock();
        for told in dropped {
            for subscription in known.concerned(told) {
                subscription.dropped.store(told.event.revision.0, Ordering::Relaxed);
            }
        }
    }
}

/// Who is to be woken.
pub(crate) struct Woken(Vec<Arc<Subscription>>);

impl Woken {
    pub(crate) fn wake(self) {
        self.0.iter().for_each(|subscription| subscription.wake.notify_waiters());
    }
}

/// A cursor over the events of one prefix, or over those among them that are about one topic.
pub struct Watcher {
    shared: Arc<Shared>,
    prefix: Bytes,
    topic: Option<Bytes>,
    subscription: Arc<Subscription>,
    position: Revision,
}

impl Watcher {
    /// `now` is the visible revision, which does not move meanwhile.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        prefix: Bytes,
        topic: Option<Bytes>,
        position: Revision,
        now: Revision,
    ) -> Self {
        let mut known = shared.subscriptions.lock();
        let subscription = match &topic {
            Some(topic) => known.by_topic.entry(topic.clone()).or_insert_with(|| Arc::new(Subscription::new(now))),
            None => known.by_prefix.entry(prefix.clone()).or_insert_with(|| Arc::new(Subscription::new(now))),
        };
        let subscription = Arc::clone(subscription);
        drop(known);
        Self { shared: Arc::clone(shared), prefix, topic, subscription, position }
    }

    /// Every event up to this revision has been returned; what a bookmark says.
    pub fn position(&mut self) -> Revision {
        let visible = self.shared.visible();
        if self.subscription.last.load(Ordering::Relaxed) <= self.position.0 {
            self.position = self.position.max(visible.revision);
        }
        self.position
    }

    /// The events since the last call, without waiting; empty when there are none.
    pub fn poll_batch(&mut self) -> Result<Vec<Arc<Event>>, RevisionError> {
        let visible = self.shared.visible();
        let mut events = Vec::new();
        if self.subscription.last.load(Ordering::Relaxed) > self.position.0 {
            if self.subscription.dropped.load(Ordering::Relaxed) > self.position.0 {
                return Err(visible.history.compacted(self.position));
            }
            let is_own = |event: &&Arc<Event>| event.key().starts_with(&self.prefix);
            events = match &self.topic {
                Some(topic) => visible.history.about(topic, self.position).filter(is_own).cloned().collect(),
                None => visible.history.after(self.position).filter(is_own).cloned().collect(),
            };
        }
        self.position = self.position.max(visible.revision);
        Ok(events)
    }

    /// Waits for events of the prefix. Cancel-safe: an event is consumed only when it is returned.
    pub async fn next_batch(&mut self) -> Result<Vec<Arc<Event>>, RevisionError> {
        loop {
            // Registered before looking, so that no event falls between looking and waiting.
            let subscription = Arc::clone(&self.subscription);
            let mut woken = std::pin::pin!(subscription.wake.notified());
            woken.as_mut().enable();
            let events = self.poll_batch()?;
            if !events.is_empty() {
                return Ok(events);
            }
            woken.await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut known = self.shared.subscriptions.lock();
        // Who waits for the same is counted under the same lock: one is ours, one the map's.
        if Arc::strong_count(&self.subscription) == 2 {
            match &self.topic {
                Some(topic) => known.by_topic.remove(topic),
                None => known.by_prefix.remove(&self.prefix),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whoever_waits_for_a_prefix_is_found(
            prefixes in proptest::collection::btree_set("[ab]{0,4}", 0..12),
            key in "[ab]{0,6}",
        ) {
            let map: BTreeMap<Bytes, String> = prefixes.iter().map(|own| (Bytes::from(own.clone()), own.clone())).collect();
            let mut found: Vec<&String> = prefixes_of(&map, &Bytes::from(key.clone())).collect();
            found.reverse();
            let expected: Vec<&String> = prefixes.iter().filter(|own| key.starts_with(own.as_str())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
