//! The last events, bounded by bytes: watches replay from it, reads of the recent past undo it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Event, Revision, RevisionError};

/// Events in commit order. Everything after `oldest` is held.
pub(crate) struct History {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    capacity: usize,
    /// Reads and watches from this revision on are possible; events up to it are dropped.
    oldest: Revision,
}

impl History {
    pub(crate) fn new(capacity: usize, oldest: Revision) -> Self {
        Self { events: VecDeque::new(), bytes: 0, capacity, oldest }
    }

    /// Appends the events of one commit and drops the oldest commits beyond the capacity.
    pub(crate) fn push(&mut self, commit: Vec<Arc<Event>>) {
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
