//! The decision: pure, deterministic, and never more than a node has.
use crate::filter::{self, Reason};
use crate::score::score;
use crate::snapshot::{PodFacts, Snapshot};
use crate::volumes::Preparation;
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
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        if let Some(refusal) = &self.refusal {
            return write!(f, "0/{} nodes are available: {refusal}.", self.nodes);
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, parts.join(", "))
    }
}

/// Chooses the node for `pod`.
pub fn decide(snapshot: &Snapshot, pod: &PodFacts) -> Decision {
    let mut error = FitError { nodes: snapshot.nodes().len(), ..FitError::default() };
    let mut is_taken = false;
    if !pod.load.claims.is_empty() {
        error.refusal = snapshot.volumes.refusal(pod);
        if error.refusal.is_some() {
            return Decision::Unfit(error);
        }
        is_taken = snapshot.is_claim_taken(pod);
    }
    let mut best: Option<(i64, Reverse<&str>)> = None;
    for node in snapshot.nodes() {
        let mut reasons = filter::reasons(node, pod);
        if is_taken {
            reasons.push(Reason::OnePodClaim);
        } else if reasons.is_empty() && !pod.load.claims.is_empty() {
            reasons.extend(snapshot.volumes.on(node, pod).err());
        }
        if reasons.is_empty() {
            best = best.max(Some((score(node, pod), Reverse(&node.name))));
        } else if best.is_none() {
            for reason in reasons {
                *error.reasons.entry(reason).or_default() += 1;
            }
        }
    }
    match best {
        Some((_, Reverse(name))) => {
            let chosen = snapshot.node(name).filter(|_| !pod.load.claims.is_empty());
            match chosen.and_then(|node| snapshot.volumes.on(node, pod).ok()).filter(|work| !work.is_empty()) {
                Some(work) => Decision::Prepare(name.into(), work),
                None => Decision::Bind(name.into()),
            }
        }
        None => Decision::Unfit(error),
    }
}
