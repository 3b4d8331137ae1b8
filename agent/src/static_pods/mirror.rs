//! The mirror of a static pod: an object at the API server that shows it, and through which nothing of it is changed.

use api::well_known::ANNOTATION_MIRROR;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};

use crate::execute::Executor;

/// The uid that a pod has on this machine: a mirror's own is not it.
pub(crate) fn local_uid(pod: &Pod) -> String {
    let mirrored = pod.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_MIRROR));
    mirrored.or(pod.metadata.uid.as_ref()).cloned().unwrap_or_default()
}

/// Whether an object shows a static pod.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ANNOTATION_MIRROR))
}

/// The uid of the mirror of this executor's pod. Makes it, if it is not there; one that shows another pod, or is being
/// deleted, goes first. `None`: the name belongs to a pod that is no mirror.
pub(crate) async fn ensure(executor: &Executor) -> kube::Result<Option<String>> {
    let api: Api<Pod> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    if let Some(held) = api.get_opt(executor.name()).await? {
        if !is_mirror(&held) {
            return Ok(None);
        }
        if local_uid(&held) == executor.uid && held.metadata.deletion_timestamp.is_none() {
            return Ok(held.metadata.uid);
        }
        remove(&api, executor.name(), held.metadata.uid).await?;
    }
    let node = Api::<Node>::all(executor.host.client.clone()).get(&executor.host.config.node_name).await?;
    let mut mirror = (*executor.pod).clone();
    let metadata = &mut mirror.metadata;
    metadata.uid = None;
    metadata.annotations.get_or_insert_default().insert(ANNOTATION_MIRROR.into(), executor.uid.clone());
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.unwrap_or_default(),
        uid: node.metadata.uid.unwrap_or_default(),
        controller: Some(true),
        ..Default::default()
    }]);
    Ok(api.create(&PostParams::default(), &mirror).await?.metadata.uid)
}

/// Deletes the mirror of a pod that is gone here.
pub(crate) async fn forget(executor: &Executor) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    match api.get_opt(executor.name()).await? {
        Some(held) if is_mirror(&held) && local_uid(&held) == executor.uid => {
            remove(&api, executor.name(), held.metadata.uid).await
        }
        Some(_) | None => Ok(()),
    }
}

/// Deletes a mirror that shows nothing.
pub(crate) async fn remove_stray(client: kube::Client, mirror: &Pod) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, mirror.metadata.namespace.as_deref().unwrap_or_default());
    remove(&api, mirror.metadata.name.as_deref().unwrap_or_default(), mirror.metadata.uid.clone()).await
}

async fn remove(api: &Api<Pod>, name: &str, uid: Option<String>) -> kube::Result<()> {
    let preconditions = Preconditions { uid, resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
    match api.delete(name, &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}
