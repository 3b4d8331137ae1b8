//! Node selector and required node affinity.
use super::Reason;
use crate::snapshot::{NodeFacts, PodFacts};

pub(super) fn mismatch(node: &NodeFacts, pod: &PodFacts) -> Option<Reason> {
    let facts = api::affinity::NodeFacts { name: &node.name, labels: &node.labels };
    (!api::affinity::pod_admits_node(&pod.constraints, facts)).then_some(Reason::Affinity)
}
