//! Looks at each autoscaler every 15 seconds and when somebody changes it, scales its target and tells.
use super::measure::Meter;
use super::pace::Memory;
use super::plan::{self, Observed, Plan};
use super::rivals::{self, Selectors};
use super::source::{Measured, Source};
use super::target::{Directory, Target};
use crate::cache::{Cache, Key, key_of, split};
use crate::error::{ReconcileError, at, code};
use crate::parent::Parent;
use crate::pod::PodFacts;
use crate::queue::{Next, Queue};
use crate::record::{Notice, Recorder};
use crate::whole::whole;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const WORKERS: usize = 4;
/// `--horizontal-pod-autoscaler-sync-period`.
const PERIOD: Duration = Duration::from_secs(15);

/// Everything a run uses.
pub(crate) struct Reconciler {
    client: kube::Client,
    autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
    pods: Arc<Cache<PodFacts>>,
    recorder: Recorder,
    directory: Directory,
    /// By key, with the uid of whose it is.
    memories: Mutex<HashMap<Key, (String, Memory)>>,
    selectors: Mutex<Selectors>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("autoscale");
    let wake = Arc::clone(&queue);
    reconciler.autoscalers.on_change(move |before, after| {
        let spec =
            |one: Option<&Arc<HorizontalPodAutoscaler>>| one.map(|one| (one.metadata.uid.clone(), one.spec.clone()));
        // Statuses are our own words.
        if let Some(changed) = after.or(before).filter(|_| spec(before) != spec(after)) {
            wake.add(key_of(&changed.metadata));
        }
    });
    reconciler.autoscalers.listed().await;
    reconciler.pods.listed().await;
    for autoscaler in reconciler.autoscalers.all() {
        queue.add(key_of(&autoscaler.metadata));
    }
    let reconciler = Arc::new(reconciler);
    let work = move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.reconcile(&key).await }
    };
    queue.work(WORKERS, work).await;
}

fn parent(hpa: &HorizontalPodAutoscaler) -> Parent<'_> {
    Parent { api_version: "autoscaling/v2", kind: "HorizontalPodAutoscaler", metadata: &hpa.metadata }
}

impl Reconciler {
    /// One without memories.
    pub(crate) fn new(
        client: kube::Client,
        autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
        pods: Arc<Cache<PodFacts>>,
    ) -> Self {
        Self {
            recorder: Recorder::start(client.clone(), "horizontal-pod-autoscaler"),
            client,
            autoscalers,
            pods,
            directory: Directory::default(),
            memories: Mutex::default(),
            selectors: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(hpa) = self.autoscalers.get(key).filter(|hpa| !parent(hpa).is_deleting()) else {
            self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            self.selectors.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Next::Wait);
        };
        let (namespace, _) = split(key);
        let target = Target::read(&self.client, &self.directory, namespace, &hpa.spec.scale_target_ref).await;
        let (pods, rivals) = self.selected(key, target.as_ref().ok());
        let measured = self.measure(&hpa, target.as_ref().ok(), &rivals).await;
        let now = Timestamp::now();
        let observed = Observed {
            scale: target.as_ref().map(|target| &target.scale).map_err(String::as_str),
            pods: &pods,
            rivals: &rivals,
            measured: &measured,
            now,
        };
        let memory = self.remember(key, &hpa, target.as_ref().ok(), now);
        let mut plan = plan::plan(&hpa, &observed, memory);
        tracing::debug!(
            hop = "reconcile",
            kind = "HorizontalPodAutoscaler",
            object = &**key,
            uid = hpa.metadata.uid,
            pods = pods.len(),
            rescale = plan.rescale.as_ref().map(|rescale| rescale.to),
            "planned"
        );
        if let (Some(rescale), Ok(target)) = (&plan.rescale, &target) {
            let done = target.resize(rescale.to).await;
            plan::rescaled(&mut plan, done, now);
        }
        let Plan { status, notices, memory, .. } = plan;
        for Notice { severity, reason, message } in notices {
            self.recorder.send(parent(&hpa).reference(), severity, reason, message);
        }
        let uid = parent(&hpa).uid().to_owned();
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(key), (uid, memory));
        self.write_status(&hpa, namespace, &status).await?;
        Ok(Next::After(PERIOD))
    }

    /// What is remembered of an autoscaler; of one that is new, what its target has.
    fn remember(&self, key: &Key, hpa: &HorizontalPodAutoscaler, target: Option<&Target>, now: Timestamp) -> Memory {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let own = memories.get(key).filter(|(uid, _)| *uid == parent(hpa).uid()).map(|(_, memory)| memory.clone());
        match (own, target) {
            (Some(memory), _) if memory != Memory::default() => memory,
            (_, Some(target)) => Memory::beginning(target.scale.wanted, now),
            (_, None) => Memory::default(),
        }
    }

    /// The pods of a target, and the autoscalers that have any of them.
    fn selected(&self, key: &Key, target: Option<&Target>) -> (Vec<Arc<PodFacts>>, Vec<Key>) {
        let (namespace, _) = split(key);
        let mut selectors = self.selectors.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Ok(Some(selector))) = target.map(|target| &target.scale.selector) else {
            selectors.remove(key);
            return (Vec::new(), Vec::new());
        };
        selectors.insert(Arc::clone(key), selector.clone());
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| selector.matches(&pod.labels));
        let rivals = rivals::of(&pods, namespace, &selectors);
        (pods, rivals)
    }

    /// The answers to all metrics, where those matter.
    async fn measure(
        &self,
        hpa: &HorizontalPodAutoscaler,
        target: Option<&Target>,
        rivals: &[Key],
    ) -> Vec<Result<Measured, String>> {
        let needy = target.filter(|target| plan::needs_metrics(&hpa.spec, &target.scale, rivals));
        let Some(Ok(Some(selector))) = needy.map(|target| &target.scale.selector) else { return Vec::new() };
        let namespace = parent(hpa).namespace();
        let meter = Meter { client: &self.client, directory: &self.directory, namespace, selector };
        let mut answers = Vec::new();
        for spec in hpa.spec.metrics.iter().flatten() {
            answers.push(match Source::read(spec) {
                Ok(source) => meter.ask(source.query).await,
                // The plan finds the same.
                Err(failure) => Err(failure.message),
            });
        }
        answers
    }

    async fn write_status(
        &self,
        hpa: &HorizontalPodAutoscaler,
        namespace: &str,
        status: &HorizontalPodAutoscalerStatus,
    ) -> Result<(), ReconcileError> {
        if hpa.status.as_ref() == Some(status) {
            return Ok(());
        }
        let status = whole(status, &["conditions", "currentMetrics", "currentReplicas", "lastScaleTime"]);
        let patch = json!({"metadata": {"uid": hpa.metadata.uid}, "status": status});
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), namespace);
        match autoscalers.patch_status(parent(hpa).name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(hpa) => self.autoscalers.put(&hpa.metadata.clone(), hpa),
            // Gone, or another one by now.
            Err(error) if matches!(code(&error), 404 | 409) => {}
            Err(error) => return Err(at("writing the status of an autoscaler")(error)),
        }
        Ok(())
    }
}
