//! The pending head and the one thread that makes it durable, group by group.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::driver::{Driver, Expiry, Write};
use crate::model::{CommitError, Compare, Event, KeyValue, Op, Revision};
use crate::store::Shared;

/// A commit that passed its compares and waits for the disk.
struct Pending {
    revision: Revision,
    events: Vec<Arc<Event>>,
    expiries: Vec<(Bytes, Expiry)>,
    done: Option<oneshot::Sender<Result<Revision, CommitError>>>,
}

/// What has been promised but is not durable yet.
pub(crate) struct Head {
    /// Newest pending value of each key that has one; `None` is a pending deletion.
    overlay: HashMap<Bytes, (Revision, Option<KeyValue>)>,
    queue: Vec<Pending>,
    last: Revision,
    /// Why nothing is accepted any more.
    refused: Option<String>,
    /// Keys that expire, soonest first; entries outlived by a later write are ignored.
    expiries: BinaryHeap<Reverse<(Expiry, Bytes, Revision)>>,
    stopping: bool,
}

/// The head and the signal that wakes the writer.
pub(crate) struct Queue {
    head: Mutex<Head>,
    work: Condvar,
}

impl Queue {
    pub(crate) fn new(last: Revision, expiring: Vec<(Expiry, Bytes, Revision)>) -> Self {
        let head = Head {
            overlay: HashMap::new(),
            queue: Vec::new(),
            last,
            refused: None,
            expiries: expiring.into_iter().map(Reverse).collect(),
            stopping: false,
        };
        Self { head: Mutex::new(head), work: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Head> {
        // Nothing panics while the head is half changed: every update below is a plain insertion.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the compares against the pending head and queues the commit.
    pub(crate) fn submit(
        &self,
        shared: &Shared,
        compares: &[Compare],
        ops: Vec<Op>,
    ) -> Result<oneshot::Receiver<Result<Revision, CommitError>>, CommitError> {
        let mut head = self.lock();
        let (done, receiver) = oneshot::channel();
        head.enqueue(shared, compares, ops, Some(done))?;
        drop(head);
        self.work.notify_one();
        Ok(receiver)
    }

    /// Why nothing is accepted any more, if so.
    pub(crate) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.work.notify_one();
    }

    /// The writer thread: takes what has queued up, makes it durable in one go, shows it, wakes the callers.
    pub(crate) fn run(&self, shared: &Shared, driver: &mut dyn Driver) {
        loop {
            let Some(group) = self.next_group(shared) else { return };
            let last = group.last().map_or(Revision::EMPTY, |pending| pending.revision);
            let expiries: HashMap<(&Bytes, Revision), Expiry> =
                group.iter().flat_map(|p| p.expiries.iter().map(move |(key, at)| ((key, p.revision), *at))).collect();
            let writes = group.iter().flat_map(|pending| &pending.events).map(|event| match &event.current {
                Some(kv) => Write::Put(kv.clone(), expiries.get(&(&kv.key, kv.mod_revision)).copied()),
                None => Write::Delete(event.key().clone()),
            });
            match driver.persist(writes.collect(), last) {
                Ok(()) => self.show(shared, group, last),
                Err(error) => return self.refuse(group, &error),
            }
        }
    }

    fn next_group(&self, shared: &Shared) -> Option<Vec<Pending>> {
        let mut head = self.lock();
        loop {
            head.expire(shared);
            if !head.queue.is_empty() {
                return Some(std::mem::take(&mut head.queue));
            }
            if head.stopping {
                return None;
            }
            // A long sleep stands in for "nothing expires": the condition variable ends it.
            let sleep = head.expiries.peek().map_or(Duration::from_secs(86_400), |Reverse((at, ..))| at.remaining());
            head = self.work.wait_timeout(head, sleep).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn show(&self, shared: &Shared, group: Vec<Pending>, last: Revision) {
        let mut callers = Vec::with_capacity(group.len());
        let mut events = Vec::new();
        {
            let mut visible = shared.visible_mut();
            for pending in group {
                events.extend(pending.events.iter().cloned());
                visible.apply(pending.revision, pending.events);
                callers.extend(pending.done.map(|done| (done, pending.revision)));
            }
        }
        // The overlay goes only after the values are visible, so a compare always sees one of the two.
        self.lock().overlay.retain(|_, (revision, _)| *revision > last);
        shared.subscriptions.wake(&events);
        for (done, revision) in callers {
            // A caller that went away does not care.
            drop(done.send(Ok(revision)));
        }
    }

    fn refuse(&self, group: Vec<Pending>, error: &dyn std::error::Error) {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            reason = format!("{reason}: {inner}");
            cause = inner.source();
        }
        tracing::error!(reason, "the store accepts no writes any more");
        let queued = {
            let mut head = self.lock();
            head.refused = Some(reason.clone());
            head.overlay.clear();
            std::mem::take(&mut head.queue)
        };
        for done in group.into_iter().chain(queued).filter_map(|pending| pending.done) {
            drop(done.send(Err(CommitError::Unavailable { reason: reason.clone() })));
        }
    }
}

impl Head {
    fn current(&self, shared: &Shared, key: &Bytes) -> Option<KeyValue> {
        match self.overlay.get(key) {
            Some((_, pending)) => pending.clone(),
            None => shared.visible().map.get(key).cloned(),
        }
    }

    fn enqueue(
        &mut self,
        shared: &Shared,
        compares: &[Compare],
        ops: Vec<Op>,
        done: Option<oneshot::Sender<Result<Revision, CommitError>>>,
    ) -> Result<(), CommitError> {
        if let Some(reason) = &self.refused {
            return Err(CommitError::Unavailable { reason: reason.clone() });
        }
        for compare in compares {
            let current = self.current(shared, compare.key());
            let holds = match compare {
                Compare::Absent(_) => current.is_none(),
                Compare::ModRevision(_, revision) => current.as_ref().is_some_and(|kv| kv.mod_revision == *revision),
            };
            if !holds {
                return Err(CommitError::Conflict { key: compare.key().clone(), current });
            }
        }
        let revision = self.last.next();
        let mut seen = HashSet::new();
        let mut events = Vec::with_capacity(ops.len());
        let mut expiries = Vec::new();
        for op in ops {
            debug_assert!(seen.insert(op.key().clone()), "a commit names each key once");
            let previous = self.current(shared, op.key());
            let current = match op {
                Op::Put { key, value, ttl } => {
                    if let Some(ttl) = ttl {
                        let at = Expiry::after(ttl);
                        expiries.push((key.clone(), at));
                        self.expiries.push(Reverse((at, key.clone(), revision)));
                    }
                    let create_revision = previous.as_ref().map_or(revision, |kv| kv.create_revision);
                    Some(KeyValue { key, value, create_revision, mod_revision: revision })
                }
                Op::Delete { .. } if previous.is_none() => continue,
                Op::Delete { .. } => None,
            };
            let event = Event { revision, current, previous };
            self.overlay.insert(event.key().clone(), (revision, event.current.clone()));
            events.push(Arc::new(event));
        }
        self.last = revision;
        self.queue.push(Pending { revision, events, expiries, done });
        Ok(())
    }

    /// Queues the deletion of every key whose time has come.
    fn expire(&mut self, shared: &Shared) {
        while self.expiries.peek().is_some_and(|Reverse((at, ..))| at.remaining().is_zero()) {
            let Some(Reverse((_, key, revision))) = self.expiries.pop() else { return };
            let unchanged = [Compare::ModRevision(key.clone(), revision)];
            // A conflict means that a later write gave the key another life.
            drop(self.enqueue(shared, &unchanged, vec![Op::Delete { key }], None));
        }
    }
}
