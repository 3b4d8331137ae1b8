//! What a StatefulSet needs: pure. One look decides a few writes; what they bring about wakes the next look.
use super::identity::{missing_labels, ordinal};
use crate::pod::{Phase, PodFacts};
use crate::share::{self, Rounding};
use api::well_known::LABEL_CONTROLLER_REVISION_HASH;
use k8s_openapi::api::apps::v1::StatefulSet;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Pods made in one look at most.
const BURST: usize = 500;

/// What a look sees.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) set: &'a StatefulSet,
    /// The set's own pods.
    pub(super) pods: &'a [Arc<PodFacts>],
    /// The name of the revision that pods had before the update.
    pub(super) current: &'a str,
    /// The name of the revision that pods are to have.
    pub(super) update: &'a str,
    /// Whether a claim of the pod with this ordinal has to go before the pod can come.
    pub(super) awaits_claims: &'a (dyn Fn(i32) -> bool + Sync),
    /// Whether a claim of the pod with this ordinal is missing.
    pub(super) lacks_claims: &'a (dyn Fn(i32) -> bool + Sync),
    pub(super) now: jiff::Timestamp,
}

/// Which template a pod is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    Current,
    Update,
}

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It ended; another one takes its place.
    Ended,
    /// The set has fewer pods now.
    Scaled,
    /// The set has another template now.
    Updated,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Pods to make.
    pub(super) create: Vec<(i32, Template)>,
    /// Ordinals of pods that wait for claims which are missing.
    pub(super) claims: Vec<i32>,
    /// Pods that lost labels of their identity.
    pub(super) relabel: Vec<(Arc<PodFacts>, i32)>,
    /// Pods to delete.
    pub(super) delete: Vec<(Arc<PodFacts>, Cause)>,
}

/// Whether pods come and go one by one.
pub(super) fn is_ordered(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() != Some("Parallel")
}

/// The ordinals that the set is to have.
pub(super) fn ordinals(set: &StatefulSet) -> Range<i32> {
    let start = set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default().max(0);
    start..start.saturating_add(set.spec.replicas.unwrap_or(1).max(0))
}

/// The revision that a pod was made from.
pub(super) fn revision_of(pod: &PodFacts) -> &str {
    pod.label(LABEL_CONTROLLER_REVISION_HASH).unwrap_or_default()
}

/// Running and ready.
pub(super) fn is_ready(pod: &PodFacts) -> bool {
    pod.phase == Phase::Running && pod.ready_since.is_some()
}

impl Scene<'_> {
    /// Running, ready for long enough, and not on its way out.
    pub(super) fn is_available(&self, pod: &PodFacts) -> bool {
        let seconds = self.set.spec.min_ready_seconds.unwrap_or_default();
        is_ready(pod) && !pod.is_deleting && pod.availability(seconds, self.now).is_ok()
    }

    fn rolling(&self) -> Option<(i32, i32)> {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let total = self.set.spec.replicas.unwrap_or(1);
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most = most.map_or(1, |most| share::of(most, total, Rounding::Down));
        Some((rolling.and_then(|rolling| rolling.partition).unwrap_or_default(), most.max(1)))
    }

    /// A pod that is made now below the partition gets the template that the others there have.
    fn template(&self, ordinal: i32) -> Template {
        let index = ordinal.saturating_sub(ordinals(self.set).start);
        match self.rolling() {
            Some((partition, _)) if index < partition => Template::Current,
            Some(_) | None => Template::Update,
        }
    }
}

/// Decides.
pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let mut plan = Plan::default();
    if scene.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let range = ordinals(scene.set);
    let by_ordinal = scene.pods.iter().filter_map(|pod| Some((ordinal(scene.set, pod.name())?, pod)));
    let (replicas, condemned): (BTreeMap<_, _>, BTreeMap<_, _>) = by_ordinal.partition(|(own, _)| range.contains(own));
    if settle_replicas(scene, &replicas, &mut plan) == Pace::Waits {
        return plan;
    }
    if scale_down(scene, &replicas, &condemned, &mut plan) == Pace::Waits {
        return plan;
    }
    update(scene, &replicas, &mut plan);
    plan
}

type ByOrdinal<'a> = BTreeMap<i32, &'a Arc<PodFacts>>;

/// Whether a look may go on to what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    GoesOn,
    Waits,
}

/// Every ordinal has its pod, one after the other where order is kept.
fn settle_replicas(scene: &Scene<'_>, replicas: &ByOrdinal<'_>, plan: &mut Plan) -> Pace {
    let is_ordered = is_ordered(scene.set);
    for ordinal in ordinals(scene.set) {
        let Some(pod) = replicas.get(&ordinal) else {
            if !(scene.awaits_claims)(ordinal) {
                plan.create.push((ordinal, scene.template(ordinal)));
            }
            if is_ordered || plan.create.len() >= BURST {
                return Pace::Waits;
            }
            continue;
        };
        if pod.phase == Phase::Ended {
            if !pod.is_deleting {
                plan.delete.push((Arc::clone(pod), Cause::Ended));
            }
            match is_ordered {
                true => return Pace::Waits,
                false => continue,
            }
        }
        if pod.phase == Phase::Pending && !pod.is_deleting && (scene.lacks_claims)(ordinal) {
            plan.claims.push(ordinal);
        }
        if is_ordered && !scene.is_available(pod) {
            return Pace::Waits;
        }
        if !pod.is_deleting && !missing_labels(scene.set, pod, ordinal).is_empty() {
            plan.relabel.push((Arc::clone(pod), ordinal));
        }
    }
    Pace::GoesOn
}

/// Pods beyond what is asked for go, the highest ordinal first.
fn scale_down(scene: &Scene<'_>, replicas: &ByOrdinal<'_>, condemned: &ByOrdinal<'_>, plan: &mut Plan) -> Pace {
    if !is_ordered(scene.set) {
        let going = condemned.values().rev().filter(|pod| !pod.is_deleting);
        plan.delete.extend(going.map(|pod| (Arc::clone(pod), Cause::Scaled)));
        return Pace::GoesOn;
    }
    let Some((highest, pod)) = condemned.last_key_value() else { return Pace::GoesOn };
    // One that is not available holds the others up, unless it is the lowest such pod: then nothing is behind it.
    let mut all = replicas.iter().chain(condemned);
    let lowest_unavailable = all.find(|(_, pod)| !scene.is_available(pod)).map(|(ordinal, _)| ordinal);
    if !pod.is_deleting && (scene.is_available(pod) || lowest_unavailable == Some(highest)) {
        plan.delete.push((Arc::clone(pod), Cause::Scaled));
    }
    Pace::Waits
}

/// Pods of other templates go, the highest ordinal first, so many at once as may be unavailable.
fn update(scene: &Scene<'_>, replicas: &ByOrdinal<'_>, plan: &mut Plan) {
    let Some((partition, most)) = scene.rolling() else { return };
    let range = ordinals(scene.set);
    let available = replicas.values().filter(|pod| scene.is_available(pod)).count();
    let unavailable = range.len().saturating_sub(available);
    let mut left = usize::try_from(most).unwrap_or(0).saturating_sub(unavailable);
    let first = range.start.saturating_add(partition);
    if first >= range.end {
        return;
    }
    for pod in replicas.range(first..range.end).rev().map(|(_, pod)| pod) {
        if revision_of(pod) == scene.update || pod.is_deleting || pod.phase == Phase::Ended {
            continue;
        }
        // Nobody misses a pod that is not available: replacing it costs nothing.
        if scene.is_available(pod) {
            if left == 0 {
                continue;
            }
            left -= 1;
        }
        plan.delete.push((Arc::clone(pod), Cause::Updated));
    }
}
