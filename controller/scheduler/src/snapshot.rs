//! The few facts about nodes and pods that a decision needs; the typed objects are dropped once these are taken.
use crate::volumes::Volumes;
use api::quantity::Quantity;
use api::volume::UsedClaim;
use k8s_openapi::api::core::v1::{Affinity, Node, NodeAffinity, Pod, PodSpec, Taint, Toleration};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// `namespace/name` of a pod.
pub type PodKey = Arc<str>;

/// The scheduler whose pods are ours.
pub const SCHEDULER_NAME: &str = "default-scheduler";
/// What a container that asks for nothing counts for when nodes are ranked (Kubernetes' figures).
const UNASKED_MILLI_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources: cpu in thousandths, everything else in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// Devices, huge pages and the like.
    pub extended: BTreeMap<Box<str>, i64>,
}

impl Amounts {
    fn read<'a>(entries: impl Iterator<Item = (&'a str, Quantity)>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in entries {
            match name {
                "cpu" => amounts.milli_cpu = quantity.milli(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral_storage = quantity.value(),
                "pods" => {}
                other => drop(amounts.extended.insert(other.into(), quantity.value())),
            }
        }
        amounts
    }

    fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let sum = self.extended.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    fn subtract(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            if let Some(sum) = self.extended.get_mut(name) {
                *sum = sum.saturating_sub(*amount);
            }
        }
    }
}

/// A port on the host that a pod takes: address, protocol, number.
pub type HostPort = (Box<str>, Box<str>, i32);

/// What a pod takes of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What it reserves.
    pub requests: Amounts,
    /// What it counts for in the ranking.
    pub ranked_milli_cpu: i64,
    /// What it counts for in the ranking.
    pub ranked_memory: i64,
    /// The ports it takes.
    pub host_ports: Vec<HostPort>,
    /// The claims it uses.
    pub claims: Vec<UsedClaim>,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// `namespace/name`.
    pub key: PodKey,
    /// Its uid.
    pub uid: Arc<str>,
    /// Higher goes first.
    pub priority: i32,
    /// Seconds since 1970; older goes first.
    pub created: i64,
    /// Where it is bound to; `None` while it waits.
    pub node: Option<Box<str>>,
    /// What it takes.
    pub load: Load,
    /// Whether it waits for us: our scheduler name, no gates, not being deleted, not ended.
    pub is_ours: bool,
    /// Whether it has ended, so that it takes nothing any more.
    pub is_ended: bool,
    /// The parts of the spec that choose nodes; empty for bound pods.
    pub constraints: Box<PodSpec>,
    /// What `PodScheduled=False` says now.
    pub told: Option<Box<str>>,
}

impl PodFacts {
    /// Takes the facts out of a pod.
    pub fn new(pod: Pod) -> Self {
        let claims = api::volume::claims_of(&pod);
        let metadata = pod.metadata;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let key = format!("{}/{}", metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
        let is_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let node = spec.node_name.clone().filter(|name| !name.is_empty()).map(String::into_boxed_str);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let named = spec.scheduler_name.as_deref().is_none_or(|name| name == SCHEDULER_NAME);
        let told = status
            .conditions
            .into_iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .map(|c| c.message.unwrap_or_default().into_boxed_str());
        Self {
            key: key.into(),
            uid: metadata.uid.unwrap_or_default().into(),
            priority: spec.priority.unwrap_or_default(),
            created: metadata.creation_timestamp.map_or(0, |t| t.0.as_second()),
            is_ours: node.is_none() && named && !gated && metadata.deletion_timestamp.is_none() && !is_ended,
            load: Load::new(&spec, claims),
            constraints: Box::new(if node.is_none() { constraints(spec) } else { PodSpec::default() }),
            node,
            is_ended,
            told,
        }
    }

    /// Namespace and name.
    pub fn names(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }

    /// Whether a new decision could differ from the one for `earlier`.
    pub fn decides_like(&self, earlier: &Self) -> bool {
        self.uid == earlier.uid
            && self.priority == earlier.priority
            && self.load == earlier.load
            && self.constraints == earlier.constraints
    }

    /// What it tolerates.
    pub fn tolerations(&self) -> &[Toleration] {
        self.constraints.tolerations.as_deref().unwrap_or_default()
    }
}

/// Node selector, node affinity and tolerations only.
fn constraints(spec: PodSpec) -> PodSpec {
    let node_affinity: Option<NodeAffinity> = spec.affinity.and_then(|a| a.node_affinity);
    PodSpec {
        node_selector: spec.node_selector,
        affinity: node_affinity.map(|a| Affinity { node_affinity: Some(a), ..Affinity::default() }),
        tolerations: spec.tolerations,
        ..PodSpec::default()
    }
}

impl Load {
    fn new(spec: &PodSpec, claims: Vec<UsedClaim>) -> Self {
        let requests = api::pod::requests(spec);
        let requests = Amounts::read(requests.iter().map(|(name, quantity)| (name.as_str(), *quantity)));
        let containers = i64::try_from(spec.containers.len()).unwrap_or(i64::MAX);
        let ranked = |asked: i64, unasked: i64| match asked {
            0 => containers.saturating_mul(unasked),
            asked => asked,
        };
        let host_ports = spec
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|port| {
                let host_port = port.host_port.filter(|p| *p > 0)?;
                let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
                Some((address.into(), port.protocol.as_deref().unwrap_or("TCP").into(), host_port))
            })
            .collect();
        Self {
            ranked_milli_cpu: ranked(requests.milli_cpu, UNASKED_MILLI_CPU),
            ranked_memory: ranked(requests.memory, UNASKED_MEMORY),
            requests,
            host_ports,
            claims,
        }
    }
}

/// A node and what is taken of it.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Its name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub is_unschedulable: bool,
    /// What it has for pods.
    pub allocatable: Amounts,
    /// How many pods it takes.
    pub max_pods: i64,
    /// What its pods reserve.
    pub requested: Amounts,
    /// What its pods count for in the ranking.
    pub ranked_milli_cpu: i64,
    /// What its pods count for in the ranking.
    pub ranked_memory: i64,
    /// How many pods it has.
    pub pod_count: i64,
    /// The host ports that are taken, one entry per pod and port.
    pub host_ports: Vec<HostPort>,
}

impl NodeFacts {
    /// Takes the facts out of a node; nothing is taken of it yet.
    pub fn new(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let allocatable = node.status.and_then(|s| s.allocatable.or(s.capacity)).unwrap_or_default();
        let read = |text: &str| Quantity::parse(text).unwrap_or(Quantity::ZERO);
        Self {
            name: node.metadata.name.unwrap_or_default().into(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            is_unschedulable: spec.unschedulable.unwrap_or_default(),
            max_pods: allocatable.get("pods").map_or(0, |q| read(&q.0).value()),
            allocatable: Amounts::read(allocatable.iter().map(|(name, q)| (name.as_str(), read(&q.0)))),
            ..Self::default()
        }
    }

    fn offers_like(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.taints == other.taints
            && self.is_unschedulable == other.is_unschedulable
            && self.allocatable == other.allocatable
            && self.max_pods == other.max_pods
    }

    fn take(&mut self, load: &Load) {
        self.requested.add(&load.requests);
        self.ranked_milli_cpu = self.ranked_milli_cpu.saturating_add(load.ranked_milli_cpu);
        self.ranked_memory = self.ranked_memory.saturating_add(load.ranked_memory);
        self.pod_count += 1;
        self.host_ports.extend(load.host_ports.iter().cloned());
    }

    fn give_back(&mut self, load: &Load) {
        self.requested.subtract(&load.requests);
        self.ranked_milli_cpu = self.ranked_milli_cpu.saturating_sub(load.ranked_milli_cpu);
        self.ranked_memory = self.ranked_memory.saturating_sub(load.ranked_memory);
        self.pod_count -= 1;
        for port in &load.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }
}

/// A pod that is bound, or about to be.
#[derive(Clone, Debug)]
struct Placed {
    uid: Arc<str>,
    node: Box<str>,
    load: Load,
}

/// Everything a decision looks at.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<Box<str>, NodeFacts>,
    placed: HashMap<PodKey, Placed>,
    /// What the claims of pods need.
    pub volumes: Volumes,
}

impl Snapshot {
    /// The nodes by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeFacts> {
        self.nodes.values()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// Takes a node in; tells whether waiting pods may fit now that did not before.
    pub fn set_node(&mut self, mut node: NodeFacts) -> bool {
        if let Some(known) = self.nodes.get_mut(&node.name) {
            if known.offers_like(&node) {
                return false;
            }
            known.labels = node.labels;
            known.taints = node.taints;
            known.is_unschedulable = node.is_unschedulable;
            known.allocatable = node.allocatable;
            known.max_pods = node.max_pods;
            return true;
        }
        for placed in self.placed.values() {
            if placed.node == node.name {
                node.take(&placed.load);
            }
        }
        self.nodes.insert(node.name.clone(), node);
        true
    }

    /// Forgets a node; its pods stay known in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Keeps only these nodes.
    pub fn retain_nodes(&mut self, names: &BTreeSet<Box<str>>) {
        self.nodes.retain(|name, _| names.contains(name));
    }

    /// Notes that a pod has its place.
    pub fn place(&mut self, key: &PodKey, uid: &Arc<str>, node: &str, load: &Load) {
        if let Some(known) = self.placed.get(key)
            && known.uid == *uid
            && *known.node == *node
            && known.load == *load
        {
            return;
        }
        self.unplace(key);
        if let Some(facts) = self.nodes.get_mut(node) {
            facts.take(load);
        }
        self.placed.insert(Arc::clone(key), Placed { uid: Arc::clone(uid), node: node.into(), load: load.clone() });
    }

    /// Notes that a pod takes nothing any more; tells whether it did.
    pub fn unplace(&mut self, key: &str) -> bool {
        let Some(placed) = self.placed.remove(key) else { return false };
        if let Some(node) = self.nodes.get_mut(&placed.node) {
            node.give_back(&placed.load);
        }
        true
    }

    /// Whether a pod that has its place uses a claim that `pod` would have to have for itself.
    pub fn is_claim_taken(&self, pod: &PodFacts) -> bool {
        self.volumes.one_pod_claims(pod).any(|claim| {
            let (namespace, name) = claim.split_once('/').unwrap_or(("", &claim));
            let uses = |placed: &Placed| placed.load.claims.iter().any(|used| used.name == name);
            let is_near = |key: &PodKey| key.split_once('/').is_some_and(|(own, _)| own == namespace);
            self.placed.iter().any(|(key, placed)| *key != pod.key && is_near(key) && uses(placed))
        })
    }

    /// The uid of the pod that was placed under this key.
    pub fn placed_uid(&self, key: &str) -> Option<&Arc<str>> {
        self.placed.get(key).map(|placed| &placed.uid)
    }

    /// The keys of all placed pods.
    pub fn placed_keys(&self) -> impl Iterator<Item = &PodKey> {
        self.placed.keys()
    }
}
