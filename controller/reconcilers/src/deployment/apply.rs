//! Carries the plan of a Deployment out.
use super::bounds::recreates;
use super::plan::{self, Draft, Plan};
use super::revision::{is_current, owner_reference, revision};
use crate::adoption::may_adopt;
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::pod::{PodFacts, controller_of};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::selector::Selector;
use api::well_known::ANNOTATION_REVISION;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 8;

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) sets: Arc<Cache<ReplicaSet>>,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) recorder: Recorder,
}

fn owner_key(set: &ReplicaSet) -> Option<Key> {
    let owner = controller_of(set.metadata.owner_references.as_ref()).filter(|owner| owner.kind == "Deployment")?;
    Some(format!("{}/{}", set.metadata.namespace.as_deref().unwrap_or_default(), owner.name).into())
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("deployment");
    let wake = Arc::clone(&queue);
    reconciler.deployments.on_change(move |_, after| {
        if let Some(after) = after {
            wake.add(key_of(&after.metadata));
        }
    });
    let (wake, deployments) = (Arc::clone(&queue), Arc::clone(&reconciler.deployments));
    reconciler.sets.on_change(move |before, after| {
        for set in [before, after].into_iter().flatten() {
            match owner_key(set) {
                Some(key) => wake.add(key),
                None if set.metadata.owner_references.is_none() => {
                    let labels = set.metadata.labels.clone().unwrap_or_default();
                    for deployment in deployments.in_namespace(set.metadata.namespace.as_deref().unwrap_or_default()) {
                        if selector_of(&deployment).is_some_and(|selector| selector.matches(&labels)) {
                            wake.add(key_of(&deployment.metadata));
                        }
                    }
                }
                None => {}
            }
        }
    });
    let (wake, sets, deployments) =
        (Arc::clone(&queue), Arc::clone(&reconciler.sets), Arc::clone(&reconciler.deployments));
    reconciler.pods.on_change(move |before, after| {
        // With Recreate the new pods wait until the last old one is really gone.
        if let (Some(gone), None) = (before, after)
            && let Some((_, name, _)) = &gone.controller
            && let Some(key) = sets.get(&format!("{}/{name}", gone.namespace())).and_then(|set| owner_key(&set))
            && deployments.get(&key).is_some_and(|deployment| recreates(&deployment))
        {
            wake.add(key);
        }
    });
    reconciler.deployments.listed().await;
    reconciler.sets.listed().await;
    reconciler.pods.listed().await;
    for deployment in reconciler.deployments.all() {
        queue.add(key_of(&deployment.metadata));
    }
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

fn selector_of(deployment: &Deployment) -> Option<Selector> {
    let selector = Selector::from_label_selector(&deployment.spec.selector).ok()?;
    (!selector.is_empty()).then_some(selector)
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::Wait) };
        let (namespace, name) = split(key);
        let Some(selector) = selector_of(&deployment) else { return Ok(Next::Wait) };
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let sets = self.claim(&api, &deployment, &selector, namespace).await?;
        let old_pods = recreates(&deployment) && self.has_old_pods(&deployment, &sets, namespace);
        let Plan { drafts, delete, revision, mut status, next } =
            plan::plan(&deployment, &sets, old_pods, jiff::Timestamp::now());
        tracing::debug!(
            hop = "reconcile",
            kind = "Deployment",
            object = &**key,
            uid = deployment.metadata.uid,
            rev = deployment.metadata.resource_version,
            drafts = drafts.len(),
            delete = delete.len(),
            "planned"
        );
        let mut again = false;
        for draft in &drafts {
            if draft.is_missing {
                again |= self.create(&api, &deployment, draft, &mut status.collision_count).await?;
            } else if let Some(current) = sets.iter().find(|set| set.metadata.uid == draft.set.metadata.uid) {
                self.update(&api, &deployment, current, draft).await?;
            }
        }
        for name in delete {
            let uid =
                sets.iter().find(|s| s.metadata.name.as_deref() == Some(&name)).and_then(|s| s.metadata.uid.clone());
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid, resource_version: None }),
                propagation_policy: Some(PropagationPolicy::Background),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Ok(_) => self.sets.remove(&format!("{namespace}/{name}")),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return Err(at("deleting an old ReplicaSet")(error)),
            }
        }
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let own = &deployment.metadata;
        let told = own.annotations.as_ref().and_then(|a| a.get(ANNOTATION_REVISION));
        if revision > 0 && told != Some(&revision.to_string()) {
            let patch =
                json!({"metadata": {"uid": own.uid, "annotations": {ANNOTATION_REVISION: revision.to_string()}}});
            self.written(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await, "writing the revision")?;
        }
        if deployment.status.as_ref() != Some(&status) {
            let patch = json!({"metadata": {"uid": own.uid}, "status": status});
            let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            self.written(written, "writing the status")?;
        }
        if again {
            return Err(ReconcileError::Waiting("another name for the new ReplicaSet".to_owned()));
        }
        Ok(next.and_then(|s| u64::try_from(s).ok()).map_or(Next::Wait, |s| Next::After(Duration::from_secs(s))))
    }

    fn written(&self, result: Result<Deployment, kube::Error>, step: &'static str) -> Result<(), ReconcileError> {
        match result {
            Ok(deployment) => self.deployments.put(&deployment.metadata.clone(), deployment),
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at(step)(error)),
        }
        Ok(())
    }

    /// The Deployment's own ReplicaSets; those without an owner that match are adopted, those that match no more released.
    async fn claim(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        selector: &Selector,
        namespace: &str,
    ) -> Result<Vec<Arc<ReplicaSet>>, ReconcileError> {
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let is_deleting = deployment.metadata.deletion_timestamp.is_some();
        let mut mine = Vec::new();
        let sets = self.sets.in_namespace(namespace);
        let matches = |set: &ReplicaSet| selector.matches(set.metadata.labels.as_ref().unwrap_or(&Default::default()));
        let is_free = |set: &ReplicaSet| {
            let owner = controller_of(set.metadata.owner_references.as_ref());
            owner.is_none() && matches(set) && set.metadata.deletion_timestamp.is_none()
        };
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let adopts = !is_deleting
            && sets.iter().any(|set| is_free(set))
            && may_adopt(&deployments, &deployment.metadata).await?;
        for set in sets {
            let matches = matches(&set);
            let owner = controller_of(set.metadata.owner_references.as_ref());
            let owners = match owner {
                Some(owner) if owner.uid == uid && (matches || is_deleting) => {
                    mine.push(set);
                    continue;
                }
                Some(owner) if owner.uid == uid => json!([{"$patch": "delete", "uid": uid}]),
                None if adopts && is_free(&set) => json!([owner_reference(deployment)]),
                Some(_) | None => continue,
            };
            let patch = json!({"metadata": {"uid": set.metadata.uid, "ownerReferences": owners}});
            let name = set.metadata.name.as_deref().unwrap_or_default();
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(set) => {
                    self.sets.put(&set.metadata.clone(), set.clone());
                    if matches {
                        mine.push(Arc::new(set));
                    }
                }
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return Err(at("adopting or releasing a ReplicaSet")(error)),
            }
        }
        Ok(mine)
    }

    fn has_old_pods(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>], namespace: &str) -> bool {
        let old: Vec<&str> = sets
            .iter()
            .filter(|set| !is_current(deployment, set))
            .filter_map(|set| set.metadata.uid.as_deref())
            .collect();
        self.pods.in_namespace(namespace).iter().any(|pod| {
            // One that is being deleted holds its volumes and ports until it is gone.
            (pod.phase != crate::pod::Phase::Ended || pod.is_deleting)
                && pod.controller.as_ref().is_some_and(|(_, _, uid)| old.contains(&&**uid))
        })
    }

    /// Makes the new ReplicaSet; tells whether its name is taken by another one.
    async fn create(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        draft: &Draft,
        collisions: &mut Option<i32>,
    ) -> Result<bool, ReconcileError> {
        let name = draft.set.metadata.name.as_deref().unwrap_or_default();
        match api.create(&PostParams::default(), &draft.set).await {
            Ok(set) => self.sets.put(&set.metadata.clone(), set),
            Err(error) if code(&error) == 409 => {
                let found = api.get(name).await.map_err(at("reading the ReplicaSet of that name"))?;
                let owner = controller_of(found.metadata.owner_references.as_ref());
                let ours = owner.is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
                if ours && is_current(deployment, &found) {
                    self.sets.put(&found.metadata.clone(), found);
                    return Ok(false);
                }
                *collisions = Some(collisions.unwrap_or_default().saturating_add(1));
                return Ok(true);
            }
            Err(error) if is_terminating(&error) => return Ok(false),
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                self.recorder.send(reference(deployment), Severity::Warning, "ReplicaSetCreateError", message);
                return Err(at("creating the new ReplicaSet")(error));
            }
        }
        self.tell_scaled(deployment, name, 0, draft.replicas());
        Ok(false)
    }

    async fn update(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        current: &ReplicaSet,
        draft: &Draft,
    ) -> Result<(), ReconcileError> {
        let (want, have) = (&draft.set, current);
        let mut patch = json!({});
        if want.metadata.annotations != have.metadata.annotations {
            patch["metadata"]["annotations"] = json!(want.metadata.annotations);
        }
        let seconds = |set: &ReplicaSet| set.spec.min_ready_seconds;
        if seconds(want) != seconds(have) {
            patch["spec"]["minReadySeconds"] = json!(seconds(want));
        }
        if draft.replicas() != draft.before {
            patch["spec"]["replicas"] = json!(draft.replicas());
        }
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(());
        }
        patch["metadata"]["uid"] = json!(have.metadata.uid);
        // What was decided holds for what was seen: if the set changed meanwhile, the run is repeated.
        patch["metadata"]["resourceVersion"] = json!(have.metadata.resource_version);
        let name = have.metadata.name.as_deref().unwrap_or_default();
        let set = api
            .patch(name, &PatchParams::default(), &Patch::<Value>::Merge(patch))
            .await
            .map_err(at("updating a ReplicaSet"))?;
        tracing::debug!(kind = "ReplicaSet", object = name, revision = revision(&set.metadata), "updated");
        self.sets.put(&set.metadata.clone(), set);
        if draft.replicas() != draft.before {
            self.tell_scaled(deployment, name, draft.before, draft.replicas());
        }
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, name: &str, from: i32, to: i32) {
        if from == to {
            return;
        }
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {name} from {from} to {to}");
        self.recorder.send(reference(deployment), Severity::Normal, "ScalingReplicaSet", message);
    }
}

fn reference(deployment: &Deployment) -> ObjectReference {
    ObjectReference {
        api_version: Some("apps/v1".to_owned()),
        kind: Some("Deployment".to_owned()),
        namespace: deployment.metadata.namespace.clone(),
        name: deployment.metadata.name.clone(),
        uid: deployment.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
