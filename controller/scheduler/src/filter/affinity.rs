//! Node selector and required node affinity.
use crate::node::NodeFacts;
use crate::pod::Shape;
use api::affinity::{node_selector_matches, pod_admits_node};

pub(super) fn mismatch(node: &NodeFacts, pod: &Shape) -> bool {
    let facts = api::affinity::NodeFacts { name: &node.name, labels: &node.labels };
    let added = pod.profile.added_affinity.as_ref();
    let added = added.and_then(|added| added.required_during_scheduling_ignored_during_execution.as_ref());
    !pod_admits_node(&pod.constraints, facts) || added.is_some_and(|added| !node_selector_matches(added, facts))
}
