//! A pod that has to go for a reason that is not its own.
use super::PodFacts;
use crate::error::{ReconcileError, at, code};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};

/// Says on a pod why it goes (the condition DisruptionTarget), and deletes it. Whether it did: one that is gone, or has a
/// successor of its name, is left alone.
pub(crate) async fn evict(
    client: &kube::Client,
    pod: &PodFacts,
    reason: &str,
    message: &str,
) -> Result<bool, ReconcileError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), pod.namespace());
    let said = pod.disrupted(reason, message);
    match pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(said)).await {
        Ok(_) => {}
        Err(error) if matches!(code(&error), 404 | 409) => return Ok(false),
        Err(error) => return Err(at("saying that a pod is evicted")(error)),
    }
    let own = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
    let params = DeleteParams { preconditions: Some(own), ..DeleteParams::default() };
    match pods.delete(pod.name(), &params).await {
        Ok(_) => {
            tracing::info!(kind = "Pod", object = pod.key.as_deref(), uid = &*pod.uid, reason, "evicted");
            Ok(true)
        }
        Err(error) if matches!(code(&error), 404 | 409) => Ok(false),
        Err(error) => Err(at("evicting a pod")(error)),
    }
}
