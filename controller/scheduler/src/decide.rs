//! The decision: pure, deterministic, and never more than a node has.
use crate::filter::{self, Reason};
use crate::score::score;
use crate::snapshot::{PodFacts, Snapshot};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this node.
    Bind(Box<str>),
    /// No node takes it.
    Unfit(FitError),
}

/// Why no node takes a pod. Displays as Kubernetes says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them gave each reason.
    pub reasons: BTreeMap<Reason, usize>,
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, parts.join(", "))
    }
}

/// Chooses the node for `pod`.
pub fn decide(snapshot: &Snapshot, pod: &PodFacts) -> Decision {
    let mut error = FitError { nodes: snapshot.nodes().len(), ..FitError::default() };
    let mut best: Option<(i64, Reverse<&str>)> = None;
    for node in snapshot.nodes() {
        let reasons = filter::reasons(node, pod);
        if reasons.is_empty() {
            best = best.max(Some((score(node, pod), Reverse(&node.name))));
        } else if best.is_none() {
            for reason in reasons {
                *error.reasons.entry(reason).or_default() += 1;
            }
        }
    }
    match best {
        Some((_, Reverse(name))) => Decision::Bind(name.into()),
        None => Decision::Unfit(error),
    }
}
