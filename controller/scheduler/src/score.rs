//! Which of the nodes that fit is best: least taken, evenly taken, preferred.
use crate::node::{NodeFacts, Taken};
use crate::pod::Shape;

/// Full marks of one question.
const FULL: i64 = 100;
/// How much the pod's own wishes count beside the spreading of load (Kubernetes' weights).
const PREFERENCE_WEIGHT: i64 = 2;
const TAINT_WEIGHT: i64 = 3;

/// The higher the better. Taking the pod in is counted.
pub(crate) fn score(node: &NodeFacts, taken: &Taken, pod: &Shape) -> i64 {
    let cpu = left(node.allocatable.milli_cpu, taken.ranked_milli_cpu.saturating_add(pod.load.ranked_milli_cpu));
    let memory = left(node.allocatable.memory, taken.ranked_memory.saturating_add(pod.load.ranked_memory));
    let least_allocated = (cpu + memory) / 2;
    // The standard deviation of two values is half of their difference.
    let balanced = FULL - (cpu - memory).abs() / 2;
    let facts = api::affinity::NodeFacts { name: &node.name, labels: &node.labels };
    let preferred = api::affinity::preference(&pod.constraints, facts).clamp(0, FULL);
    let disliked = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !api::toleration::tolerated(pod.tolerations(), taint))
        .count();
    let disliked = i64::try_from(disliked).unwrap_or(FULL).saturating_mul(FULL).min(FULL);
    least_allocated + balanced + PREFERENCE_WEIGHT * preferred - TAINT_WEIGHT * disliked
}

/// How many hundredths are left.
fn left(have: i64, taken: i64) -> i64 {
    if have <= 0 || taken >= have {
        return 0;
    }
    (have - taken).saturating_mul(FULL) / have
}
