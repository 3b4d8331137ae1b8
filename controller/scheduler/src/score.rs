//! Which of the nodes that fit is best: preferred, and with the pod's images; what its resources are worth says the profile.
use crate::node::NodeFacts;
use crate::pod::Shape;
use crate::profile::{FULL, Weights};

/// Bytes of images below which they do not count, and above which more do not count (Kubernetes' figures).
const SMALL_IMAGE: i64 = 23 * 1024 * 1024;
const LARGE_IMAGE: i64 = 1000 * 1024 * 1024;

/// What is compared among the nodes that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// The sum of the weights of the preferred terms that the node meets.
    pub(crate) preferred: i32,
    /// How many of its taints would rather not have the pod.
    pub(crate) disliked: i32,
}

/// The higher the better, as far as nodes are not compared with each other.
pub(crate) fn score(node: &NodeFacts, pod: &Shape, spread: &(usize, Vec<usize>)) -> i64 {
    pod.profile.resources_score(node, pod) + pod.profile.weights.images * images(node, pod, spread)
}

/// How much of its images the pod finds there. An image counts by the share of nodes that have it, so that one node
/// alone does not draw all pods.
fn images(node: &NodeFacts, pod: &Shape, (nodes, with): &(usize, Vec<usize>)) -> i64 {
    let share = |image: &str, count: usize| {
        let size = node.image(image)?;
        Some(i64::try_from(i128::from(size) * (count as i128) / (*nodes).max(1) as i128).unwrap_or(i64::MAX))
    };
    let found: i64 =
        pod.images.iter().zip(with).filter_map(|(image, count)| share(image, *count)).fold(0, i64::saturating_add);
    let containers = i64::try_from(pod.images.len()).unwrap_or(1).max(1);
    let most = LARGE_IMAGE.saturating_mul(containers);
    FULL * (found.clamp(SMALL_IMAGE, most) - SMALL_IMAGE) / (most - SMALL_IMAGE)
}

pub(crate) fn wishes(node: &NodeFacts, pod: &Shape) -> Wishes {
    let mut wishes = Wishes::default();
    let facts = api::affinity::NodeFacts { name: &node.name, labels: &node.labels };
    let mut preferred = 0;
    if pod.constraints.affinity.is_some() {
        preferred = api::affinity::preference(&pod.constraints, facts);
    }
    let added = pod.profile.added_affinity.iter();
    for term in added.flat_map(|added| added.preferred_during_scheduling_ignored_during_execution.iter().flatten()) {
        preferred += i64::from(term.weight) * i64::from(api::affinity::term_matches(&term.preference, facts));
    }
    wishes.preferred = i32::try_from(preferred).unwrap_or(i32::MAX);
    for taint in node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule") {
        wishes.disliked += i32::from(!api::toleration::tolerated(pod.tolerations(), taint));
    }
    wishes
}

/// What wishes count, where these are the most of all nodes that fit.
pub(crate) fn weighted(wishes: Wishes, most: Wishes, weights: &Weights) -> i64 {
    let share = |of: i32, most: i32| if most > 0 { FULL * i64::from(of) / i64::from(most) } else { 0 };
    weights.preference * share(wishes.preferred, most.preferred)
        - weights.taints * share(wishes.disliked, most.disliked)
}
