//! The last events, bounded by bytes and by age: watches replay from it, reads of the recent past undo it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Event, Revision, RevisionError};

/// How finely age is told: this many moments are remembered.
const MOMENTS: u32 = 32;

/// Events in commit order. Everything after `oldest` is held.
pub(crate) struct History {
    events: VecDeque<Arc<Event>>,
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
        Self { events: VecDeque::new(), bytes: 0, capacity, age, moments: VecDeque::new(), oldest }
    }

    /// Appends the events of one commit and drops the oldest commits beyond the capacity or the age.
    pub(crate) fn push(&mut self, commit: Vec<Arc<Event>>, now: Instant) {
        self.drop_aged(now);
        for event in commit {
            self.bytes += event.size();
            self.events.push_back(event);
        }
        while self.bytes > self.capacity
            && let Some(first) = self.events.front().map(|event| event.revision)
            && self.events.back().is_some_and(|last| last.revision != first)
        {
            self.drop_commit(first);
        }
    }

    /// Drops what was followed by others for longer than the age.
    fn drop_aged(&mut self, now: Instant) {
        let last = self.events.back().map_or(self.oldest, |event| event.revision);
        let due = |moment: &(Instant, Revision)| now.duration_since(moment.0) >= self.age / MOMENTS;
        if self.moments.back().is_none_or(due) {
            self.moments.push_back((now, last));
        }
        while let Some((_, revision)) = self.moments.pop_front_if(|(at, _)| now.duration_since(*at) > self.age) {
            self.compact(revision);
        }
    }

    fn drop_commit(&mut self, revision: Revision) {
        while let Some(event) = self.events.pop_front_if(|event| event.revision == revision) {
            self.bytes -= event.size();
        }
        self.oldest = revision;
    }

    /// Fails when the events after `revision` are not all held.
    pub(crate) fn check(&self, revision: Revision) -> Result<(), RevisionError> {
        match revision < self.oldest {
            true => Err(RevisionError::Compacted { requested: revision, oldest: self.oldest }),
            false => Ok(()),
        }
    }

    /// The events after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|event| event.revision <= revision);
        self.events.range(start..)
    }

    /// Drops all events up to `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        while let Some(event) = self.events.pop_front_if(|event| event.revision <= revision) {
            self.bytes -= event.size();
        }
        self.oldest = self.oldest.max(revision);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
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
            vec![Arc::new(Event { revision, current: Some(kv), previous: None })]
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
