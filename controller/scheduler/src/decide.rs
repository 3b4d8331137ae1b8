//! The decision: pure, deterministic, and never more than a node has.
use crate::filter::{self, Reason};
use crate::node::{NodeFacts, Taken};
use crate::pod::PodFacts;
use crate::preempt::{self, Preemption};
use crate::score::score;
use crate::snapshot::{Slot, Snapshot};
use crate::volumes::Preparation;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

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
pub(crate) fn taken<'a>(snapshot: &'a Snapshot, slot: Slot, node: &'a NodeFacts, pod: &PodFacts) -> Cow<'a, Taken> {
    let mut taken = Cow::Borrowed(&node.taken);
    for (key, shape) in snapshot.nominated_at(slot) {
        if *key != pod.key && shape.priority >= pod.shape.priority {
            taken.to_mut().add(&shape.load);
        }
    }
    taken
}

/// Chooses the node for `pod`.
pub fn decide(snapshot: &Snapshot, pod: &PodFacts) -> Decision {
    let mut error = FitError { nodes: snapshot.count(), ..FitError::default() };
    let has_claims = !pod.shape.load.claims.is_empty();
    if has_claims && let Some(refusal) = snapshot.volumes.refusal(pod) {
        error.refusal = Some(refusal);
        return preempt::instead(snapshot, pod, error);
    }
    if !(has_claims && snapshot.is_claim_taken(pod)) {
        // The node that was emptied for it comes first, so that nobody left in vain.
        let nominated = snapshot.nomination(&pod.key).filter(|slot| fits(snapshot, *slot, pod));
        if let Some(slot) = nominated.or_else(|| best(snapshot, pod))
            && let Some(node) = snapshot.at(slot)
        {
            let work = if has_claims { snapshot.volumes.on(node, pod).unwrap_or_default() } else { Vec::new() };
            return match work.is_empty() {
                true => Decision::Bind(node.name.clone()),
                false => Decision::Prepare(node.name.clone(), work),
            };
        }
    }
    for (slot, _) in snapshot.nodes() {
        for reason in reasons(snapshot, slot, pod) {
            *error.reasons.entry(reason).or_default() += 1;
        }
    }
    preempt::instead(snapshot, pod, error)
}

/// Whether a node takes the pod as things are.
fn fits(snapshot: &Snapshot, slot: Slot, pod: &PodFacts) -> bool {
    snapshot.at(slot).is_some_and(|node| {
        filter::fits(node, &taken(snapshot, slot, node, pod), &pod.shape)
            && (pod.shape.load.claims.is_empty() || snapshot.volumes.on(node, pod).is_ok())
    })
}

fn best(snapshot: &Snapshot, pod: &PodFacts) -> Option<Slot> {
    let fitting = snapshot.nodes().filter(|(slot, _)| fits(snapshot, *slot, pod));
    fitting
        .map(|(slot, node)| (score(node, &node.taken, &pod.shape), Reverse(slot)))
        .max()
        .map(|(_, Reverse(slot))| slot)
}

/// Why a node does not take the pod, whatever its claims need.
pub(crate) fn reasons(snapshot: &Snapshot, slot: Slot, pod: &PodFacts) -> Vec<Reason> {
    let Some(node) = snapshot.at(slot) else { return Vec::new() };
    let mut reasons = filter::reasons(node, &taken(snapshot, slot, node, pod), &pod.shape);
    if !pod.shape.load.claims.is_empty() {
        if snapshot.is_claim_taken(pod) {
            reasons.push(Reason::OnePodClaim);
        } else if reasons.is_empty() {
            reasons.extend(snapshot.volumes.on(node, pod).err());
        }
    }
    reasons
}
