//! Cordoned nodes and taints.
use super::Reason;
use crate::snapshot::{NodeFacts, PodFacts};
use api::well_known::TAINT_UNSCHEDULABLE;
use k8s_openapi::api::core::v1::Taint;

/// A cordoned node takes only pods that tolerate the taint that stands for it.
pub(super) fn unschedulable(node: &NodeFacts, pod: &PodFacts) -> Option<Reason> {
    if !node.is_unschedulable {
        return None;
    }
    let taint = Taint { key: TAINT_UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    (!api::toleration::tolerated(pod.tolerations(), &taint)).then_some(Reason::Unschedulable)
}

pub(super) fn untolerated(node: &NodeFacts, pod: &PodFacts) -> Option<Reason> {
    let taint = api::toleration::untolerated(&node.taints, pod.tolerations(), &["NoSchedule", "NoExecute"])?;
    Some(Reason::Taint { key: taint.key.as_str().into(), value: taint.value.as_deref().unwrap_or_default().into() })
}
