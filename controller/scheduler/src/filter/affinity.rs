//! Node selector and required node affinity.
use crate::node::NodeFacts;
use crate::pod::Shape;

pub(super) fn mismatch(node: &NodeFacts, pod: &Shape) -> bool {
    let facts = api::affinity::NodeFacts { name: &node.name, labels: &node.labels };
    !api::affinity::pod_admits_node(&pod.constraints, facts)
}
