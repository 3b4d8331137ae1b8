//! Looks at claims, volumes and groups that are being deleted, woken by them and by pods that end.
use super::plan::{keeps, keeps_group, without};
use crate::cache::{Cache, Key, key_of, split};
use crate::claim::ClaimFacts;
use crate::error::{ReconcileError, at, code};
use crate::pod::{Phase, PodFacts};
use crate::queue::{Next, Queue};
use api::well_known::{FINALIZER_POD_GROUP_PROTECTION, FINALIZER_PV_PROTECTION, FINALIZER_PVC_PROTECTION};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::fmt::Debug;
use std::sync::Arc;

const WORKERS: usize = 2;

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VolumeFacts {
    key: Key,
    is_waiting: bool,
}

/// Whether an object is being deleted and waits for this finalizer.
pub(crate) fn is_waiting(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.deletion_timestamp.is_some() && metadata.finalizers.iter().flatten().any(|own| own == finalizer)
}

impl VolumeFacts {
    /// Takes the facts out. A bound volume waits for its claim, whose end changes the volume.
    pub(crate) fn new(volume: PersistentVolume) -> Self {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_free = phase != Some("Bound");
        let is_waiting = is_free && is_waiting(&volume.metadata, FINALIZER_PV_PROTECTION);
        Self { key: key_of(&volume.metadata), is_waiting }
    }
}

/// Frees what waits, until dropped: woken by itself, and by pods of its namespace that end, where pods are what it waits for.
async fn watch_over<F, R>(
    name: &'static str,
    things: Arc<Cache<F>>,
    pods: Option<Arc<Cache<PodFacts>>>,
    waits: fn(&F) -> Option<Key>,
    free: impl Fn(Key) -> R,
) where
    F: Send + Sync + 'static,
    R: Future<Output = Result<Next, ReconcileError>> + Send + 'static,
{
    let queue: Arc<Queue<Key>> = Queue::new(name);
    let add = move |queue: &Queue<Key>, thing: &F| {
        if let Some(key) = waits(thing) {
            queue.add(key);
        }
    };
    let wake = Arc::clone(&queue);
    things.on_change(move |_, after| {
        if let Some(thing) = after {
            add(&wake, thing);
        }
    });
    if let Some(pods) = pods {
        let (wake, known) = (Arc::clone(&queue), Arc::clone(&things));
        pods.on_change(move |before, after| {
            let ended = after.is_none_or(|pod| pod.phase == Phase::Ended);
            let Some(pod) = before.or(after).filter(|_| ended) else { return };
            known.in_namespace(pod.namespace()).iter().for_each(|thing| add(&wake, thing));
        });
    }
    things.listed().await;
    things.all().iter().for_each(|thing| add(&queue, thing));
    queue.work(WORKERS, free).await;
}

/// Frees claims until dropped.
pub(crate) async fn claims(client: kube::Client, claims: Arc<Cache<ClaimFacts>>, pods: Arc<Cache<PodFacts>>) {
    let waits = |claim: &ClaimFacts| claim.is_waiting.then(|| Arc::clone(&claim.key));
    let free = move |key: Key| {
        let client = client.clone();
        async move { free_claim(client, &key).await }
    };
    watch_over("pvc-protection", claims, Some(pods), waits, free).await;
}

async fn free_claim(client: kube::Client, key: &Key) -> Result<Next, ReconcileError> {
    let (namespace, name) = split(key);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get_opt(name).await.map_err(at("reading the claim"))?;
    let Some(claim) = claim.filter(|claim| is_waiting(&claim.metadata, FINALIZER_PVC_PROTECTION)) else {
        return Ok(Next::Wait);
    };
    // A live look: a pod that this process has not heard of yet must count.
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let pods = pods.list(&ListParams::default()).await.map_err(at("listing the pods of the claim"))?;
    if pods.iter().any(|pod| keeps(pod, name)) {
        return Ok(Next::Wait);
    }
    free(&claims, &claim.metadata, FINALIZER_PVC_PROTECTION).await
}

/// Frees volumes until dropped.
pub(crate) async fn volumes(client: kube::Client, volumes: Arc<Cache<VolumeFacts>>) {
    let waits = |volume: &VolumeFacts| volume.is_waiting.then(|| Arc::clone(&volume.key));
    let free = move |key: Key| {
        let client = client.clone();
        async move { free_volume(client, &key).await }
    };
    watch_over("pv-protection", volumes, None, waits, free).await;
}

async fn free_volume(client: kube::Client, key: &Key) -> Result<Next, ReconcileError> {
    let volumes: Api<PersistentVolume> = Api::all(client);
    let volume = volumes.get_opt(key).await.map_err(at("reading the volume"))?;
    let Some(volume) = volume.filter(|volume| VolumeFacts::new(volume.clone()).is_waiting) else {
        return Ok(Next::Wait);
    };
    free(&volumes, &volume.metadata, FINALIZER_PV_PROTECTION).await
}

/// What is known of a group of pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupFacts {
    key: Key,
    is_waiting: bool,
}

impl GroupFacts {
    /// Takes the facts out.
    pub(crate) fn new(group: PodGroup) -> Self {
        let is_waiting = is_waiting(&group.metadata, FINALIZER_POD_GROUP_PROTECTION);
        Self { key: key_of(&group.metadata), is_waiting }
    }
}

/// Frees groups of pods until dropped.
pub(crate) async fn groups(client: kube::Client, groups: Arc<Cache<GroupFacts>>, pods: Arc<Cache<PodFacts>>) {
    let waits = |group: &GroupFacts| group.is_waiting.then(|| Arc::clone(&group.key));
    let free = move |key: Key| {
        let client = client.clone();
        async move { free_group(client, &key).await }
    };
    watch_over("podgroup-protection", groups, Some(pods), waits, free).await;
}

async fn free_group(client: kube::Client, key: &Key) -> Result<Next, ReconcileError> {
    let (namespace, name) = split(key);
    let groups: Api<PodGroup> = Api::namespaced(client.clone(), namespace);
    let group = groups.get_opt(name).await.map_err(at("reading the group"))?;
    let Some(group) = group.filter(|group| is_waiting(&group.metadata, FINALIZER_POD_GROUP_PROTECTION)) else {
        return Ok(Next::Wait);
    };
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let pods = pods.list(&ListParams::default()).await.map_err(at("listing the pods of the group"))?;
    if pods.iter().any(|pod| keeps_group(pod, name)) {
        return Ok(Next::Wait);
    }
    free(&groups, &group.metadata, FINALIZER_POD_GROUP_PROTECTION).await
}

/// Takes the finalizer away, if the object is still the one that was looked at.
async fn free<K>(api: &Api<K>, metadata: &ObjectMeta, finalizer: &str) -> Result<Next, ReconcileError>
where
    K: Clone + serde::de::DeserializeOwned + Debug,
{
    let Some(left) = without(metadata.finalizers.as_deref().unwrap_or_default(), finalizer) else {
        return Ok(Next::Wait);
    };
    let patch =
        json!({"metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": left}});
    let name = metadata.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(Next::Wait),
        // Gone, or changed: then the watch tells.
        Err(error) if matches!(code(&error), 404 | 409) => Ok(Next::Wait),
        Err(error) => Err(at("taking the finalizer away")(error)),
    }
}
