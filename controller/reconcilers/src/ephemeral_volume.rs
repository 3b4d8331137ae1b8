//! Claims that pods bring along (`volumes[].ephemeral`): made from the pod's template, named after the pod and the volume,
//! and gone with the pod, whose they are. Kubernetes documentation, "Generic ephemeral volumes".
use crate::cache::{Cache, Key, split};
use crate::error::{ReconcileError, at, code};
use crate::pod::PodFacts;
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::volume::claim_of;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use kube::api::{Api, PostParams};
use std::sync::Arc;

const WORKERS: usize = 2;

/// Makes claims until dropped.
pub(crate) async fn start(client: kube::Client, pods: Arc<Cache<PodFacts>>, recorder: Recorder) {
    let queue: Arc<Queue<Key>> = Queue::new("ephemeral-volume");
    let wake = Arc::clone(&queue);
    pods.on_change(move |before, after| {
        let Some(pod) = after.filter(|pod| needs_look(pod) && before.is_none()) else { return };
        wake.add(key(pod));
    });
    pods.listed().await;
    for pod in pods.all().iter().filter(|pod| needs_look(pod)) {
        queue.add(key(pod));
    }
    let work = move |key: Key| {
        let (client, recorder) = (client.clone(), recorder.clone());
        async move { reconcile(client, recorder, &key).await }
    };
    queue.work(WORKERS, work).await;
}

fn needs_look(pod: &PodFacts) -> bool {
    pod.brings_claims && pod.is_active()
}

fn key(pod: &PodFacts) -> Key {
    format!("{}/{}", pod.namespace(), pod.name()).into()
}

async fn reconcile(client: kube::Client, recorder: Recorder, key: &Key) -> Result<Next, ReconcileError> {
    let (namespace, name) = split(key);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Some(pod) = pods.get_opt(name).await.map_err(at("reading the pod"))? else { return Ok(Next::Wait) };
    if pod.metadata.deletion_timestamp.is_some() || api::pod::is_terminal(&pod) {
        return Ok(Next::Wait);
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, namespace);
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(claim) = claim(&pod, volume) else { continue };
        let problem = match claims.create(&PostParams::default(), &claim).await {
            Ok(_) => continue,
            Err(error) if code(&error) == 409 => {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                match claims.get_opt(name).await.map_err(at("reading the pod's claim"))? {
                    Some(held) if is_owned(&held.metadata, &pod) => continue,
                    _ => format!("PVC {namespace}/{name} was not created for pod {key} (pod is not owner)"),
                }
            }
            Err(error) => {
                tell(&recorder, &pod, format!("ephemeral volume {}: PVC creation failed: {error}", volume.name));
                return Err(at("making the pod's claim")(error));
            }
        };
        tell(&recorder, &pod, format!("ephemeral volume {}: {problem}", volume.name));
        // The other claim's end is what would help; nothing tells of it.
        return Err(ReconcileError::Waiting(problem));
    }
    Ok(Next::Wait)
}

/// The claim of a volume that is the pod's own.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let used = claim_of(name, volume).filter(|claim| claim.is_ephemeral)?;
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let metadata = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: name.to_owned(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let metadata = ObjectMeta {
        name: Some(used.name),
        labels: metadata.labels,
        annotations: metadata.annotations,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Some(PersistentVolumeClaim { metadata, spec: Some(template.spec.clone()), status: None })
}

fn is_owned(metadata: &ObjectMeta, pod: &Pod) -> bool {
    let owner = crate::pod::controller_of(metadata.owner_references.as_ref());
    owner.is_some_and(|owner| pod.metadata.uid.as_ref() == Some(&owner.uid))
}

fn tell(recorder: &Recorder, pod: &Pod, message: String) {
    recorder.send(pod.object_ref(&()), Severity::Warning, "FailedBinding", message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_named_after_its_pod_and_belongs_to_it() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "volumes": [
            {"name": "plain", "emptyDir": {}},
            {"name": "data", "ephemeral": {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}]}}),
        )
        .unwrap();
        let volumes = pod.spec.as_ref().unwrap().volumes.clone().unwrap();
        assert!(claim(&pod, &volumes[0]).is_none());
        let made = claim(&pod, &volumes[1]).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("p-data"));
        assert_eq!(json!(made)["metadata"]["labels"], json!({"a": "b"}));
        assert!(is_owned(&made.metadata, &pod));
        assert!(!is_owned(&ObjectMeta::default(), &pod));
    }
}
