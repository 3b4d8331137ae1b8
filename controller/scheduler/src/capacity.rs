//! How much room a driver of storage has left for volumes to be made, as its provisioner tells it in CSIStorageCapacity
//! objects: pure. Kubernetes documentation, "Storage Capacity"; the rules are those of kube-scheduler's VolumeBinding.
use crate::node::NodeFacts;
use api::quantity::Quantity;
use api::selector::Selector;
use api::volume::{Claim, Class};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIStorageCapacity};
use std::collections::{HashMap, HashSet};

/// What one object tells.
#[derive(Debug)]
pub struct Capacity {
    class: String,
    /// The size of the largest volume that can be made; `None` where that is not known.
    largest: Option<Quantity>,
    /// The nodes that reach it; `None` for none.
    nodes: Option<Selector>,
}

impl Capacity {
    /// Takes the facts out. Nodes that cannot be told apart are none.
    pub fn new(object: CSIStorageCapacity) -> Self {
        let amount = object.maximum_volume_size.or(object.capacity);
        Self {
            class: object.storage_class_name,
            largest: amount.and_then(|amount| Quantity::parse(&amount.0).ok()),
            nodes: object.node_topology.and_then(|nodes| Selector::from_label_selector(&nodes).ok()),
        }
    }
}

/// What all of them tell.
#[derive(Debug, Default)]
pub struct Capacities {
    /// The drivers that tell it (CSIDriver, `storageCapacity`).
    drivers: HashSet<String>,
    /// By `namespace/name`.
    objects: HashMap<String, Capacity>,
}

impl Capacities {
    /// What the watch told of a driver.
    pub fn set_driver(&mut self, driver: CSIDriver) {
        let name = driver.metadata.name.unwrap_or_default();
        match driver.spec.storage_capacity {
            Some(true) => self.drivers.insert(name),
            Some(false) | None => self.drivers.remove(&name),
        };
    }

    /// Only these drivers are there.
    pub fn retain_drivers(&mut self, stays: impl Fn(&str) -> bool) {
        self.drivers.retain(|name| stays(name));
    }

    /// What the watch told of an object, by `namespace/name`.
    pub fn set(&mut self, key: String, capacity: Capacity) {
        self.objects.insert(key, capacity);
    }

    /// Only these objects are there.
    pub fn retain(&mut self, stays: impl Fn(&str) -> bool) {
        self.objects.retain(|key, _| stays(key));
    }

    /// Whether a volume for the claim can be made where a node reaches it. Who tells nothing is asked by trying.
    pub(crate) fn has_room(&self, class: &Class, claim: &Claim, node: &NodeFacts) -> bool {
        let fits = |own: &Capacity| {
            own.class == class.name
                && own.largest.is_some_and(|largest| largest >= claim.requested)
                && own.nodes.as_ref().is_some_and(|nodes| nodes.matches(&node.labels))
        };
        !self.drivers.contains(&class.provisioner) || self.objects.values().any(fits)
    }
}
