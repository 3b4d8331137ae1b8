//! Carries out what a node needs: addresses at once, taints by health, eviction of pods that do not tolerate them.
use super::plan::{self, GRACE_SECONDS, Health};
use super::ranges::Ranges;
use crate::cache::{Cache, Key, key_of};
use crate::error::{ReconcileError, at, code};
use crate::pod::{Phase, PodFacts, evict};
use crate::queue::{Next, Queue};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WORKERS: usize = 4;

/// What is known of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeFacts {
    name: Key,
    uid: String,
    revision: Option<String>,
    range: Option<String>,
    taints: Vec<Taint>,
    conditions: Vec<NodeCondition>,
    labels: BTreeMap<String, String>,
    /// `status.volumesInUse`
    in_use: Vec<String>,
}

impl NodeFacts {
    /// Its name.
    pub(crate) fn name(&self) -> &Key {
        &self.name
    }

    /// The volumes that it uses, as `status.volumesInUse` names them.
    pub(crate) fn in_use(&self) -> &[String] {
        &self.in_use
    }

    /// Whether it says, or is said, to be ready.
    pub(crate) fn is_ready(&self) -> bool {
        plan::health(&self.conditions) == Health::Ready
    }

    /// Whether people say that it is off.
    pub(crate) fn is_out_of_service(&self) -> bool {
        self.taints.iter().any(|taint| taint.key == api::well_known::TAINT_OUT_OF_SERVICE)
    }

    /// The zone it is in.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.labels.get(api::well_known::LABEL_ZONE).map(String::as_str)
    }

    /// Its labels.
    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its taints.
    pub(crate) fn taints(&self) -> &[Taint] {
        &self.taints
    }

    /// Its name, and its own address in its part of the pods' range, the first: where it serves the cluster's names.
    pub(crate) fn place(&self) -> Option<(String, std::net::Ipv4Addr)> {
        let range: ipnet::Ipv4Net = self.range.as_deref()?.parse().ok()?;
        Some((self.name.to_string(), range.hosts().next()?))
    }

    /// Takes the facts out.
    pub(crate) fn new(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        Self {
            name: key_of(&node.metadata),
            uid: node.metadata.uid.unwrap_or_default(),
            revision: node.metadata.resource_version,
            range: spec.pod_cidr.filter(|range| !range.is_empty()),
            taints: spec.taints.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            in_use: status.volumes_in_use.unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
        }
    }
}

/// When a node reported last, on our own clock: its clock need not be right.
#[derive(Clone, Debug)]
pub(crate) struct LeaseFacts {
    name: Key,
    seen: Instant,
}

impl LeaseFacts {
    /// Notes that the Lease was renewed.
    pub(crate) fn new(lease: Lease) -> Self {
        Self { name: lease.metadata.name.unwrap_or_default().into(), seen: Instant::now() }
    }
}

/// Everything a run uses.
pub(crate) struct Reconciler {
    pub(crate) client: kube::Client,
    pub(crate) nodes: Arc<Cache<NodeFacts>>,
    pub(crate) leases: Arc<Cache<LeaseFacts>>,
    pub(crate) pods: Arc<Cache<PodFacts>>,
    pub(crate) ranges: Ranges,
}

/// What runs share.
struct Shared {
    reconciler: Reconciler,
    /// One allocation at a time, so that no range is given twice: ranges that are on their way, by node.
    given: tokio::sync::Mutex<HashMap<Key, String>>,
    /// When each node was seen first; silence counts from then where there is no Lease.
    known_since: Mutex<HashMap<Key, Instant>>,
    /// Since when pods bear with their node's taints, by node.
    patient_since: Mutex<HashMap<Key, plan::Since>>,
}

/// Reconciles until dropped.
pub(crate) async fn start(reconciler: Reconciler) {
    let queue: Arc<Queue<Key>> = Queue::new("node");
    let wake = Arc::clone(&queue);
    reconciler.nodes.on_change(move |before, after| match (before, after) {
        (Some(before), Some(after)) if before.taints == after.taints && before.conditions == after.conditions => {}
        (_, Some(node)) => wake.add(Arc::clone(&node.name)),
        (Some(node), None) => wake.add(Arc::clone(&node.name)),
        (None, None) => {}
    });
    let (wake, nodes) = (Arc::clone(&queue), Arc::clone(&reconciler.nodes));
    reconciler.leases.on_change(move |_, after| {
        // Renewals of healthy nodes move only the timer, and that moves itself.
        if let Some(lease) = after
            && nodes.get(&lease.name).is_some_and(|node| plan::health(&node.conditions) == Health::Unreachable)
        {
            wake.add(Arc::clone(&lease.name));
        }
    });
    let (wake, nodes) = (Arc::clone(&queue), Arc::clone(&reconciler.nodes));
    reconciler.pods.on_change(move |_, after| {
        if let Some(name) = after.filter(|pod| pod.is_active()).and_then(|pod| pod.node.as_deref())
            && let Some(node) = nodes.get(name)
            && node.taints.iter().any(|taint| taint.effect == "NoExecute")
        {
            wake.add(Arc::clone(&node.name));
        }
    });
    reconciler.nodes.listed().await;
    reconciler.leases.listed().await;
    reconciler.pods.listed().await;
    for node in reconciler.nodes.all() {
        queue.add(Arc::clone(&node.name));
    }
    let shared = Arc::new(Shared {
        reconciler,
        given: Default::default(),
        known_since: Default::default(),
        patient_since: Default::default(),
    });
    let work = move |name: Key| {
        let shared = Arc::clone(&shared);
        async move { shared.reconcile(&name).await }
    };
    queue.work(WORKERS, work).await;
}

impl Shared {
    async fn reconcile(&self, name: &Key) -> Result<Next, ReconcileError> {
        let Some(node) = self.reconciler.nodes.get(name) else {
            self.given.lock().await.remove(name);
            self.since().remove(name);
            self.patient_since().remove(name);
            return Ok(Next::Wait);
        };
        let nodes: Api<Node> = Api::all(self.reconciler.client.clone());
        if node.range.is_none() {
            self.allocate(&nodes, &node).await?;
        }
        let now = Instant::now();
        let first = *self.since().entry(Arc::clone(name)).or_insert(now);
        let lease = self.reconciler.leases.get(&format!("{}/{name}", api::well_known::NAMESPACE_NODE_LEASE));
        let seen = lease.map_or(first, |lease| lease.seen.max(first));
        let grace = Duration::from_secs(GRACE_SECONDS.unsigned_abs());
        let left = grace.saturating_sub(now.saturating_duration_since(seen));
        let clock = jiff::Timestamp::now();
        if left.is_zero() {
            let silent = plan::silent(&node.conditions, clock);
            if !silent.is_empty() {
                let patch = json!({"metadata": {"uid": node.uid}, "status": {"conditions": silent}});
                let patched = nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                self.written(patched, "writing that a node is silent")?;
            }
        }
        let Some(node) = self.reconciler.nodes.get(name) else { return Ok(Next::Wait) };
        let health = plan::health(&node.conditions);
        if let Some(taints) = plan::taints(&node.taints, &node.conditions, clock) {
            // The whole list is replaced, so it must be the one that was seen. An empty one is none.
            let taints = Some(taints).filter(|taints| !taints.is_empty());
            let patch =
                json!({"metadata": {"uid": node.uid, "resourceVersion": node.revision}, "spec": {"taints": taints}});
            let patched = nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            self.written(patched, "tainting a node")?;
        }
        if health == Health::Unreachable {
            self.unready(name).await?;
        }
        let evict = self.evict(name, clock).await?;
        let next = [(!left.is_zero()).then_some(left), evict].into_iter().flatten().min();
        Ok(next.map_or(Next::Wait, |wait| Next::After(wait + Duration::from_millis(10))))
    }

    fn since(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Instant>> {
        self.known_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self, result: Result<Node, kube::Error>, step: &'static str) -> Result<(), ReconcileError> {
        match result {
            Ok(node) => self.reconciler.nodes.put(&node.metadata.clone(), NodeFacts::new(node)),
            Err(error) if code(&error) == 404 => {}
            Err(error) => return Err(at(step)(error)),
        }
        Ok(())
    }

    async fn allocate(&self, nodes: &Api<Node>, node: &NodeFacts) -> Result<(), ReconcileError> {
        let range = {
            let mut given = self.given.lock().await;
            let all = self.reconciler.nodes.all();
            let taken = all.iter().filter_map(|node| node.range.as_deref());
            let range = match given.get(&node.name) {
                Some(range) => range.clone(),
                None => self
                    .reconciler
                    .ranges
                    .free(taken.chain(given.values().map(String::as_str)))
                    .ok_or_else(|| ReconcileError::Object("no range of the cluster's addresses is left".to_owned()))?
                    .to_string(),
            };
            given.insert(Arc::clone(&node.name), range.clone());
            range
        };
        let patch = json!({"metadata": {"uid": node.uid}, "spec": {"podCIDR": range, "podCIDRs": [range]}});
        let patched = nodes.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        self.written(patched, "giving a node its addresses")?;
        tracing::info!(kind = "Node", object = &*node.name, %range, "has its addresses");
        Ok(())
    }

    /// Pods of a silent node get no traffic: they are not ready.
    async fn unready(&self, name: &Key) -> Result<(), ReconcileError> {
        let is_ready = |pod: &PodFacts| pod.ready_since.is_some() && pod.phase != Phase::Ended;
        for pod in self.reconciler.pods.select(|pod| pod.node.as_deref() == Some(name) && is_ready(pod)) {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": now},
            ]}});
            let pods: Api<Pod> = Api::namespaced(self.reconciler.client.clone(), pod.namespace());
            match pods.patch_status(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(pod) => self.reconciler.pods.put(&pod.metadata.clone(), PodFacts::new(pod)),
                Err(error) if matches!(code(&error), 404 | 409) => {}
                Err(error) => return Err(at("marking a pod of a silent node")(error)),
            }
        }
        Ok(())
    }

    fn patient_since(&self) -> MutexGuard<'_, HashMap<Key, plan::Since>> {
        self.patient_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes pods that tolerate the node's `NoExecute` taints no longer; gives the time until the next one.
    async fn evict(&self, name: &Key, now: jiff::Timestamp) -> Result<Option<Duration>, ReconcileError> {
        let Some(node) = self.reconciler.nodes.get(name) else { return Ok(None) };
        let known = self.patient_since().remove(name).unwrap_or_default();
        // Most nodes have no such taint, and a look at all pods for each would not be cheap.
        if !node.taints.iter().any(|taint| taint.effect == "NoExecute") {
            return Ok(None);
        }
        let pods = self.reconciler.pods.select(|pod| pod.node.as_deref() == Some(name) && pod.is_active());
        let plan::Evictions { due, since, next } = plan::evictions(&pods, &node.taints, &known, now.as_second());
        if !since.is_empty() {
            self.patient_since().insert(Arc::clone(name), since);
        }
        for pod in due {
            let message = "Taint manager: deleting due to NoExecute taint";
            evict(&self.reconciler.client, &pod, "DeletionByTaintManager", message).await?;
        }
        Ok(next.map(Duration::from_secs))
    }
}
