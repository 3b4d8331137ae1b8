//! Carries the plan of a ReplicaSet or ReplicationController out: idempotent, and what it writes is in the cache before the run ends.
use super::flavor::Flavor;
use super::plan::{self, Plan};
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::parent::Parent;
use crate::pod::{PodFacts, PodWriter, slowly};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use crate::whole::whole;
use api::selector::Selector;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const WORKERS: usize = 8;

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) flavor: Flavor,
    pub(crate) writer: PodWriter,
    pub(crate) sets: Arc<Cache<ReplicaSet>>,
    pub(crate) recorder: Recorder,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new(reconciler.flavor.queue());
    let wake = Arc::clone(&queue);
    reconciler.sets.on_change(move |before, after| {
        for set in [before, after].into_iter().flatten() {
            wake.add(key_of(&set.metadata));
        }
    });
    let takes = |set: &ReplicaSet, pod: &PodFacts| selector_of(set).is_ok_and(|selector| selector.matches(&pod.labels));
    reconciler.writer.wake(&queue, &reconciler.sets, reconciler.flavor.kind(), takes);
    reconciler.sets.listed().await;
    reconciler.writer.pods.listed().await;
    for set in reconciler.sets.all() {
        queue.add(key_of(&set.metadata));
    }
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

fn selector_of(set: &ReplicaSet) -> Result<Selector, ReconcileError> {
    match Selector::from_label_selector(&set.spec.selector) {
        Ok(selector) if !selector.is_empty() => Ok(selector),
        Err(error) => Err(ReconcileError::Object(format!("spec.selector: {error}"))),
        Ok(_) => Err(ReconcileError::Object("spec.selector: must not be empty".to_owned())),
    }
}

impl Reconciler {
    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::Wait) };
        let (namespace, _) = split(key);
        let selector = match selector_of(&set) {
            Ok(selector) => selector,
            Err(error) => {
                tracing::warn!(kind = self.flavor.kind(), object = &**key, %error, "left alone");
                return Ok(Next::Wait);
            }
        };
        let plan = plan::plan(&set, &selector, &self.writer.pods.in_namespace(namespace));
        tracing::debug!(
            hop = "reconcile",
            kind = self.flavor.kind(),
            object = &**key,
            uid = set.metadata.uid,
            rev = set.metadata.resource_version,
            create = plan.create,
            "planned"
        );
        let mut failure = None;
        let done = self.carry_out(&set, namespace, &plan, &mut failure).await;
        let now = jiff::Timestamp::now();
        let (status, next) = plan::status(&set, &self.writer.pods.in_namespace(namespace), failure, now);
        let told = set.status.as_ref().map(|told| self.flavor.comparable(told));
        if told.as_ref() != Some(&self.flavor.comparable(&status)) {
            let patch = json!({"metadata": {"uid": set.metadata.uid}, "status": whole(&status, &["conditions"])});
            let name = set.metadata.name.as_deref().unwrap_or_default();
            match self.flavor.write_status(self.writer.client.clone(), namespace, name, patch).await {
                Ok(set) => self.sets.put(&set.metadata.clone(), set),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return done.and(Err(at("writing the status")(error))),
            }
        }
        done?;
        Ok(next.and_then(|s| u64::try_from(s).ok()).map_or(Next::Wait, |s| Next::After(Duration::from_secs(s))))
    }

    async fn carry_out(
        &self,
        set: &ReplicaSet,
        namespace: &str,
        plan: &Plan,
        failure: &mut Option<(&'static str, String)>,
    ) -> Result<(), ReconcileError> {
        let may_adopt = || self.flavor.may_adopt(&self.writer.client, namespace, &set.metadata);
        let adopts = !plan.adopt.is_empty() && may_adopt().await?;
        for pod in plan.adopt.iter().filter(|_| adopts) {
            let owner =
                json!({"metadata": {"uid": &*pod.uid, "ownerReferences": [self.parent(set).owner_reference()]}});
            self.writer.patch(pod, owner, "adopting a pod").await?;
        }
        for pod in &plan.release {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            let owner = json!({"metadata": {"uid": &*pod.uid, "ownerReferences": [{"$patch": "delete", "uid": uid}]}});
            self.writer.patch(pod, owner, "releasing a pod").await?;
        }
        if let Err(error) = slowly(&vec![(); plan.create], |()| self.create(set)).await {
            *failure = Some(("FailedCreate", error.to_string()));
            return Err(at("creating a pod")(error));
        }
        for chunk in plan.delete.chunks(64) {
            let results = join_all(chunk.iter().map(|pod| self.delete(set, pod))).await;
            if let Some(Err(error)) = results.into_iter().find(Result::is_err) {
                *failure = Some(("FailedDelete", error.to_string()));
                return Err(at("deleting a pod")(error));
            }
        }
        Ok(())
    }

    async fn create(&self, set: &ReplicaSet) -> Result<(), kube::Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        match self.writer.create(namespace, &self.pod(set)).await {
            Ok(name) => {
                let message = format!("Created pod: {name}");
                self.recorder.send(self.parent(set).reference(), Severity::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            // The namespace is being deleted, and this set with it.
            Err(error) if is_terminating(&error) => Ok(()),
            Err(error) => {
                self.recorder.send(
                    self.parent(set).reference(),
                    Severity::Warning,
                    "FailedCreate",
                    format!("Error creating: {error}"),
                );
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &ReplicaSet, pod: &PodFacts) -> Result<(), kube::Error> {
        match self.writer.delete(pod).await {
            Ok(true) => {
                let message = format!("Deleted pod: {}", pod.name());
                self.recorder.send(self.parent(set).reference(), Severity::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                let message = format!("Error deleting: {error}");
                self.recorder.send(self.parent(set).reference(), Severity::Warning, "FailedDelete", message);
                Err(error)
            }
        }
    }

    /// A pod by the template.
    fn pod(&self, set: &ReplicaSet) -> Pod {
        let template = set.spec.template.clone().unwrap_or_default();
        Pod { metadata: self.parent(set).pod_metadata(template.metadata), spec: template.spec, status: None }
    }

    fn parent<'a>(&self, set: &'a ReplicaSet) -> Parent<'a> {
        Parent { api_version: self.flavor.api_version(), kind: self.flavor.kind(), metadata: &set.metadata }
    }
}
