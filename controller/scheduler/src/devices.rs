//! Devices of drivers (dynamic resource allocation): which of them a pod's claims get on a node, and what has to be written
//! before the pod is bound there. Pure but for what it remembers, which changes no decision.
//! Kubernetes documentation, "Dynamic Resource Allocation". Start reading at [`Devices::on`], then `allocate`.
mod allocate;
mod binding;
mod pool;
mod request;
mod select;
mod share;
#[cfg(test)]
mod tests;

use crate::filter::Reason;
use crate::node::NodeFacts;
use crate::pod::PodFacts;
use crate::volumes::{Preparation, Progress};
use allocate::{Failure, Known};
use api::affinity::{self, node_selector_matches};
use api::quantity::Quantity;
use api::resource_claim::{MOST_RESERVATIONS, PodClaim, Source, is_owned, is_reserved_for};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceClaim, DeviceClass, DeviceClassSpec, DeviceTaintRule, DeviceTaintRuleSpec, ResourceClaim,
    ResourceClaimStatus, ResourceSlice,
};
use pool::{Pools, Slice};
use select::Answers;
use share::Share;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// So many steps the search for one pod's devices takes on all nodes together. A device that is tried is one; an expression
/// costs by its length.
const MOST_STEPS: u64 = 500_000;

/// What names a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    driver: Box<str>,
    pool: Box<str>,
    device: Box<str>,
}

/// What is written to a claim before its pod is bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// `namespace/name` of the claim.
    pub claim: String,
    /// Its uid.
    pub uid: String,
    /// The devices that it gets; `None` where it has some already.
    pub allocation: Option<Arc<AllocationResult>>,
}

/// Of two grants for one claim to one pod there is one.
impl Eq for Grant {}

/// Claims, devices and classes, with what was decided and is not told by the watches yet.
#[derive(Debug, Default)]
pub struct Devices {
    claims: HashMap<String, Arc<ResourceClaim>>,
    slices: BTreeMap<String, Slice>,
    classes: BTreeMap<String, DeviceClassSpec>,
    rules: BTreeMap<String, DeviceTaintRuleSpec>,
    /// By `namespace/name`, claims whose devices are being written.
    pending: Pendings,
    serial: u64,
    /// How often anything changed.
    version: u64,
    memory: Mutex<Memory>,
}

/// What is on its way, by `namespace/name` of the claim.
pub(crate) type Pendings = HashMap<String, Pending>;

/// Devices that are on their way to a claim.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// The claim's.
    uid: String,
    allocation: Arc<AllocationResult>,
    /// The watch is to tell it.
    is_written: bool,
}

/// What is remembered between questions.
#[derive(Debug, Default)]
struct Memory {
    answers: Answers,
    /// Of this version of everything.
    version: u64,
    pools: Pools,
    in_use: InUse,
    /// The pod that was asked for last, and what came of it by node.
    pod: Arc<str>,
    found: HashMap<Box<str>, Found>,
    steps: u64,
}

type Found = Result<Vec<Arc<AllocationResult>>, Failure>;

/// The uid of a claim.
fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

/// What a claim asks for.
fn wanted(claim: &ResourceClaim) -> Option<&DeviceClaim> {
    claim.spec.as_ref()?.devices.as_ref()
}

/// What it has.
fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

/// How far the drivers are with a claim.
fn of_drivers(claim: &ResourceClaim) -> Progress {
    claim.status.as_ref().map_or(Progress::Ready, binding::progress)
}

/// What is given: devices as a whole, and shares of others.
#[derive(Debug, Default)]
struct InUse {
    taken: HashSet<DeviceId>,
    shared: HashMap<DeviceId, Share>,
}

impl InUse {
    /// Adds what an allocation takes from others.
    fn add(&mut self, allocation: &AllocationResult) {
        let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
        // Who looks after devices takes them from nobody.
        for own in results.filter(|own| own.admin_access != Some(true)) {
            let id = DeviceId {
                driver: own.driver.as_str().into(),
                pool: own.pool.as_str().into(),
                device: own.device.as_str().into(),
            };
            if own.share_id.is_none() && own.consumed_capacity.is_none() {
                self.taken.insert(id);
                continue;
            }
            let amount = |text: &str| Quantity::parse(text).unwrap_or(Quantity::ZERO);
            let share = own.consumed_capacity.iter().flatten();
            let share = share.map(|(name, own)| (name.clone(), amount(&own.0))).collect();
            share::add(self.shared.entry(id).or_default(), &share);
        }
    }
}

impl Devices {
    /// What the watch told of a claim; tells whether somebody else may have something of it now.
    pub fn set_claim(&mut self, key: String, mut claim: ResourceClaim) -> bool {
        claim.metadata.managed_fields = None;
        let is_told = |pending: &Pending| pending.uid != uid(&claim) || allocation(&claim).is_some();
        if self.pending.get(&key).is_some_and(is_told) {
            self.pending.remove(&key);
        }
        self.version += 1;
        let has_some = allocation(&claim).is_some();
        let before = self.claims.insert(key, Arc::new(claim));
        before.is_some_and(|before| allocation(&before).is_some() && !has_some)
    }

    /// Forgets all claims but those that `is_there` says yes to.
    pub fn retain_claims(&mut self, is_there: impl Fn(&str) -> bool) {
        self.claims.retain(|key, _| is_there(key));
        self.pending.retain(|key, _| is_there(key));
        self.version += 1;
    }

    /// All claims were listed anew: what was written and is not in the list was taken back meanwhile.
    pub fn listed_claims(&mut self) {
        self.pending.retain(|_, pending| !pending.is_written);
        self.version += 1;
    }

    /// All of this was written.
    pub(crate) fn wrote(&mut self, work: &[Preparation]) {
        for grant in grants(work).filter(|grant| grant.allocation.is_some()) {
            if let Some(pending) = self.pending.get_mut(&grant.claim).filter(|pending| pending.uid == grant.uid) {
                pending.is_written = true;
            }
        }
    }

    /// What the watch told of a slice.
    pub fn set_slice(&mut self, name: String, slice: ResourceSlice) {
        self.slices.insert(name, Slice::new(slice, &mut self.serial));
        self.version += 1;
    }

    /// Forgets all slices but those that `is_there` says yes to.
    pub fn retain_slices(&mut self, is_there: impl Fn(&str) -> bool) {
        self.slices.retain(|name, _| is_there(name));
        self.version += 1;
    }

    /// What the watch told of a class.
    pub fn set_class(&mut self, name: String, class: DeviceClass) {
        self.classes.insert(name, class.spec.unwrap_or_default());
        self.version += 1;
    }

    /// Forgets all classes but those that `is_there` says yes to.
    pub fn retain_classes(&mut self, is_there: impl Fn(&str) -> bool) {
        self.classes.retain(|name, _| is_there(name));
        self.version += 1;
    }

    /// What the watch told of a rule that taints devices.
    pub fn set_rule(&mut self, name: String, rule: DeviceTaintRule) {
        self.rules.insert(name, rule.spec);
        self.version += 1;
    }

    /// Forgets all rules but those that `is_there` says yes to.
    pub fn retain_rules(&mut self, is_there: impl Fn(&str) -> bool) {
        self.rules.retain(|name, _| is_there(name));
        self.version += 1;
    }

    /// Counts as given what is about to be.
    pub(crate) fn assume(&mut self, work: &[Preparation]) {
        for grant in grants(work) {
            if let Some(allocation) = &grant.allocation {
                let (uid, allocation) = (grant.uid.clone(), Arc::clone(allocation));
                self.pending.insert(grant.claim.clone(), Pending { uid, allocation, is_written: false });
                self.version += 1;
            }
        }
    }

    /// What is on its way.
    pub(crate) fn pendings(&self) -> Pendings {
        self.pending.clone()
    }

    /// Counts as on its way what was so before, and nothing else.
    pub(crate) fn put_back(&mut self, pending: Pendings) {
        self.pending = pending;
        self.version += 1;
    }

    /// It could not be written. Who only was to be added to what another one is given takes nothing from that one.
    pub(crate) fn forget(&mut self, work: &[Preparation]) {
        for grant in grants(work).filter(|grant| grant.allocation.is_some()) {
            if self.pending.get(&grant.claim).is_some_and(|pending| pending.uid == grant.uid) {
                self.pending.remove(&grant.claim);
                self.version += 1;
            }
        }
    }

    /// Another decision begins: nodes may be others than when this pod was asked for last, and the search has all its steps.
    pub(crate) fn begin_decision(&self) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).pod = Arc::from("");
    }

    /// The claims of a pod, each object once.
    fn claims_of<'a>(&'a self, pod: &'a PodFacts) -> Vec<(&'a PodClaim, String)> {
        let mut seen = HashSet::new();
        let all = pod.shape.load.devices.iter().filter_map(|claim| {
            let name = claim.object()?;
            seen.insert(name).then(|| (claim, format!("{}/{name}", pod.shape.namespace)))
        });
        all.collect()
    }

    /// Why no node at all can take the pod, in the words of Kubernetes.
    pub fn refusal(&self, pod: &PodFacts) -> Option<String> {
        if pod.shape.load.devices.iter().any(|claim| claim.source == Source::Pending) {
            return Some(format!("pod {:?}: ResourceClaim not created yet", pod.key));
        }
        for (asked, key) in self.claims_of(pod) {
            let name = asked.object().unwrap_or_default();
            let Some(claim) = self.claims.get(&key) else { return Some(format!("resourceclaim {name:?} not found")) };
            if claim.metadata.deletion_timestamp.is_some() {
                return Some(format!("resourceclaim {name:?} is being deleted"));
            }
            if matches!(asked.source, Source::Own(_)) && !is_owned(&claim.metadata, &pod.uid) {
                return Some(format!("ResourceClaim {key} was not created for pod {} (pod is not owner)", pod.key));
            }
            if allocation(claim).is_some() {
                let reserved =
                    claim.status.as_ref().and_then(|status| status.reserved_for.as_ref()).map_or(0, Vec::len);
                if reserved >= MOST_RESERVATIONS && !is_reserved_for(claim, &pod.uid) {
                    return Some("resourceclaim in use".to_owned());
                }
                continue;
            }
            // Those of one group that share a claim go together.
            if self.pending.contains_key(&key) && pod.shape.group.is_none() {
                return Some(format!("resource claim {key} is in the process of being allocated"));
            }
            if let Some(why) = self.unknown_class(claim) {
                return Some(why);
            }
        }
        None
    }

    fn unknown_class(&self, claim: &ResourceClaim) -> Option<String> {
        let requests = match request::requests(wanted(claim)?) {
            Ok(requests) => requests,
            Err(why) => return Some(why),
        };
        let unknown = requests.iter().flatten().find(|wish| !self.classes.contains_key(wish.class))?;
        Some(format!("request {}: device class {} does not exist", unknown.name, unknown.class))
    }

    /// What the pod's claims get if it goes to a node, or why it cannot.
    pub fn on(&self, node: &NodeFacts, pod: &PodFacts) -> Result<Vec<Grant>, Reason> {
        let facts = affinity::NodeFacts { name: &node.name, labels: &node.labels };
        let (mut grants, mut open) = (Vec::new(), Vec::new());
        for (_, key) in self.claims_of(pod) {
            let Some(claim) = self.claims.get(&key) else { return Err(Reason::CannotAllocate) };
            let grant = |allocation| Grant { uid: uid(claim).to_owned(), claim: key.clone(), allocation };
            let pending = self.pending.get(&key).map(|pending| &*pending.allocation);
            match allocation(claim).or(pending) {
                Some(allocation) => {
                    let selector = allocation.node_selector.as_ref();
                    if selector.is_some_and(|selector| !node_selector_matches(selector, facts)) {
                        return Err(Reason::ClaimElsewhere);
                    }
                    // With something to write the pod waits for the drivers, also after a restart of this process.
                    if !is_reserved_for(claim, &pod.uid) || of_drivers(claim) != Progress::Ready {
                        grants.push(grant(None));
                    }
                }
                None => open.push((grant(None), claim)),
            }
        }
        if open.is_empty() {
            return Ok(grants);
        }
        let claims: Vec<_> = open.iter().map(|(_, claim)| *claim).collect();
        match self.search(facts, pod, &claims) {
            Ok(found) => {
                let new = open.into_iter().zip(found);
                grants.extend(new.map(|((grant, _), allocation)| Grant { allocation: Some(allocation), ..grant }));
                Ok(grants)
            }
            Err(Failure::Unmet) => Err(Reason::CannotAllocate),
            Err(Failure::Claim(why)) => Err(Reason::ClaimUnclear(why)),
            Err(Failure::GivenUp) => Err(Reason::SearchGivenUp),
        }
    }

    /// A claim that keeps the pod from nodes it could go to, and that nobody else has: it was given devices for a node that the
    /// pod cannot go to any more.
    pub fn stale(&self, pod: &PodFacts) -> Option<Grant> {
        let found = self.claims_of(pod).into_iter().find_map(|(_, key)| {
            let claim = self.claims.get(&key)?;
            let is_bound = allocation(claim).is_some_and(|allocation| allocation.node_selector.is_some());
            (is_bound && is_only_for(claim, &pod.uid)).then(|| (key, uid(claim).to_owned()))
        });
        found.map(|(claim, uid)| Grant { claim, uid, allocation: None })
    }

    /// How far the drivers are with the devices of a pod that has its place.
    pub fn progress(&self, pod: &PodFacts) -> Progress {
        let claims = self.claims_of(pod);
        let each = claims.iter().map(|(_, key)| match self.claims.get(key) {
            // What was written is not told yet.
            Some(claim) if allocation(claim).is_none() && self.pending.contains_key(key) => Progress::UnderWay,
            Some(claim) => of_drivers(claim),
            None => Progress::GivenUp,
        });
        each.fold(Progress::Ready, Progress::and)
    }

    /// The claims of a pod with devices that cannot be had, or not in time, and that nobody else has.
    pub(crate) fn unbound(&self, pod: &PodFacts) -> Vec<Grant> {
        let claims = self.claims_of(pod);
        let unbound = claims.into_iter().filter_map(|(_, key)| {
            let claim = self.claims.get(&key)?;
            let is_unbound = of_drivers(claim) != Progress::Ready && is_only_for(claim, &pod.uid);
            is_unbound.then(|| Grant { uid: uid(claim).to_owned(), claim: key, allocation: None })
        });
        unbound.collect()
    }

    fn search(&self, node: affinity::NodeFacts<'_>, pod: &PodFacts, claims: &[&Arc<ResourceClaim>]) -> Found {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut *memory;
        if memory.version != self.version {
            memory.version = self.version;
            memory.pools = Pools::of(self.slices.values());
            memory.in_use = InUse::default();
            let held = self.claims.values().filter_map(|claim| allocation(claim));
            let pending = self.pending.values().map(|pending| &*pending.allocation);
            held.chain(pending).for_each(|allocation| memory.in_use.add(allocation));
            memory.pod = Arc::from("");
        }
        if memory.pod != pod.uid {
            memory.pod = Arc::clone(&pod.uid);
            memory.found.clear();
            memory.steps = MOST_STEPS;
        }
        if let Some(found) = memory.found.get(node.name) {
            return found.clone();
        }
        let InUse { taken, shared } = &memory.in_use;
        let known = Known { classes: &self.classes, rules: &self.rules, taken, shared };
        let names: Vec<String> = claims.iter().map(|claim| name(claim)).collect();
        let none = Default::default();
        let asked = names.iter().zip(claims);
        let asked: Vec<_> = asked.map(|(name, claim)| (name.as_str(), wanted(claim).unwrap_or(&none))).collect();
        let reached = memory.pools.reached_from(node);
        let found = allocate::allocate(node.name, &asked, &reached, &known, &mut memory.answers, &mut memory.steps);
        let found: Found = found.map(|all| all.into_iter().map(Arc::new).collect());
        memory.found.insert(node.name.into(), found.clone());
        found
    }
}

fn grants(work: &[Preparation]) -> impl Iterator<Item = &Grant> {
    work.iter().filter_map(|one| match one {
        Preparation::Devices(grant) => Some(grant),
        Preparation::Reserve { .. } | Preparation::Provision { .. } => None,
    })
}

/// `namespace/name`
fn name(claim: &ResourceClaim) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}/{}", text(&claim.metadata.namespace), text(&claim.metadata.name))
}

/// Whether nobody but this pod has a claim reserved.
fn is_only_for(claim: &ResourceClaim, pod_uid: &str) -> bool {
    let reserved = claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
    claim.metadata.deletion_timestamp.is_none() && reserved.iter().all(|own| own.uid == pod_uid)
}

/// The status of a claim that gives its devices back, if only this pod would lose them.
pub fn given_back(claim: &ResourceClaim, grant: &Grant, pod: &PodFacts) -> Option<ResourceClaimStatus> {
    (uid(claim) == grant.uid && is_only_for(claim, &pod.uid)).then(ResourceClaimStatus::default)
}

/// The status of a claim with what a grant gives to a pod, shares with ids from `share_id`; an error says why it cannot have
/// it any more.
pub fn granted(
    claim: &ResourceClaim,
    grant: &Grant,
    pod: &PodFacts,
    now: jiff::Timestamp,
    share_id: impl Fn() -> String,
) -> Result<ResourceClaimStatus, &'static str> {
    use k8s_openapi::api::resource::v1::ResourceClaimConsumerReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    if uid(claim) != grant.uid || claim.metadata.deletion_timestamp.is_some() {
        return Err("the claim is gone");
    }
    let mut status = claim.status.clone().unwrap_or_default();
    match (&grant.allocation, &status.allocation) {
        (Some(_), Some(_)) => return Err("the claim was given other devices"),
        (None, None) => return Err("the claim has lost its devices"),
        (None, Some(_)) => {}
        (Some(allocation), None) => {
            let allocation_timestamp = Some(Time(now));
            let mut allocation = AllocationResult { allocation_timestamp, ..(**allocation).clone() };
            let results = allocation.devices.iter_mut().flat_map(|devices| devices.results.iter_mut().flatten());
            for shared in results.filter(|own| own.consumed_capacity.is_some()) {
                shared.share_id = Some(share_id());
            }
            status.allocation = Some(allocation);
        }
    }
    let reserved = status.reserved_for.get_or_insert_default();
    if !reserved.iter().any(|own| *own.uid == *pod.uid) {
        if reserved.len() >= MOST_RESERVATIONS {
            return Err("the claim is in use");
        }
        reserved.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: pod.names().1.to_owned(),
            uid: pod.uid.to_string(),
        });
    }
    Ok(status)
}
