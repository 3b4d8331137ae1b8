//! Whether a node takes a pod; one file per question, in the order in which Kubernetes asks them.
mod affinity;
mod ports;
mod resources;
mod taint;

use crate::snapshot::{NodeFacts, PodFacts};
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
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::OnePodClaim => f.write_str(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ),
            Self::VolumeElsewhere => f.write_str("node(s) had volume node affinity conflict"),
            Self::VolumeGone => {
                f.write_str("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
            }
            Self::NoVolume => f.write_str("node(s) didn't find available persistent volumes to bind"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// Why `node` does not take `pod`; empty if it does. The first question with a "no" answers for the node.
pub(crate) fn reasons(node: &NodeFacts, pod: &PodFacts) -> Vec<Reason> {
    let first = taint::unschedulable(node, pod)
        .or_else(|| taint::untolerated(node, pod))
        .or_else(|| affinity::mismatch(node, pod))
        .or_else(|| ports::conflict(node, pod));
    match first {
        Some(reason) => vec![reason],
        None => resources::missing(node, pod),
    }
}
