//! Whether enough is left. A pod fits a node that has too little of what the pod does not ask for.
use crate::node::{NodeFacts, Taken};
use crate::pod::Shape;
use crate::profile::Filter;

fn lacks(want: i64, have: i64, taken: i64) -> bool {
    want > 0 && want > have.saturating_sub(taken)
}

/// The same questions as [`missing`] and the number of pods, without telling which one failed.
pub(super) fn fit(node: &NodeFacts, taken: &Taken, pod: &Shape) -> bool {
    let (have, used, want) = (&node.allocatable, &taken.requested, &pod.load.requests);
    if pod.profile.skips(Filter::Resources) {
        return true;
    }
    if !pod.profile.ignored.is_empty() {
        let mut is_enough = taken.pod_count < node.max_pods;
        missing(node, taken, pod, |_| is_enough = false);
        return is_enough;
    }
    taken.pod_count < node.max_pods
        && !lacks(want.milli_cpu, have.milli_cpu, used.milli_cpu)
        && !lacks(want.memory, have.memory, used.memory)
        && !lacks(want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage)
        && !want.extended.iter().any(|(name, want)| lacks(*want, have.of(name), used.of(name)))
}

/// Names every resource of which too little is left.
pub(super) fn missing(node: &NodeFacts, taken: &Taken, pod: &Shape, mut tell: impl FnMut(&str)) {
    let (have, used, want) = (&node.allocatable, &taken.requested, &pod.load.requests);
    let mut check = |name: &str, want: i64, have: i64, taken: i64| {
        if lacks(want, have, taken) && !pod.profile.ignored.has(name) {
            tell(name);
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory", want.memory, have.memory, used.memory);
    check("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
    for (name, want) in &want.extended {
        check(name, *want, have.of(name), used.of(name));
    }
}
