//! Pods that are made from files of this machine.

use k8s_openapi::api::core::v1::Pod;

/// Where a pod comes from; absent or `api` for one that somebody made at the API server.
const SOURCE: &str = "kubernetes.io/config.source";

/// Whether a file of this machine makes it.
pub(crate) fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE)).is_some_and(|source| source != "api")
}
