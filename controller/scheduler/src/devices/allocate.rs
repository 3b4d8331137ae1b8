//! The search: which devices that a node reaches meet all claims of a pod. Pure: values in, values out, and never more steps
//! than it was given, so that no claim keeps the scheduler busy.
//!
//! One device after the other is tried for each request, in order; what does not go together is taken back. The first whole
//! answer counts.
use super::DeviceId;
use super::pool::{Counters, Device, Pool, Reached};
use super::request::{self, Mode, Wish, Wishes};
use super::select::Answers;
use super::share::{self, Share};
use api::device_taint::is_tainted_by;
use api::resource_claim::MOST_RESULTS;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceClaim, DeviceClassSpec,
    DeviceConstraint, DeviceRequestAllocationResult, DeviceSelector, DeviceTaintRuleSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

/// The claims of one pod ask for so many devices at most.
const MOST_DEVICES: usize = 512;

/// Why claims cannot be met on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing is wrong with them; devices are lacking.
    Unmet,
    /// What is asked for, or what selects it, cannot be understood.
    Claim(Arc<str>),
    /// The search took all steps that it was given.
    GivenUp,
}

/// What a search looks at besides the node.
pub(super) struct Known<'a> {
    pub(super) classes: &'a BTreeMap<String, DeviceClassSpec>,
    pub(super) rules: &'a BTreeMap<String, DeviceTaintRuleSpec>,
    /// Devices that claims have, whole.
    pub(super) taken: &'a HashSet<DeviceId>,
    /// Of devices that several may have, what claims have of each.
    pub(super) shared: &'a HashMap<DeviceId, Share>,
}

impl Known<'_> {
    fn is_in_use(&self, device: &DeviceId) -> bool {
        self.taken.contains(device) || self.shared.contains_key(device)
    }
}

/// A device that would do.
#[derive(Clone)]
struct Candidate<'s> {
    pool: usize,
    device: &'s Device,
    /// What of it is taken; `None` means all, or nothing by who looks after devices.
    share: Option<Rc<Share>>,
}

/// A device that was given, and for which request.
struct Chosen<'s> {
    claim: usize,
    wish: &'s Wish<'s>,
    of: Candidate<'s>,
    /// Its share of its pool's counters was taken with it: nobody had it before.
    is_counted: bool,
}

/// A wish with the devices that it could be met with.
struct Way<'s> {
    wish: &'s Wish<'s>,
    candidates: Vec<Candidate<'s>>,
    count: usize,
    /// One candidate may be given several times.
    may_repeat: bool,
}

struct Search<'s> {
    known: &'s Known<'s>,
    /// By claim and request, the ways to meet it.
    ways: Vec<Vec<Vec<Way<'s>>>>,
    constraints: Vec<&'s [DeviceConstraint]>,
    chosen: Vec<Chosen<'s>>,
    held: HashSet<u64>,
    /// What is left of shared counters, by pool.
    left: Vec<Counters>,
    steps: &'s mut u64,
}

/// Finds devices for claims on a node, each with its `namespace/name`; `steps` says how many may be taken, and then how many are left.
pub(super) fn allocate(
    node: &str,
    claims: &[(&str, &DeviceClaim)],
    pools: &[Reached<'_>],
    known: &Known<'_>,
    answers: &mut Answers,
    steps: &mut u64,
) -> Result<Vec<AllocationResult>, Failure> {
    let named = |name: &str, why: &str| Failure::Claim(format!("claim {name}: {why}").into());
    let mut wishes: Vec<Vec<Wishes<'_>>> = Vec::new();
    for (name, claim) in claims {
        wishes.push(request::requests(claim).map_err(|why| named(name, &why))?);
    }
    let mut ways = Vec::new();
    for ((name, _), requests) in claims.iter().zip(&wishes) {
        let mut of_claim = Vec::new();
        for wishes in requests {
            let mut of_request = Vec::new();
            for wish in wishes {
                of_request.extend(candidates(wish, pools, known, answers, steps).map_err(|failure| match failure {
                    Failure::Claim(why) => named(name, &why),
                    other => other,
                })?);
            }
            // One request that nothing meets is enough.
            if of_request.is_empty() {
                return Err(Failure::Unmet);
            }
            of_claim.push(of_request);
        }
        let least = |ways: &Vec<Way<'_>>| ways.iter().map(|way| way.count).min().unwrap_or(0);
        let total: usize = of_claim.iter().map(least).sum();
        if total > MOST_RESULTS {
            let why = format!("number of requested devices {total} exceeds the claim limit of {MOST_RESULTS}");
            return Err(named(name, &why));
        }
        ways.push(of_claim);
    }
    let mut search = Search {
        known,
        ways,
        constraints: claims.iter().map(|(_, claim)| claim.constraints.as_deref().unwrap_or_default()).collect(),
        chosen: Vec::new(),
        held: HashSet::new(),
        left: pools.iter().map(|reached| left(reached.pool, known)).collect(),
        steps,
    };
    if !search.request(0, 0)? {
        return Err(Failure::Unmet);
    }
    let chosen = search.chosen;
    Ok(claims.iter().enumerate().map(|(index, (_, claim))| result(node, index, claim, &chosen, known)).collect())
}

/// What of a pool's counters no claim has taken.
fn left(pool: &Pool, known: &Known<'_>) -> Counters {
    let mut left = pool.counters.clone();
    if left.is_empty() {
        return left;
    }
    for device in pool.devices.iter().filter(|device| known.is_in_use(&device.id)) {
        for (set, counter, taken) in &device.takes {
            if let Some(own) = left.get_mut(&(set.clone(), counter.clone())) {
                *own = own.minus(*taken);
            }
        }
    }
    left
}

/// The devices that could meet a wish; `None` where there are too few.
fn candidates<'s>(
    wish: &'s Wish<'s>,
    pools: &'s [Reached<'s>],
    known: &Known<'_>,
    answers: &mut Answers,
    steps: &mut u64,
) -> Result<Option<Way<'s>>, Failure> {
    let class = known.classes.get(wish.class);
    let class = class.ok_or_else(|| wish.named(&format!("device class {} does not exist", wish.class)))?;
    let of_class = class.selectors.as_deref().unwrap_or_default();
    let (mut found, mut unsupported) = (Vec::new(), None);
    for (at, reached) in pools.iter().enumerate() {
        if !reached.pool.is_complete || !reached.pool.is_valid {
            match wish.mode {
                // Nobody knows how many all are.
                Mode::All => return Ok(None),
                Mode::Exact(_) => continue,
            }
        }
        for device in &reached.devices {
            if !is_selected(wish, of_class, device, answers, steps)? {
                continue;
            }
            let share = if device.is_shared && !wish.is_admin {
                let Some(share) = share::share(wish, device) else { continue };
                Some(Rc::new(share))
            } else if wish.is_large_enough(device) {
                None
            } else {
                continue;
            };
            let id = &device.id;
            let rules = known.rules.values().filter(|rule| is_tainted_by(rule, &id.driver, &id.pool, &id.device));
            if !wish.tolerates(device.taints.iter().chain(rules.map(|rule| &rule.taint))) {
                continue;
            }
            match device.unsupported {
                Some(why) => unsupported = Some(why),
                None => found.push(Candidate { pool: at, device, share }),
            }
        }
    }
    let count = match wish.mode {
        Mode::Exact(count) => count,
        Mode::All => found.len(),
    };
    if let (Some(why), true) = (unsupported, found.len() < count.max(1)) {
        return Err(wish.named(&format!("devices with {why} are not supported")));
    }
    let may_repeat = wish.mode != Mode::All && found.iter().any(|own| own.share.is_some());
    let is_enough = (found.len() >= count || may_repeat) && !(wish.mode == Mode::All && found.is_empty());
    Ok(is_enough.then_some(Way { wish, candidates: found, count, may_repeat }))
}

/// Whether the selectors of class and request are about a device.
fn is_selected(
    wish: &Wish<'_>,
    of_class: &[DeviceSelector],
    device: &Device,
    answers: &mut Answers,
    steps: &mut u64,
) -> Result<bool, Failure> {
    for (selectors, is_of_class) in [(of_class, true), (wish.selectors, false)] {
        let (answer, cost) = answers.ask(selectors, device);
        pay(steps, cost)?;
        match answer {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) if is_of_class => return Err(Failure::Claim(format!("class {}: {why}", wish.class).into())),
            Err(why) => return Err(wish.named(&why)),
        }
    }
    Ok(true)
}

impl Wish<'_> {
    fn named(&self, why: &str) -> Failure {
        Failure::Claim(format!("request {}: {why}", self.name).into())
    }
}

fn pay(steps: &mut u64, cost: u64) -> Result<(), Failure> {
    match steps.checked_sub(cost) {
        Some(left) => {
            *steps = left;
            Ok(())
        }
        None => {
            *steps = 0;
            Err(Failure::GivenUp)
        }
    }
}

impl<'s> Search<'s> {
    /// Meets this request and all after it; tells whether that went well. If not, nothing is held.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, Failure> {
        let (mut claim, mut request) = (claim, request);
        let count = loop {
            let Some(of_claim) = self.ways.get(claim) else { return Ok(true) };
            match of_claim.get(request) {
                Some(ways) => break ways.len(),
                None => (claim, request) = (claim + 1, 0),
            }
        };
        for way in 0..count {
            if self.fill((claim, request, way), 0, 0)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes what is missing of one way to meet a request, from this candidate on.
    fn fill(&mut self, place: (usize, usize, usize), have: usize, from: usize) -> Result<bool, Failure> {
        let (claim, request, way) = place;
        let (wish, want, count, may_repeat) = {
            let way = &self.ways[claim][request][way];
            (way.wish, way.count, way.candidates.len(), way.may_repeat)
        };
        if have == want {
            return self.request(claim, request + 1);
        }
        // All means each of them: none may be passed over. Too few that are left are not tried.
        let last = if may_repeat { count } else { count + have + 1 - want };
        for at in from..last {
            pay(self.steps, 1)?;
            let of = self.ways[claim][request][way].candidates[at].clone();
            let next = if may_repeat && of.share.is_some() { at } else { at + 1 };
            if self.take(claim, wish, of) {
                if self.fill(place, have + 1, next)? {
                    return Ok(true);
                }
                self.put_back();
            }
        }
        Ok(false)
    }

    /// Whether a device is free for this: nobody has it, or what is left of it is enough.
    fn is_free(&self, wish: &Wish<'_>, of: &Candidate<'_>) -> bool {
        let device = of.device;
        let Some(share) = &of.share else {
            return !self.held.contains(&device.serial) && (wish.is_admin || !self.known.is_in_use(&device.id));
        };
        let mut taken = self.known.shared.get(&device.id).cloned().unwrap_or_default();
        let here = self.chosen.iter().filter(|other| other.of.device.serial == device.serial);
        here.filter_map(|other| other.of.share.as_deref()).for_each(|own| share::add(&mut taken, own));
        share::add(&mut taken, share);
        !self.known.taken.contains(&device.id) && share::fits(&taken, device)
    }

    fn take(&mut self, claim: usize, wish: &'s Wish<'s>, of: Candidate<'s>) -> bool {
        let device = of.device;
        let of_claim = self.chosen.iter().filter(|other| other.claim == claim).count();
        if !self.is_free(wish, &of) || of_claim >= MOST_RESULTS || self.chosen.len() >= MOST_DEVICES {
            return false;
        }
        for constraint in self.constraints[claim] {
            let requests = constraint.requests.as_deref().unwrap_or_default();
            if !request::is_about(requests, &wish.name) {
                continue;
            }
            let others = self
                .chosen
                .iter()
                .filter(|other| other.claim == claim && request::is_about(requests, &other.wish.name));
            if !request::goes_with(constraint, device, others.map(|other| other.of.device)) {
                return false;
            }
        }
        // Who shares a device takes its part of the counters once, together.
        let is_first = !self.known.is_in_use(&device.id)
            && !self.chosen.iter().any(|other| other.of.device.serial == device.serial && other.of.share.is_some());
        let is_counted = !wish.is_admin && is_first;
        if is_counted && !self.count(of.pool, device) {
            return false;
        }
        if of.share.is_none() {
            self.held.insert(device.serial);
        }
        self.chosen.push(Chosen { claim, wish, of, is_counted });
        true
    }

    /// Takes a device's share of the counters of its pool, if there is enough of each.
    fn count(&mut self, pool: usize, device: &Device) -> bool {
        let Some(left) = self.left.get_mut(pool) else { return false };
        let is_enough = device
            .takes
            .iter()
            .all(|(set, counter, taken)| left.get(&(set.clone(), counter.clone())).is_some_and(|own| own >= taken));
        for (set, counter, taken) in device.takes.iter().filter(|_| is_enough) {
            if let Some(own) = left.get_mut(&(set.clone(), counter.clone())) {
                *own = own.minus(*taken);
            }
        }
        is_enough
    }

    fn put_back(&mut self) {
        let Some(chosen) = self.chosen.pop() else { return };
        let device = chosen.of.device;
        if chosen.of.share.is_none() {
            self.held.remove(&device.serial);
        }
        let Some(left) = self.left.get_mut(chosen.of.pool).filter(|_| chosen.is_counted) else { return };
        for (set, counter, taken) in &device.takes {
            if let Some(own) = left.get_mut(&(set.clone(), counter.clone())) {
                *own = own.plus(*taken);
            }
        }
    }
}

/// What the claim's status says of the devices that were chosen for it.
fn result(node: &str, index: usize, claim: &DeviceClaim, chosen: &[Chosen<'_>], known: &Known<'_>) -> AllocationResult {
    let own: Vec<&Chosen<'_>> = chosen.iter().filter(|one| one.claim == index).collect();
    let results =
        own.iter().map(|one| DeviceRequestAllocationResult {
            request: one.wish.name.clone(),
            driver: one.of.device.id.driver.to_string(),
            pool: one.of.device.id.pool.to_string(),
            device: one.of.device.id.device.to_string(),
            admin_access: one.wish.is_admin.then_some(true),
            consumed_capacity: one.of.share.as_deref().map(|share| {
                share.iter().map(|(name, amount)| (name.clone(), ApiQuantity(amount.to_string()))).collect()
            }),
            binding_conditions: one.of.device.binding_conditions.clone(),
            binding_failure_conditions: one.of.device.binding_failure_conditions.clone(),
            skip_node_operations: one.of.device.skips.clone(),
            tolerations: (!one.wish.tolerations.is_empty()).then(|| one.wish.tolerations.to_vec()),
            ..DeviceRequestAllocationResult::default()
        });
    let results: Vec<_> = results.collect();
    let config = configuration(claim, &own, known);
    AllocationResult {
        devices: Some(DeviceAllocationResult {
            config: (!config.is_empty()).then_some(config),
            results: (!results.is_empty()).then_some(results),
        }),
        node_selector: node_selector(node, &own),
        allocation_timestamp: None,
    }
}

/// The settings of the classes, each once, then those of the claim that are about what was chosen.
fn configuration(claim: &DeviceClaim, chosen: &[&Chosen<'_>], known: &Known<'_>) -> Vec<DeviceAllocationConfiguration> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for one in chosen {
        if !names.iter().any(|(name, _)| *name == one.wish.name) {
            names.push((&one.wish.name, one.wish.class));
        }
    }
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: Vec<&str> = names.iter().map(|(_, class)| *class).collect();
    classes.dedup();
    let mut seen = HashSet::new();
    for class in classes.into_iter().filter(|class| seen.insert(*class)) {
        let requests: Vec<String> =
            names.iter().filter(|(_, own)| *own == class).map(|(name, _)| (*name).to_owned()).collect();
        let of_class = known.classes.get(class).and_then(|class| class.config.as_deref()).unwrap_or_default();
        all.extend(of_class.iter().map(|own| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(requests.clone()),
            opaque: own.opaque.clone(),
        }));
    }
    let of_claim = claim.config.iter().flatten().filter(|own| {
        let requests = own.requests.as_deref().unwrap_or_default();
        requests.is_empty() || names.iter().any(|(name, _)| request::is_about(requests, name))
    });
    all.extend(of_claim.map(|own| DeviceAllocationConfiguration {
        source: "FromClaim".to_owned(),
        requests: own.requests.clone(),
        opaque: own.opaque.clone(),
    }));
    all
}

/// Nothing but this node.
fn only(node: &str) -> NodeSelector {
    let only = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None };
    NodeSelector { node_selector_terms: vec![term] }
}

/// The nodes from which all of these are reached, of which they were chosen for `node`; `None` for all nodes.
fn node_selector(node: &str, chosen: &[&Chosen<'_>]) -> Option<NodeSelector> {
    use super::pool::Place;
    if chosen.iter().any(|one| one.of.device.binds_to_node) {
        return Some(only(node));
    }
    let mut term = NodeSelectorTerm::default();
    let add = |to: &mut Option<Vec<NodeSelectorRequirement>>, from: &Option<Vec<NodeSelectorRequirement>>| {
        for one in from.iter().flatten() {
            let held = to.get_or_insert_default();
            if !held.contains(one) {
                held.push(one.clone());
            }
        }
    };
    for one in chosen {
        match &one.of.device.place {
            // One that a single node reaches settles it.
            Place::Node(name) => return Some(only(name)),
            Place::Selector(selector) => {
                // Slices have one term.
                for own in selector.node_selector_terms.iter().take(1) {
                    add(&mut term.match_expressions, &own.match_expressions);
                    add(&mut term.match_fields, &own.match_fields);
                }
            }
            Place::All | Place::PerDevice | Place::Nowhere => {}
        }
    }
    (term != NodeSelectorTerm::default()).then(|| NodeSelector { node_selector_terms: vec![term] })
}
