//! What a DaemonSet needs: pure. First every node gets what belongs to it; only then pods are replaced by newer ones.
use super::place::{Demands, Fitness};
use super::rollout::{self, Bounds};
use crate::node::NodeFacts;
use crate::pod::{Phase, PodFacts};
use api::well_known::LABEL_CONTROLLER_REVISION_HASH;
use k8s_openapi::api::apps::v1::DaemonSet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pods made, and pods deleted, in one look at most.
const BURST: usize = 250;

/// What a look sees.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<NodeFacts>],
    /// The set's own pods.
    pub(super) pods: &'a [Arc<PodFacts>],
    /// The hashes of the revisions that keep the set's template.
    pub(super) hashes: &'a [&'a str],
    /// How long a failed pod on this node still has to wait for its replacement.
    pub(super) wait: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub(super) now: jiff::Timestamp,
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It ended; another one takes its place.
    Ended,
    /// It does not belong where it is.
    Misplaced,
    /// The set has another template now.
    Updated,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<Box<str>>,
    /// Pods to delete.
    pub(super) delete: Vec<(Arc<PodFacts>, Cause)>,
    /// When to look again though nothing changes.
    pub(super) next: Option<Duration>,
}

impl Plan {
    fn delete(&mut self, pod: &Arc<PodFacts>, cause: Cause) {
        self.delete.push((Arc::clone(pod), cause));
    }
}

/// One node, what it is to the set, and the set's pods there.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) fitness: Fitness,
    /// The oldest first.
    pub(super) pods: Vec<&'a Arc<PodFacts>>,
}

impl Scene<'_> {
    /// Made from the template that the set has now.
    pub(super) fn is_updated(&self, pod: &PodFacts) -> bool {
        pod.label(LABEL_CONTROLLER_REVISION_HASH).is_some_and(|hash| self.hashes.contains(&hash))
    }

    /// Ready for long enough.
    pub(super) fn is_available(&self, pod: &PodFacts) -> bool {
        pod.availability(self.set.spec.min_ready_seconds.unwrap_or_default(), self.now).is_ok()
    }
}

/// Every node with its pods.
pub(super) fn places<'a>(scene: &Scene<'a>) -> Vec<Place<'a>> {
    let mut by_node: BTreeMap<&str, Vec<&Arc<PodFacts>>> = BTreeMap::new();
    for pod in scene.pods {
        if let Some(node) = pod.place() {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let demands = Demands::new(scene.set);
    let place = |node: &'a Arc<NodeFacts>| {
        let mut pods = by_node.remove(&**node.name()).unwrap_or_default();
        // Among those of one second the one that is further.
        pods.sort_by_key(|pod| (pod.created, Reverse(pod.phase == Phase::Running), pod.name().to_owned()));
        Place { name: node.name(), fitness: demands.fitness(node), pods }
    };
    scene.nodes.iter().map(place).collect()
}

/// Decides.
pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let mut plan = Plan::default();
    if scene.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let places = places(scene);
    let bounds = Bounds::of(scene.set, &places);
    for place in &places {
        match place.fitness {
            Fitness::Unfit => {
                for pod in place.pods.iter().filter(|pod| !pod.is_deleting) {
                    plan.delete(pod, Cause::Misplaced);
                }
            }
            Fitness::Wanted if place.pods.is_empty() => plan.create.push(place.name.into()),
            Fitness::Wanted | Fitness::Kept => tidy(scene, place, bounds, &mut plan),
        }
    }
    // Not bound yet, and meant for a node that is gone. What is bound to one is somebody else's to clear away.
    let is_lost = |pod: &PodFacts| {
        let meant = pod.meant_for.as_deref();
        pod.node.is_none() && meant.is_some_and(|meant| !places.iter().any(|place| place.name == meant))
    };
    for pod in scene.pods.iter().filter(|pod| !pod.is_deleting && is_lost(pod)) {
        plan.delete(pod, Cause::Misplaced);
    }
    if plan.create.is_empty() && plan.delete.is_empty() {
        rollout::roll(scene, &places, bounds, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// One pod stays on a node that may have one; what ended makes room.
fn tidy(scene: &Scene<'_>, place: &Place<'_>, bounds: Bounds, plan: &mut Plan) {
    let mut running = Vec::new();
    for pod in place.pods.iter().filter(|pod| !pod.is_deleting) {
        if pod.phase != Phase::Ended {
            running.push(*pod);
            continue;
        }
        match (scene.wait)(place.name).filter(|_| pod.has_failed) {
            Some(wait) => plan.next = Some(plan.next.map_or(wait, |next| next.min(wait))),
            None => plan.delete(pod, Cause::Ended),
        }
    }
    if running.len() <= 1 {
        return;
    }
    if !bounds.may_surge() {
        for pod in running.into_iter().skip(1) {
            plan.delete(pod, Cause::Misplaced);
        }
        return;
    }
    // An old and a new one may be there together, until the new one is available or the old one is not ready.
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| scene.is_updated(pod));
    for pod in new.iter().skip(1).chain(old.iter().skip(1)) {
        plan.delete(pod, Cause::Misplaced);
    }
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (old.ready_since.is_none() || scene.is_available(new))
    {
        plan.delete(old, Cause::Updated);
    }
}
