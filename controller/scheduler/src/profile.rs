//! How the pods of one `schedulerName` are placed: which questions are asked of a node, and how much each counts. A value
//! that pods share; nothing of it is looked up by name once it is read.
use crate::node::NodeFacts;
use crate::pod::Shape;
use k8s_openapi::api::core::v1::NodeAffinity;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

/// The name of the profile that pods ask for who name none.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// Full marks of one question.
pub(crate) const FULL: i64 = 100;

/// A question that a profile may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Whether the node is cordoned.
    Unschedulable = 1,
    /// Its taints.
    Taints = 2,
    /// Node selector and node affinity.
    Affinity = 4,
    /// Host ports.
    Ports = 8,
    /// Whether enough is left.
    Resources = 16,
    /// Topology spread.
    Spread = 32,
    /// Affinity between pods.
    Relations = 64,
}

/// The filters that are left out, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped(u8);

/// How much each question counts among the nodes that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// What is left, or taken.
    pub fit: i64,
    /// How evenly resources are taken.
    pub balance: i64,
    /// Images that are there.
    pub images: i64,
    /// Preferred node affinity.
    pub preference: i64,
    /// Taints that would rather not have the pod.
    pub taints: i64,
    /// Preferred affinity between pods.
    pub relations: i64,
    /// Soft topology spread.
    pub spread: i64,
}

impl Default for Weights {
    /// Kubernetes' figures.
    fn default() -> Self {
        Self { fit: 1, balance: 1, images: 1, preference: 2, taints: 3, relations: 2, spread: 2 }
    }
}

/// Whether nodes are filled or spread over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The more is left the better.
    #[default]
    LeastAllocated,
    /// The more is taken the better.
    MostAllocated,
    /// By a curve: points of utilization (0 to 100) and score (0 to 100), sorted.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// A resource that a strategy looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
    /// Local disk.
    EphemeralStorage,
    /// A device or the like. It counts only for pods that ask for it.
    Other(Box<str>),
}

/// Spreading that pods with siblings get without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultSpread {
    /// The label of nodes.
    pub topology: Box<str>,
    /// How much fuller a place may be than the emptiest one.
    pub max_skew: i64,
    /// `DoNotSchedule`.
    pub is_hard: bool,
}

/// Resources that are not asked for when a pod is placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// By name.
    pub names: Vec<Box<str>>,
    /// By what stands before the slash.
    pub groups: Vec<Box<str>>,
}

impl Ignored {
    /// Whether all are asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.groups.is_empty()
    }

    /// Whether this resource is not asked for.
    pub(crate) fn has(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map(|(group, _)| group);
        self.names.iter().any(|name| **name == *resource)
            || group.is_some_and(|group| self.groups.iter().any(|own| **own == *group))
    }
}

/// A profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The `schedulerName` of its pods.
    pub name: Box<str>,
    /// How much each question counts.
    pub weights: Weights,
    /// What is not asked.
    pub skipped: Skipped,
    /// Whether nodes are filled or spread over.
    pub strategy: Strategy,
    /// What the strategy looks at, with weights.
    pub resources: Vec<(Resource, i64)>,
    /// What is to be taken evenly.
    pub balanced: Vec<Resource>,
    /// What is not asked for when a pod is placed.
    pub ignored: Ignored,
    /// What pods with siblings get without asking; `None` is Kubernetes' own.
    pub spread: Option<Vec<DefaultSpread>>,
    /// How much a pod's required affinity counts for those that it is about.
    pub hard_affinity_weight: i64,
    /// Whether wishes of placed pods count only for pods that have some themselves.
    pub ignores_wishes_of_others: bool,
    /// Asked of nodes beside what pods ask.
    pub added_affinity: Option<Box<NodeAffinity>>,
    /// Whether others leave for its pods.
    pub preempts: bool,
    /// So many candidates are compared at least where pods are tried one by one.
    pub min_candidates: usize,
    /// And so many hundredths of the nodes.
    pub candidates_percent: usize,
}

impl Profile {
    /// Kubernetes' own, under some name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            weights: Weights::default(),
            skipped: Skipped::default(),
            strategy: Strategy::default(),
            resources: vec![(Resource::Cpu, 1), (Resource::Memory, 1)],
            balanced: vec![Resource::Cpu, Resource::Memory],
            ignored: Ignored::default(),
            spread: None,
            hard_affinity_weight: 1,
            ignores_wishes_of_others: false,
            added_affinity: None,
            preempts: true,
            min_candidates: 100,
            candidates_percent: 10,
        }
    }

    /// Leaves a filter out.
    pub fn skip(&mut self, filter: Filter) {
        self.skipped.0 |= filter as u8;
    }

    /// Asks it after all.
    pub fn ask(&mut self, filter: Filter) {
        self.skipped.0 &= !(filter as u8);
    }

    /// Whether a filter is left out.
    pub(crate) fn skips(&self, filter: Filter) -> bool {
        self.skipped.0 & filter as u8 != 0
    }

    /// Whether nothing about resources is other than Kubernetes' own.
    fn is_plain(&self) -> bool {
        let own = Self::new("");
        self.strategy == own.strategy
            && self.resources == own.resources
            && self.balanced == own.balanced
            && (self.weights.fit, self.weights.balance) == (1, 1)
    }

    /// What the resources of a node are worth to a pod, for any profile.
    fn weigh(&self, node: &NodeFacts, pod: &Shape) -> i64 {
        let fit = if self.weights.fit > 0 { self.fit_score(node, pod) } else { 0 };
        let balance = if self.weights.balance > 0 { self.balance_score(node, pod) } else { 0 };
        self.weights.fit * fit + self.weights.balance * balance
    }

    /// The strategy's score: the mean of the resources' scores by their weights.
    fn fit_score(&self, node: &NodeFacts, pod: &Shape) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &self.resources {
            let used = use_of(node, pod, resource);
            if used.have <= 0 || used.is_beside_the_point {
                continue;
            }
            let score = match &self.strategy {
                Strategy::LeastAllocated => left(used),
                Strategy::MostAllocated => used.hundredths(),
                Strategy::RequestedToCapacityRatio(points) => match at(points, used.hundredths()) {
                    // As in Kubernetes, a resource without marks does not count.
                    0 => continue,
                    score => score,
                },
            };
            sum += weight * score;
            weights += weight;
        }
        match (&self.strategy, weights) {
            (_, 0) => 0,
            // Rounded, where the others are cut.
            (Strategy::RequestedToCapacityRatio(_), weights) => (2 * sum + weights) / (2 * weights),
            (_, weights) => sum / weights,
        }
    }

    /// How evenly the resources are taken: 100 less the standard deviation of the shares.
    fn balance_score(&self, node: &NodeFacts, pod: &Shape) -> i64 {
        let shares = || {
            let used = self.balanced.iter().map(|resource| use_of(node, pod, resource));
            #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
            let share = |used: Use| (used.taken as f64 / used.have as f64).clamp(0.0, 1.0);
            used.filter(|used| used.have > 0 && !used.is_beside_the_point).map(share)
        };
        #[expect(clippy::cast_precision_loss, reason = "there are a few resources")]
        let count = shares().count() as f64;
        if count < 2.0 {
            return FULL;
        }
        let mean = shares().sum::<f64>() / count;
        let deviation = (shares().map(|share| (share - mean).powi(2)).sum::<f64>() / count).sqrt();
        #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 100")]
        let score = ((1.0 - deviation) * 100.0) as i64;
        score
    }
}

/// What would be taken of a resource, with the pod.
#[derive(Clone, Copy, Debug)]
struct Use {
    have: i64,
    taken: i64,
    /// The pod does not ask for this device.
    is_beside_the_point: bool,
}

impl Use {
    /// How many hundredths are taken.
    fn hundredths(self) -> i64 {
        if self.have <= 0 {
            return 0;
        }
        self.taken.clamp(0, self.have).saturating_mul(FULL) / self.have
    }
}

fn use_of(node: &NodeFacts, pod: &Shape, resource: &Resource) -> Use {
    let (have, taken, load) = (&node.allocatable, &node.taken, &pod.load);
    let (have, taken, own, is_device) = match resource {
        Resource::Cpu => (have.milli_cpu, taken.ranked_milli_cpu, load.ranked_milli_cpu, false),
        Resource::Memory => (have.memory, taken.ranked_memory, load.ranked_memory, false),
        Resource::EphemeralStorage => {
            let (taken, own) = (taken.requested.ephemeral_storage, load.requests.ephemeral_storage);
            (have.ephemeral_storage, taken, own, false)
        }
        Resource::Other(name) => (have.of(name), taken.requested.of(name), load.requests.of(name), true),
    };
    Use { have, taken: taken.saturating_add(own), is_beside_the_point: is_device && own == 0 }
}

/// How many hundredths are left.
fn left(used: Use) -> i64 {
    if used.have <= 0 || used.taken >= used.have {
        return 0;
    }
    (used.have - used.taken).saturating_mul(FULL) / used.have
}

/// The value of a curve of straight lines.
fn at(points: &[(i64, i64)], utilization: i64) -> i64 {
    let next = points.partition_point(|(x, _)| *x < utilization);
    match (next.checked_sub(1).and_then(|before| points.get(before)), points.get(next)) {
        (None, Some((_, score))) | (Some((_, score)), None) => *score,
        (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (utilization - x0) / (x1 - x0),
        (None, None) => 0,
    }
}

/// The profile of a pod: one of a few that all pods share.
#[derive(Clone, Debug)]
pub struct Shared {
    profile: Arc<Profile>,
    /// The way that most pods take is short.
    is_plain: bool,
}

impl Shared {
    /// One that pods can share.
    pub fn new(profile: Profile) -> Self {
        Self { is_plain: profile.is_plain(), profile: Arc::new(profile) }
    }

    /// What the resources of a node are worth to a pod. Taking the pod in is counted, pods that the node is being emptied
    /// for are not.
    pub(crate) fn resources_score(&self, node: &NodeFacts, pod: &Shape) -> i64 {
        if !self.is_plain {
            return self.profile.weigh(node, pod);
        }
        let cpu = left(use_of(node, pod, &Resource::Cpu));
        let memory = left(use_of(node, pod, &Resource::Memory));
        // The standard deviation of two values is half of their difference.
        (cpu + memory) / 2 + FULL - (cpu - memory).abs() / 2
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.profile, &other.profile) || self.profile.name == other.profile.name
    }
}

impl Eq for Shared {}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.profile.name.hash(state);
    }
}

impl std::ops::Deref for Shared {
    type Target = Profile;

    fn deref(&self) -> &Profile {
        &self.profile
    }
}

impl Default for Shared {
    /// Kubernetes' own.
    fn default() -> Self {
        static OWN: LazyLock<Shared> = LazyLock::new(|| Shared::new(Profile::new(DEFAULT_NAME)));
        OWN.clone()
    }
}

/// All profiles. Pods that ask for another one are somebody else's.
#[derive(Clone, Debug)]
pub struct Profiles(pub(crate) Vec<Shared>);

impl Default for Profiles {
    fn default() -> Self {
        Self(vec![Shared::default()])
    }
}

impl Profiles {
    /// These.
    pub fn new(all: impl IntoIterator<Item = Profile>) -> Self {
        Self(all.into_iter().map(Shared::new).collect())
    }

    /// The profile of pods with this `schedulerName`.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Shared> {
        let name = name.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAME);
        self.0.iter().find(|profile| *profile.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodFacts;
    use serde_json::json;

    /// A node with 4 processors, 8 GiB and 4 of `d/x`, of which 1 processor, 4 GiB and 1 are taken.
    fn node() -> NodeFacts {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "d/x": "4", "pods": "10"}}});
        let mut node = NodeFacts::new(serde_json::from_value(node).unwrap());
        node.taken.add(&pod("1", "4Gi", "1").load);
        node
    }

    fn pod(cpu: &str, memory: &str, device: &str) -> Arc<Shape> {
        let requests = json!({"cpu": cpu, "memory": memory, "d/x": device});
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"resources": {"requests": requests}}]}});
        PodFacts::new(serde_json::from_value(pod).unwrap()).shape
    }

    fn with(strategy: Strategy, resources: &[(Resource, i64)]) -> Profile {
        Profile { strategy, resources: resources.to_vec(), ..Profile::new("p") }
    }

    /// With the pod 2 of 4 processors (50), 6 of 8 GiB (75) and 3 of 4 devices (75) are taken.
    #[test]
    fn strategies_give_what_their_formulas_say() {
        use Resource::{Cpu, Memory, Other};
        let device = || Other("d/x".into());
        let (node, pod) = (node(), pod("1", "2Gi", "2"));
        let fit = |strategy: Strategy, resources: &[(Resource, i64)]| with(strategy, resources).fit_score(&node, &pod);
        let both = [(Cpu, 1), (Memory, 1)];
        assert_eq!(fit(Strategy::LeastAllocated, &both), (50 + 25) / 2);
        assert_eq!(fit(Strategy::LeastAllocated, &[(Cpu, 3), (Memory, 1)]), (3 * 50 + 25) / 4);
        assert_eq!(fit(Strategy::MostAllocated, &both), (50 + 75) / 2);
        assert_eq!(fit(Strategy::MostAllocated, &[(Cpu, 1), (device(), 3)]), (50 + 3 * 75) / 4);
        let curve = Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]);
        assert_eq!(fit(curve, &both), 63, "62.5, rounded");
        let bent = Strategy::RequestedToCapacityRatio(vec![(40, 20), (60, 100), (100, 0)]);
        // 50 lies halfway between 20 and 100; 75 lies 15 of 40 behind 60: 100 - 37.5, cut to 63 as it falls.
        assert_eq!(fit(bent.clone(), &[(Cpu, 1)]), 60);
        assert_eq!(fit(bent, &[(Memory, 1)]), 63);
        let zero = Strategy::RequestedToCapacityRatio(vec![(60, 0), (75, 80)]);
        assert_eq!(fit(zero, &both), 80, "what has no marks does not count");
        let absent = [(Cpu, 1), (Other("d/none".into()), 5)];
        assert_eq!(fit(Strategy::MostAllocated, &absent), 50, "nor does what the node does not have");
    }

    #[test]
    fn a_device_counts_for_whom_it_is() {
        let profile = with(Strategy::MostAllocated, &[(Resource::Cpu, 1), (Resource::Other("d/x".into()), 1)]);
        assert_eq!(profile.fit_score(&node(), &pod("1", "2Gi", "0")), 50);
    }

    #[test]
    fn the_short_way_gives_the_same() {
        let (node, pod) = (node(), pod("1", "2Gi", "0"));
        let own = Shared::new(Profile::new("p"));
        assert!(own.is_plain);
        // 37 for what is left, 100 - 12.5 for the balance; the short way cuts half a point less.
        let (short, long) = (own.resources_score(&node, &pod), own.weigh(&node, &pod));
        assert!((short - long).abs() <= 1, "{short} {long}");
        let weights = Weights { balance: 0, fit: 3, ..Weights::default() };
        let heavy = Shared::new(Profile { weights, ..Profile::new("p") });
        assert_eq!(heavy.resources_score(&node, &pod), 3 * 37);
    }

    #[test]
    fn what_is_ignored() {
        let ignored = Ignored { names: vec!["cpu".into()], groups: vec!["d".into()] };
        assert!(ignored.has("cpu") && ignored.has("d/x") && !ignored.has("memory") && !ignored.has("dd/x"));
    }
}
