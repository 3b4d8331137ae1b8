//! Counted indexes: how many pods of each node a matcher is about, which terms the pods of each node have, and which
//! place a node belongs to. A pod that comes or goes changes the few counts that it belongs to; nobody scans pods.
use crate::pod::Shape;
use crate::snapshot::Slot;
use crate::terms::{Labels, Matcher, Seen, Term, Terms};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// No more matchers are counted; beyond that those that were not asked for longest are counted anew when they are.
const MAX_MATCHERS: usize = 2048;

/// The place that a node belongs to by one of its labels; 0 is none.
pub(crate) type Place = u32;

/// The places of all nodes by one label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// By slot.
    pub(crate) places: Vec<Place>,
    ids: HashMap<Box<str>, Place>,
}

impl Topology {
    /// One past the last place.
    pub(crate) fn count(&self) -> usize {
        self.ids.len() + 1
    }

    fn set(&mut self, slot: Slot, value: Option<&str>) {
        if self.places.len() <= slot {
            self.places.resize(slot + 1, 0);
        }
        self.places[slot] = match value {
            None => 0,
            Some(value) => match self.ids.get(value) {
                Some(id) => *id,
                None => {
                    let id = Place::try_from(self.ids.len() + 1).unwrap_or(0);
                    self.ids.insert(value.into(), id);
                    id
                }
            },
        };
    }

    /// Drops the places of nodes that are gone, once they are the greater part.
    fn tidy(&mut self) {
        if self.ids.len() <= 2 * self.places.len() + 64 {
            return;
        }
        let used: HashSet<Place> = self.places.iter().copied().collect();
        self.ids.retain(|_, id| used.contains(id));
        let mut new: HashMap<Place, Place> = HashMap::new();
        for (next, id) in (1..).zip(self.ids.values_mut()) {
            new.insert(std::mem::replace(id, next), next);
        }
        for place in &mut self.places {
            *place = new.get(place).copied().unwrap_or(0);
        }
    }

    pub(crate) fn of(&self, slot: Slot) -> Place {
        self.places.get(slot).copied().unwrap_or(0)
    }
}

/// Things that are found by a label that pods must have, so that only a few of them are tried.
#[derive(Debug)]
struct Picks<T> {
    by_label: HashMap<String, Vec<T>>,
    rest: Vec<T>,
}

impl<T> Default for Picks<T> {
    fn default() -> Self {
        Self { by_label: HashMap::new(), rest: Vec::new() }
    }
}

impl<T: Clone + Eq> Picks<T> {
    fn insert(&mut self, pick: Option<String>, thing: T) {
        match pick {
            Some(label) => self.by_label.entry(label).or_default().push(thing),
            None => self.rest.push(thing),
        }
    }

    fn remove(&mut self, pick: Option<String>, thing: &T) {
        match pick {
            None => self.rest.retain(|other| other != thing),
            Some(label) => {
                if let Some(list) = self.by_label.get_mut(&label) {
                    list.retain(|other| other != thing);
                    if list.is_empty() {
                        self.by_label.remove(&label);
                    }
                }
            }
        }
    }

    /// Those that can be about a pod with these labels.
    fn of<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a T> {
        let mut text = String::new();
        let by_label = labels.iter().filter(|_| !self.by_label.is_empty()).filter_map(move |(key, value)| {
            text.clear();
            text.push_str(key);
            text.push('=');
            text.push_str(value);
            self.by_label.get(&text)
        });
        by_label.flatten().chain(&self.rest)
    }
}

#[derive(Debug)]
struct Counted {
    by_slot: Vec<u32>,
    /// When it was asked for last.
    asked: u64,
}

/// What the terms of pods that have a node mean to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Nobody whom the term is about may be in the same place.
    KeepsOut,
    /// Whoever the term is about is wanted so much in the same place, or not wanted.
    Wants(i64),
    /// It has to be with those that the term is about. How much that counts for them says their profile.
    Needs,
}

/// A term that pods with a node have, and what it means to others.
pub(crate) type Held = (Term, Role);

/// All indexes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    topologies: HashMap<Arc<str>, Topology>,
    counted: HashMap<Arc<Matcher>, Counted>,
    counted_picks: Picks<Arc<Matcher>>,
    held: HashMap<Held, BTreeMap<Slot, u32>>,
    held_picks: Picks<Held>,
    asked: u64,
}

fn held_by(terms: &Terms) -> impl Iterator<Item = Held> {
    let out = terms.anti.iter().map(|term| (term.clone(), Role::KeepsOut));
    let wants = terms.preferred.iter().map(|(term, weight)| (term.clone(), Role::Wants(*weight)));
    let needs = terms.required.iter().map(|term| (term.clone(), Role::Needs));
    out.chain(wants).chain(needs)
}

impl Counts {
    /// The places of nodes by a label that somebody asked for.
    pub(crate) fn topology(&self, key: &str) -> Option<&Topology> {
        self.topologies.get(key)
    }

    /// Whether places by this label are known.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.topologies.contains_key(key)
    }

    /// Learns the places by a label.
    pub(crate) fn learn<'a>(&mut self, key: &Arc<str>, nodes: impl Iterator<Item = (Slot, &'a Labels)>) {
        let mut topology = Topology::default();
        for (slot, labels) in nodes {
            topology.set(slot, labels.get(&**key).map(String::as_str));
        }
        self.topologies.insert(Arc::clone(key), topology);
    }

    /// Notes a node's labels; `None` where it is gone.
    pub(crate) fn set_node(&mut self, slot: Slot, labels: Option<&Labels>) {
        for (key, topology) in &mut self.topologies {
            topology.set(slot, labels.and_then(|labels| labels.get(&**key)).map(String::as_str));
            topology.tidy();
        }
    }

    /// By slot, how many pods a matcher is about, if they are counted.
    pub(crate) fn by_slot(&self, matcher: &Arc<Matcher>) -> Option<&[u32]> {
        self.counted.get(matcher).map(|counted| &*counted.by_slot)
    }

    /// Notes that a matcher is asked for; tells whether its pods are counted.
    pub(crate) fn ask(&mut self, matcher: &Arc<Matcher>) -> bool {
        self.asked += 1;
        match self.counted.get_mut(matcher) {
            Some(counted) => {
                counted.asked = self.asked;
                true
            }
            None => false,
        }
    }

    /// Counts a matcher's pods from now on, from these that there are.
    pub(crate) fn count(&mut self, matcher: &Arc<Matcher>, pods: impl Iterator<Item = Slot>) {
        if self.counted.len() >= MAX_MATCHERS {
            let mut ages: Vec<u64> = self.counted.values().map(|counted| counted.asked).collect();
            let (_, median, _) = ages.select_nth_unstable(MAX_MATCHERS / 2);
            let median = *median;
            self.forget(|_, counted| counted.asked <= median);
        }
        let mut counted = Counted { by_slot: Vec::new(), asked: self.asked };
        for slot in pods {
            add(&mut counted.by_slot, slot, 1);
        }
        self.counted.insert(Arc::clone(matcher), counted);
        self.counted_picks.insert(matcher.pick(), Arc::clone(matcher));
    }

    fn forget(&mut self, is_old: impl Fn(&Matcher, &Counted) -> bool) {
        let old = self.counted.iter().filter(|(matcher, counted)| is_old(matcher, counted));
        let old: Vec<Arc<Matcher>> = old.map(|(matcher, _)| Arc::clone(matcher)).collect();
        for matcher in old {
            self.counted.remove(&matcher);
            self.counted_picks.remove(matcher.pick(), &matcher);
        }
    }

    /// Labels of namespaces changed: what depends on them is counted anew when it is asked for.
    pub(crate) fn namespaces_changed(&mut self) {
        self.forget(|matcher, _| matcher.asks_namespaces());
    }

    /// A pod came to a slot (`change` 1) or went (-1).
    pub(crate) fn change(&mut self, slot: Slot, shape: &Shape, seen: Seen<'_>, is_terminating: bool, change: i32) {
        for matcher in self.counted_picks.of(&shape.labels) {
            if !(matcher.live_only && is_terminating)
                && matcher.is_about(seen)
                && let Some(counted) = self.counted.get_mut(matcher)
            {
                add(&mut counted.by_slot, slot, change);
            }
        }
        for held in shape.terms.iter().flat_map(|terms| held_by(terms)) {
            let by_slot = self.held.entry(held.clone()).or_default();
            if by_slot.is_empty() {
                self.held_picks.insert(held.0.matcher.pick(), held.clone());
            }
            let count = by_slot.entry(slot).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                by_slot.remove(&slot);
            }
            if by_slot.is_empty() {
                self.held.remove(&held);
                self.held_picks.remove(held.0.matcher.pick(), &held);
            }
        }
    }

    /// The terms of pods with a node that are about this pod.
    pub(crate) fn held<'a>(&'a self, seen: Seen<'a>) -> impl Iterator<Item = (&'a Held, &'a BTreeMap<Slot, u32>)> {
        let held = self.held_picks.of(seen.labels).filter(move |(term, _)| term.matcher.is_about(seen));
        held.filter_map(|held| self.held.get_key_value(held))
    }

    /// Whether any pod with a node has terms.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }
}

fn add(by_slot: &mut Vec<u32>, slot: Slot, change: i32) {
    if by_slot.len() <= slot {
        by_slot.resize(slot + 1, 0);
    }
    by_slot[slot] = by_slot[slot].saturating_add_signed(change);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_nodes_that_come_and_go_do_not_pile_up() {
        let labels = |name: &str| Labels::from([("k".to_owned(), name.to_owned())]);
        let mut counts = Counts::default();
        counts.learn(&"k".into(), std::iter::empty());
        counts.set_node(0, Some(&labels("stays")));
        counts.set_node(1, Some(&labels("stays")));
        for n in 0..1000 {
            counts.set_node(2, Some(&labels(&n.to_string())));
        }
        let topology = counts.topology("k").unwrap();
        assert!(topology.count() < 200, "{}", topology.count());
        let [first, second, last] = [0, 1, 2].map(|slot| topology.of(slot));
        assert!(first == second && first != last && first > 0 && last > 0);
    }
}
