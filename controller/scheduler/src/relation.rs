//! What other pods mean for one: affinity and anti-affinity of both sides, and topology spread. Counts come from the
//! indexes; a pass only sums them up by place.
use crate::class::Class;
use crate::counts::{Place, Role, Topology};
use crate::filter::Reason;
use crate::pod::Shape;
use crate::profile::{FULL, Filter, Profile};
use crate::snapshot::{Slot, Snapshot};
use crate::terms::{Matcher, Seen, Spread, Terms};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Amounts by the place of a node.
#[derive(Debug)]
struct Sums<'a> {
    topology: Cow<'a, Topology>,
    by_place: Vec<i64>,
}

impl<'a> Sums<'a> {
    fn new(snapshot: &'a Snapshot, key: &Arc<str>) -> Self {
        let topology = snapshot.topology(key);
        let by_place = vec![0; topology.count()];
        Self { topology, by_place }
    }

    /// How many pods a matcher is about, on the nodes that count.
    fn of(snapshot: &'a Snapshot, key: &Arc<str>, matcher: &Arc<Matcher>, counts: impl Fn(Slot) -> bool) -> Self {
        let mut sums = Self::new(snapshot, key);
        for (slot, count) in snapshot.by_slot(matcher).iter().enumerate().filter(|(_, count)| **count > 0) {
            if counts(slot) {
                sums.add(slot, i64::from(*count));
            }
        }
        sums
    }

    fn place(&self, slot: Slot) -> Place {
        self.topology.of(slot)
    }

    fn add(&mut self, slot: Slot, amount: i64) {
        let place = self.place(slot) as usize;
        if place > 0 {
            self.by_place[place] += amount;
        }
    }

    fn at(&self, slot: Slot) -> i64 {
        match self.place(slot) as usize {
            0 => 0,
            place => self.by_place[place],
        }
    }
}

/// A constraint that must hold.
#[derive(Debug)]
struct Hard<'a> {
    spread: &'a Spread,
    sums: Sums<'a>,
    /// The places with a node that counts.
    has_nodes: Vec<bool>,
    /// By slot, whether the node counts.
    counts: Vec<bool>,
    /// What the emptiest place has; `None` until it is asked for after a change.
    least: Option<i64>,
}

impl Hard<'_> {
    fn least(&mut self) -> i64 {
        if let Some(least) = self.least {
            return least;
        }
        let with_nodes = self.sums.by_place.iter().zip(&self.has_nodes).filter(|(_, has)| **has);
        let (places, least) = with_nodes.fold((0, i64::MAX), |(n, least), (sum, _)| (n + 1, least.min(*sum)));
        let least = if places == 0 || places < self.spread.min_domains { 0 } else { least };
        self.least = Some(least);
        least
    }
}

/// All that other pods mean for one.
#[derive(Debug)]
pub(crate) struct Relations<'a> {
    seen: Seen<'a>,
    terms: Option<&'a Terms>,
    required: Vec<Sums<'a>>,
    /// How many pods there are that all required terms are about.
    joint: i64,
    /// The pod itself is one of those that it has to be with.
    may_be_first: bool,
    anti: Vec<Sums<'a>>,
    /// Pods that must not be with it.
    kept_out: BTreeMap<Arc<str>, Sums<'a>>,
    hard: Vec<Hard<'a>>,
}

impl<'a> Relations<'a> {
    /// Sums up what there is.
    pub(crate) fn new(snapshot: &'a Snapshot, shape: &'a Shape, class: &Class) -> Self {
        let (seen, terms) = (snapshot.seen(shape), shape.terms.as_deref());
        let mut relations = Self {
            seen,
            terms,
            required: Vec::new(),
            joint: 0,
            may_be_first: false,
            anti: Vec::new(),
            kept_out: BTreeMap::new(),
            hard: Vec::new(),
        };
        for ((term, role), by_slot) in snapshot.counts.held(seen) {
            if *role == Role::KeepsOut && !shape.profile.skips(Filter::Relations) {
                let topology = &term.topology;
                let sums =
                    relations.kept_out.entry(Arc::clone(topology)).or_insert_with(|| Sums::new(snapshot, topology));
                for (slot, count) in by_slot {
                    sums.add(*slot, i64::from(*count));
                }
            }
        }
        if let Some(terms) = terms {
            if let Some(joint) = &terms.joint {
                let sums = |term: &crate::terms::Term| Sums::of(snapshot, &term.topology, joint, |_| true);
                relations.required = terms.required.iter().map(sums).collect();
                relations.joint = relations.required.iter().flat_map(|sums| &sums.by_place).sum();
                relations.may_be_first = joint.is_about(seen);
            }
            let sums = |term: &crate::terms::Term| Sums::of(snapshot, &term.topology, &term.matcher, |_| true);
            relations.anti = terms.anti.iter().map(sums).collect();
            relations.hard = hard(snapshot, &terms.hard, class);
        }
        relations
    }

    /// Whether other pods mean anything.
    pub(crate) fn is_some(&self) -> bool {
        !(self.kept_out.is_empty() && self.required.is_empty() && self.anti.is_empty() && self.hard.is_empty())
    }

    /// Why a node does not do.
    pub(crate) fn obstacle(&mut self, slot: Slot) -> Option<Reason> {
        for hard in &mut self.hard {
            if hard.sums.place(slot) == 0 {
                return Some(Reason::SpreadLabel);
            }
            let with = hard.sums.at(slot) + i64::from(hard.spread.counts_self);
            if with - hard.least() > hard.spread.max_skew {
                return Some(Reason::Spread);
            }
        }
        let has_all = || self.required.iter().all(|sums| sums.at(slot) > 0);
        let is_first = || self.joint == 0 && self.may_be_first && self.required.iter().all(|sums| sums.place(slot) > 0);
        if !self.required.is_empty() && !has_all() && !is_first() {
            return Some(Reason::PodAffinity);
        }
        if self.anti.iter().any(|sums| sums.at(slot) > 0) {
            return Some(Reason::PodAntiAffinity);
        }
        self.kept_out.values().any(|sums| sums.at(slot) > 0).then_some(Reason::ExistingAntiAffinity)
    }

    /// Imagines that a pod came to a node (`change` 1) or went (-1).
    pub(crate) fn imagine(
        &mut self,
        snapshot: &'a Snapshot,
        slot: Slot,
        shape: &Shape,
        is_terminating: bool,
        change: i64,
    ) {
        let other = snapshot.seen(shape);
        if let Some(terms) = self.terms {
            if terms.joint.as_ref().is_some_and(|joint| joint.is_about(other)) {
                for sums in &mut self.required {
                    self.joint += if sums.place(slot) > 0 { change } else { 0 };
                    sums.add(slot, change);
                }
            }
            for (term, sums) in terms.anti.iter().zip(&mut self.anti) {
                if term.matcher.is_about(other) {
                    sums.add(slot, change);
                }
            }
            for hard in &mut self.hard {
                let counts = !is_terminating && hard.counts.get(slot).copied().unwrap_or_default();
                if counts && hard.spread.term.matcher.is_about(other) {
                    hard.sums.add(slot, change);
                    hard.least = None;
                }
            }
        }
        for term in shape.terms.iter().flat_map(|terms| &terms.anti) {
            if term.matcher.is_about(self.seen) {
                let sums = self.kept_out.entry(Arc::clone(&term.topology));
                sums.or_insert_with(|| Sums::new(snapshot, &term.topology)).add(slot, change);
            }
        }
    }
}

fn hard<'a>(snapshot: &'a Snapshot, all: &'a [Spread], class: &Class) -> Vec<Hard<'a>> {
    let topologies: Vec<Cow<'_, Topology>> =
        all.iter().map(|spread| snapshot.topology(&spread.term.topology)).collect();
    let constraint = |spread: &'a Spread| {
        let counts =
            |slot: &Slot| is_counted(spread, class, *slot) && topologies.iter().all(|topology| topology.of(*slot) > 0);
        let counts: Vec<bool> = (0..snapshot.slots()).map(|slot| counts(&slot)).collect();
        let sums = Sums::of(snapshot, &spread.term.topology, &spread.term.matcher, |slot| counts[slot]);
        let mut has_nodes = vec![false; sums.by_place.len()];
        for (slot, _) in counts.iter().enumerate().filter(|(_, counts)| **counts) {
            has_nodes[sums.place(slot) as usize] = true;
        }
        Hard { spread, sums, has_nodes, counts, least: None }
    };
    all.iter().map(constraint).collect()
}

/// Whether a node counts by the policies of a constraint.
fn is_counted(spread: &Spread, class: &Class, slot: Slot) -> bool {
    let standing = class.standing(slot);
    standing.is_there && (!spread.by_affinity || standing.is_affine) && (!spread.by_taints || standing.is_tolerated)
}

/// Adds to the scores of the nodes that fit what other pods make of them.
pub(crate) fn rank(snapshot: &Snapshot, shape: &Shape, class: &Class, fitting: &mut [(Slot, i64)]) {
    affinity(snapshot, shape, fitting);
    if let Some(terms) = shape.terms.as_deref().filter(|terms| !terms.soft.is_empty()) {
        spread(snapshot, terms, class, &shape.profile, fitting);
    }
}

fn affinity(snapshot: &Snapshot, shape: &Shape, fitting: &mut [(Slot, i64)]) {
    let (seen, profile) = (snapshot.seen(shape), &shape.profile);
    let has_own = shape.terms.as_ref().is_some_and(|terms| !terms.preferred.is_empty());
    if profile.weights.relations == 0 || (profile.ignores_wishes_of_others && !has_own) {
        return;
    }
    let mut by_key: BTreeMap<Arc<str>, Sums<'_>> = BTreeMap::new();
    let mut add = |key: &Arc<str>, slot: Slot, amount: i64| {
        by_key.entry(Arc::clone(key)).or_insert_with(|| Sums::new(snapshot, key)).add(slot, amount);
    };
    for (term, weight) in shape.terms.iter().flat_map(|terms| &terms.preferred) {
        for (slot, count) in snapshot.by_slot(&term.matcher).iter().enumerate().filter(|(_, count)| **count > 0) {
            add(&term.topology, slot, weight * i64::from(*count));
        }
    }
    for ((term, role), by_slot) in snapshot.counts.held(seen) {
        let weight = match role {
            Role::Wants(weight) => *weight,
            Role::Needs => profile.hard_affinity_weight,
            Role::KeepsOut => 0,
        };
        for (slot, count) in by_slot.iter().filter(|_| weight != 0) {
            add(&term.topology, *slot, weight * i64::from(*count));
        }
    }
    if by_key.is_empty() {
        return;
    }
    let of = |slot: Slot| by_key.values().map(|sums| sums.at(slot)).sum::<i64>();
    let bounds = |(least, most): (i64, i64), (slot, _): &(Slot, i64)| (least.min(of(*slot)), most.max(of(*slot)));
    let (least, most) = fitting.iter().fold((i64::MAX, i64::MIN), bounds);
    if most > least {
        for (slot, score) in fitting {
            *score += profile.weights.relations * (FULL * (of(*slot) - least) / (most - least));
        }
    }
}

/// The emptier the place the better; places of a label with many values weigh more, as there each pod is a smaller share.
fn spread(snapshot: &Snapshot, terms: &Terms, class: &Class, profile: &Profile, fitting: &mut [(Slot, i64)]) {
    let weight = profile.weights.spread;
    let topologies: Vec<Cow<'_, Topology>> =
        terms.soft.iter().map(|spread| snapshot.topology(&spread.term.topology)).collect();
    // A node without the label is the last choice of whoever asked for the spread.
    let is_ignored = |slot: Slot| !terms.is_default && topologies.iter().any(|topology| topology.of(slot) == 0);
    let mut raw = vec![0.0_f64; fitting.len()];
    for (spread, topology) in terms.soft.iter().zip(&topologies) {
        let counts = |slot: Slot| is_counted(spread, class, slot) && !is_ignored(slot);
        let sums = Sums::of(snapshot, &spread.term.topology, &spread.term.matcher, counts);
        let mut has_nodes = vec![false; topology.count()];
        let mut places = 0_u32;
        for (slot, _) in fitting.iter().filter(|(slot, _)| !is_ignored(*slot)) {
            let place = topology.of(*slot) as usize;
            if place > 0 && !std::mem::replace(&mut has_nodes[place], true) {
                places += 1;
            }
        }
        let share = f64::from(places + 2).ln();
        #[expect(clippy::cast_precision_loss, reason = "counts of pods are far below 2^52")]
        for ((slot, _), raw) in fitting.iter().zip(&mut raw) {
            if topology.of(*slot) > 0 {
                *raw += sums.at(*slot) as f64 * share + (spread.max_skew - 1) as f64;
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "sums of counts of pods are far below 2^52")]
    let raw: Vec<i64> = raw.into_iter().map(|raw| raw.round() as i64).collect();
    let seen = fitting.iter().zip(&raw).filter(|((slot, _), _)| !is_ignored(*slot)).map(|(_, raw)| *raw);
    let (least, most) = seen.fold((i64::MAX, 0), |(least, most), raw| (least.min(raw), most.max(raw)));
    for ((slot, score), raw) in fitting.iter_mut().zip(raw) {
        *score += match (is_ignored(*slot), most) {
            (true, _) => 0,
            (false, 0) => weight * FULL,
            (false, most) => weight * (FULL * (most + least - raw) / most),
        };
    }
}
