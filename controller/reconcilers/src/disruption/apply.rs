//! Writes the status of budgets, woken by them, by the pods that they select and by those pods' controllers.
use super::plan::{self, Owner};
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code};
use crate::pod::{PodFacts, controller_of};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::selector::Selector;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;

const WORKERS: usize = 2;

/// A controller of pods, and how many it wants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    uid: Box<str>,
    replicas: i64,
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) budgets: Arc<Cache<PodDisruptionBudget>>,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) deployments: Arc<Cache<Deployment>>,
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    pub(crate) stateful_sets: Arc<Cache<StatefulSet>>,
    /// In the form of ReplicaSets.
    pub(crate) replication_controllers: Arc<Cache<ReplicaSet>>,
    pub(crate) recorder: Recorder,
}

impl Scale {
    fn new(uid: Option<String>, replicas: Option<i32>) -> Self {
        Self { uid: uid.unwrap_or_default().into(), replicas: replicas.unwrap_or(1).into() }
    }

    fn of_stateful_set(set: &StatefulSet) -> Self {
        Self::new(set.metadata.uid.clone(), set.spec.replicas)
    }

    fn of_replica_set(set: &ReplicaSet) -> Self {
        Self::new(set.metadata.uid.clone(), set.spec.replicas)
    }
}

/// Looks at all budgets anew where the number that an object asks for changes.
fn wake_on_scale<F: Send + Sync + 'static>(
    queue: &Arc<Queue<Key>>,
    reconciler: &Reconciler,
    objects: &Cache<F>,
    scale: fn(&F) -> Scale,
) {
    let (wake, budgets) = (Arc::clone(queue), Arc::clone(&reconciler.budgets));
    objects.on_change(move |before, after| {
        if before.map(|object| scale(object)) != after.map(|object| scale(object)) {
            budgets.all().iter().for_each(|budget| wake.add(key_of(&budget.metadata)));
        }
    });
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("disruption");
    let wake = Arc::clone(&queue);
    reconciler.budgets.on_change(move |_, after| {
        if let Some(budget) = after {
            wake.add(key_of(&budget.metadata));
        }
    });
    let (wake, budgets) = (Arc::clone(&queue), Arc::clone(&reconciler.budgets));
    reconciler.pods.on_change(move |before, after| {
        let Some(pod) = after.or(before) else { return };
        for budget in budgets.in_namespace(pod.namespace()) {
            let Ok(Some(selector)) = selector_of(&budget) else { continue };
            if [before, after].into_iter().flatten().any(|pod| selector.matches(&pod.labels)) {
                wake.add(key_of(&budget.metadata));
            }
        }
    });
    // A controller that wants another number changes what its budgets expect.
    let (wake, budgets) = (Arc::clone(&queue), Arc::clone(&reconciler.budgets));
    reconciler.deployments.on_change(move |before, after| {
        let replicas = |one: Option<&Arc<Deployment>>| one.map(|one| one.spec.replicas);
        if replicas(before) != replicas(after) {
            let one = after.or(before);
            wake_namespace(&wake, &budgets, one.and_then(|one| one.metadata.namespace.as_deref()));
        }
    });
    let (wake, budgets) = (Arc::clone(&queue), Arc::clone(&reconciler.budgets));
    reconciler.replica_sets.on_change(move |before, after| {
        let replicas = |one: Option<&Arc<ReplicaSet>>| one.map(|one| one.spec.replicas);
        if replicas(before) != replicas(after) {
            let one = after.or(before);
            wake_namespace(&wake, &budgets, one.and_then(|one| one.metadata.namespace.as_deref()));
        }
    });
    wake_on_scale(&queue, &reconciler, &reconciler.stateful_sets, Scale::of_stateful_set);
    wake_on_scale(&queue, &reconciler, &reconciler.replication_controllers, Scale::of_replica_set);
    reconciler.budgets.listed().await;
    reconciler.pods.listed().await;
    reconciler.deployments.listed().await;
    reconciler.replica_sets.listed().await;
    reconciler.stateful_sets.listed().await;
    reconciler.replication_controllers.listed().await;
    for budget in reconciler.budgets.all() {
        queue.add(key_of(&budget.metadata));
    }
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

fn wake_namespace(queue: &Queue<Key>, budgets: &Cache<PodDisruptionBudget>, namespace: Option<&str>) {
    for budget in namespace.map(|namespace| budgets.in_namespace(namespace)).unwrap_or_default() {
        queue.add(key_of(&budget.metadata));
    }
}

/// A budget without a selector selects nothing, one with an empty selector everything.
fn selector_of(budget: &PodDisruptionBudget) -> Result<Option<Selector>, String> {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.map(Selector::from_label_selector).transpose();
    selector.map_err(|error| format!("spec.selector: {error}"))
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Wait) };
        if budget.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let (namespace, name) = split(key);
        let pods = selector_of(&budget).map(|selector| {
            let mut pods = self.pods.in_namespace(namespace);
            pods.retain(|pod| selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels)));
            pods
        });
        let pods = pods.as_deref().map_err(Clone::clone);
        let none = pods.as_ref().is_ok_and(|pods| pods.is_empty());
        let status = plan::status(&budget, pods, |pod| self.owner(pod), jiff::Timestamp::now());
        if budget.status.as_ref() == Some(&status) {
            return Ok(Next::Wait);
        }
        tracing::debug!(
            hop = "reconcile",
            kind = "PodDisruptionBudget",
            object = &**key,
            uid = budget.metadata.uid,
            allowed = status.disruptions_allowed,
            "planned"
        );
        if none {
            let message = "No matching pods found".to_owned();
            self.recorder.send(reference(&budget), Severity::Normal, "NoPods", message);
        }
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), namespace);
        let patch = json!({"metadata": {"uid": budget.metadata.uid}, "status": status});
        match budgets.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(budget) => self.budgets.put(&budget.metadata.clone(), budget),
            // Gone, or another budget by now.
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at("writing the status of a budget")(error)),
        }
        Ok(Next::Wait)
    }

    /// Who is in charge of a pod; of the pods of a rollout it is the Deployment.
    fn owner(&self, pod: &PodFacts) -> Option<Owner> {
        let (kind, name, uid) = pod.controller.as_ref()?;
        let key = format!("{}/{name}", pod.namespace());
        let scale = match &**kind {
            "ReplicaSet" => {
                let set = self.replica_sets.get(&key).filter(|set| set.metadata.uid.as_deref() == Some(&**uid))?;
                let above = controller_of(set.metadata.owner_references.as_ref());
                let deployment = above.filter(|above| above.kind == "Deployment").and_then(|above| {
                    let found = self.deployments.get(&format!("{}/{}", pod.namespace(), above.name));
                    found.filter(|found| found.metadata.uid.as_deref() == Some(&*above.uid))
                });
                match deployment {
                    Some(deployment) => Scale::new(deployment.metadata.uid.clone(), deployment.spec.replicas),
                    None => Scale::of_replica_set(&set),
                }
            }
            "StatefulSet" => Scale::of_stateful_set(&*self.stateful_sets.get(&key)?),
            "ReplicationController" => Scale::of_replica_set(&*self.replication_controllers.get(&key)?),
            _ => return None,
        };
        Some((scale.uid, scale.replicas))
    }
}

/// The object that events are about.
fn reference(budget: &PodDisruptionBudget) -> ObjectReference {
    ObjectReference {
        api_version: Some("policy/v1".to_owned()),
        kind: Some("PodDisruptionBudget".to_owned()),
        namespace: budget.metadata.namespace.clone(),
        name: budget.metadata.name.clone(),
        uid: budget.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
