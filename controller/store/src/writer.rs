//! The pending head and the one thread that makes it durable, group by group.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::driver::{Driver, Expiry, Replaced, Write};
use crate::health::Health;
use crate::history::Told;
use crate::metrics::Metrics;
use crate::model::{CommitError, Compare, Event, KeyValue, Op, Revision};
use crate::snapshot::Snapshot;
use crate::store::{ReplaceError, Shared};

/// A commit that passed its compares and waits for the disk.
struct Pending {
    revision: Revision,
    events: Vec<Arc<Event>>,
    expiries: Vec<(Bytes, Expiry)>,
    /// The expiry that this commit carries out, so that a failed one is tried again.
    expires: Option<(Expiry, Bytes, Revision)>,
    /// Who waits; `None` for commits of the store's own.
    done: Option<Done>,
}

type Done = oneshot::Sender<Result<Revision, CommitError>>;

/// A group takes no further commit beyond this, so that its memory is bounded by it and one commit.
const GROUP_BYTES: usize = 4 << 20;
/// A replacement of the state is one commit, and no commit may come near what a frame takes.
const REPLACEMENT_BYTES: usize = 128 << 20;
/// How long a failed disk is left alone before it is tried again.
const RECOVERY_PAUSE: Duration = Duration::from_millis(500);

/// What has been promised but is not durable yet.
pub(crate) struct Head {
    /// Newest pending value of each key that has one; `None` is a pending deletion.
    overlay: HashMap<Bytes, (Revision, Option<KeyValue>)>,
    queue: VecDeque<Pending>,
    last: Revision,
    /// Why nothing is accepted now.
    refused: Option<String>,
    /// Keys that expire, soonest first; entries outlived by a later write are ignored.
    expiries: BinaryHeap<Reverse<(Expiry, Bytes, Revision)>>,
    /// Expiries that are carried out, until the deletion is visible.
    expiring: Vec<(Expiry, Bytes, Revision)>,
    stopping: bool,
}

/// The head and the signal that wakes the writer.
pub(crate) struct Queue {
    head: Mutex<Head>,
    work: Condvar,
    health: Health,
    metrics: Metrics,
}

impl Queue {
    pub(crate) fn new(last: Revision, expiring: Vec<(Expiry, Bytes, Revision)>, metrics: Metrics) -> Self {
        let head = Head {
            overlay: HashMap::new(),
            queue: VecDeque::new(),
            last,
            refused: None,
            expiries: expiring.into_iter().map(Reverse).collect(),
            expiring: Vec::new(),
            stopping: false,
        };
        metrics.revision.set(i64::try_from(last.0).unwrap_or(i64::MAX));
        let health = Health::new(metrics.clone());
        Self { head: Mutex::new(head), work: Condvar::new(), health, metrics }
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
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
        let first = head.queue.is_empty();
        head.enqueue(shared, compares, ops, Waiting::Caller(done))?;
        drop(head);
        // A writer that has work already looks again by itself.
        if first {
            self.work.notify_one();
        }
        Ok(receiver)
    }

    /// Every durable key and when it expires.
    pub(crate) fn snapshot(&self, shared: &Shared) -> Snapshot {
        // Both at once: a key that becomes visible between the two would have no expiry.
        let head = self.lock();
        let visible = shared.visible();
        let waiting = head.expiries.iter().map(|Reverse(expiry)| expiry);
        let expiries: HashMap<_, _> =
            waiting.chain(&head.expiring).map(|(at, key, revision)| ((key, *revision), *at)).collect();
        let expiry = |kv: &KeyValue| expiries.get(&(&kv.key, kv.mod_revision)).copied();
        let entries = visible.map.values().map(|kv| (kv.clone(), expiry(kv))).collect();
        Snapshot { revision: visible.revision, entries }
    }

    /// Queues the commit that makes the state the snapshot's, and says how many keys it changes.
    pub(crate) fn replace(
        &self,
        shared: &Shared,
        snapshot: &Snapshot,
    ) -> Result<(usize, oneshot::Receiver<Result<Revision, CommitError>>), ReplaceError> {
        let mut head = self.lock();
        let mut ops = head.differences(shared, snapshot);
        let size = |op: &Op| op.key().len() + if let Op::Put { value, .. } = op { value.len() } else { 0 };
        let bytes = ops.iter().map(size).sum();
        if bytes > REPLACEMENT_BYTES {
            return Err(ReplaceError::TooLarge { bytes, limit: REPLACEMENT_BYTES });
        }
        ops.sort_by(|one, other| one.key().cmp(other.key()));
        let changed = ops.len();
        let (done, receiver) = oneshot::channel();
        head.enqueue(shared, &[], ops, Waiting::Caller(done))?;
        drop(head);
        self.work.notify_one();
        Ok((changed, receiver))
    }

    /// Waits in line behind everything promised so far; `None` when all of it is visible.
    pub(crate) fn wait_in_line(&self) -> Option<oneshot::Receiver<Result<Revision, CommitError>>> {
        let mut head = self.lock();
        if head.overlay.is_empty() || head.refused.is_some() {
            return None;
        }
        let (done, receiver) = oneshot::channel();
        let revision = head.last;
        let (events, expiries) = (Vec::new(), Vec::new());
        head.queue.push_back(Pending { revision, events, expiries, expires: None, done: Some(done) });
        drop(head);
        self.work.notify_one();
        Some(receiver)
    }

    /// Why nothing is accepted now, if so.
    pub(crate) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.work.notify_one();
    }

    /// The writer thread: takes what has queued up, makes it durable in one go, shows it, wakes the callers.
    pub(crate) fn run(&self, shared: &Shared, driver: &mut dyn Driver) {
        self.measure(shared, driver);
        while let Some(group) = self.next_group(shared) {
            let last = group.last().map_or(Revision::EMPTY, |pending| pending.revision);
            let writes = writes_of(&group);
            // Who only waited in line has nothing to make durable.
            let persisted = if writes.is_empty() && last <= shared.visible().revision {
                Ok(())
            } else {
                self.metrics.group_commits.observe(group.len() as f64);
                self.health.begin();
                let persisted = driver.persist(writes, last);
                self.health.end();
                persisted
            };
            match persisted {
                Ok(()) => {
                    self.show(shared, group, last);
                    self.measure(shared, driver);
                }
                Err(error) => {
                    self.refuse(group, &error);
                    if !self.recover(driver) {
                        return;
                    }
                }
            }
        }
    }

    fn measure(&self, shared: &Shared, driver: &dyn Driver) {
        let (size, number) = (driver.size(), |number: u64| i64::try_from(number).unwrap_or(i64::MAX));
        self.metrics.file_bytes.set(number(size.written));
        self.metrics.live_bytes.set(number(size.live));
        let visible = shared.visible();
        self.metrics.revision.set(number(visible.revision.0));
        self.metrics.keys.set(number(visible.map.len() as u64));
    }

    fn next_group(&self, shared: &Shared) -> Option<Vec<Pending>> {
        let mut head = self.lock();
        loop {
            head.expire(shared);
            if !head.queue.is_empty() {
                let group = head.take_group();
                self.metrics.queued.set(i64::try_from(group.len() + head.queue.len()).unwrap_or(i64::MAX));
                return Some(group);
            }
            if head.stopping {
                return None;
            }
            // A long sleep stands in for "nothing expires": the condition variable ends it.
            let sleep = head.expiries.peek().map_or(Duration::from_secs(86_400), |Reverse((at, ..))| at.remaining());
            head = self.work.wait_timeout(head, sleep).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the driver takes writes again; `false` when the store is closed instead. No event tells that a
    /// disk has space again, so this asks.
    fn recover(&self, driver: &mut dyn Driver) -> bool {
        let mut head = self.lock();
        loop {
            let deadline = Instant::now() + RECOVERY_PAUSE;
            while !head.stopping
                && let Some(left) = deadline.checked_duration_since(Instant::now())
            {
                head = self.work.wait_timeout(head, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            if head.stopping {
                return false;
            }
            drop(head);
            let recovered = driver.recover();
            head = self.lock();
            match recovered {
                Ok(()) => {
                    head.refused = None;
                    self.metrics.queued.set(0);
                    self.health.recovered();
                    tracing::info!("the store accepts writes again");
                    return true;
                }
                Err(error) => {
                    let reason = chain(&error);
                    self.health.refused(&reason);
                    head.refused = Some(reason);
                }
            }
        }
    }

    fn show(&self, shared: &Shared, group: Vec<Pending>, last: Revision) {
        let told = |event: &Arc<Event>| Told::new(Arc::clone(event), shared.topic_of);
        let told: Vec<Vec<Told>> = group.iter().map(|pending| pending.events.iter().map(told).collect()).collect();
        let woken = {
            let mut visible = shared.visible_mut();
            let woken = shared.subscriptions.note(told.iter().flatten());
            for (pending, told) in group.iter().zip(told) {
                let dropped = visible.apply(pending.revision, told);
                shared.subscriptions.forget(&dropped);
            }
            woken
        };
        // The overlay goes only after the values are visible, so a compare always sees one of the two.
        {
            let mut head = self.lock();
            for event in group.iter().flat_map(|pending| &pending.events) {
                if let Entry::Occupied(entry) = head.overlay.entry(event.key().clone())
                    && entry.get().0 <= last
                {
                    entry.remove();
                }
            }
            let Head { expiring, overlay, .. } = &mut *head;
            expiring.retain(|(_, key, _)| overlay.contains_key(key));
        }
        self.metrics.queued.set(i64::try_from(self.lock().queue.len()).unwrap_or(i64::MAX));
        woken.wake();
        for pending in group {
            // A caller that went away does not care.
            drop(pending.done.map(|done| done.send(Ok(pending.revision))));
        }
    }

    /// Fails everything promised. Revisions that were promised are not used again.
    fn refuse(&self, group: Vec<Pending>, error: &dyn std::error::Error) {
        let reason = chain(error);
        tracing::error!(reason, "the store accepts no writes for now");
        let failed: Vec<Pending> = {
            let mut head = self.lock();
            head.refused = Some(reason.clone());
            self.metrics.failures.inc();
            self.health.refused(&reason);
            head.overlay.clear();
            head.expiring.clear();
            let failed: Vec<Pending> = group.into_iter().chain(std::mem::take(&mut head.queue)).collect();
            head.expiries.extend(failed.iter().filter_map(|pending| pending.expires.clone()).map(Reverse));
            failed
        };
        for done in failed.into_iter().filter_map(|pending| pending.done) {
            drop(done.send(Err(CommitError::Unavailable { reason: reason.clone() })));
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn writes_of(group: &[Pending]) -> Vec<Write> {
    let mut writes = Vec::with_capacity(group.iter().map(|pending| pending.events.len()).sum());
    for pending in group {
        writes.extend(pending.events.iter().map(|event| {
            let replaced = |kv: &KeyValue| Replaced { revision: kv.mod_revision, value_length: kv.value.len() };
            let previous = event.previous.as_ref().map(replaced);
            match &event.current {
                Some(kv) => Write::Put {
                    kv: kv.clone(),
                    expiry: pending.expiries.iter().find(|(key, _)| *key == kv.key).map(|(_, at)| *at),
                    previous,
                },
                None => Write::Delete { key: event.key().clone(), revision: event.revision, previous },
            }
        }));
    }
    writes
}

/// On whose behalf a commit is made.
enum Waiting {
    Caller(Done),
    Expiry(Expiry, Bytes, Revision),
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
        waiting: Waiting,
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
        let (done, expires) = match waiting {
            Waiting::Caller(done) => (Some(done), None),
            Waiting::Expiry(at, key, revision) => (None, Some((at, key, revision))),
        };
        self.queue.push_back(Pending { revision, events, expiries, expires, done });
        Ok(())
    }

    /// What must change so that the pending head holds what a snapshot holds.
    fn differences(&self, shared: &Shared, snapshot: &Snapshot) -> Vec<Op> {
        let has_time_left = |expiry: &Option<Expiry>| expiry.is_none_or(|at| !at.remaining().is_zero());
        let wanted = snapshot.entries.iter().filter(|(_, expiry)| has_time_left(expiry));
        let wanted: HashMap<&Bytes, (&KeyValue, Option<Expiry>)> =
            wanted.map(|(kv, expiry)| (&kv.key, (kv, *expiry))).collect();
        let visible = shared.visible();
        let pending = self.overlay.iter().filter(|(_, (_, kv))| kv.is_some()).map(|(key, _)| key);
        let held: HashSet<Bytes> = visible.map.keys().chain(pending).cloned().collect();
        drop(visible);
        let current = |key: &Bytes| self.current(shared, key);
        let gone = held.into_iter().filter(|key| !wanted.contains_key(key) && current(key).is_some());
        let gone: Vec<Op> = gone.map(|key| Op::Delete { key }).collect();
        let changed = wanted.into_values().filter(|(kv, _)| current(&kv.key).is_none_or(|own| own.value != kv.value));
        let changed = changed.map(|(kv, expiry)| Op::Put {
            key: kv.key.clone(),
            value: kv.value.clone(),
            ttl: expiry.map(Expiry::remaining),
        });
        changed.chain(gone).collect()
    }

    /// The longest run from the front that is not too large, at least one commit.
    fn take_group(&mut self) -> Vec<Pending> {
        let mut bytes = 0;
        let fits = |pending: &&Pending| {
            let before = bytes;
            bytes += pending.events.iter().map(|event| event.current_size()).sum::<usize>();
            before < GROUP_BYTES
        };
        let count = self.queue.iter().take_while(fits).count();
        self.queue.drain(..count).collect()
    }

    /// Queues the deletion of every key whose time has come.
    fn expire(&mut self, shared: &Shared) {
        while self.refused.is_none() && self.expiries.peek().is_some_and(|Reverse((at, ..))| at.remaining().is_zero()) {
            let Some(Reverse((at, key, revision))) = self.expiries.pop() else { return };
            let unchanged = [Compare::ModRevision(key.clone(), revision)];
            let waiting = Waiting::Expiry(at, key.clone(), revision);
            // A conflict means that a later write gave the key another life.
            if self.enqueue(shared, &unchanged, vec![Op::Delete { key: key.clone() }], waiting).is_ok() {
                self.expiring.push((at, key, revision));
            }
        }
    }
}
