//! Whether a node takes a pod; one file per question, in the order in which Kubernetes asks them.
mod affinity;
mod ports;
mod resources;
mod taint;

use crate::node::{NodeFacts, Taken};
use crate::pod::Shape;
use std::fmt;

/// Why a node does not take a pod. Displays as the words that Kubernetes uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Cordoned.
    Unschedulable,
    /// A taint that the pod does not tolerate.
    Taint {
        /// Its key.
        key: Box<str>,
        /// Its value.
        value: Box<str>,
    },
    /// Node selector or affinity.
    Affinity,
    /// A host port is taken.
    Ports,
    /// The node has as many pods as it takes.
    TooManyPods,
    /// Not enough of a resource is left.
    Insufficient(Box<str>),
    /// Another pod uses a claim that only one pod may use.
    OnePodClaim,
    /// A claim's volume is reached from other nodes only.
    VolumeElsewhere,
    /// A claim's volume is not there.
    VolumeGone,
    /// No volume is there for a claim, and none can be made.
    NoVolume,
    /// Nobody on the node has a lower priority.
    NoVictims,
    /// Whoever left the node, the pod would not fit.
    NotHelpful,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taint { key, value } => return write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::OnePodClaim => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Self::VolumeElsewhere => "node(s) had volume node affinity conflict",
            Self::VolumeGone => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Self::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Self::NoVictims => "No preemption victims found for incoming pod",
            Self::NotHelpful => "Preemption is not helpful for scheduling",
        })
    }
}

/// Whether `node`, of which so much is taken, takes the pod, as far as other nodes do not matter. Allocates nothing.
pub(crate) fn fits(node: &NodeFacts, taken: &Taken, pod: &Shape) -> bool {
    resources::fit(node, taken, pod) && is_open(node, pod) && !ports::conflict(taken, pod)
}

/// Whether room is all that the node could lack for the pod.
pub(crate) fn is_open(node: &NodeFacts, pod: &Shape) -> bool {
    !taint::is_closed(node, pod) && taint::untolerated(node, pod).is_none() && !affinity::mismatch(node, pod)
}

/// Whether there is room and ports for the pod.
pub(crate) fn has_room(node: &NodeFacts, taken: &Taken, pod: &Shape) -> bool {
    resources::fit(node, taken, pod) && !ports::conflict(taken, pod)
}

/// Why the node does not take the pod; empty if it does. The first question with a "no" answers for the node.
pub(crate) fn reasons(node: &NodeFacts, taken: &Taken, pod: &Shape) -> Vec<Reason> {
    if taint::is_closed(node, pod) {
        return vec![Reason::Unschedulable];
    }
    if let Some(taint) = taint::untolerated(node, pod) {
        let (key, value) = (taint.key.as_str().into(), taint.value.as_deref().unwrap_or_default().into());
        return vec![Reason::Taint { key, value }];
    }
    if affinity::mismatch(node, pod) {
        return vec![Reason::Affinity];
    }
    if ports::conflict(taken, pod) {
        return vec![Reason::Ports];
    }
    resources::missing(node, taken, pod)
}

/// Whether even the empty node has too little for the pod.
pub(crate) fn is_too_small(node: &NodeFacts, pod: &Shape) -> bool {
    !resources::fit(node, &Taken::default(), pod)
}
