//! The few facts about a pod that decisions need; the typed object is dropped once these are taken.
use crate::amounts::Amounts;
use crate::group::GroupKey;
use crate::profile::{Profiles, Shared};
use crate::terms::{Owner, Terms, ToOthers};
use api::resource_claim::PodClaim;
use api::volume::UsedClaim;
use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, Pod, PodSpec, PodStatus, Toleration};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// `namespace/name` of a pod.
pub type PodKey = Arc<str>;

/// The kinds whose pods are spread without asking.
const SETS: [&str; 3] = ["ReplicaSet", "ReplicationController", "StatefulSet"];
/// What a container that asks for nothing counts for when nodes are ranked (Kubernetes' figures).
const UNASKED_MILLI_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 * 1024 * 1024;

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
    /// Its claims to devices.
    pub devices: Vec<PodClaim>,
}

/// All that a decision about a pod depends on. Pods that are alike share one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// Of all the rest, so that unequal shapes are told apart quickly.
    hash: u64,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Higher goes first.
    pub priority: i32,
    /// Whether others may have to go for it (`preemptionPolicy`).
    pub may_preempt: bool,
    /// What it takes.
    pub load: Load,
    /// The parts of the spec that choose nodes; empty for bound pods.
    pub constraints: Box<PodSpec>,
    /// The one node that it may go to, by name, as pods of DaemonSets do.
    pub only: Option<Box<str>>,
    /// The images of its containers, one for each, with their tags; empty for bound pods.
    pub images: Vec<Box<str>>,
    /// What it says about other pods.
    pub terms: Option<Box<Terms>>,
    /// The uid of the ReplicaSet, ReplicationController or StatefulSet that it belongs to.
    pub owner: Option<Box<str>>,
    /// The PodGroup that it belongs to.
    pub group: Option<GroupKey>,
    /// How it is placed; of bound pods Kubernetes' own way.
    pub profile: Shared,
}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Eq for Shape {}

impl Shape {
    /// What it tolerates.
    pub fn tolerations(&self) -> &[Toleration] {
        self.constraints.tolerations.as_deref().unwrap_or_default()
    }

    fn to_others(&self) -> ToOthers<'_> {
        self.terms.as_ref().map(|terms| terms.to_others()).unwrap_or_default()
    }

    /// Whether it is the same to other pods and to its node.
    pub(crate) fn weighs_like(&self, other: &Self) -> bool {
        self.load == other.load
            && self.labels == other.labels
            && self.priority == other.priority
            && self.owner == other.owner
            && self.to_others() == other.to_others()
    }

    /// Notes the hash of what there is.
    fn sealed(mut self) -> Self {
        let mut hasher = DefaultHasher::new();
        (&self.namespace, &self.labels, self.priority, self.may_preempt).hash(&mut hasher);
        let requests = &self.load.requests;
        (requests.milli_cpu, requests.memory, requests.ephemeral_storage, &requests.extended).hash(&mut hasher);
        self.load.host_ports.hash(&mut hasher);
        for claim in &self.load.claims {
            claim.name.hash(&mut hasher);
        }
        self.load.devices.hash(&mut hasher);
        (&self.terms, &self.owner, &self.images, &self.group, &self.profile).hash(&mut hasher);
        if *self.constraints != PodSpec::default() {
            serde_json::to_string(&self.constraints).unwrap_or_default().hash(&mut hasher);
        }
        self.hash = hasher.finish();
        self
    }
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// `namespace/name`.
    pub key: PodKey,
    /// Its uid.
    pub uid: Arc<str>,
    /// Seconds since 1970; older goes first.
    pub created: i64,
    /// When its node began with it, in seconds since 1970; of two equals the one that started later has done less.
    pub started: i64,
    /// Where it is bound to; `None` while it waits.
    pub node: Option<Box<str>>,
    /// The node that is being emptied for it.
    pub nominated: Option<Box<str>>,
    /// What decisions depend on.
    pub shape: Arc<Shape>,
    /// Whether it waits for us: our scheduler name, no gates, not being deleted, not ended.
    pub is_ours: bool,
    /// Whether it would be ours but for its gates.
    pub is_gated: bool,
    /// Whether it is being deleted.
    pub is_terminating: bool,
    /// Whether it has ended, so that it takes nothing any more.
    pub is_ended: bool,
    /// What `PodScheduled=False` says now.
    pub told: Option<Box<str>>,
}

impl PodFacts {
    /// Takes the facts out of a pod, where there is one profile, Kubernetes' own.
    pub fn new(pod: Pod) -> Self {
        Self::read(pod, &Profiles::default())
    }

    /// Takes the facts out of a pod. Pods of other profiles than these are somebody else's.
    pub fn read(pod: Pod, profiles: &Profiles) -> Self {
        let (claims, devices) = (api::volume::claims_of(&pod), api::resource_claim::claims_of(&pod));
        let metadata = pod.metadata;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let namespace = metadata.namespace.unwrap_or_default();
        let key = format!("{namespace}/{}", metadata.name.unwrap_or_default());
        let is_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let node = spec.node_name.clone().filter(|name| !name.is_empty()).map(String::into_boxed_str);
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        let profile = profiles.find(spec.scheduler_name.as_deref()).filter(|_| node.is_none());
        let is_waiting = node.is_none() && profile.is_some() && metadata.deletion_timestamp.is_none() && !is_ended;
        let load = Load::new(&spec, &status);
        let told = status
            .conditions
            .into_iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .map(|c| c.message.unwrap_or_default().into_boxed_str());
        let is_terminating = metadata.deletion_timestamp.is_some();
        let created = metadata.creation_timestamp.map_or(0, |t| t.0.as_second());
        let labels = metadata.labels.unwrap_or_default();
        let owners = metadata.owner_references.unwrap_or_default().into_iter();
        let mut sets = owners.filter(|one| one.controller == Some(true) && SETS.contains(&one.kind.as_str()));
        let owner: Option<Box<str>> = sets.next().map(|owner| owner.uid.into());
        let whose = Owner { namespace: &namespace, labels: &labels, set: owner.as_deref(), is_placed: node.is_some() };
        let profile = profile.cloned().unwrap_or_default();
        let terms = Terms::read(whose, spec.affinity.as_ref(), spec.topology_spread_constraints.as_deref(), &profile);
        let group = spec.scheduling_group.as_ref().and_then(|group| group.pod_group_name.as_deref());
        let group: Option<GroupKey> = group.map(|name| format!("{namespace}/{name}").into());
        let shape = Shape {
            hash: 0,
            group,
            profile,
            namespace: namespace.into(),
            only: if node.is_none() { only(&spec).map(Into::into) } else { None },
            images: if node.is_none() { images(&spec) } else { Vec::new() },
            terms,
            owner,
            labels,
            priority: spec.priority.unwrap_or_default(),
            may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
            load: Load { claims, devices, ..load },
            constraints: Box::new(if node.is_none() { constraints(spec) } else { PodSpec::default() }),
        };
        Self {
            key: key.into(),
            uid: metadata.uid.unwrap_or_default().into(),
            created,
            started: status.start_time.map_or(created, |t| t.0.as_second()),
            is_ours: is_waiting && !gated,
            is_gated: is_waiting && gated,
            nominated: status.nominated_node_name.filter(|name| !name.is_empty()).map(String::into_boxed_str),
            node,
            shape: Arc::new(shape.sealed()),
            is_terminating,
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
        self.uid == earlier.uid && self.shape == earlier.shape
    }
}

/// What its containers run, as nodes name what they have.
fn images(spec: &PodSpec) -> Vec<Box<str>> {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let tagged = all.filter_map(|container| container.image.as_deref()).map(|image| {
        let name = image.rsplit('/').next().unwrap_or(image);
        if name.contains([':', '@']) { image.into() } else { format!("{image}:latest").into() }
    });
    tagged.collect()
}

/// The name that every term of the required node affinity asks for.
fn only(spec: &PodSpec) -> Option<&str> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut names = terms.iter().map(|term| {
        let fields = term.match_fields.as_deref().unwrap_or_default();
        let named = fields.iter().find(|field| field.key == "metadata.name" && field.operator == "In")?;
        match named.values.as_deref() {
            Some([name]) => Some(name.as_str()),
            Some(_) | None => None,
        }
    });
    let first = names.next()??;
    names.all(|name| name == Some(first)).then_some(first)
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
    /// Whether it uses claims, which are a pod's own: no other pod is quite like it.
    pub(crate) fn has_claims(&self) -> bool {
        !self.claims.is_empty() || !self.devices.is_empty()
    }

    fn new(spec: &PodSpec, status: &PodStatus) -> Self {
        let requests = api::pod::reserved(spec, status);
        let requests = Amounts::read(requests.iter().map(|(name, quantity)| (name.as_str(), *quantity)));
        let containers = i64::try_from(spec.containers.len()).unwrap_or(i64::MAX);
        let ranked = |asked: i64, unasked: i64| match asked {
            0 => containers.saturating_mul(unasked),
            asked => asked,
        };
        let sidecars = spec.init_containers.iter().flatten().filter(|container| api::pod::is_sidecar(container));
        let host_ports = spec
            .containers
            .iter()
            .chain(sidecars)
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
            ..Self::default()
        }
    }
}
