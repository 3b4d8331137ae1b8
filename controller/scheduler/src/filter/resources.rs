//! Whether enough is left. A pod fits a node that has too little of what the pod does not ask for.
use super::Reason;
use crate::snapshot::{NodeFacts, PodFacts};

pub(super) fn missing(node: &NodeFacts, pod: &PodFacts) -> Vec<Reason> {
    let (have, taken, want) = (&node.allocatable, &node.requested, &pod.load.requests);
    let mut reasons = Vec::new();
    if node.pod_count >= node.max_pods {
        reasons.push(Reason::TooManyPods);
    }
    let mut check = |name: &str, want: i64, have: i64, taken: i64| {
        if want > 0 && want > have.saturating_sub(taken) {
            reasons.push(Reason::Insufficient(name.into()));
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, taken.milli_cpu);
    check("memory", want.memory, have.memory, taken.memory);
    check("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, taken.ephemeral_storage);
    for (name, want) in &want.extended {
        let of = |amounts: &crate::snapshot::Amounts| amounts.extended.get(name).copied().unwrap_or_default();
        check(name, *want, of(have), of(taken));
    }
    reasons
}
