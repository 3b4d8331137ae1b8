//! Whether the node is one that the pod asks for: its system, labels and taints. Pure.

use api::affinity::{NodeFacts, pod_admits_node};
use api::toleration::untolerated;
use api::well_known::LABEL_OS;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use super::{Reason, rejection};
use crate::static_pods::is_static;
use agent_pod::protocol::Failure;

const OS: &str = "linux";

/// A pod of another operating system.
pub(super) fn refuse_system(spec: &PodSpec) -> Option<Failure> {
    let label = spec.node_selector.as_ref().and_then(|selector| selector.get(LABEL_OS));
    if label.is_some_and(|label| label != OS) {
        let why = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(rejection("PodOSSelectorNodeLabelDoesNotMatch", why));
    }
    let os = spec.os.as_ref().filter(|os| os.name != OS);
    os.map(|_| rejection("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"))
}

/// Labels that the pod asks for and the node lacks.
pub(super) fn refuse_affinity(spec: &PodSpec, node: &Node) -> Option<Reason> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let facts = NodeFacts { name: node.metadata.name.as_deref().unwrap_or_default(), labels: &labels };
    let why = "node(s) didn't match Pod's node affinity/selector";
    (!pod_admits_node(spec, facts)).then_some(Reason::Predicate { name: "NodeAffinity", why })
}

/// Taints that end pods. Others are the scheduler's business alone, and static pods are here whatever the node is said to be.
pub(super) fn refuse_taint(pod: &Pod, node: &Node) -> Option<Reason> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let is_refused = !is_static(pod) && untolerated(taints, tolerations, &["NoExecute"]).is_some();
    let why = "node(s) had taints that the pod didn't tolerate";
    is_refused.then_some(Reason::Predicate { name: "TaintToleration", why })
}
