//! Pods that wait: *active* ones are tried now, *backoff* ones a little later, *unschedulable* ones when something moved
//! that can help them. Unschedulable pods that are alike wait in one line: what helps one helps its first, and whoever got
//! a node, or has one emptied for it, wakes the next; while the first does not fit, the others do not either. Of a gang one
//! pod stands here for all; the others are held. Pure: time is an argument.
use crate::group::{self, GroupKey};
use crate::pod::{PodFacts, PodKey, Shape};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many at the head of a line are looked at for one whose backoff is over.
const LOOKED_AT: usize = 16;

/// Order among active pods: priority, age, arrival.
type Rank = (Reverse<i32>, i64, u64);

/// Order in a line: first those for whom no node is being emptied.
type Turn = (bool, Rank);

/// Before all for whom one is.
const NOMINATED: Turn = (true, (Reverse(i32::MAX), i64::MIN, 0));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    Backoff(Instant),
    Unschedulable(Turn),
    /// Handed out by `pop`, or with one that was.
    InHand,
    /// Another pod of its group stands for it, or the group is not to be tried yet.
    Held,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodFacts>,
    place: Place,
    failures: u32,
    /// Not tried again before.
    not_before: Option<Instant>,
}

impl Entry {
    /// Notes a failure; a `retry` that nothing has to move for waits after the first one already.
    fn set_back(&mut self, now: Instant, retry: bool, backoff: Backoff) {
        // The first failure is free: at start a pod often comes a moment before its node.
        let wait = match self.failures {
            0 if !retry => Duration::ZERO,
            n => backoff.first.saturating_mul(1 << n.saturating_sub(1).min(16)).min(backoff.longest),
        };
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + wait);
    }
}

/// How long pods wait that were refused again, or whose binding failed.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait; it doubles with each further one.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
}

impl Default for Backoff {
    /// Kubernetes' figures.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

/// What kept the pods of a line from all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// Other pods: affinity of either side, or spread.
    pub relations: bool,
    /// Claims and volumes.
    pub volumes: bool,
    /// Claims to devices, and devices.
    pub devices: bool,
}

impl Causes {
    /// What either of them says.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            relations: self.relations || other.relations,
            volumes: self.volumes || other.volumes,
            devices: self.devices || other.devices,
        }
    }
}

/// Unschedulable pods that are alike.
#[derive(Debug, Default)]
struct Line {
    causes: Causes,
    /// The other shapes in a gang that its first pod stands for.
    others: Vec<Arc<Shape>>,
    pods: BTreeMap<Turn, PodKey>,
}

/// The three queues.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<PodKey, Entry>,
    active: BTreeMap<Rank, PodKey>,
    backoff: BTreeSet<(Instant, PodKey)>,
    lines: HashMap<Arc<Shape>, Line>,
    /// The pods of each group that wait or are in hand.
    groups: HashMap<GroupKey, BTreeSet<PodKey>>,
    arrivals: u64,
    backoff_times: Backoff,
}

impl Queue {
    /// An empty one.
    pub fn new(backoff_times: Backoff) -> Self {
        Self { backoff_times, ..Self::default() }
    }

    /// Takes a waiting pod in, or news of one; news that change nothing for the decision do not wake it.
    pub fn offer(&mut self, pod: PodFacts) {
        if let Some(key) = self.take_in(pod) {
            self.activate(&key);
        }
    }

    /// The same for a pod of a group: it is held until [`Queue::release`].
    pub fn hold(&mut self, pod: PodFacts) {
        if let Some(key) = self.take_in(pod) {
            self.retire(&key);
        }
    }

    /// Takes a pod in; gives its key back if it is to be placed somewhere.
    fn take_in(&mut self, pod: PodFacts) -> Option<PodKey> {
        let (failures, not_before) = match self.entries.get_mut(&pod.key) {
            Some(entry) if pod.decides_like(&entry.pod) => {
                entry.pod = Arc::new(pod);
                return None;
            }
            Some(entry) if entry.place == Place::InHand && entry.pod.uid == pod.uid => {
                entry.pod = Arc::new(pod);
                return None;
            }
            Some(entry) if entry.pod.uid == pod.uid => (entry.failures, None),
            Some(_) | None => (0, None),
        };
        self.remove(&pod.key);
        let key = Arc::clone(&pod.key);
        if let Some(group) = &pod.shape.group {
            self.groups.entry(Arc::clone(group)).or_default().insert(Arc::clone(&key));
        }
        let entry = Entry { pod: Arc::new(pod), place: Place::InHand, failures, not_before };
        self.entries.insert(Arc::clone(&key), entry);
        Some(key)
    }

    /// Forgets a pod: it is bound or gone.
    pub fn remove(&mut self, key: &str) -> Option<Arc<PodFacts>> {
        let entry = self.entries.remove(key)?;
        self.leave(&entry.pod, entry.place);
        if let Some(group) = &entry.pod.shape.group
            && let Some(pods) = self.groups.get_mut(group)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.groups.remove(group);
            }
        }
        Some(entry.pod)
    }

    /// The pod to try now. It is in hand until [`Queue::remove`], [`Queue::unfit`] or [`Queue::failed`].
    pub fn pop(&mut self) -> Option<Arc<PodFacts>> {
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InHand;
        Some(Arc::clone(&entry.pod))
    }

    /// No node takes the pod that was popped: it waits until something moves that can help. `is_nominated` tells that a node
    /// is being emptied for it.
    pub fn unfit(&mut self, key: &str, causes: Causes, is_nominated: bool, now: Instant) {
        self.unfit_gang(key, causes, is_nominated, Vec::new(), now);
    }

    /// The same for one that stands for a gang with pods of `others` shapes too: what helps any of them wakes it.
    pub fn unfit_gang(&mut self, key: &str, causes: Causes, is_nominated: bool, others: Vec<Arc<Shape>>, now: Instant) {
        self.arrivals += 1;
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.place == Place::InHand) else { return };
        entry.set_back(now, false, self.backoff_times);
        let turn = (is_nominated, (Reverse(entry.pod.shape.priority), entry.pod.created, self.arrivals));
        entry.place = Place::Unschedulable(turn);
        let line = self.lines.entry(Arc::clone(&entry.pod.shape)).or_default();
        line.causes = causes;
        line.others = others;
        line.pods.insert(turn, Arc::clone(&entry.pod.key));
    }

    /// Binding the pod failed: it is tried again after its backoff, unless another one of its name is here by now.
    pub fn failed(&mut self, pod: &PodFacts, now: Instant) {
        let entry = self.entries.get_mut(&pod.key).filter(|entry| entry.pod.uid == pod.uid);
        if let Some(entry) = entry.filter(|entry| entry.place == Place::InHand) {
            entry.set_back(now, true, self.backoff_times);
            self.wake(&pod.key, now);
        }
    }

    /// Something moved that helps pods of some shapes: the first of each line is tried.
    pub fn move_those(&mut self, now: Instant, mut helps: impl FnMut(&Shape, Causes) -> bool) {
        let lines = self.lines.iter().filter(|(shape, line)| {
            helps(shape, line.causes) || line.others.iter().any(|other| helps(other, line.causes))
        });
        let firsts: Vec<PodKey> = lines.filter_map(|(_, line)| self.first(line, .., now)).collect();
        for key in firsts {
            self.wake(&key, now);
        }
    }

    /// A pod of this shape got a node: the next that is like it may too.
    pub fn next_like(&mut self, shape: &Arc<Shape>, now: Instant) {
        self.next_of(shape, .., now);
    }

    /// The same where what helped one helps nobody for whom a node is being emptied.
    pub fn next_without_node(&mut self, shape: &Arc<Shape>, now: Instant) {
        self.next_of(shape, ..NOMINATED, now);
    }

    fn next_of(&mut self, shape: &Arc<Shape>, turns: impl RangeBounds<Turn>, now: Instant) {
        if let Some(key) = self.lines.get(shape).and_then(|line| self.first(line, turns, now)) {
            self.wake(&key, now);
        }
    }

    /// This pod may fit now, or lost its place in line; it is tried when its backoff allows.
    pub fn move_one(&mut self, key: &PodKey, now: Instant) {
        if self.entries.get(key).is_some_and(|entry| matches!(entry.place, Place::Unschedulable(_))) {
            self.wake(key, now);
        }
    }

    /// A pod that is held is tried when its backoff allows.
    pub fn release(&mut self, key: &PodKey, now: Instant) {
        if self.entries.get(key).is_some_and(|entry| entry.place == Place::Held) {
            self.wake(key, now);
        }
    }

    /// The pod is held from now on, wherever it was.
    pub fn retire(&mut self, key: &str) {
        self.move_to(key, Place::Held);
    }

    /// The pod is handed out with another one of its gang.
    pub fn take(&mut self, key: &str) {
        self.move_to(key, Place::InHand);
    }

    fn move_to(&mut self, key: &str, new: Place) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let (pod, place) = (Arc::clone(&entry.pod), std::mem::replace(&mut entry.place, new));
        self.leave(&pod, place);
    }

    /// The pods of a group that are not in hand, in the order in which they are placed.
    pub fn of_group(&self, group: &str) -> Vec<Arc<PodFacts>> {
        let entries = self.groups.get(group).into_iter().flatten().filter_map(|key| self.entries.get(key));
        let mut pods: Vec<_> =
            entries.filter(|entry| entry.place != Place::InHand).map(|entry| Arc::clone(&entry.pod)).collect();
        group::sort(&mut pods);
        pods
    }

    /// Whether the pod is tried by itself, or for its gang: it is neither held nor in hand.
    pub fn stands(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| !matches!(entry.place, Place::Held | Place::InHand))
    }

    /// Whether the pod is tried without anything moving: now, or after its backoff.
    pub fn is_tried(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| matches!(entry.place, Place::Active(_) | Place::Backoff(_)))
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

    /// Who of a line is tried next: the first whose backoff is over, else the one whose backoff ends first.
    fn first(&self, line: &Line, turns: impl RangeBounds<Turn>, now: Instant) -> Option<PodKey> {
        let ready = |key: &PodKey| self.entries.get(key).and_then(|entry| entry.not_before).filter(|at| *at > now);
        let head = line.pods.range(turns).map(|(_, key)| key).take(LOOKED_AT);
        head.min_by_key(|key| ready(key)).map(Arc::clone)
    }

    fn wake(&mut self, key: &PodKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let (pod, place) = (Arc::clone(&entry.pod), entry.place);
        match entry.not_before.filter(|at| *at > now) {
            Some(at) => {
                entry.place = Place::Backoff(at);
                self.leave(&pod, place);
                self.backoff.insert((at, Arc::clone(key)));
            }
            None => {
                self.leave(&pod, place);
                self.activate(key);
            }
        }
    }

    fn activate(&mut self, key: &PodKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.arrivals += 1;
        let rank = (Reverse(entry.pod.shape.priority), entry.pod.created, self.arrivals);
        entry.place = Place::Active(rank);
        self.active.insert(rank, Arc::clone(key));
    }

    fn leave(&mut self, pod: &PodFacts, place: Place) {
        match place {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::Backoff(at) => drop(self.backoff.remove(&(at, Arc::clone(&pod.key)))),
            Place::Unschedulable(turn) => {
                if let Some(line) = self.lines.get_mut(&pod.shape) {
                    line.pods.remove(&turn);
                    if line.pods.is_empty() {
                        self.lines.remove(&pod.shape);
                    }
                }
            }
            Place::InHand | Place::Held => {}
        }
    }
}
