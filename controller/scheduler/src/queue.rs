//! Pods that wait: *active* ones are tried now, *backoff* ones a little later, *unschedulable* ones when something moved.
//! Pure: time is an argument.
use crate::pod::{PodFacts, PodKey};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The wait after the second failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// No wait is longer.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Order among active pods: priority, age, arrival.
type Rank = (Reverse<i32>, i64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    Backoff(Instant),
    Unschedulable,
    /// Handed out by `pop`.
    InHand,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodFacts>,
    place: Place,
    failures: u32,
    /// Not tried again before.
    not_before: Option<Instant>,
    /// Something moved while it was in hand.
    moved: bool,
}

/// The three queues.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<PodKey, Entry>,
    active: BTreeMap<Rank, PodKey>,
    backoff: BTreeSet<(Instant, PodKey)>,
    arrivals: u64,
}

impl Queue {
    /// Takes a waiting pod in, or news of one; news that change nothing for the decision do not wake it.
    pub fn offer(&mut self, pod: PodFacts) {
        let (failures, not_before) = match self.entries.get_mut(&pod.key) {
            Some(entry) if pod.decides_like(&entry.pod) => {
                entry.pod = Arc::new(pod);
                return;
            }
            Some(entry) if entry.place == Place::InHand && entry.pod.uid == pod.uid => {
                entry.pod = Arc::new(pod);
                entry.moved = true;
                return;
            }
            Some(entry) if entry.pod.uid == pod.uid => (entry.failures, None),
            Some(_) | None => (0, None),
        };
        self.remove(&pod.key);
        let key = Arc::clone(&pod.key);
        let entry = Entry { pod: Arc::new(pod), place: Place::Unschedulable, failures, not_before, moved: false };
        self.entries.insert(Arc::clone(&key), entry);
        self.activate(&key);
    }

    /// Forgets a pod: it is bound or gone.
    pub fn remove(&mut self, key: &str) -> Option<Arc<PodFacts>> {
        let entry = self.entries.remove(key)?;
        self.leave(&entry);
        Some(entry.pod)
    }

    /// The pod to try now. It stays known until [`Queue::remove`], [`Queue::unfit`] or [`Queue::failed`].
    pub fn pop(&mut self) -> Option<Arc<PodFacts>> {
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InHand;
        entry.moved = false;
        Some(Arc::clone(&entry.pod))
    }

    /// No node takes the pod that was popped: it waits until something moves.
    pub fn unfit(&mut self, key: &str, now: Instant) {
        self.put_back(key, now, false);
    }

    /// Binding the pod failed: it is tried again after its backoff.
    pub fn failed(&mut self, key: &str, now: Instant) {
        self.put_back(key, now, true);
    }

    /// Something moved that may let pods fit: a node came or offers more, a pod left.
    pub fn move_all(&mut self, now: Instant) {
        self.move_those(now, |_| true);
    }

    /// Something moved that may let these pods fit.
    pub fn move_those(&mut self, now: Instant, concerns: impl Fn(&PodFacts) -> bool) {
        let is_waiting = |entry: &Entry| entry.place == Place::Unschedulable && concerns(&entry.pod);
        let waiting: Vec<PodKey> =
            self.entries.iter().filter(|(_, e)| is_waiting(e)).map(|(k, _)| Arc::clone(k)).collect();
        for key in waiting {
            self.wake(&key, now);
        }
        for entry in self.entries.values_mut().filter(|e| e.place == Place::InHand && concerns(&e.pod)) {
            entry.moved = true;
        }
    }

    /// This pod may fit now, or lost its place in line; it is tried when its backoff allows.
    pub fn move_one(&mut self, key: &PodKey, now: Instant) {
        match self.entries.get_mut(key) {
            Some(entry) if entry.place == Place::Unschedulable => self.wake(key, now),
            Some(entry) if entry.place == Place::InHand => entry.moved = true,
            Some(_) | None => {}
        }
    }

    /// Activates what has waited long enough.
    pub fn advance(&mut self, now: Instant) {
        while let Some((ready, key)) = self.backoff.first().cloned()
            && ready <= now
        {
            self.backoff.remove(&(ready, Arc::clone(&key)));
            self.activate(&key);
        }
    }

    /// When [`Queue::advance`] has something to do.
    pub fn next_wake(&self) -> Option<Instant> {
        self.backoff.first().map(|(ready, _)| *ready)
    }

    /// Whether the pod was handed out and not put back.
    pub fn is_in_hand(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.place == Place::InHand)
    }

    /// How many pods are active, wait out their backoff, and wait for something to move; `in_hand` are none of these.
    pub fn counts(&self, in_hand: usize) -> (usize, usize, usize) {
        let (active, backoff) = (self.active.len(), self.backoff.len());
        (active, backoff, self.entries.len().saturating_sub(active + backoff + in_hand))
    }

    /// A pod that waits here.
    pub fn get(&self, key: &str) -> Option<&Arc<PodFacts>> {
        self.entries.get(key).map(|entry| &entry.pod)
    }

    /// The keys of all pods that wait here.
    pub fn keys(&self) -> impl Iterator<Item = &PodKey> {
        self.entries.keys()
    }

    fn put_back(&mut self, key: &str, now: Instant, retry: bool) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.place != Place::InHand {
            return;
        }
        // The first failure is free: at start a pod often comes a moment before its node.
        let wait = match entry.failures {
            0 if !retry => Duration::ZERO,
            n => FIRST_BACKOFF.saturating_mul(1 << n.saturating_sub(1).min(5)).min(MAX_BACKOFF),
        };
        entry.failures = entry.failures.saturating_add(1);
        entry.not_before = Some(now + wait);
        entry.place = Place::Unschedulable;
        if retry || entry.moved {
            let key = Arc::clone(&entry.pod.key);
            self.wake(&key, now);
        }
    }

    fn wake(&mut self, key: &PodKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match entry.not_before.filter(|at| *at > now) {
            Some(at) => {
                entry.place = Place::Backoff(at);
                self.backoff.insert((at, Arc::clone(key)));
            }
            None => self.activate(key),
        }
    }

    fn activate(&mut self, key: &PodKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.arrivals += 1;
        let rank = (Reverse(entry.pod.shape.priority), entry.pod.created, self.arrivals);
        entry.place = Place::Active(rank);
        self.active.insert(rank, Arc::clone(key));
    }

    fn leave(&mut self, entry: &Entry) {
        match entry.place {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::Backoff(at) => drop(self.backoff.remove(&(at, Arc::clone(&entry.pod.key)))),
            Place::Unschedulable | Place::InHand => {}
        }
    }
}
