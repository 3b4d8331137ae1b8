//! Groups of pods: what a PodGroup says, which pods of it have their place, and whether those that wait may be tried. Pure.
//! Kubernetes documentation, "Gang Scheduling" and "PodGroup API"; KEP-4671.
use crate::pod::{PodFacts, PodKey};
use crate::snapshot::Snapshot;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// `namespace/name` of a PodGroup.
pub type GroupKey = Arc<str>;

/// The condition that tells how far a group is.
pub(crate) const CONDITION: &str = "PodGroupInitiallyScheduled";

/// How the pods of a group are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each by itself.
    Basic,
    /// All at once, or none.
    Gang {
        /// So many have to have a place, those that have one already among them.
        min_count: usize,
    },
}

/// What the condition of a group says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) is_scheduled: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// `lastTransitionTime`, RFC 3339.
    pub(crate) since: String,
}

/// A PodGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// `namespace/name`.
    pub key: GroupKey,
    /// Its uid.
    pub uid: Box<str>,
    /// How its pods are placed.
    pub policy: Policy,
    /// The priority that all of its pods must have.
    pub priority: i32,
    /// Whether its pods only leave together (`disruptionMode: all`).
    pub leaves_whole: bool,
    pub(crate) generation: i64,
    pub(crate) told: Option<Told>,
}

impl GroupFacts {
    /// Takes the facts out of a group.
    pub fn new(group: PodGroup) -> Self {
        let (metadata, spec) = (group.metadata, group.spec);
        let (namespace, name) = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
        let conditions = group.status.and_then(|status| status.conditions).unwrap_or_default();
        let told = conditions.into_iter().find(|condition| condition.type_ == CONDITION).map(|condition| Told {
            is_scheduled: condition.status == "True",
            reason: condition.reason,
            message: condition.message,
            since: condition.last_transition_time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        Self {
            key: format!("{namespace}/{name}").into(),
            uid: metadata.uid.unwrap_or_default().into(),
            policy: match spec.scheduling_policy.gang {
                Some(gang) => Policy::Gang { min_count: usize::try_from(gang.min_count).unwrap_or(1).max(1) },
                None => Policy::Basic,
            },
            priority: spec.priority.unwrap_or_default(),
            leaves_whole: spec.disruption_mode.is_some_and(|mode| mode.all.is_some()),
            generation: metadata.generation.unwrap_or_default(),
            told,
        }
    }

    /// Whether the same is asked for.
    pub(crate) fn asks_like(&self, other: &Self) -> bool {
        self.uid == other.uid && self.policy == other.policy && self.priority == other.priority
    }
}

/// The groups that there are, and the pods of each that have their place.
#[derive(Debug, Default)]
pub struct Groups {
    known: HashMap<GroupKey, GroupFacts>,
    placed: HashMap<GroupKey, BTreeSet<PodKey>>,
}

impl Groups {
    /// A group.
    pub fn get(&self, key: &str) -> Option<&GroupFacts> {
        self.known.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut GroupFacts> {
        self.known.get_mut(key)
    }

    /// Takes a group in, instead of what was known of it.
    pub(crate) fn set(&mut self, group: GroupFacts) -> Option<GroupFacts> {
        self.known.insert(Arc::clone(&group.key), group)
    }

    pub(crate) fn remove(&mut self, key: &str) -> Option<GroupFacts> {
        self.known.remove(key)
    }

    /// The keys of the groups that are not among these.
    pub(crate) fn beside(&self, seen: &HashSet<String>) -> Vec<GroupKey> {
        self.known.keys().filter(|key| !seen.contains(&***key)).cloned().collect()
    }

    /// The pods of a group that have their place.
    pub(crate) fn placed(&self, key: &str) -> impl Iterator<Item = &PodKey> {
        self.placed.get(key).into_iter().flatten()
    }

    /// Notes that a pod has its place; tells whether its group leaves whole.
    pub(crate) fn came(&mut self, group: &GroupKey, pod: &PodKey) -> bool {
        self.placed.entry(Arc::clone(group)).or_default().insert(Arc::clone(pod));
        self.leaves_whole(group)
    }

    /// Notes that a pod has its place no more; tells whether its group leaves whole.
    pub(crate) fn left(&mut self, group: &GroupKey, pod: &str) -> bool {
        if let Some(pods) = self.placed.get_mut(group) {
            pods.remove(pod);
            if pods.is_empty() {
                self.placed.remove(group);
            }
        }
        self.leaves_whole(group)
    }

    /// Whether the pods of a group only leave together.
    pub(crate) fn leaves_whole(&self, group: &str) -> bool {
        self.known.get(group).is_some_and(|group| group.leaves_whole)
    }
}

/// Whether pods of a group may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Each by itself.
    OneByOne,
    /// All at once.
    Together,
    /// Not yet, or not so: the condition's reason, and what is said.
    Waits(&'static str, String),
}

/// What of the group itself keeps its pods from being tried; `waiting` are those that have no place.
pub(crate) fn readiness(snapshot: &Snapshot, key: &str, waiting: &[Arc<PodFacts>]) -> Readiness {
    let Some(group) = snapshot.groups.get(key) else {
        let name = key.split_once('/').map_or(key, |(_, name)| name);
        let message = format!("waiting for pod's pod group {name:?} to appear in scheduling queue");
        return Readiness::Waits("Unschedulable", message);
    };
    if let Some(message) = mismatch(group, waiting) {
        return Readiness::Waits("SchedulerError", message);
    }
    match group.policy {
        Policy::Basic => Readiness::OneByOne,
        Policy::Gang { min_count } => match waiting.len() + snapshot.staying_of_group(key) {
            exist if exist < min_count => Readiness::Waits(
                "Unschedulable",
                format!(
                    "waiting for minCount pods from a gang to appear in scheduling queue: {exist} of {min_count} exist"
                ),
            ),
            _ => Readiness::Together,
        },
    }
}

/// What the pods of a group must have in common.
fn mismatch(group: &GroupFacts, waiting: &[Arc<PodFacts>]) -> Option<String> {
    let odd = waiting.iter().map(|pod| pod.shape.priority).find(|priority| *priority != group.priority);
    if let Some(priority) = odd {
        return Some(format!(
            "all pods in a single pod group should have the same priority as the pod group's priority, got {priority} and {}",
            group.priority
        ));
    }
    let first = waiting.first()?;
    if let Some(other) = waiting.iter().find(|pod| pod.shape.profile != first.shape.profile) {
        return Some(format!(
            "all pods in a single pod group should have the same .spec.schedulerName set, got: {:?} and {:?}",
            other.shape.profile.name, first.shape.profile.name
        ));
    }
    if waiting.iter().any(|pod| pod.shape.may_preempt != first.shape.may_preempt) {
        let detail = "got PreemptLowerPriority and Never";
        return Some(format!("all pods in a single pod group should have the same preemption policy, {detail}"));
    }
    None
}

/// The order in which the pods of a group are placed.
pub(crate) fn sort(pods: &mut [Arc<PodFacts>]) {
    pods.sort_by_cached_key(|pod| (Reverse(pod.shape.priority), pod.created, Arc::clone(&pod.key)));
}
