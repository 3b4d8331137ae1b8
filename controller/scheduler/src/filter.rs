//! Whether a node takes a pod; one file per question, in the order in which Kubernetes asks them.
mod affinity;
mod ports;
mod resources;
mod taint;

use crate::class::Standing;
use crate::node::{NodeFacts, Taken};
use crate::pod::Shape;
use crate::profile::Filter;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Why a node does not take a pod. Displays as the words that Kubernetes uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The driver that would make a claim's volume has no room for it where the node reaches it.
    NoStorage,
    /// The node has as many volumes of a driver as it takes.
    TooManyVolumes,
    /// A claim has devices that are reached from other nodes only.
    ClaimElsewhere,
    /// No devices are left that meet the pod's claims.
    CannotAllocate,
    /// What a claim asks for cannot be understood.
    ClaimUnclear(Arc<str>),
    /// Finding devices would take too long.
    SearchGivenUp,
    /// Spreading: its place is too full already.
    Spread,
    /// Spreading: the node lacks the label.
    SpreadLabel,
    /// No pod of those that it has to be with is in its place.
    PodAffinity,
    /// A pod that it must not be with is in its place.
    PodAntiAffinity,
    /// A pod in its place must not be with it.
    ExistingAntiAffinity,
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
            Self::NoStorage => "node(s) did not have enough free storage",
            Self::TooManyVolumes => "node(s) exceed max volume count",
            Self::ClaimElsewhere => "resourceclaim not available on the node",
            Self::CannotAllocate => "cannot allocate all claims",
            Self::ClaimUnclear(why) => why,
            Self::SearchGivenUp => "cannot allocate all claims (the search took too many steps and was given up)",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::NoVictims => "No preemption victims found for incoming pod",
            Self::NotHelpful => "Preemption is not helpful for scheduling",
        })
    }
}

/// How many nodes gave each reason; a reason that is there already costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Vec<(Reason, usize)>);

impl Tally {
    /// So many nodes have this reason.
    pub(crate) fn add_many(&mut self, reason: Reason, count: usize) {
        if count > 0 {
            self.0.push((reason, count));
        }
    }

    pub(crate) fn add(&mut self, reason: Reason) {
        self.count(|other| *other == reason, || reason.clone());
    }

    fn count(&mut self, is_same: impl Fn(&Reason) -> bool, make: impl FnOnce() -> Reason) {
        match self.0.iter_mut().find(|(other, _)| is_same(other)) {
            Some((_, count)) => *count += 1,
            None => self.0.push((make(), 1)),
        }
    }

    fn insufficient(&mut self, resource: &str) {
        let is_same = |other: &Reason| matches!(other, Reason::Insufficient(name) if **name == *resource);
        self.count(is_same, || Reason::Insufficient(resource.into()));
    }

    pub(crate) fn into_counts(self) -> BTreeMap<Reason, usize> {
        let mut counts = BTreeMap::new();
        for (reason, count) in self.0 {
            *counts.entry(reason).or_default() += count;
        }
        counts
    }
}

/// Whether `node`, of which so much is taken, takes the pod, as far as other nodes do not matter.
pub(crate) fn fits(node: &NodeFacts, taken: &Taken, pod: &Shape) -> bool {
    has_room(node, taken, pod) && standing(node, pod).is_open
}

/// What of the node itself, whoever is on it, matters to the pod.
pub(crate) fn standing(node: &NodeFacts, pod: &Shape) -> Standing {
    let skips = |filter| pod.profile.skips(filter);
    let is_affine = skips(Filter::Affinity) || !affinity::mismatch(node, pod);
    let is_tolerated = skips(Filter::Taints) || taint::untolerated(node, pod).is_none();
    let is_open = is_affine && is_tolerated && (skips(Filter::Unschedulable) || !taint::is_closed(node, pod));
    Standing { is_there: true, is_affine, is_tolerated, is_open }
}

/// Whether there is room and ports for the pod.
pub(crate) fn has_room(node: &NodeFacts, taken: &Taken, pod: &Shape) -> bool {
    resources::fit(node, taken, pod) && (pod.profile.skips(Filter::Ports) || !ports::conflict(taken, pod))
}

/// Tells why the node does not take the pod, and whether it does. The first question with a "no" answers for the node.
pub(crate) fn tell(node: &NodeFacts, taken: &Taken, pod: &Shape, tally: &mut Tally) -> bool {
    let asks = |filter| !pod.profile.skips(filter);
    if asks(Filter::Unschedulable) && taint::is_closed(node, pod) {
        tally.add(Reason::Unschedulable);
    } else if asks(Filter::Taints)
        && let Some(taint) = taint::untolerated(node, pod)
    {
        let (own, value) = (taint.key.as_str(), taint.value.as_deref().unwrap_or_default());
        let is_same =
            |other: &Reason| matches!(other, Reason::Taint { key, value: its } if **key == *own && **its == *value);
        tally.count(is_same, || Reason::Taint { key: own.into(), value: value.into() });
    } else if asks(Filter::Affinity) && affinity::mismatch(node, pod) {
        tally.add(Reason::Affinity);
    } else {
        return tell_room(node, taken, pod, tally);
    }
    false
}

/// Tells why there is no room for the pod, and whether there is.
pub(crate) fn tell_room(node: &NodeFacts, taken: &Taken, pod: &Shape, tally: &mut Tally) -> bool {
    if !pod.profile.skips(Filter::Ports) && ports::conflict(taken, pod) {
        tally.add(Reason::Ports);
        return false;
    }
    if pod.profile.skips(Filter::Resources) {
        return true;
    }
    let is_full = taken.pod_count >= node.max_pods;
    if is_full {
        tally.add(Reason::TooManyPods);
    }
    let mut is_enough = !is_full;
    resources::missing(node, taken, pod, |resource| {
        is_enough = false;
        tally.insufficient(resource);
    });
    is_enough
}

/// Whether even the empty node has too little for the pod.
pub(crate) fn is_too_small(node: &NodeFacts, pod: &Shape) -> bool {
    !resources::fit(node, &Taken::default(), pod)
}
