//! Which of the nodes that fit is best: least taken, evenly taken, preferred.
use crate::node::NodeFacts;
use crate::pod::Shape;

/// Full marks of one question.
pub(crate) const FULL: i64 = 100;
/// How much wishes count beside the spreading of load (Kubernetes' weights).
const PREFERENCE_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;
/// The same of affinity between pods, and of spread.
pub(crate) const AFFINITY_WEIGHT: i64 = 2;
pub(crate) const SPREAD_WEIGHT: i64 = 2;

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

/// The higher the better. Taking the pod in is counted, pods that the node is being emptied for are not.
pub(crate) fn score(node: &NodeFacts, pod: &Shape) -> i64 {
    let taken = &node.taken;
    let cpu = left(node.allocatable.milli_cpu, taken.ranked_milli_cpu.saturating_add(pod.load.ranked_milli_cpu));
    let memory = left(node.allocatable.memory, taken.ranked_memory.saturating_add(pod.load.ranked_memory));
    let least_allocated = (cpu + memory) / 2;
    // The standard deviation of two values is half of their difference.
    let balanced = FULL - (cpu - memory).abs() / 2;
    least_allocated + balanced
}

/// How much of its images the pod finds there. An image counts by the share of nodes that have it, so that one node
/// alone does not draw all pods.
pub(crate) fn images(node: &NodeFacts, pod: &Shape, (nodes, with): &(usize, Vec<usize>)) -> i64 {
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
    if pod.constraints.affinity.is_some() {
        let facts = api::affinity::NodeFacts { name: &node.name, labels: &node.labels };
        wishes.preferred = i32::try_from(api::affinity::preference(&pod.constraints, facts)).unwrap_or(i32::MAX);
    }
    for taint in node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule") {
        wishes.disliked += i32::from(!api::toleration::tolerated(pod.tolerations(), taint));
    }
    wishes
}

/// What wishes count, where these are the most of all nodes that fit.
pub(crate) fn weighted(wishes: Wishes, most: Wishes) -> i64 {
    let share = |of: i32, most: i32| if most > 0 { FULL * i64::from(of) / i64::from(most) } else { 0 };
    PREFERENCE_WEIGHT * share(wishes.preferred, most.preferred) - TAINT_WEIGHT * share(wishes.disliked, most.disliked)
}

/// How many hundredths are left.
fn left(have: i64, taken: i64) -> i64 {
    if have <= 0 || taken >= have {
        return 0;
    }
    (have - taken).saturating_mul(FULL) / have
}
