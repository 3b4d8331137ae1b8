//! The devices that drivers tell of (ResourceSlice): slices make pools, of which only whole ones are used, and of those the
//! newest generation. Pure. API reference, ResourcePool.
use super::DeviceId;
use api::affinity::{NodeFacts, node_selector_matches};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, Device as ApiDevice, DeviceAttribute, DeviceTaint, ResourceSlice,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// From where a device is reached.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// From one node.
    Node(Box<str>),
    /// From every node.
    All,
    /// From nodes with labels.
    Selector(Box<NodeSelector>),
    /// Each device says it itself.
    PerDevice,
    /// From none: nothing was said.
    Nowhere,
}

impl Place {
    fn new(node: Option<String>, all: Option<bool>, selector: Option<NodeSelector>) -> Self {
        match (node.filter(|name| !name.is_empty()), selector) {
            (Some(name), _) => Self::Node(name.into()),
            (None, Some(selector)) => Self::Selector(Box::new(selector)),
            (None, None) if all == Some(true) => Self::All,
            (None, None) => Self::Nowhere,
        }
    }

    fn is_reached_from(&self, node: NodeFacts<'_>) -> bool {
        match self {
            Self::Node(name) => **name == *node.name,
            Self::All => true,
            Self::Selector(selector) => node_selector_matches(selector, node),
            Self::PerDevice | Self::Nowhere => false,
        }
    }
}

/// What of a shared counter a device takes: set, counter, how much.
type Taken = (Box<str>, Box<str>, Quantity);

/// A device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// No two devices of this process have the same.
    pub(super) serial: u64,
    pub(super) id: DeviceId,
    pub(super) attributes: BTreeMap<String, DeviceAttribute>,
    pub(super) capacity: BTreeMap<String, Quantity>,
    /// As they are written: CEL compares them by their words.
    pub(super) capacity_text: BTreeMap<String, String>,
    /// It may be given to several at once, each of whom takes a share of every capacity.
    pub(super) is_shared: bool,
    /// How requests take of a capacity, by its name.
    pub(super) policies: BTreeMap<String, CapacityRequestPolicy>,
    /// Who uses it stays on the node that it was chosen for.
    pub(super) binds_to_node: bool,
    /// What its driver says when a pod that uses it may be bound, and when it never may.
    pub(super) binding_conditions: Option<Vec<String>>,
    pub(super) binding_failure_conditions: Option<Vec<String>>,
    pub(super) taints: Vec<DeviceTaint>,
    pub(super) takes: Vec<Taken>,
    pub(super) place: Place,
    /// Calls that its driver does not need on the node.
    pub(super) skips: Option<Vec<String>>,
    /// What of it nobody here can honour; such a device is given to nobody.
    pub(super) unsupported: Option<&'static str>,
}

/// A slice.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    driver: Box<str>,
    pool: Box<str>,
    generation: i64,
    /// How many slices the pool has.
    of: i64,
    devices: Vec<Arc<Device>>,
    counters: Vec<Taken>,
}

fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or(Quantity::ZERO)
}

impl Slice {
    /// Takes the facts out; serial numbers come from `next`.
    pub(super) fn new(slice: ResourceSlice, next: &mut u64) -> Self {
        let spec = slice.spec;
        let place = match spec.per_device_node_selection {
            Some(true) => Place::PerDevice,
            _ => Place::new(spec.node_name, spec.all_nodes, spec.node_selector),
        };
        let (driver, pool): (Box<str>, Box<str>) = (spec.driver.into(), spec.pool.name.into());
        let skips = spec.skip_node_operations;
        let device = |device: ApiDevice| {
            *next += 1;
            let place = match &place {
                Place::PerDevice => Place::new(device.node_name, device.all_nodes, device.node_selector),
                other => other.clone(),
            };
            let unsupported = if device.node_allocatable_resources.is_some_and(|all| !all.is_empty()) {
                Some("nodeAllocatableResources")
            } else if device.consumes_counters.iter().flatten().any(|own| own.compatibility_groups.is_some()) {
                Some("consumesCounters[].compatibilityGroups")
            } else {
                None
            };
            let takes = device.consumes_counters.into_iter().flatten().flat_map(|own| {
                let set: Box<str> = own.counter_set.into();
                let counters = own.counters.into_iter();
                counters.map(move |(name, counter)| (set.clone(), name.into(), quantity(&counter.value.0)))
            });
            let (mut capacity_text, mut policies) = (BTreeMap::new(), BTreeMap::new());
            for (name, own) in device.capacity.into_iter().flatten() {
                policies.extend(own.request_policy.map(|policy| (name.clone(), policy)));
                capacity_text.insert(name, own.value.0);
            }
            Arc::new(Device {
                serial: *next,
                id: DeviceId { driver: driver.clone(), pool: pool.clone(), device: device.name.into() },
                attributes: device.attributes.unwrap_or_default(),
                capacity: capacity_text.iter().map(|(name, text)| (name.clone(), quantity(text))).collect(),
                capacity_text,
                is_shared: device.allow_multiple_allocations == Some(true),
                policies,
                binds_to_node: device.binds_to_node == Some(true),
                binding_conditions: device.binding_conditions.filter(|all| !all.is_empty()),
                binding_failure_conditions: device.binding_failure_conditions.filter(|all| !all.is_empty()),
                taints: device.taints.unwrap_or_default(),
                takes: takes.collect(),
                place,
                skips: skips.clone(),
                unsupported,
            })
        };
        let devices = spec.devices.unwrap_or_default().into_iter().map(device).collect();
        let counters = spec.shared_counters.into_iter().flatten().flat_map(|set| {
            let name: Box<str> = set.name.into();
            let counters = set.counters.into_iter();
            counters.map(move |(counter, own)| (name.clone(), counter.into(), quantity(&own.value.0)))
        });
        let counters = counters.collect();
        Self { driver, pool, generation: spec.pool.generation, of: spec.pool.resource_slice_count, devices, counters }
    }
}

/// By set and counter, how much there is.
pub(super) type Counters = HashMap<(Box<str>, Box<str>), Quantity>;

/// A pool: the slices of its newest generation.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// All its slices are here.
    pub(super) is_complete: bool,
    /// No two devices have one name.
    pub(super) is_valid: bool,
    pub(super) devices: Vec<Arc<Device>>,
    /// What its devices share.
    pub(super) counters: Counters,
}

/// All pools, and which of them a node may reach something of.
#[derive(Debug, Default)]
pub(super) struct Pools {
    all: Vec<Pool>,
    /// By node, pools with devices of that node alone.
    by_node: HashMap<Box<str>, Vec<usize>>,
    /// Pools with devices that several nodes may reach.
    shared: Vec<usize>,
}

/// A pool with those of its devices that a node reaches.
#[derive(Debug)]
pub(super) struct Reached<'a> {
    pub(super) pool: &'a Pool,
    pub(super) devices: Vec<&'a Arc<Device>>,
}

impl Pools {
    /// Puts slices together.
    pub(super) fn of<'a>(slices: impl Iterator<Item = &'a Slice>) -> Self {
        let mut newest: BTreeMap<(&str, &str), Vec<&Slice>> = BTreeMap::new();
        for slice in slices {
            let held = newest.entry((&slice.driver, &slice.pool)).or_default();
            match held.first().map(|first| first.generation.cmp(&slice.generation)) {
                None | Some(std::cmp::Ordering::Equal) => held.push(slice),
                Some(std::cmp::Ordering::Less) => *held = vec![slice],
                Some(std::cmp::Ordering::Greater) => {}
            }
        }
        let mut pools = Self::default();
        for slices in newest.into_values() {
            let at = pools.all.len();
            let devices: Vec<Arc<Device>> = slices.iter().flat_map(|slice| slice.devices.iter().cloned()).collect();
            let names: BTreeSet<&str> = devices.iter().map(|device| &*device.id.device).collect();
            let counters = slices.iter().flat_map(|slice| &slice.counters);
            let counters = counters.map(|(set, name, own)| ((set.clone(), name.clone()), *own)).collect();
            // Each slice tells how many there are; where they differ, one is older.
            let count = i64::try_from(slices.len()).unwrap_or(i64::MAX);
            let is_complete = slices.iter().all(|slice| slice.of == count);
            let mut is_shared = false;
            for device in &devices {
                match &device.place {
                    Place::Node(name) => {
                        let own = pools.by_node.entry(name.clone()).or_default();
                        if own.last() != Some(&at) {
                            own.push(at);
                        }
                    }
                    Place::All | Place::Selector(_) => is_shared = true,
                    Place::PerDevice | Place::Nowhere => {}
                }
            }
            if is_shared {
                pools.shared.push(at);
            }
            let is_valid = names.len() == devices.len();
            pools.all.push(Pool { is_complete, is_valid, devices, counters });
        }
        pools
    }

    /// The pools that a node reaches something of, in order of driver and name.
    pub(super) fn reached_from(&self, node: NodeFacts<'_>) -> Vec<Reached<'_>> {
        let own = self.by_node.get(node.name).map(Vec::as_slice).unwrap_or_default();
        let indexes: BTreeSet<usize> = own.iter().chain(&self.shared).copied().collect();
        let reached = indexes.into_iter().filter_map(|at| self.all.get(at)).map(|pool| Reached {
            pool,
            devices: pool.devices.iter().filter(|device| device.place.is_reached_from(node)).collect(),
        });
        reached.filter(|reached| !reached.devices.is_empty()).collect()
    }
}
