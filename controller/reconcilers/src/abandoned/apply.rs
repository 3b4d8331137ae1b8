//! Carries out what the plan says, woken by nodes that go and by pods that end.
use super::plan::{self, ENDED_MAX, QUARANTINE};
use crate::cache::{Cache, Key};
use crate::error::{ReconcileError, at, code};
use crate::node::NodeFacts;
use crate::pod::{Phase, PodFacts};
use crate::queue::{Next, Queue};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
/// Pods that end at once are counted together.
const COUNT_EVERY: Duration = Duration::from_secs(20);

/// What needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Cause {
    /// A node that pods are bound to may be gone.
    Node(Key),
    /// A pod ended.
    Ended,
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) pods: Arc<Cache<PodFacts>>,
}

struct Shared {
    reconciler: Reconciler,
    /// Since when each node is known to be missing.
    missing: Mutex<HashMap<Key, Instant>>,
    counted: Mutex<Option<Instant>>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Cause>> = Queue::new("pod-garbage");
    let wake = Arc::clone(&queue);
    reconciler.nodes.on_change(move |before, after| {
        if let (Some(node), None) = (before, after) {
            wake.add(Cause::Node(Arc::clone(node.name())));
        }
    });
    let (wake, nodes) = (Arc::clone(&queue), Arc::clone(&reconciler.nodes));
    reconciler.pods.on_change(move |before, after| {
        let Some(pod) = after else { return };
        let was_bound = before.is_some_and(|before| before.node.is_some());
        if let Some(node) = pod.node.as_deref().filter(|node| !was_bound && nodes.get(node).is_none()) {
            wake.add(Cause::Node(node.into()));
        }
        if pod.phase == Phase::Ended && before.is_none_or(|before| before.phase != Phase::Ended) {
            wake.add(Cause::Ended);
        }
    });
    reconciler.nodes.listed().await;
    reconciler.pods.listed().await;
    for pod in reconciler.pods.all() {
        if let Some(node) = pod.node.as_deref().filter(|node| reconciler.nodes.get(node).is_none()) {
            queue.add(Cause::Node(node.into()));
        }
    }
    let shared = Arc::new(Shared { reconciler, missing: Default::default(), counted: Default::default() });
    let work = move |cause: Cause| {
        let shared = Arc::clone(&shared);
        async move {
            match cause {
                Cause::Node(name) => shared.node(&name).await,
                Cause::Ended => shared.ended().await,
            }
        }
    };
    queue.work(WORKERS, work).await;
}

impl Shared {
    async fn node(&self, name: &Key) -> Result<Next, ReconcileError> {
        if self.reconciler.nodes.get(name).is_some() {
            self.lock_missing().remove(name);
            return Ok(Next::Wait);
        }
        let since = *self.lock_missing().entry(Arc::clone(name)).or_insert_with(Instant::now);
        let left = QUARANTINE.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        // A watch may lag behind; what is deleted by mistake is gone.
        let nodes: Api<Node> = Api::all(self.reconciler.client.clone());
        if nodes.get_opt(name).await.map_err(at("looking for a node"))?.is_none() {
            for pod in plan::bound_to(&self.reconciler.pods.all(), name) {
                self.delete(&pod, "its node is gone").await?;
            }
        }
        self.lock_missing().remove(name);
        Ok(Next::Wait)
    }

    async fn ended(&self) -> Result<Next, ReconcileError> {
        let left = {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            let left = counted.map_or(Duration::ZERO, |at| COUNT_EVERY.saturating_sub(at.elapsed()));
            if left.is_zero() {
                *counted = Some(Instant::now());
            }
            left
        };
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        for pod in plan::surplus(&self.reconciler.pods.all(), ENDED_MAX) {
            self.delete(&pod, "too many pods ended").await?;
        }
        Ok(Next::Wait)
    }

    async fn delete(&self, pod: &PodFacts, why: &'static str) -> Result<(), ReconcileError> {
        let own = Preconditions { uid: Some(pod.uid.to_string()), resource_version: None };
        let params = DeleteParams { preconditions: Some(own), ..DeleteParams::default().grace_period(0) };
        let pods: Api<Pod> = Api::namespaced(self.reconciler.client.clone(), pod.namespace());
        if pod.phase != Phase::Ended {
            // Nobody else will say that it has ended; who keeps it by a finalizer waits for that.
            let mut said = pod.disrupted("DeletionByPodGC", "PodGC: node no longer exists");
            said["status"]["phase"] = "Failed".into();
            match pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(said)).await {
                Ok(_) => {}
                Err(error) if matches!(code(&error), 404 | 409) => return Ok(()),
                Err(error) => return Err(at("saying that an abandoned pod has failed")(error)),
            }
        }
        match pods.delete(pod.name(), &params).await {
            Ok(_) => tracing::info!(kind = "Pod", object = pod.key.as_deref(), uid = &*pod.uid, why, "removed"),
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at("removing an abandoned pod")(error)),
        }
        Ok(())
    }

    fn lock_missing(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
