//! What a decision looks at: nodes in numbered slots, the pods that have their place, those that a node is emptied for.
use crate::budget::Budget;
use crate::counts::{Counts, Topology};
use crate::devices::Devices;
use crate::group::{GroupFacts, GroupKey, Groups};
use crate::node::NodeFacts;
use crate::pod::{PodFacts, PodKey, Shape};
use crate::terms::{Labels, Matcher, Seen};
use crate::volumes::Volumes;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The number of a node's slot.
pub type Slot = usize;

/// A pod that is bound, or about to be.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) key: PodKey,
    pub(crate) uid: Arc<str>,
    /// When it started, in seconds since 1970.
    pub(crate) started: i64,
    /// Whether it is being deleted.
    pub(crate) is_terminating: bool,
    pub(crate) shape: Arc<Shape>,
}

/// A placed pod that is taken out for the time of a trial, and where it was.
#[derive(Debug)]
pub(crate) struct Lifted {
    pub(crate) placed: Placed,
    pub(crate) slot: Slot,
}

/// A node, or only the pods of one that is not there (yet, or any more).
#[derive(Debug, Default)]
struct Seat {
    facts: NodeFacts,
    is_there: bool,
    pods: Vec<Placed>,
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
    placed: HashMap<PodKey, Slot>,
    nominations: HashMap<PodKey, Slot>,
    /// How many of the pods that nodes are being emptied for have to be without some others.
    with_anti: usize,
    /// Pods whose deletion was decided and is not told by the watch yet, by uid.
    doomed: HashSet<Arc<str>>,
    /// The names of images that nodes have, and how many nodes have each.
    images: HashMap<Arc<str>, usize>,
    shapes: HashSet<Arc<Shape>>,
    /// At so many shapes those that nobody uses are dropped.
    sweep_at: usize,
    pub(crate) counts: Counts,
    namespaces: HashMap<Box<str>, Labels>,
    /// The slots that changed, the latest last, and how many were dropped before the first.
    changes: Vec<Slot>,
    dropped: u64,
    /// What the claims of pods need.
    pub volumes: Volumes,
    /// Devices, and the claims to them.
    pub devices: Devices,
    /// Groups of pods.
    pub(crate) groups: Groups,
    /// By `namespace/name`.
    pub(crate) budgets: HashMap<String, Budget>,
    /// How often something changed that is no node's.
    pub(crate) version: u64,
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
    pub(crate) fn pods_at(&self, slot: Slot) -> &[Placed] {
        self.seats.get(slot).map(|seat| &*seat.pods).unwrap_or_default()
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

    /// Takes a node in; tells its slot where waiting pods may fit now that did not before.
    pub fn set_node(&mut self, mut node: NodeFacts) -> Option<Slot> {
        let slot = self.seat(&node.name);
        let new = self.note_images(slot, std::mem::take(&mut node.images));
        let seat = &mut self.seats[slot];
        if seat.is_there && seat.facts.offers_like(&node) {
            // Images make a node better, not one that fits.
            if std::mem::replace(&mut seat.facts.images, new.clone()) != new {
                self.changed(slot);
            }
            return None;
        }
        node.images = new;
        if !seat.is_there {
            seat.is_there = true;
            self.count += 1;
        }
        node.taken = std::mem::take(&mut seat.facts.taken);
        seat.facts = node;
        self.counts.set_node(slot, Some(&self.seats[slot].facts.labels));
        self.changed(slot);
        Some(slot)
    }

    /// Counts a node's images instead of those that it had; gives back the shared names.
    fn note_images(&mut self, slot: Slot, new: Vec<(Arc<str>, i64)>) -> Vec<(Arc<str>, i64)> {
        let known = &self.seats[slot].facts.images;
        if *known == new {
            return known.clone();
        }
        for (name, _) in known {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
        let shared = new.into_iter().map(|(name, size)| {
            let name = self.images.get_key_value(&name).map_or(name, |(known, _)| Arc::clone(known));
            *self.images.entry(Arc::clone(&name)).or_default() += 1;
            (name, size)
        });
        shared.collect()
    }

    /// How many nodes have an image.
    pub(crate) fn with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or_default()
    }

    /// Forgets a node; its pods stay known in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slots.get(name).copied() else { return };
        if std::mem::take(&mut self.seats[slot].is_there) {
            self.count -= 1;
            self.note_images(slot, Vec::new());
            self.seats[slot].facts.images.clear();
            self.counts.set_node(slot, None);
            self.changed(slot);
        }
        self.leave(slot);
    }

    /// Keeps only these nodes.
    pub fn retain_nodes(&mut self, names: &HashSet<String>) {
        let gone: Vec<Box<str>> = self.nodes().map(|(_, node)| node.name.clone()).collect();
        for name in gone.iter().filter(|name| !names.contains(&***name)) {
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

    /// Notes that a pod has its place; tells whether that is new to others.
    pub fn place(&mut self, pod: &PodFacts, node: &str) -> bool {
        let slot = self.seat(node);
        let shape = self.share(&pod.shape);
        if self.placed.get(&pod.key) == Some(&slot)
            && let Some(known) = self.seats[slot].pods.iter_mut().find(|placed| placed.key == pod.key)
            && known.uid == pod.uid
            && known.is_terminating == pod.is_terminating
            && known.shape.weighs_like(&shape)
        {
            known.shape = shape;
            if std::mem::replace(&mut known.started, pod.started) != pod.started {
                self.changed(slot);
            }
            return false;
        }
        let doomed = self.doomed.contains(&pod.uid);
        self.unplace(&pod.key);
        self.renounce(&pod.key);
        if doomed {
            self.doomed.insert(Arc::clone(&pod.uid));
        }
        // Giving the old place back may have given the slot back too.
        let slot = self.seat(node);
        for topology in shape.terms.iter().flat_map(|terms| terms.topologies()) {
            self.learn(topology);
        }
        let (key, uid) = (Arc::clone(&pod.key), Arc::clone(&pod.uid));
        let (started, is_terminating) = (pod.started, pod.is_terminating);
        self.add(slot, Placed { key, uid, started, is_terminating, shape });
        true
    }

    fn add(&mut self, slot: Slot, placed: Placed) {
        let seen = seen(&self.namespaces, &placed.shape);
        self.counts.change(slot, &placed.shape, seen, placed.is_terminating, 1);
        if let Some(group) = &placed.shape.group
            && self.groups.came(group, &placed.key)
        {
            self.version += 1;
        }
        self.placed.insert(Arc::clone(&placed.key), slot);
        let seat = &mut self.seats[slot];
        seat.facts.taken.add(&placed.shape.load);
        seat.pods.push(placed);
        self.changed(slot);
    }

    /// Notes that a pod takes nothing any more; tells the slot where it did.
    pub fn unplace(&mut self, key: &str) -> Option<Slot> {
        let Lifted { placed, slot } = self.lift(key)?;
        self.doomed.remove(&placed.uid);
        self.leave(slot);
        Some(slot)
    }

    /// Takes a placed pod out for the time of a trial. Its slot stays what it is.
    pub(crate) fn lift(&mut self, key: &str) -> Option<Lifted> {
        let slot = self.placed.remove(key)?;
        let seat = &mut self.seats[slot];
        let at = seat.pods.iter().position(|placed| *placed.key == *key)?;
        let placed = seat.pods.swap_remove(at);
        seat.facts.taken.subtract(&placed.shape.load);
        let seen = seen(&self.namespaces, &placed.shape);
        self.counts.change(slot, &placed.shape, seen, placed.is_terminating, -1);
        if let Some(group) = &placed.shape.group
            && self.groups.left(group, key)
        {
            self.version += 1;
        }
        self.changed(slot);
        Some(Lifted { placed, slot })
    }

    /// Ends that time.
    pub(crate) fn put_back(&mut self, lifted: Lifted) {
        self.add(lifted.slot, lifted.placed);
    }

    /// Notes that a node is being emptied for a pod; tells the slot of the other one that was before.
    pub fn nominate(&mut self, key: &PodKey, shape: &Arc<Shape>, node: &str) -> Option<Slot> {
        let earlier = self.renounce(key);
        let slot = self.seat(node);
        let shape = self.share(shape);
        self.with_anti += usize::from(has_anti(&shape));
        self.seats[slot].nominated.push((Arc::clone(key), shape));
        self.nominations.insert(Arc::clone(key), slot);
        self.changed(slot);
        earlier.filter(|earlier| *earlier != slot)
    }

    /// Notes that no node is being emptied for a pod; tells the slot of the one that was.
    pub fn renounce(&mut self, key: &str) -> Option<Slot> {
        let slot = self.nominations.remove(key)?;
        let nominated = &mut self.seats[slot].nominated;
        if let Some(at) = nominated.iter().position(|(other, _)| **other == *key) {
            self.with_anti -= usize::from(has_anti(&nominated.swap_remove(at).1));
        }
        self.changed(slot);
        self.leave(slot);
        Some(slot)
    }

    /// The slot of the node that is being emptied for a pod.
    pub fn nomination(&self, key: &str) -> Option<Slot> {
        self.nominations.get(key).copied()
    }

    /// Whether a pod that a node is being emptied for has to be without some others; no other term of it keeps pods away.
    pub(crate) fn awaits_anti(&self) -> bool {
        self.with_anti > 0
    }

    /// The pods that a node is being emptied for, once nobody is left whom they wait for.
    pub fn waiting_for(&self, slot: Slot) -> Vec<PodKey> {
        let nominated = self.nominated_at(slot).iter();
        nominated.filter(|(_, shape)| !self.is_emptied(slot, shape.priority)).map(|(key, _)| Arc::clone(key)).collect()
    }

    /// Notes that a pod is about to be deleted.
    pub fn doom(&mut self, key: &str, uid: &Arc<str>) {
        self.doomed.insert(Arc::clone(uid));
        if let Some(slot) = self.placed.get(key) {
            self.changed(*slot);
        }
    }

    /// It is not deleted after all.
    pub fn spare(&mut self, key: &str, uid: &str) {
        self.doomed.remove(uid);
        if let Some(slot) = self.placed.get(key) {
            self.changed(*slot);
        }
    }

    /// The group of a placed pod, if its pods only leave together.
    pub(crate) fn whole_group<'a>(&self, placed: &'a Placed) -> Option<&'a GroupKey> {
        placed.shape.group.as_ref().filter(|group| self.groups.leaves_whole(group))
    }

    /// Whether a placed pod may have to leave for one of a priority, and so may its group where that leaves whole.
    fn is_below(&self, placed: &Placed, priority: i32) -> bool {
        let group = self.whole_group(placed).and_then(|group| self.groups.get(group));
        placed.shape.priority < priority && group.is_none_or(|group| group.priority < priority)
    }

    /// Whether a placed pod is on its way out.
    pub(crate) fn is_leaving(&self, placed: &Placed) -> bool {
        placed.is_terminating || self.doomed.contains(&placed.uid)
    }

    /// The pods of a node that one of this priority may send away.
    pub(crate) fn lower(&self, slot: Slot, priority: i32) -> impl Iterator<Item = &Placed> {
        self.pods_at(slot).iter().filter(move |placed| self.is_below(placed, priority))
    }

    /// Their keys and uids.
    pub fn below(&self, slot: Slot, priority: i32) -> impl Iterator<Item = (&PodKey, &Arc<str>)> {
        self.lower(slot, priority).map(|placed| (&placed.key, &placed.uid))
    }

    /// Whether pods below a priority are on their way out of a node.
    pub fn is_emptied(&self, slot: Slot, priority: i32) -> bool {
        self.pods_at(slot).iter().any(|placed| placed.shape.priority < priority && self.is_leaving(placed))
    }

    /// The pods that use a claim that `pod` would have to have for itself.
    pub(crate) fn claim_holders(&self, pod: &PodFacts) -> Vec<PodKey> {
        if pod.shape.load.claims.is_empty() {
            return Vec::new();
        }
        let only: Vec<String> = self.volumes.one_pod_claims(pod).collect();
        let is_held = |placed: &&Placed| {
            let own = only.iter().filter_map(|claim| claim.split_once('/'));
            let mut own = own.filter(|(namespace, _)| **namespace == *placed.shape.namespace);
            placed.key != pod.key && own.any(|(_, name)| placed.shape.load.claims.iter().any(|used| used.name == name))
        };
        let all = self.seats.iter().filter(|_| !only.is_empty()).flat_map(|seat| &seat.pods);
        all.filter(is_held).map(|placed| Arc::clone(&placed.key)).collect()
    }

    /// Whether a node takes no more volumes of a driver of the pod's claims.
    pub(crate) fn has_too_many_volumes(&self, slot: Slot, pod: &PodFacts) -> bool {
        let Some(node) = self.at(slot).filter(|node| self.volumes.limits.contains_key(&node.name)) else {
            return false;
        };
        let keys = |shape: &Shape| -> Vec<String> {
            shape.load.claims.iter().map(|used| format!("{}/{}", shape.namespace, used.name)).collect()
        };
        let there: Vec<String> = self.pods_at(slot).iter().flat_map(|placed| keys(&placed.shape)).collect();
        !self.volumes.has_room(&node.name, &there, &keys(&pod.shape))
    }

    /// The pod that was placed under this key, and the slot where it is.
    pub(crate) fn placed(&self, key: &str) -> Option<(Slot, &Placed)> {
        let slot = *self.placed.get(key)?;
        let placed = self.pods_at(slot).iter().find(|placed| *placed.key == *key)?;
        Some((slot, placed))
    }

    /// The uid of the pod that was placed under this key.
    pub fn placed_uid(&self, key: &str) -> Option<&Arc<str>> {
        self.placed(key).map(|(_, placed)| &placed.uid)
    }

    /// The keys of all placed pods.
    pub fn placed_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.placed.keys()
    }

    /// A budget, or its end.
    pub fn set_budget(&mut self, key: String, budget: Option<Budget>) {
        self.version += 1;
        match budget {
            Some(budget) => drop(self.budgets.insert(key, budget)),
            None => drop(self.budgets.remove(&key)),
        }
    }

    /// Keeps only these budgets.
    pub fn retain_budgets(&mut self, keys: &HashSet<String>) {
        self.version += 1;
        self.budgets.retain(|key, _| keys.contains(key));
    }

    /// The end of a pod counts against its budgets: gives back what they allowed before.
    pub(crate) fn spend_budgets(&mut self, key: &str) -> Vec<(String, i64)> {
        let Some((_, placed)) = self.placed(key).filter(|_| !self.budgets.is_empty()) else { return Vec::new() };
        let (key, shape) = (Arc::clone(&placed.key), Arc::clone(&placed.shape));
        let covering = self.budgets.values_mut().filter(|budget| budget.covers(&key, &shape));
        let spent = covering.map(|budget| {
            budget.allowed -= 1;
            (budget.key.clone(), budget.allowed + 1)
        });
        let spent: Vec<(String, i64)> = spent.collect();
        self.version += u64::from(!spent.is_empty());
        spent
    }

    /// A budget allows so many again.
    pub(crate) fn allow(&mut self, budget: &str, allowed: i64) {
        if let Some(budget) = self.budgets.get_mut(budget) {
            self.version += 1;
            budget.allowed = allowed;
        }
    }

    /// A group of pods; tells whether it asks for anything new.
    pub fn set_group(&mut self, group: GroupFacts) -> bool {
        let leaves_whole = group.leaves_whole;
        let new = group.clone();
        let earlier = self.groups.set(group);
        self.version += u64::from(leaves_whole != earlier.as_ref().is_some_and(|earlier| earlier.leaves_whole));
        earlier.is_none_or(|earlier| !earlier.asks_like(&new))
    }

    /// The end of a group of pods.
    pub fn remove_group(&mut self, key: &str) {
        let earlier = self.groups.remove(key);
        self.version += u64::from(earlier.is_some_and(|earlier| earlier.leaves_whole));
    }

    /// How many pods of a group have their place and are not on their way out.
    pub(crate) fn staying_of_group(&self, key: &str) -> usize {
        let placed = self.groups.placed(key).filter_map(|pod| self.placed(pod));
        placed.filter(|(_, placed)| !self.is_leaving(placed)).count()
    }

    /// The labels of a namespace, or its end; tells whether that is new.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let changed = match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels.clone()) != Some(labels),
            None => self.namespaces.remove(name).is_some(),
        };
        if changed {
            self.version += 1;
            self.counts.namespaces_changed();
        }
        changed
    }

    /// Keeps only these namespaces; tells whether there were others.
    pub fn retain_namespaces(&mut self, names: &HashSet<String>) -> bool {
        let gone: Vec<Box<str>> = self.namespaces.keys().filter(|name| !names.contains(&***name)).cloned().collect();
        for name in &gone {
            self.set_namespace(name, None);
        }
        !gone.is_empty()
    }

    /// A pod as terms see it.
    pub(crate) fn seen<'a>(&'a self, shape: &'a Shape) -> Seen<'a> {
        seen(&self.namespaces, shape)
    }

    /// Counts from now on what the terms of a pod that is about to be decided ask for. Decisions are the same without it,
    /// only slower.
    pub fn attend(&mut self, shape: &Shape) {
        let Some(terms) = &shape.terms else { return };
        for topology in terms.topologies() {
            self.learn(topology);
        }
        for matcher in terms.counted() {
            if !self.counts.ask(matcher) {
                let found = self.count_now(matcher);
                self.counts.count(matcher, found.into_iter());
            }
        }
    }

    fn learn(&mut self, topology: &Arc<str>) {
        if !self.counts.knows(topology) {
            let there = self.seats.iter().enumerate().filter(|(_, seat)| seat.is_there);
            self.counts.learn(topology, there.map(|(slot, seat)| (slot, &seat.facts.labels)));
        }
    }

    /// The slots of all pods that a matcher is about.
    fn count_now(&self, matcher: &Matcher) -> Vec<Slot> {
        let pods = self.seats.iter().enumerate().flat_map(|(slot, seat)| seat.pods.iter().map(move |pod| (slot, pod)));
        let counts = |pod: &Placed| {
            !(matcher.live_only && pod.is_terminating) && matcher.is_about(seen(&self.namespaces, &pod.shape))
        };
        pods.filter(|(_, pod)| counts(pod)).map(|(slot, _)| slot).collect()
    }

    /// By slot, how many pods a matcher is about.
    pub(crate) fn by_slot(&self, matcher: &Arc<Matcher>) -> Cow<'_, [u32]> {
        if let Some(counted) = self.counts.by_slot(matcher) {
            return Cow::Borrowed(counted);
        }
        let mut by_slot = vec![0; self.seats.len()];
        for slot in self.count_now(matcher) {
            by_slot[slot] += 1;
        }
        Cow::Owned(by_slot)
    }

    /// The places of nodes by a label.
    pub(crate) fn topology(&self, key: &Arc<str>) -> Cow<'_, Topology> {
        if let Some(topology) = self.counts.topology(key) {
            return Cow::Borrowed(topology);
        }
        let mut counts = Counts::default();
        counts.learn(key, self.nodes().map(|(slot, node)| (slot, &node.labels)));
        Cow::Owned(counts.topology(key).cloned().unwrap_or_default())
    }

    fn changed(&mut self, slot: Slot) {
        if self.changes.len() > 4 * self.seats.len() + 1024 {
            let half = self.changes.len() / 2;
            self.changes.drain(..half);
            self.dropped += half as u64;
        }
        self.changes.push(slot);
    }

    /// How many changes there were so far.
    pub(crate) fn now(&self) -> u64 {
        self.dropped + self.changes.len() as u64
    }

    /// The slots that changed since then; `None` where that is not known any more.
    pub(crate) fn since(&self, then: u64) -> Option<&[Slot]> {
        let from = usize::try_from(then.checked_sub(self.dropped)?).ok()?;
        self.changes.get(from..)
    }
}

/// Whether it has to be without some other pods.
fn has_anti(shape: &Shape) -> bool {
    shape.terms.as_ref().is_some_and(|terms| !terms.anti.is_empty())
}

fn seen<'a>(namespaces: &'a HashMap<Box<str>, Labels>, shape: &'a Shape) -> Seen<'a> {
    Seen {
        namespace: &shape.namespace,
        namespace_labels: namespaces.get(&shape.namespace),
        labels: &shape.labels,
        owner: shape.owner.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn of_the_awaited_only_those_that_keep_others_away_are_counted() {
        let mut snapshot = Snapshot::default();
        let term = json!({"topologyKey": "host", "labelSelector": {}});
        let required = |kind: &str| json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        let mut nominate = |affinity: Value| {
            let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "affinity": affinity}});
            let pod = PodFacts::new(serde_json::from_value(pod).unwrap());
            snapshot.nominate(&pod.key, &pod.shape, "n");
            snapshot.awaits_anti()
        };
        assert!(!nominate(json!({})));
        assert!(!nominate(required("podAffinity")));
        assert!(nominate(required("podAntiAffinity")));
        assert!(!nominate(json!({})), "it is another one now");
    }
}
