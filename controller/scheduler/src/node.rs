//! The few facts about a node that decisions need, and what is taken of it.
use crate::amounts::Amounts;
use crate::pod::{HostPort, Load};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Taint};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// The images that it has, in order of their names, and their bytes.
    pub images: Vec<(Arc<str>, i64)>,
    /// What is taken of it.
    pub taken: Taken,
}

/// What the pods of a node take together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// What they reserve.
    pub requested: Amounts,
    /// What they count for in the ranking.
    pub ranked_milli_cpu: i64,
    /// What they count for in the ranking.
    pub ranked_memory: i64,
    /// How many there are.
    pub pod_count: i64,
    /// The host ports that are taken, one entry per pod and port.
    pub host_ports: Vec<HostPort>,
}

impl Taken {
    pub(crate) fn add(&mut self, load: &Load) {
        self.requested.add(&load.requests);
        self.ranked_milli_cpu = self.ranked_milli_cpu.saturating_add(load.ranked_milli_cpu);
        self.ranked_memory = self.ranked_memory.saturating_add(load.ranked_memory);
        self.pod_count += 1;
        self.host_ports.extend(load.host_ports.iter().cloned());
    }

    pub(crate) fn subtract(&mut self, load: &Load) {
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

impl NodeFacts {
    /// Takes the facts out of a node; nothing is taken of it yet.
    pub fn new(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let allocatable = status.allocatable.or(status.capacity).unwrap_or_default();
        let named = status.images.unwrap_or_default().into_iter().flat_map(|image| {
            let size = image.size_bytes.unwrap_or_default();
            image.names.unwrap_or_default().into_iter().map(move |name| (Arc::from(name), size))
        });
        let mut images: Vec<(Arc<str>, i64)> = named.collect();
        images.sort();
        images.dedup_by(|one, other| one.0 == other.0);
        let read = |text: &str| Quantity::parse(text).unwrap_or(Quantity::ZERO);
        Self {
            name: node.metadata.name.unwrap_or_default().into(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            is_unschedulable: spec.unschedulable.unwrap_or_default(),
            images,
            max_pods: allocatable.get("pods").map_or(0, |q| read(&q.0).value()),
            allocatable: Amounts::read(allocatable.iter().map(|(name, q)| (name.as_str(), read(&q.0)))),
            ..Self::default()
        }
    }

    /// The bytes of an image that it has.
    pub(crate) fn image(&self, name: &str) -> Option<i64> {
        let at = self.images.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.images.get(at).map(|(_, size)| *size)
    }

    pub(crate) fn offers_like(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.taints == other.taints
            && self.is_unschedulable == other.is_unschedulable
            && self.allocatable == other.allocatable
            && self.max_pods == other.max_pods
    }
}
