//! Whether enough is left. A pod fits a node that has too little of what the pod does not ask for.
use super::Reason;
use crate::node::{NodeFacts, Taken};
use crate::pod::Shape;

fn lacks(want: i64, have: i64, taken: i64) -> bool {
    want > 0 && want > have.saturating_sub(taken)
}

/// The same questions as [`missing`], without telling which one failed.
pub(super) fn fit(node: &NodeFacts, taken: &Taken, pod: &Shape) -> bool {
    let (have, used, want) = (&node.allocatable, &taken.requested, &pod.load.requests);
    taken.pod_count < node.max_pods
        && !lacks(want.milli_cpu, have.milli_cpu, used.milli_cpu)
        && !lacks(want.memory, have.memory, used.memory)
        && !lacks(want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage)
        && !want.extended.iter().any(|(name, want)| lacks(*want, have.of(name), used.of(name)))
}

pub(super) fn missing(node: &NodeFacts, taken: &Taken, pod: &Shape) -> Vec<Reason> {
    let (have, used, want) = (&node.allocatable, &taken.requested, &pod.load.requests);
    let mut reasons = Vec::new();
    if taken.pod_count >= node.max_pods {
        reasons.push(Reason::TooManyPods);
    }
    let mut check = |name: &str, want: i64, have: i64, taken: i64| {
        if lacks(want, have, taken) {
            reasons.push(Reason::Insufficient(name.into()));
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory", want.memory, have.memory, used.memory);
    check("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
    for (name, want) in &want.extended {
        check(name, *want, have.of(name), used.of(name));
    }
    reasons
}
