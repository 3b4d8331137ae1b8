//! Cordoned nodes and taints.
use crate::node::NodeFacts;
use crate::pod::Shape;
use api::well_known::TAINT_UNSCHEDULABLE;
use k8s_openapi::api::core::v1::Taint;

/// A cordoned node takes only pods that tolerate the taint that stands for it.
pub(super) fn is_closed(node: &NodeFacts, pod: &Shape) -> bool {
    if !node.is_unschedulable {
        return false;
    }
    let taint = Taint { key: TAINT_UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    !api::toleration::tolerated(pod.tolerations(), &taint)
}

pub(super) fn untolerated<'a>(node: &'a NodeFacts, pod: &Shape) -> Option<&'a Taint> {
    api::toleration::untolerated(&node.taints, pod.tolerations(), &["NoSchedule", "NoExecute"])
}
