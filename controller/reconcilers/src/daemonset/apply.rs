//! Carries the plan of a DaemonSet out: idempotent, and what it writes is in the caches before the run ends.
use super::backoff::{Backoff, Place};
use super::place::{parent, pod};
use super::plan::{Cause, Plan, Scene, plan};
use super::status::status;
use crate::adoption::may_adopt;
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code, is_terminating};
use crate::history::{Keeper, Source, equals, hash_of, is_of, name_of, surplus};
use crate::node::NodeFacts;
use crate::pod::{PodFacts, PodWriter, slowly};
use crate::queue::{Next, Queue};
use crate::record::{Recorder, Severity};
use api::selector::Selector;
use api::well_known::LABEL_CONTROLLER_REVISION_HASH;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const WORKERS: usize = 4;

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) writer: PodWriter,
    pub(crate) history: Keeper,
    pub(crate) sets: Arc<Cache<DaemonSet>>,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) recorder: Recorder,
}

struct Shared {
    reconciler: Reconciler,
    backoff: Mutex<Backoff>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("daemonset");
    wake(&reconciler, &queue);
    reconciler.sets.listed().await;
    reconciler.nodes.listed().await;
    reconciler.writer.pods.listed().await;
    reconciler.history.revisions.listed().await;
    for set in reconciler.sets.all() {
        queue.add(key_of(&set.metadata));
    }
    let shared = Arc::new(Shared { reconciler, backoff: Mutex::default() });
    let work = move |key: Key| {
        let shared = Arc::clone(&shared);
        async move { shared.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

/// What makes a set worth a look.
fn wake(reconciler: &Reconciler, queue: &Arc<Queue<Key>>) {
    let wake = Arc::clone(queue);
    reconciler.sets.on_change(move |_, after| {
        if let Some(after) = after {
            wake.add(key_of(&after.metadata));
        }
    });
    let takes =
        |set: &DaemonSet, pod: &PodFacts| selector_of(set).is_some_and(|selector| selector.matches(&pod.labels));
    reconciler.writer.wake(queue, &reconciler.sets, "DaemonSet", takes);
    let (wake, sets) = (Arc::clone(queue), Arc::clone(&reconciler.sets));
    reconciler.nodes.on_change(move |before, after| {
        // How a node does is told every few seconds, and changes nothing here.
        if let (Some(before), Some(after)) = (before, after)
            && before.labels() == after.labels()
            && before.taints() == after.taints()
        {
            return;
        }
        for set in sets.all() {
            wake.add(key_of(&set.metadata));
        }
    });
    let (wake, sets) = (Arc::clone(queue), Arc::clone(&reconciler.sets));
    reconciler.history.revisions.on_change(move |before, after| {
        // A revision that is in use may have been deleted by somebody.
        let (Some(gone), None) = (before, after) else { return };
        for set in sets.in_namespace(gone.metadata.namespace.as_deref().unwrap_or_default()) {
            if is_of(gone, parent(&set).uid()) {
                wake.add(key_of(&set.metadata));
            }
        }
    });
}

fn selector_of(set: &DaemonSet) -> Option<Selector> {
    let selector = Selector::from_label_selector(&set.spec.selector).ok()?;
    (!selector.is_empty()).then_some(selector)
}

fn source(set: &DaemonSet) -> Source<'_> {
    Source { parent: parent(set), template: &set.spec.template, hash_label: LABEL_CONTROLLER_REVISION_HASH }
}

impl Shared {
    fn api(&self, namespace: &str) -> Api<DaemonSet> {
        Api::namespaced(self.reconciler.writer.client.clone(), namespace)
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Reconciler { writer, sets, nodes, .. } = &self.reconciler;
        let Some(set) = sets.get(key) else { return Ok(Next::Wait) };
        let (namespace, name) = split(key);
        let parent = parent(&set);
        // Validation refuses empty selectors.
        let Some(selector) = selector_of(&set) else { return Ok(Next::Wait) };
        writer.claim(&parent, &selector, |_| true, may_adopt(&self.api(namespace), &set.metadata)).await?;
        let known = set.status.as_ref().and_then(|status| status.collision_count);
        let mut collisions = known.unwrap_or_default();
        let (own, current) = self.revisions(&set, &selector, &mut collisions).await?;
        let same: Vec<&str> = own
            .iter()
            .filter(|revision| equals(revision, &current))
            .map(|revision| hash_of(revision, LABEL_CONTROLLER_REVISION_HASH))
            .collect();

        let (nodes, pods) = (nodes.all(), writer.of(&parent));
        let wait = |node: &str| self.backoff().left(&place(&set, node), Instant::now());
        let now = jiff::Timestamp::now();
        let scene = Scene { set: &set, nodes: &nodes, pods: &pods, hashes: &same, wait: &wait, now };
        let plan = plan(&scene);
        tracing::debug!(
            hop = "reconcile",
            kind = "DaemonSet",
            object = &**key,
            uid = set.metadata.uid,
            rev = set.metadata.resource_version,
            create = plan.create.len(),
            delete = plan.delete.len(),
            "planned"
        );
        let later = plan.next;
        let done = self.carry_out(&set, &current, plan).await;

        let pods = writer.of(&parent);
        let told = known.or((collisions > 0).then_some(collisions)).map(|_| collisions);
        let (status, next) = status(&Scene { pods: &pods, now: jiff::Timestamp::now(), ..scene }, told);
        if set.status.as_ref() != Some(&status) {
            let patch = json!({"metadata": {"uid": set.metadata.uid}, "status": status});
            match self.api(namespace).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(set) => sets.put(&set.metadata.clone(), set),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return done.and(Err(at("writing the status")(error))),
            }
        }
        done?;
        self.truncate(&set, &own, &current, &pods).await?;
        let next = next.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        Ok(next.into_iter().chain(later).min().map_or(Next::Wait, Next::After))
    }

    fn backoff(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set's own revisions, and the one of its template.
    async fn revisions(
        &self,
        set: &DaemonSet,
        selector: &Selector,
        collisions: &mut i32,
    ) -> Result<(Vec<Arc<ControllerRevision>>, Arc<ControllerRevision>), ReconcileError> {
        let (history, source) = (&self.reconciler.history, source(set));
        let orphans = history.orphans(&source, selector);
        if !orphans.is_empty()
            && !source.parent.is_deleting()
            && may_adopt(&self.api(source.parent.namespace()), &set.metadata).await?
        {
            for revision in orphans {
                history.adopt(&source, &revision).await?;
            }
        }
        let mut own = history.own(&source, selector).await?;
        let current = history.settle(&source, &mut own, collisions).await?;
        Ok((own, current))
    }

    async fn carry_out(&self, set: &DaemonSet, current: &ControllerRevision, plan: Plan) -> Result<(), ReconcileError> {
        // A pod that is gone makes room for the next one.
        for chunk in plan.delete.chunks(64) {
            for deleted in join_all(chunk.iter().map(|(pod, cause)| self.delete(set, pod, *cause))).await {
                deleted?;
            }
        }
        let hash = hash_of(current, LABEL_CONTROLLER_REVISION_HASH);
        slowly(&plan.create, |node| self.create(set, hash, node)).await
    }

    async fn create(&self, set: &DaemonSet, hash: &str, node: &str) -> Result<(), ReconcileError> {
        let pod = pod(set, &set.spec.template, hash, node);
        match self.reconciler.writer.create(parent(set).namespace(), &pod).await {
            Ok(name) => {
                self.tell(set, Severity::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(())
            }
            // The namespace is being deleted, and this set with it.
            Err(error) if is_terminating(&error) => Ok(()),
            Err(error) => {
                self.tell(set, Severity::Warning, "FailedCreate", format!("Error creating: {error}"));
                Err(at("creating a pod")(error))
            }
        }
    }

    async fn delete(&self, set: &DaemonSet, pod: &PodFacts, cause: Cause) -> Result<(), ReconcileError> {
        if cause == Cause::Ended {
            let node = pod.place().unwrap_or_default();
            let which = |how: &str| format!("Found {how} daemon pod {}/{} on node {node}", pod.namespace(), pod.name());
            if pod.has_failed {
                self.backoff().note(place(set, node), Instant::now());
                let message = format!("{}, will try to kill it", which("failed"));
                self.tell(set, Severity::Warning, "FailedDaemonPod", message);
            } else {
                let message = format!("{}, will try to delete it", which("succeeded"));
                self.tell(set, Severity::Normal, "SucceededDaemonPod", message);
            }
        }
        match self.reconciler.writer.delete(pod).await {
            Ok(true) => {
                self.tell(set, Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                self.tell(set, Severity::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(at("deleting a pod")(error))
            }
        }
    }

    async fn truncate(
        &self,
        set: &DaemonSet,
        own: &[Arc<ControllerRevision>],
        current: &ControllerRevision,
        pods: &[Arc<PodFacts>],
    ) -> Result<(), ReconcileError> {
        if parent(set).is_deleting() {
            return Ok(());
        }
        let used: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.label(LABEL_CONTROLLER_REVISION_HASH)).collect();
        let is_live = |revision: &&Arc<ControllerRevision>| {
            name_of(revision) == name_of(current) || used.contains(hash_of(revision, LABEL_CONTROLLER_REVISION_HASH))
        };
        let live = own.iter().filter(is_live).map(|revision| name_of(revision)).collect();
        let gone = surplus(own, &live, set.spec.revision_history_limit);
        self.reconciler.history.delete(&source(set), &gone).await
    }

    fn tell(&self, set: &DaemonSet, severity: Severity, reason: &'static str, message: String) {
        self.reconciler.recorder.send(parent(set).reference(), severity, reason, message);
    }
}

fn place(set: &DaemonSet, node: &str) -> Place {
    (parent(set).uid().into(), set.metadata.generation.unwrap_or_default(), node.into())
}
