//! What readers see: the ordered map of durable values and the history behind it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;

use crate::history::{History, Told};
use crate::model::{KeyValue, Page, RangeRequest, Revision, RevisionError};

/// The durable state at `revision`.
pub(crate) struct Visible {
    pub(crate) map: BTreeMap<Bytes, KeyValue>,
    pub(crate) history: History,
    pub(crate) revision: Revision,
}

impl Visible {
    pub(crate) fn new(entries: Vec<KeyValue>, revision: Revision, history: History) -> Self {
        let map = entries.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        Self { map, history, revision }
    }

    /// Takes in one durable commit, and answers the events that the history has dropped for it.
    pub(crate) fn apply(&mut self, revision: Revision, events: Vec<Told>) -> Vec<Told> {
        for told in &events {
            match &told.event.current {
                Some(kv) => self.map.insert(kv.key.clone(), kv.clone()),
                None => self.map.remove(told.event.key()),
            };
        }
        self.revision = revision;
        self.history.push(events, Instant::now())
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<Page, RevisionError> {
        let at = request.at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(RevisionError::Future { requested: at, newest: self.revision });
        }
        self.history.check(at)?;
        if at == self.revision {
            return Ok(page(scan(&self.map, request), request, at));
        }
        // The recent past is the present with the later events undone, newest first.
        let mut past: BTreeMap<Bytes, KeyValue> =
            scan(&self.map, request).map(|kv| (kv.key.clone(), kv.clone())).collect();
        for event in self.history.after(at).rev().filter(|event| in_range(event.key(), request)) {
            match &event.previous {
                Some(kv) => past.insert(kv.key.clone(), kv.clone()),
                None => past.remove(event.key()),
            };
        }
        Ok(page(past.values(), request, at))
    }
}

fn in_range(key: &Bytes, request: &RangeRequest) -> bool {
    key.starts_with(&request.prefix) && request.after.as_ref().is_none_or(|after| key > after)
}

fn scan<'a>(map: &'a BTreeMap<Bytes, KeyValue>, request: &'a RangeRequest) -> impl Iterator<Item = &'a KeyValue> {
    let start = match &request.after {
        Some(after) if *after >= request.prefix => Bound::Excluded(after.clone()),
        _ => Bound::Included(request.prefix.clone()),
    };
    map.range((start, Bound::Unbounded)).map(|(_, kv)| kv).take_while(|kv| kv.key.starts_with(&request.prefix))
}

fn page<'a>(mut keys: impl Iterator<Item = &'a KeyValue>, request: &RangeRequest, revision: Revision) -> Page {
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    let items = keys.by_ref().take(limit).cloned().collect();
    Page { items, revision, remaining: keys.count() }
}
