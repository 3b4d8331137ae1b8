//! The next step from old pods to new ones: pure.
use super::place::Fitness;
use super::plan::{Cause, Place, Plan, Scene};
use crate::pod::PodFacts;
use crate::share::{self, Rounding};
use k8s_openapi::api::apps::v1::DaemonSet;
use std::sync::Arc;

/// What a rolling update may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// Pods are replaced when somebody deletes them.
    OnDelete,
    /// On so many nodes the pod may be missing.
    Unavailable(usize),
    /// On so many nodes a new pod may come before the old one goes.
    Surge(usize),
}

impl Bounds {
    /// Those of a set. Never zero, or nothing could move.
    pub(super) fn of(set: &DaemonSet, places: &[Place<'_>]) -> Self {
        let strategy = set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return Self::OnDelete;
        }
        let wanted = places.iter().filter(|place| place.fitness == Fitness::Wanted).count();
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let count = |value: Option<i32>, or: i32| usize::try_from(value.unwrap_or(or)).unwrap_or(0);
        let of = |value| share::of(value, wanted, Rounding::Up);
        let surge = count(rolling.and_then(|rolling| rolling.max_surge.as_ref()).map(of), 0);
        let unavailable = count(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).map(of), 1);
        match surge {
            0 => Self::Unavailable(unavailable.max(1)),
            surge => Self::Surge(surge),
        }
    }

    /// Whether an old and a new pod may be on one node together.
    pub(super) fn may_surge(self) -> bool {
        matches!(self, Self::Surge(_))
    }
}

/// The pods of a node that count: not on their way out.
struct Pair<'a> {
    old: Option<&'a Arc<PodFacts>>,
    new: Option<&'a Arc<PodFacts>>,
}

/// `None` where the node has more than one of a kind: that is put right first.
fn pair<'a>(scene: &Scene<'_>, place: &Place<'a>) -> Option<Pair<'a>> {
    let staying = place.pods.iter().copied().filter(|pod| !pod.is_deleting);
    let (new, old): (Vec<_>, Vec<_>) = staying.partition(|pod| scene.is_updated(pod));
    (new.len() <= 1 && old.len() <= 1).then(|| Pair { old: old.first().copied(), new: new.first().copied() })
}

/// Decides on the next pods to replace.
pub(super) fn roll(scene: &Scene<'_>, places: &[Place<'_>], bounds: Bounds, plan: &mut Plan) {
    match bounds {
        Bounds::OnDelete => {}
        Bounds::Unavailable(most) => replace(scene, places, most, plan),
        Bounds::Surge(most) => surge(scene, places, most, plan),
    }
}

/// Old pods go as far as availability allows; those that are not available cost nothing. Where no new pod would come, the
/// old one stays.
fn replace(scene: &Scene<'_>, places: &[Place<'_>], most: usize, plan: &mut Plan) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for place in places.iter().filter(|place| place.fitness == Fitness::Wanted) {
        match pair(scene, place) {
            Some(Pair { old: Some(old), new: None }) if scene.is_available(old) => candidates.push(old),
            Some(Pair { old: Some(old), new: None }) => {
                unavailable += 1;
                plan.delete.push((Arc::clone(old), Cause::Updated));
            }
            Some(Pair { old: None, new: Some(new) }) if scene.is_available(new) => {}
            Some(_) | None => unavailable += 1,
        }
    }
    let may_go = most.saturating_sub(unavailable);
    plan.delete.extend(candidates.into_iter().take(may_go).map(|pod| (Arc::clone(pod), Cause::Updated)));
}

/// New pods come beside old ones, and those go once the new ones are available.
fn surge(scene: &Scene<'_>, places: &[Place<'_>], most: usize, plan: &mut Plan) {
    let mut surging = 0;
    let mut candidates = Vec::new();
    for place in places.iter().filter(|place| place.fitness == Fitness::Wanted) {
        match pair(scene, place) {
            // What is on its way out has its successor at once, and so has what is not available: nobody misses it.
            Some(Pair { old: None, new: None }) => plan.create.push(place.name.into()),
            Some(Pair { old: Some(old), new: None }) if scene.is_available(old) => candidates.push(place.name),
            Some(Pair { old: Some(_), new: None }) => plan.create.push(place.name.into()),
            Some(Pair { old: Some(old), new: Some(new) }) if scene.is_available(new) => {
                plan.delete.push((Arc::clone(old), Cause::Updated));
            }
            Some(Pair { old: Some(_), new: Some(_) }) => surging += 1,
            Some(Pair { old: None, new: Some(_) }) | None => {}
        }
    }
    plan.create.extend(candidates.into_iter().take(most.saturating_sub(surging)).map(Into::into));
}
