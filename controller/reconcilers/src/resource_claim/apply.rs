//! Makes claims for pods and looks at claims, woken by both and by templates.
use super::plan::{from_template, is_done, is_pod, is_to_be_reserved, owner, plan};
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::pod::PodFacts;
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::resource_claim::{PodClaim, Source, claims_of, is_made_for};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceToleration, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate,
};
use kube::Resource as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;

const WORKERS: usize = 2;

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceClaimFacts {
    key: Key,
    /// The pods for whom it is kept: name and uid.
    users: Vec<(Box<str>, Box<str>)>,
    /// The uid of the pod that it was made for.
    owner: Option<Box<str>>,
    /// The devices that were given for it.
    given: Vec<Given>,
    is_deleting: bool,
}

/// A device that a claim has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Given {
    pub(crate) driver: Box<str>,
    pub(crate) pool: Box<str>,
    pub(crate) device: Box<str>,
    /// What whoever uses it bears with.
    pub(crate) tolerations: Vec<DeviceToleration>,
}

impl DeviceClaimFacts {
    /// Takes the facts out.
    pub(crate) fn new(claim: ResourceClaim) -> Self {
        let status = claim.status.unwrap_or_default();
        let users = status.reserved_for.into_iter().flatten().filter(is_pod);
        let devices = status.allocation.and_then(|allocation| allocation.devices);
        let given = devices.and_then(|devices| devices.results).into_iter().flatten().map(|result| Given {
            driver: result.driver.into(),
            pool: result.pool.into(),
            device: result.device.into(),
            tolerations: result.tolerations.unwrap_or_default(),
        });
        Self {
            key: key_of(&claim.metadata),
            users: users.map(|own| (own.name.into(), own.uid.into())).collect(),
            owner: owner(&claim.metadata).map(|(_, uid)| uid.into()),
            given: given.collect(),
            is_deleting: claim.metadata.deletion_timestamp.is_some(),
        }
    }

    /// The devices that were given for it.
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
    }

    /// The keys of the pods for whom it is kept.
    pub(crate) fn users(&self) -> impl Iterator<Item = Key> {
        let namespace = split(&self.key).0;
        self.users.iter().map(move |(name, _)| format!("{namespace}/{name}").into())
    }

    /// Whether it is kept for the pod of this uid.
    pub(crate) fn is_used_by(&self, uid: &str) -> bool {
        self.users.iter().any(|(_, own)| **own == *uid)
    }

    /// Whether it was made for the pod of this uid, or is kept for it.
    fn concerns(&self, uid: &str) -> bool {
        self.owner.as_deref() == Some(uid) || self.is_used_by(uid)
    }
}

/// What looks after claims.
#[derive(Clone)]
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) recorder: Recorder,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) claims: Arc<Cache<DeviceClaimFacts>>,
    pub(crate) templates: Arc<Cache<Key>>,
}

fn key(pod: &PodFacts) -> Key {
    format!("{}/{}", pod.namespace(), pod.name()).into()
}

/// A claim of it is to be made, or to be kept for it, which its scheduler did not do.
fn needs_look(pod: &PodFacts) -> bool {
    let is_pending = |claim: &PodClaim| claim.source == Source::Pending;
    pod.is_active() && !pod.device_claims.is_empty() && (pod.node.is_some() || pod.device_claims.iter().any(is_pending))
}

/// Makes claims for pods and frees those that nobody uses, until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let makes: Arc<Queue<Key>> = Queue::new("resource-claim-pods");
    let frees: Arc<Queue<Key>> = Queue::new("resource-claim");
    let (wake, freed, claims) = (Arc::clone(&makes), Arc::clone(&frees), Arc::clone(&reconciler.claims));
    reconciler.pods.on_change(move |before, after| {
        if let Some(pod) = after.filter(|pod| needs_look(pod)) {
            let is_news = before.is_none_or(|before| {
                before.device_claims != pod.device_claims || before.node != pod.node || before.uid != pod.uid
            });
            if is_news {
                wake.add(key(pod));
            }
        }
        let Some(pod) = before.or(after).filter(|pod| !pod.device_claims.is_empty()) else { return };
        if after.is_none_or(|after| !after.is_active() || after.uid != pod.uid) {
            for claim in claims.in_namespace(pod.namespace()).iter().filter(|claim| claim.concerns(&pod.uid)) {
                freed.add(Arc::clone(&claim.key));
            }
        }
    });
    let wake = Arc::clone(&frees);
    reconciler.claims.on_change(move |_, after| {
        if let Some(claim) = after.filter(|claim| !claim.users.is_empty() || claim.owner.is_some() || claim.is_deleting)
        {
            wake.add(Arc::clone(&claim.key));
        }
    });
    let (wake, pods) = (Arc::clone(&makes), Arc::clone(&reconciler.pods));
    reconciler.templates.on_change(move |before, after| {
        let Some(template) = after.filter(|_| before.is_none()) else { return };
        for pod in pods.in_namespace(split(template).0).iter().filter(|pod| needs_look(pod)) {
            wake.add(key(pod));
        }
    });
    reconciler.pods.listed().await;
    reconciler.claims.listed().await;
    for pod in reconciler.pods.all().iter().filter(|pod| needs_look(pod)) {
        makes.add(key(pod));
    }
    for claim in &reconciler.claims.all() {
        frees.add(Arc::clone(&claim.key));
    }
    let (maker, freer) = (reconciler.clone(), reconciler);
    let make = move |key: Key| {
        let reconciler = maker.clone();
        async move { reconciler.serve(&key).await }
    };
    let free = move |key: Key| {
        let reconciler = freer.clone();
        async move { reconciler.look(&key).await }
    };
    tokio::join!(makes.work(WORKERS, make), frees.work(WORKERS, free));
}

impl Reconciler {
    /// Makes the claims that a pod is still without, and tells it their names.
    async fn serve(&self, key: &Key) -> Result<Next, ReconcileError> {
        let (namespace, name) = split(key);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let Some(pod) = pods.get_opt(name).await.map_err(at("reading the pod"))? else { return Ok(Next::Wait) };
        if pod.metadata.deletion_timestamp.is_some() || api::pod::is_terminal(&pod) {
            return Ok(Next::Wait);
        }
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut told = Vec::new();
        let asked = claims_of(&pod);
        if asked.iter().any(|claim| claim.source == Source::Pending) {
            // A live look: what an earlier run made must count.
            let held = claims.list(&ListParams::default()).await.map_err(at("listing claims"))?;
            for claim in asked.iter().filter(|claim| claim.source == Source::Pending) {
                let made = held.iter().find(|own| {
                    is_made_for(&own.metadata, &uid, &claim.name) && own.metadata.deletion_timestamp.is_none()
                });
                let made = match made {
                    Some(held) => held.metadata.name.clone(),
                    None => self.make(&claims, &pod, &claim.name).await?,
                };
                told.push(json!({"name": claim.name, "resourceClaimName": made}));
            }
        }
        if !told.is_empty() {
            let patch = json!({"metadata": {"uid": uid}, "status": {"resourceClaimStatuses": told}});
            match pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(error) if matches!(code(&error), 404 | 409) => {}
                other => drop(other.map_err(at("telling the pod its claims"))?),
            }
            // The watch tells of the pod with its claims.
            return Ok(Next::Wait);
        }
        let has_node =
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
        for claim in asked.iter().filter(|_| has_node) {
            self.reserve(&claims, &pod, claim).await?;
        }
        Ok(Next::Wait)
    }

    async fn make(
        &self,
        claims: &Api<ResourceClaim>,
        pod: &Pod,
        pod_claim: &str,
    ) -> Result<Option<String>, ReconcileError> {
        let asked = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
        let template = asked.clone().find(|claim| claim.name == pod_claim);
        let template = template.and_then(|claim| claim.resource_claim_template_name.clone()).unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(self.client.clone(), namespace);
        let tell = |why: String| {
            let message = format!("PodResourceClaim {pod_claim}: {why}");
            self.recorder.send(pod.object_ref(&()), Severity::Warning, "FailedResourceClaimCreation", message);
        };
        let found = templates.get_opt(&template).await.map_err(at("reading the template"))?;
        let Some(found) = found else {
            let why = format!("resourceclaimtemplate.resource.k8s.io {template:?} not found");
            tell(format!("failed to create ResourceClaim: resource claim template {template:?}: {why}"));
            // Its coming wakes the pod.
            return Err(ReconcileError::Waiting(why));
        };
        match claims.create(&PostParams::default(), &from_template(pod, pod_claim, found)).await {
            Ok(made) => Ok(made.metadata.name),
            Err(error) => {
                if !is_terminating(&error) {
                    tell(format!("failed to create ResourceClaim: {error}"));
                }
                Err(at("making the pod's claim")(error))
            }
        }
    }

    /// Keeps a claim for a pod that came with its node.
    async fn reserve(
        &self,
        claims: &Api<ResourceClaim>,
        pod: &Pod,
        pod_claim: &PodClaim,
    ) -> Result<(), ReconcileError> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some(name) = pod_claim.object() else { return Ok(()) };
        let Some(mut claim) = claims.get_opt(name).await.map_err(at("reading the claim"))? else { return Ok(()) };
        if !is_to_be_reserved(&claim, &uid, matches!(pod_claim.source, Source::Own(_))) {
            return Ok(());
        }
        let reserved = claim.status.get_or_insert_default().reserved_for.get_or_insert_default();
        reserved.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid,
        });
        let written = claims.replace_status(name, &PostParams::default(), &claim).await;
        written.map(drop).map_err(at("keeping the claim for the pod"))
    }

    /// Frees a claim of pods that have ended.
    async fn look(&self, key: &Key) -> Result<Next, ReconcileError> {
        let (namespace, name) = split(key);
        let claims: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        let Some(claim) = claims.get_opt(name).await.map_err(at("reading the claim"))? else { return Ok(Next::Wait) };
        let over = self.over(namespace, &claim).await?;
        let plan = plan(&claim, |_, uid| over.contains(uid));
        let mut claim = claim;
        if let Some(status) = plan.status {
            claim.status = Some(status);
            let written = claims.replace_status(name, &PostParams::default(), &claim).await;
            claim = match written {
                Ok(claim) => claim,
                Err(error) if code(&error) == 404 => return Ok(Next::Wait),
                Err(error) => return Err(at("freeing the claim")(error)),
            };
        }
        if let Some(finalizers) = plan.finalizers {
            let metadata = json!({"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                "finalizers": finalizers});
            match claims.patch(name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await {
                Err(error) if code(&error) != 404 => return Err(at("taking the finalizer away")(error)),
                _ => {}
            }
        }
        if plan.deletes {
            let preconditions = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match claims.delete(name, &params).await {
                Err(error) if !matches!(code(&error), 404 | 409) => return Err(at("deleting the claim")(error)),
                _ => {}
            }
        }
        Ok(Next::Wait)
    }

    /// The uids of those pods of a claim that do not use it any more.
    async fn over(&self, namespace: &str, claim: &ResourceClaim) -> Result<HashSet<String>, ReconcileError> {
        let reserved = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
        let users = reserved.iter().filter(|own| is_pod(own)).map(|own| (own.name.as_str(), own.uid.as_str()));
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut over = HashSet::new();
        for (name, uid) in users.chain(owner(&claim.metadata)) {
            let known = self.pods.get(&format!("{namespace}/{name}"));
            if known.is_some_and(|pod| *pod.uid == *uid && pod.is_active()) {
                continue;
            }
            // A live look: a pod that this process has not heard of yet must count.
            let pod = pods.get_opt(name).await.map_err(at("reading a pod of the claim"))?;
            if pod.is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid) || is_done(&pod)) {
                over.insert(uid.to_owned());
            }
        }
        Ok(over)
    }
}
