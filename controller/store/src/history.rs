//! The last events, bounded by bytes and by age: watches replay from it, reads of the recent past undo it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::model::{Event, KeyValue, Revision, RevisionError};

/// How finely age is told: this many moments are remembered.
const MOMENTS: u32 = 32;

/// What a value is about besides its key, if it is: whoever asks for that topic sees its events.
pub type TopicOf = fn(&KeyValue) -> Option<Bytes>;

/// An event and what it is about: what the value before it was about, and the one after it.
pub(crate) struct Told {
    pub(crate) event: Arc<Event>,
    pub(crate) topics: Vec<Bytes>,
}

impl Told {
    pub(crate) fn new(event: Arc<Event>, topic_of: Option<TopicOf>) -> Self {
        let values = event.previous.iter().chain(&event.current);
        let mut topics: Vec<Bytes> = topic_of.map_or_else(Vec::new, |of| values.filter_map(of).collect());
        topics.dedup();
        Self { event, topics }
    }
}

/// Events in commit order. Everything after `oldest` is held.
pub(crate) struct History {
    events: VecDeque<Told>,
    /// The same, of each topic that there are events of.
    by_topic: HashMap<Bytes, VecDeque<Arc<Event>>>,
    bytes: usize,
    capacity: usize,
    age: Duration,
    /// The last revision at some moments, oldest first: what tells how old an event is.
    moments: VecDeque<(Instant, Revision)>,
    /// Reads and watches from this revision on are possible; events up to it are dropped.
    oldest: Revision,
}

impl History {
    pub(crate) fn new(capacity: usize, age: Duration, oldest: Revision) -> Self {
        Self {
            events: VecDeque::new(),
            by_topic: HashMap::new(),
            bytes: 0,
            capacity,
            age,
            moments: VecDeque::new(),
            oldest,
        }
    }

    /// Appends the events of one commit and drops the oldest commits beyond the capacity or the age, which it answers.
    pub(crate) fn push(&mut self, commit: impl IntoIterator<Item = Told>, now: Instant) -> Vec<Told> {
        let mut dropped = self.drop_aged(now);
        for told in commit {
            self.bytes += told.event.size();
            for topic in &told.topics {
                self.by_topic.entry(topic.clone()).or_default().push_back(Arc::clone(&told.event));
            }
            self.events.push_back(told);
        }
        while self.bytes > self.capacity
            && let Some(first) = self.events.front().map(|told| told.event.revision)
            && self.events.back().is_some_and(|last| last.event.revision != first)
        {
            dropped.extend(self.compact(first));
        }
        dropped
    }

    /// Drops what was followed by others for longer than the age.
    fn drop_aged(&mut self, now: Instant) -> Vec<Told> {
        let last = self.events.back().map_or(self.oldest, |told| told.event.revision);
        let due = |moment: &(Instant, Revision)| now.duration_since(moment.0) >= self.age / MOMENTS;
        if self.moments.back().is_none_or(due) {
            self.moments.push_back((now, last));
        }
        let mut dropped = Vec::new();
        while let Some((_, revision)) = self.moments.pop_front_if(|(at, _)| now.duration_since(*at) > self.age) {
            dropped.extend(self.compact(revision));
        }
        dropped
    }

    /// Fails when the events after `revision` are not all held.
    pub(crate) fn check(&self, revision: Revision) -> Result<(), RevisionError> {
        match revision < self.oldest {
            true => Err(self.compacted(revision)),
            false => Ok(()),
        }
    }

    /// Tells that what followed `revision` is not held any more.
    pub(crate) fn compacted(&self, revision: Revision) -> RevisionError {
        RevisionError::Compacted { requested: revision, oldest: self.oldest }
    }

    /// The events after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|told| told.event.revision <= revision);
        self.events.range(start..).map(|told| &told.event)
    }

    /// The events of a topic after `revision`, oldest first.
    pub(crate) fn about(&self, topic: &Bytes, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let own = self.by_topic.get(topic).into_iter();
        own.flat_map(move |own| own.range(own.partition_point(|event| event.revision <= revision)..))
    }

    /// Drops all events up to `revision`, and answers them.
    pub(crate) fn compact(&mut self, revision: Revision) -> Vec<Told> {
        let mut dropped = Vec::new();
        while let Some(told) = self.events.pop_front_if(|told| told.event.revision <= revision) {
            self.bytes -= told.event.size();
            for topic in &told.topics {
                // They are in the order of all events.
                if let Entry::Occupied(mut own) = self.by_topic.entry(topic.clone()) {
                    own.get_mut().pop_front();
                    if own.get().is_empty() {
                        own.remove();
                    }
                }
            }
            dropped.push(told);
        }
        self.oldest = self.oldest.max(revision);
        dropped
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::KeyValue;

    #[test]
    fn what_is_too_old_is_dropped_with_the_next_commit() {
        let begin = Instant::now();
        let mut history = History::new(1 << 20, Duration::from_secs(320), Revision(0));
        let event = |revision| {
            let revision = Revision(revision);
            let (key, value) = (Bytes::from("k"), Bytes::from("v"));
            let kv = KeyValue { key, value, create_revision: revision, mod_revision: revision };
            [Told::new(Arc::new(Event { revision, current: Some(kv), previous: None }), None)]
        };
        for second in 0..600 {
            history.push(event(second + 1), begin + Duration::from_secs(second));
        }
        // At second 599 what was the last at second 279 or before may go, told to ten seconds.
        let oldest = history.oldest.0;
        assert!((268..=280).contains(&oldest), "{oldest}");
        assert!(history.check(Revision(oldest - 1)).is_err() && history.check(Revision(oldest)).is_ok());
        assert_eq!(history.after(Revision(oldest)).count() as u64, 600 - oldest);
    }
}
