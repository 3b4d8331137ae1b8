//! What a decision looks at: nodes in numbered slots, the pods that have their place, those that a node is emptied for.
use crate::budget::Budget;
use crate::node::NodeFacts;
use crate::pod::{Load, PodFacts, PodKey, Shape};
use crate::volumes::Volumes;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The number of a node's slot.
pub type Slot = usize;

/// A pod that is bound, or about to be.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) uid: Arc<str>,
    slot: Slot,
    /// When it started, in seconds since 1970.
    pub(crate) started: i64,
    /// Whether it is being deleted.
    pub(crate) is_terminating: bool,
    pub(crate) shape: Arc<Shape>,
}

/// A node, or only the pods of one that is not there (yet, or any more).
#[derive(Debug, Default)]
struct Seat {
    facts: NodeFacts,
    is_there: bool,
    pods: Vec<PodKey>,
    /// The pods that it is being emptied for.
    nominated: Vec<(PodKey, Arc<Shape>)>,
}

/// Everything a decision looks at.
#[derive(Debug, Default)]
pub struct Snapshot {
    seats: Vec<Seat>,
    slots: HashMap<Box<str>, Slot>,
    free: Vec<Slot>,
    count: usize,
    placed: HashMap<PodKey, Placed>,
    nominations: HashMap<PodKey, Slot>,
    /// Pods whose deletion was decided and is not told by the watch yet, by uid.
    doomed: HashSet<Arc<str>>,
    shapes: HashSet<Arc<Shape>>,
    /// At so many shapes those that nobody uses are dropped.
    sweep_at: usize,
    /// What the claims of pods need.
    pub volumes: Volumes,
    /// By `namespace/name`.
    pub budgets: HashMap<String, Budget>,
}

impl Snapshot {
    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The nodes with their slots.
    pub fn nodes(&self) -> impl Iterator<Item = (Slot, &NodeFacts)> {
        self.seats.iter().enumerate().filter(|(_, seat)| seat.is_there).map(|(slot, seat)| (slot, &seat.facts))
    }

    /// One past the last slot.
    pub(crate) fn slots(&self) -> usize {
        self.seats.len()
    }

    /// The node of a slot.
    pub fn at(&self, slot: Slot) -> Option<&NodeFacts> {
        self.seats.get(slot).filter(|seat| seat.is_there).map(|seat| &seat.facts)
    }

    /// The slot of a node that is there.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.slots.get(name).copied().filter(|slot| self.at(*slot).is_some())
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.at(self.slot(name)?)
    }

    /// The pods that have their place on a node.
    pub(crate) fn pods_at(&self, slot: Slot) -> impl Iterator<Item = (&PodKey, &Placed)> {
        let keys = self.seats.get(slot).map(|seat| &*seat.pods).unwrap_or_default();
        keys.iter().filter_map(|key| self.placed.get_key_value(key))
    }

    /// The pods that a node is being emptied for.
    pub(crate) fn nominated_at(&self, slot: Slot) -> &[(PodKey, Arc<Shape>)] {
        self.seats.get(slot).map(|seat| &*seat.nominated).unwrap_or_default()
    }

    fn seat(&mut self, name: &str) -> Slot {
        if let Some(slot) = self.slots.get(name) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        });
        self.seats[slot].facts.name = name.into();
        self.slots.insert(name.into(), slot);
        slot
    }

    /// Gives back the slot of a node that is not there and has no pods.
    fn leave(&mut self, slot: Slot) {
        let seat = &mut self.seats[slot];
        if !seat.is_there && seat.pods.is_empty() && seat.nominated.is_empty() {
            self.slots.remove(&seat.facts.name);
            *seat = Seat::default();
            self.free.push(slot);
        }
    }

    /// Takes a node in; tells whether waiting pods may fit now that did not before.
    pub fn set_node(&mut self, mut node: NodeFacts) -> bool {
        let slot = self.seat(&node.name);
        let seat = &mut self.seats[slot];
        if seat.is_there && seat.facts.offers_like(&node) {
            return false;
        }
        if !seat.is_there {
            seat.is_there = true;
            self.count += 1;
        }
        node.taken = std::mem::take(&mut seat.facts.taken);
        seat.facts = node;
        true
    }

    /// Forgets a node; its pods stay known in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slots.get(name).copied() else { return };
        if std::mem::take(&mut self.seats[slot].is_there) {
            self.count -= 1;
        }
        self.leave(slot);
    }

    /// Keeps only these nodes.
    pub fn retain_nodes(&mut self, names: &BTreeSet<Box<str>>) {
        let gone: Vec<Box<str>> = self.nodes().map(|(_, node)| node.name.clone()).collect();
        for name in gone.iter().filter(|name| !names.contains(*name)) {
            self.remove_node(name);
        }
    }

    /// The one copy of a shape that all pods of it share.
    pub fn share(&mut self, shape: &Arc<Shape>) -> Arc<Shape> {
        if let Some(known) = self.shapes.get(shape) {
            return Arc::clone(known);
        }
        if self.shapes.len() >= self.sweep_at {
            self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
            self.sweep_at = self.shapes.len() * 2 + 64;
        }
        self.shapes.insert(Arc::clone(shape));
        Arc::clone(shape)
    }

    /// Notes that a pod has its place.
    pub fn place(&mut self, pod: &PodFacts, node: &str) {
        let slot = self.seat(node);
        let shape = self.share(&pod.shape);
        if let Some(known) = self.placed.get_mut(&pod.key)
            && known.uid == pod.uid
            && known.slot == slot
            && known.shape.load == shape.load
            && known.shape.labels == shape.labels
            && known.shape.priority == shape.priority
        {
            known.started = pod.started;
            known.is_terminating = pod.is_terminating;
            known.shape = shape;
            return;
        }
        self.unplace(&pod.key);
        self.renounce(&pod.key);
        let seat = &mut self.seats[slot];
        seat.facts.taken.add(&shape.load);
        seat.pods.push(Arc::clone(&pod.key));
        let (uid, started, is_terminating) = (Arc::clone(&pod.uid), pod.started, pod.is_terminating);
        self.placed.insert(Arc::clone(&pod.key), Placed { uid, slot, started, is_terminating, shape });
    }

    /// Notes that a pod takes nothing any more; tells the slot where it did.
    pub fn unplace(&mut self, key: &str) -> Option<Slot> {
        let placed = self.placed.remove(key)?;
        self.doomed.remove(&placed.uid);
        let seat = &mut self.seats[placed.slot];
        seat.facts.taken.subtract(&placed.shape.load);
        if let Some(at) = seat.pods.iter().position(|other| **other == *key) {
            seat.pods.swap_remove(at);
        }
        self.leave(placed.slot);
        Some(placed.slot)
    }

    /// Notes that a node is being emptied for a pod, instead of any other.
    pub fn nominate(&mut self, key: &PodKey, shape: &Arc<Shape>, node: &str) {
        self.renounce(key);
        let slot = self.seat(node);
        let shape = self.share(shape);
        self.seats[slot].nominated.push((Arc::clone(key), shape));
        self.nominations.insert(Arc::clone(key), slot);
    }

    /// Notes that no node is being emptied for a pod; tells whether one was.
    pub fn renounce(&mut self, key: &str) -> bool {
        let Some(slot) = self.nominations.remove(key) else { return false };
        self.seats[slot].nominated.retain(|(other, _)| **other != *key);
        self.leave(slot);
        true
    }

    /// The slot of the node that is being emptied for a pod.
    pub fn nomination(&self, key: &str) -> Option<Slot> {
        self.nominations.get(key).copied()
    }

    /// Notes that a pod is about to be deleted.
    pub fn doom(&mut self, uid: &Arc<str>) {
        self.doomed.insert(Arc::clone(uid));
    }

    /// It is not deleted after all.
    pub fn spare(&mut self, uid: &str) {
        self.doomed.remove(uid);
    }

    /// Whether a placed pod is on its way out.
    pub(crate) fn is_leaving(&self, placed: &Placed) -> bool {
        placed.is_terminating || self.doomed.contains(&placed.uid)
    }

    /// The pods of a node below a priority, with their uids.
    pub fn below(&self, slot: Slot, priority: i32) -> impl Iterator<Item = (&PodKey, &Arc<str>)> {
        let below = move |(_, placed): &(&PodKey, &Placed)| placed.shape.priority < priority;
        self.pods_at(slot).filter(below).map(|(key, placed)| (key, &placed.uid))
    }

    /// Whether pods below a priority are on their way out of a node.
    pub fn is_emptied(&self, slot: Slot, priority: i32) -> bool {
        self.pods_at(slot).any(|(_, placed)| placed.shape.priority < priority && self.is_leaving(placed))
    }

    /// Whether a pod that has its place uses a claim that `pod` would have to have for itself.
    pub fn is_claim_taken(&self, pod: &PodFacts) -> bool {
        self.claim_holders(pod).next().is_some()
    }

    /// The pods that use a claim that `pod` would have to have for itself.
    pub(crate) fn claim_holders<'a>(&'a self, pod: &'a PodFacts) -> impl Iterator<Item = (&'a PodKey, &'a Placed)> {
        let only: Vec<String> = self.volumes.one_pod_claims(pod).collect();
        self.placed.iter().filter(move |(key, placed)| {
            let is_only = |name: &str| {
                let own = only.iter().filter_map(|claim| claim.split_once('/'));
                own.into_iter().any(|(namespace, claim)| *namespace == *placed.shape.namespace && claim == name)
            };
            !only.is_empty() && **key != pod.key && placed.shape.load.claims.iter().any(|used| is_only(&used.name))
        })
    }

    /// The uid of the pod that was placed under this key.
    pub fn placed_uid(&self, key: &str) -> Option<&Arc<str>> {
        self.placed.get(key).map(|placed| &placed.uid)
    }

    /// The keys of all placed pods.
    pub fn placed_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.placed.keys()
    }

    /// What a placed pod takes.
    pub fn placed_load(&self, key: &str) -> Option<&Load> {
        self.placed.get(key).map(|placed| &placed.shape.load)
    }
}
