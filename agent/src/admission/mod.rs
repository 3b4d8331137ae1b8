//! What a node refuses of the pods that are bound to it, as the kubelet does (`pkg/kubelet/lifecycle`, `eviction` and
//! `preemption`). The scheduler looks before it binds; a pod that names its node itself was looked at by nobody. What is
//! refused fails at once, and its controller makes another one. Pure: the one who acts is `source.rs`.

mod place;
mod ports;
mod preempt;
mod pressure;
pub(crate) mod resize;
mod room;

use std::collections::{BTreeMap, HashMap};

use agent_pod::protocol::Failure;
use api::pod::{Amounts, QosClass, add, amounts};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::allocation::Allocation;
use crate::cpus;
use crate::device::{self, Amount};
use crate::memory::Machine;
use crate::pressure::Pressures;
use crate::static_pods::is_critical;
use resize::Waiting;

/// Why one question was answered with no.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    /// There is too little left of a resource: processors in thousandths, else whole units.
    Insufficient { resource: String, requested: i64, used: i64, capacity: i64 },
    /// Anything else.
    Predicate { name: &'static str, why: &'static str },
}

impl Reason {
    /// What `status.reason` says.
    fn word(&self) -> String {
        match self {
            Self::Insufficient { resource, .. } => format!("OutOf{resource}"),
            Self::Predicate { name, .. } => (*name).to_owned(),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Insufficient { resource, requested, used, capacity } => format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
            Self::Predicate { name, why } => format!("Predicate {name} failed: {why}"),
        }
    }
}

/// What `status` says of a pod that is refused.
pub(crate) fn rejection(reason: &str, message: &str) -> Failure {
    Failure { reason: reason.to_owned(), message: format!("{REJECTED}{message}") }
}

/// What messages of refused pods begin with; their events go without.
pub(crate) const REJECTED: &str = "Pod was rejected: ";
/// The reason of what nobody expects: devices that are not there, a critical pod that nobody can make room for.
pub(crate) const UNEXPECTED: &str = "UnexpectedAdmissionError";

/// What a pod that is here has.
#[derive(Debug, Clone)]
struct Taken {
    ports: Vec<ports::Port>,
    requests: Amounts,
    priority: i32,
    is_critical: bool,
    qos: QosClass,
    /// What `requests` are made of.
    allocation: Allocation,
    /// It asks for something else.
    waits: Option<Waiting>,
}

impl Taken {
    /// What a pod has whose containers have what it asks for.
    fn of(pod: &Pod, allocation: Allocation) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        Self {
            ports: ports::wanted(&spec),
            requests: api::pod::requests(&spec),
            priority: spec.priority.unwrap_or(0),
            is_critical: is_critical(pod),
            qos: api::pod::recorded_qos_class(pod),
            allocation,
            waits: None,
        }
    }

    /// Whether it may be ended for another one.
    fn gives_way(&self, other: &Taken) -> bool {
        (other.is_critical && !self.is_critical) || other.priority > self.priority
    }
}

/// What the node is at this moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// Its object: labels, taints, and resources that others count.
    pub(crate) node: &'a Node,
    /// What the machine has for pods: `cpu`, `memory`, `ephemeral-storage` and `pods`.
    pub(crate) room: &'a Amounts,
    /// Devices of plugins.
    pub(crate) devices: &'a BTreeMap<String, Amount>,
    /// How many processors nobody has for itself yet; `None`: nobody gets any.
    pub(crate) free_cpus: Option<usize>,
    /// What it is short of.
    pub(crate) pressures: &'a Pressures,
    /// The machine goes down.
    pub(crate) is_going_down: bool,
    /// The machine's memory, where pods may swap.
    pub(crate) swap: Option<Machine>,
}

impl Surroundings<'_> {
    /// All that is counted here. Devices are counted apart from it.
    fn capacity(&self) -> Amounts {
        let allocatable = self.node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let mut all = amounts(allocatable);
        all.retain(|name, _| !self.devices.contains_key(name));
        all.extend(self.room.clone());
        all
    }
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It runs here.
    Admitted,
    /// It runs here once these pods have ended, by their uids.
    AdmittedAfter(Vec<String>),
    /// It fails.
    Refused(Failure),
}

/// What the pods of this node have.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// By their uids.
    pods: HashMap<String, Taken>,
    /// What an agent before this one has given pods that were not seen yet.
    remembered: BTreeMap<String, Allocation>,
}

impl Admission {
    /// Of a node whose pods were given this before.
    pub(crate) fn remember(remembered: BTreeMap<String, Allocation>) -> Self {
        Self { pods: HashMap::new(), remembered }
    }

    /// What all pods were given.
    pub(crate) fn allocations(&self) -> BTreeMap<String, Allocation> {
        let here = self.pods.iter().map(|(uid, taken)| (uid.clone(), taken.allocation.clone()));
        self.remembered.clone().into_iter().chain(here).collect()
    }

    /// No other pods than these are here.
    pub(crate) fn retain(&mut self, is_here: impl Fn(&str) -> bool) {
        self.remembered.retain(|uid, _| is_here(uid));
    }

    fn taken(&self, uid: &str, pod: &Pod, is_known: bool) -> Taken {
        let allocation = match self.remembered.get(uid) {
            Some(allocation) if is_known => allocation.clone(),
            None if is_known => Allocation::told(pod),
            Some(_) | None => Allocation::of(pod),
        };
        Taken::of(&allocation.apply(pod), allocation)
    }

    /// What would become of a pod. One that `is_known` was here before this agent began, and is not asked again.
    pub(crate) fn consider(&self, uid: &str, pod: &Pod, is_known: bool, here: Surroundings<'_>) -> Verdict {
        let is_settled = is_known || self.pods.contains_key(uid) || api::pod::is_terminal(pod);
        if is_settled { Verdict::Admitted } else { self.judge(pod, &self.taken(uid, pod, is_known), here) }
    }

    /// That is what becomes of it. One that `is_known` has what it was given before.
    pub(crate) fn conclude(&mut self, uid: &str, pod: &Pod, is_known: bool, verdict: &Verdict) {
        if api::pod::is_terminal(pod) {
            return;
        }
        let own = self.taken(uid, pod, is_known);
        self.remembered.remove(uid);
        if let Verdict::AdmittedAfter(leaving) = verdict {
            for uid in leaving {
                self.release(uid);
            }
        }
        if !matches!(verdict, Verdict::Refused(_)) {
            self.pods.insert(uid.to_owned(), own);
        }
    }

    /// The pod is gone, or ended. Whether it was here.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        self.remembered.remove(uid);
        self.pods.remove(uid).is_some()
    }

    fn used(&self) -> Amounts {
        self.used_but("")
    }

    /// What pods have but for one.
    fn used_but(&self, uid: &str) -> Amounts {
        let mut used = Amounts::new();
        let others = || self.pods.iter().filter(|(own, _)| *own != uid);
        others().for_each(|(_, own)| add(&mut used, &own.requests));
        used.insert(room::PODS.into(), Quantity::from_milli(i64::try_from(others().count()).unwrap_or(0) * 1000));
        used
    }

    fn judge(&self, pod: &Pod, own: &Taken, here: Surroundings<'_>) -> Verdict {
        let spec = pod.spec.clone().unwrap_or_default();
        if here.is_going_down {
            return Verdict::Refused(rejection("NodeShutdown", "Pod was rejected as the node is shutting down."));
        }
        let pressed = || pressure::refuse(here.pressures, &spec, own.qos).filter(|_| !own.is_critical);
        let used = self.used();
        if let Some(failure) = pressed()
            .or_else(|| place::refuse_system(&spec))
            .or_else(|| refuse_devices(own, &used, here.devices))
            .or_else(|| refuse_cpus(pod, here.free_cpus))
        {
            return Verdict::Refused(failure);
        }
        let mut requests = own.requests.clone();
        requests.retain(|name, _| !here.devices.contains_key(name));
        requests.insert(room::PODS.into(), Quantity::from_milli(1000));
        let lacks = room::missing(&requests, &used, &here.capacity());
        let taken = self.pods.values().flat_map(|other| &other.ports);
        let others = [
            place::refuse_affinity(&spec, here.node),
            ports::refuse(&own.ports, taken),
            place::refuse_taint(pod, here.node),
        ];
        // Nobody leaves for a pod that is refused all the same.
        let others: Vec<Reason> = others.into_iter().flatten().collect();
        let first = if own.is_critical { others.first() } else { lacks.first().or(others.first()) };
        match first {
            Some(reason) => Verdict::Refused(rejection(&reason.word(), &reason.message())),
            None if lacks.is_empty() => Verdict::Admitted,
            None => self.make_room(own, &lacks),
        }
    }

    fn make_room(&self, own: &Taken, lacks: &[Reason]) -> Verdict {
        let lack = |reason: &Reason| match reason {
            Reason::Insufficient { resource, requested, used, capacity } => {
                Some((resource.clone(), requested - (capacity - used)))
            }
            Reason::Predicate { .. } => None,
        };
        let missing = lacks.iter().filter_map(lack).collect();
        let candidates: Vec<preempt::Candidate<'_>> = self
            .pods
            .iter()
            .filter(|(_, other)| other.gives_way(own))
            .map(|(uid, other)| (uid.as_str(), other))
            .collect();
        match preempt::choose(&missing, &candidates) {
            Ok(leaving) => Verdict::AdmittedAfter(leaving),
            Err(still) => {
                let shown: String =
                    still.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
                Verdict::Refused(rejection(
                    UNEXPECTED,
                    &format!(
                        "Unexpected error while attempting to recover from admission failure: preemption: error finding a \
                         set of pods to preempt: no set of running pods found to reclaim resources: [{shown}]"
                    ),
                ))
            }
        }
    }
}

/// Processors for itself that are not left. The words are the kubelet's.
fn refuse_cpus(pod: &Pod, free: Option<usize>) -> Option<Failure> {
    let (needed, free) = (cpus::needed(pod), free?);
    let message = format!(
        "Allocate failed due to not enough cpus available to satisfy request: requested={needed}, available={free}, \
         which is unexpected"
    );
    (needed > free).then(|| rejection(UNEXPECTED, &message))
}

/// Devices of plugins that are not there. The words are the kubelet's.
fn refuse_devices(own: &Taken, used: &Amounts, devices: &BTreeMap<String, Amount>) -> Option<Failure> {
    let asked = own.requests.iter().filter(|(name, _)| device::is_extended(name));
    asked.into_iter().find_map(|(name, wanted)| {
        let (wanted, usable) = (wanted.value(), i64::try_from(devices.get(name)?.usable).unwrap_or(i64::MAX));
        let available = (usable - used.get(name).map_or(0, |used| used.value())).max(0);
        (wanted > available).then(|| {
            let message = format!(
                "Allocate failed due to requested number of devices unavailable for {name}. Requested: {wanted}, \
                 Available: {available}, which is unexpected"
            );
            rejection(UNEXPECTED, &message)
        })
    })
}

#[cfg(test)]
mod tests;
