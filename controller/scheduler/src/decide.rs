//! The decision: pure, deterministic, and never more than a node has.
use crate::class::Class;
use crate::filter::{self, Reason, Tally};
use crate::memo::Memo;
use crate::node::{NodeFacts, Taken};
use crate::pod::{PodFacts, Shape};
use crate::preempt::{self, Preemption};
use crate::relation::{self, Relations};
use crate::score::{self, Wishes};
use crate::snapshot::{Slot, Snapshot};
use crate::volumes::Preparation;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// So many kinds of pods share their passes; more are told apart by who was not asked for longest.
const MAX_CLASSES: usize = 64;

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this node.
    Bind(Box<str>),
    /// Prepare volumes for it on this node, then bind it.
    Prepare(Box<str>, Vec<Preparation>),
    /// No node takes it now, but one will once others have left.
    Preempt(Preemption, FitError),
    /// No node takes it.
    Unfit(FitError),
}

/// Why no node takes a pod. Displays as Kubernetes says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// What of the pod itself keeps it from all of them.
    pub refusal: Option<String>,
    /// How many of them gave each reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// Why nobody is sent away for it.
    pub preemption: Option<String>,
}

/// `0/N nodes are available: ...`
pub(crate) fn available(nodes: usize, reasons: &BTreeMap<Reason, usize>) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        match &self.refusal {
            Some(refusal) => write!(f, "0/{} nodes are available: {refusal}.", self.nodes)?,
            None => f.write_str(&available(self.nodes, &self.reasons))?,
        }
        match &self.preemption {
            Some(preemption) => write!(f, " preemption: {preemption}"),
            None => Ok(()),
        }
    }
}

/// What is taken of a node in the eyes of a pod: its pods, and those of no lower priority that it is being emptied for.
pub(crate) fn taken<'a>(
    snapshot: &'a Snapshot,
    slot: Slot,
    node: &'a NodeFacts,
    key: &str,
    shape: &Shape,
) -> Cow<'a, Taken> {
    let mut taken = Cow::Borrowed(&node.taken);
    for other in awaited(snapshot, slot, key, shape) {
        taken.to_mut().add(&other.load);
    }
    taken
}

/// The other pods of no lower priority that a node is being emptied for.
pub(crate) fn awaited<'a>(
    snapshot: &'a Snapshot,
    slot: Slot,
    key: &'a str,
    shape: &'a Shape,
) -> impl Iterator<Item = &'a Arc<Shape>> {
    let others = snapshot.nominated_at(slot).iter();
    others.filter(move |(other, its)| **other != *key && its.priority >= shape.priority).map(|(_, its)| its)
}

/// Chooses the node for `pod`, without memory of earlier decisions.
pub fn decide(snapshot: &Snapshot, pod: &PodFacts) -> Decision {
    Decider::default().decide(snapshot, pod)
}

/// Decides, and remembers what pods that are alike have in common. What it remembers changes no decision.
#[derive(Debug, Default)]
pub struct Decider {
    classes: HashMap<Arc<Shape>, Class>,
    used: u64,
    fitting: Vec<(Slot, i64)>,
}

impl Decider {
    /// Chooses the node for `pod`.
    pub fn decide(&mut self, snapshot: &Snapshot, pod: &PodFacts) -> Decision {
        self.decide_with(snapshot, pod, true)
    }

    /// The same, but nobody is sent away for it, and nothing is said of that.
    pub(crate) fn fit(&mut self, snapshot: &Snapshot, pod: &PodFacts) -> Decision {
        self.decide_with(snapshot, pod, false)
    }

    fn decide_with(&mut self, snapshot: &Snapshot, pod: &PodFacts, sends_away: bool) -> Decision {
        let shape = &pod.shape;
        let mut error = FitError { nodes: snapshot.count(), ..FitError::default() };
        if !shape.load.devices.is_empty() {
            snapshot.devices.begin_decision();
        }
        if shape.load.has_claims()
            && let Some(refusal) = snapshot.volumes.refusal(pod).or_else(|| snapshot.devices.refusal(pod))
        {
            error.refusal = Some(refusal);
            if !sends_away {
                return Decision::Unfit(error);
            }
            let class = Class::new(shape);
            return preempt::instead(&View::new(snapshot, pod, &class), error, &mut Memo::default());
        }
        // Who may go to one node only is like nobody else, and needs no pass, unless it counts what other nodes have.
        let is_spread = shape.terms.as_ref().is_some_and(|terms| !terms.hard.is_empty());
        if let Some(only) = shape.only.as_deref().filter(|_| !is_spread).and_then(|name| snapshot.slot(name)) {
            let mut class = Class::new(shape);
            return self.decide_in(snapshot, pod, &mut class, Some(only), error, sends_away);
        }
        self.used += 1;
        let mut class = self.classes.remove(shape).unwrap_or_else(|| Class::new(shape));
        class.used = self.used;
        class.follow(snapshot);
        let decision = self.decide_in(snapshot, pod, &mut class, None, error, sends_away);
        // Claims are a pod's own: nobody else will be like it.
        if !shape.load.has_claims() {
            if self.classes.len() >= MAX_CLASSES
                && let Some(oldest) = self.classes.values().min_by_key(|class| class.used)
            {
                let oldest = Arc::clone(oldest.shape());
                self.classes.remove(&oldest);
            }
            self.classes.insert(Arc::clone(shape), class);
        }
        decision
    }

    fn decide_in(
        &mut self,
        snapshot: &Snapshot,
        pod: &PodFacts,
        class: &mut Class,
        only: Option<Slot>,
        mut error: FitError,
        sends_away: bool,
    ) -> Decision {
        let now = (snapshot.now(), snapshot.version);
        if sends_away
            && View::new(snapshot, pod, class).is_shared()
            && let Some((then, known)) = &class.unfit
            && *then == now
        {
            return Decision::Unfit(known.clone());
        }
        let view = View { snapshot, pod, class, only };
        let is_shared = view.is_shared();
        let chosen = view.choose(&mut self.fitting);
        if let Some(node) = chosen.and_then(|slot| snapshot.at(slot)) {
            let work = snapshot.preparations(node, pod).unwrap_or_default();
            return match work.is_empty() {
                true => Decision::Bind(node.name.clone()),
                false => Decision::Prepare(node.name.clone(), work),
            };
        }
        let mut memo = std::mem::take(&mut class.memo);
        let view = View { snapshot, pod, class, only };
        error.reasons = view.reasons(&mut memo);
        let decision = match sends_away {
            true => preempt::instead(&view, error, &mut memo),
            false => Decision::Unfit(error),
        };
        class.memo = memo;
        if is_shared
            && sends_away
            && let Decision::Unfit(error) = &decision
        {
            class.unfit = Some((now, error.clone()));
        }
        decision
    }
}

/// One decision: the pod, what is known, and the pass of its class.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) pod: &'a PodFacts,
    pub(crate) class: &'a Class,
    /// The one node that comes into question, if only one does.
    pub(crate) only: Option<Slot>,
}

impl<'a> View<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, pod: &'a PodFacts, class: &'a Class) -> Self {
        Self { snapshot, pod, class, only: None }
    }

    /// Whether a node takes the pod as things are.
    fn fits(&self, relations: Option<&mut Relations<'a>>, slot: Slot) -> bool {
        let (snapshot, shape) = (self.snapshot, &self.pod.shape);
        let fits = |node| filter::fits(node, &taken(snapshot, slot, node, &self.pod.key, shape), shape);
        snapshot.at(slot).is_some_and(fits) && self.obstacle(relations, slot).is_none()
    }

    /// What other pods mean for this one.
    pub(crate) fn relations(&self) -> Option<Relations<'a>> {
        let is_awaited = self.snapshot.awaits_anti();
        let matters = self.pod.shape.terms.is_some() || self.snapshot.counts.holds_any() || is_awaited;
        let known = || Relations::new(self.snapshot, &self.pod.shape, self.class);
        // A pod that a node is being emptied for may want to be without this one.
        matters.then(known).filter(|relations| relations.is_some() || is_awaited)
    }

    /// Whether all of its class are in the same case: no claims of its own, and no node is being emptied for it.
    pub(crate) fn is_shared(&self) -> bool {
        !self.pod.shape.load.has_claims() && self.snapshot.nomination(&self.pod.key).is_none()
    }

    fn choose(&self, fitting: &mut Vec<(Slot, i64)>) -> Option<Slot> {
        let (snapshot, shape) = (self.snapshot, &self.pod.shape);
        let has_claims = shape.load.has_claims();
        if has_claims && !snapshot.claim_holders(self.pod).is_empty() {
            return None;
        }
        let mut relations = self.relations();
        if let Some(slot) = self.only {
            return self.fits(relations.as_mut(), slot).then_some(slot);
        }
        // The node that was emptied for it comes first, so that nobody left in vain.
        if let Some(slot) = snapshot.nomination(&self.pod.key)
            && self.fits(relations.as_mut(), slot)
        {
            return Some(slot);
        }
        let is_ranked = shape.terms.is_some() || snapshot.counts.holds_any();
        if self.class.is_plain() && relations.is_none() && !is_ranked && !has_claims {
            return self.class.best();
        }
        fitting.clear();
        let mut most = Wishes::default();
        for slot in 0..snapshot.slots() {
            let Some(score) = self.class.score(slot) else { continue };
            if (relations.is_some() || has_claims) && self.obstacle(relations.as_mut(), slot).is_some() {
                continue;
            }
            let wishes = self.class.wishes(slot);
            most.preferred = most.preferred.max(wishes.preferred);
            most.disliked = most.disliked.max(wishes.disliked);
            fitting.push((slot, score));
        }
        if most != Wishes::default() {
            for (slot, score) in &mut *fitting {
                *score += score::weighted(self.class.wishes(*slot), most, &shape.profile.weights);
            }
        }
        if is_ranked {
            relation::rank(snapshot, shape, self.class, fitting);
        }
        fitting.iter().max_by_key(|(slot, score)| (*score, Reverse(*slot))).map(|(slot, _)| *slot)
    }

    /// What of other pods and of volumes keeps the pod from a node that has room.
    pub(crate) fn obstacle(&self, relations: Option<&mut Relations<'a>>, slot: Slot) -> Option<Reason> {
        if self.pod.shape.load.has_claims()
            && let Some(node) = self.snapshot.at(slot)
        {
            if self.snapshot.has_too_many_volumes(slot, self.pod) {
                return Some(Reason::TooManyVolumes);
            }
            if let Err(reason) = self.snapshot.preparations(node, self.pod) {
                return Some(reason);
            }
        }
        let relations = relations?;
        if let Some(reason) = relations.obstacle(slot) {
            return Some(reason);
        }
        // Once more with those that the node is being emptied for, as if they were there.
        let (snapshot, shape) = (self.snapshot, &self.pod.shape);
        if snapshot.nominated_at(slot).is_empty() {
            return None;
        }
        let imagine = |relations: &mut Relations<'a>, change| {
            for other in awaited(snapshot, slot, &self.pod.key, shape) {
                relations.imagine(snapshot, slot, other, false, change);
            }
        };
        imagine(relations, 1);
        let reason = relations.obstacle(slot);
        imagine(relations, -1);
        reason
    }

    /// How many nodes have each reason not to take the pod.
    fn reasons(&self, memo: &mut Memo) -> BTreeMap<Reason, usize> {
        let mut relations = self.relations();
        if relations.is_none() && self.is_shared() && self.only.is_none() {
            return memo.reasons(|slot, tally| {
                if let Some(node) = self.snapshot.at(slot) {
                    filter::tell(node, &taken(self.snapshot, slot, node, "", &self.pod.shape), &self.pod.shape, tally);
                }
            });
        }
        let mut tally = Tally::default();
        let is_taken = !self.snapshot.claim_holders(self.pod).is_empty();
        let rest = if self.only.is_some() { self.snapshot.count() - 1 } else { 0 };
        tally.add_many(Reason::Affinity, rest);
        for (slot, node) in self.snapshot.nodes().filter(|(slot, _)| self.only.is_none_or(|only| only == *slot)) {
            let taken = taken(self.snapshot, slot, node, &self.pod.key, &self.pod.shape);
            if filter::tell(node, &taken, &self.pod.shape, &mut tally) {
                if is_taken {
                    tally.add(Reason::OnePodClaim);
                } else if let Some(reason) = self.obstacle(relations.as_mut(), slot) {
                    tally.add(reason);
                }
            }
        }
        tally.into_counts()
    }
}
