//! The facts about a pod that reconcilers need, and no more: there are many pods.
mod evict;
mod write;

use crate::autoscale::LoadFacts;
use crate::cache::{Key, key_of};
use crate::job::RunFacts;
use api::resource_claim::PodClaim;
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, Pod, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

pub(crate) use evict::evict;
pub(crate) use write::{PodWriter, slowly};

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not started yet.
    #[default]
    Pending,
    /// Nobody knows.
    Unknown,
    /// Started.
    Running,
    /// Ended.
    Ended,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodFacts {
    pub(crate) key: Option<Key>,
    pub(crate) uid: Box<str>,
    pub(crate) labels: BTreeMap<String, String>,
    /// The owner that is its controller: kind, name, uid.
    pub(crate) controller: Option<(Box<str>, Box<str>, Box<str>)>,
    pub(crate) node: Option<Box<str>>,
    /// The node that its affinity names, as a DaemonSet's pod has it before it is bound.
    pub(crate) meant_for: Option<Box<str>>,
    pub(crate) phase: Phase,
    /// It ended, and not well.
    pub(crate) has_failed: bool,
    /// Since when it is ready, in seconds since 1970.
    pub(crate) ready_since: Option<i64>,
    pub(crate) is_deleting: bool,
    pub(crate) created: i64,
    pub(crate) restarts: i32,
    pub(crate) deletion_cost: i32,
    pub(crate) tolerations: Vec<Toleration>,
    /// The claims that it uses.
    pub(crate) claims: Vec<Box<str>>,
    /// It has volumes of kind `ephemeral`, whose claims are made for it.
    pub(crate) brings_claims: bool,
    /// Its claims to devices.
    pub(crate) device_claims: Vec<PodClaim>,
    /// What autoscaling needs.
    pub(crate) load: LoadFacts,
    /// What only Jobs need, of their pods.
    pub(crate) run: Option<Box<RunFacts>>,
}

/// The owner that is the controller.
pub(crate) fn controller_of(owners: Option<&Vec<OwnerReference>>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}

/// Whether the object with this uid is the controller.
pub(crate) fn is_controlled(metadata: &ObjectMeta, uid: &str) -> bool {
    controller_of(metadata.owner_references.as_ref()).is_some_and(|owner| owner.uid == uid)
}

/// The one node that every term of a required affinity names by `metadata.name`.
fn named_node(affinity: Option<&Affinity>) -> Option<Box<str>> {
    let required = affinity?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let of_term = |term: &NodeSelectorTerm| {
        let by_name = |r: &&NodeSelectorRequirement| r.key == "metadata.name" && r.operator == "In";
        let found = term.match_fields.iter().flatten().find(by_name)?;
        match found.values.as_deref() {
            Some([only]) => Some(only.as_str().into()),
            Some(_) | None => None,
        }
    };
    let mut names = required.node_selector_terms.iter().map(of_term);
    let first: Box<str> = names.next()??;
    names.all(|name| name.as_ref() == Some(&first)).then_some(first)
}

impl PodFacts {
    /// Takes the facts out.
    pub(crate) fn new(pod: Pod) -> Self {
        let (key, run, load) = (key_of(&pod.metadata), RunFacts::new(&pod), LoadFacts::new(&pod));
        let device_claims = api::resource_claim::claims_of(&pod);
        let claims = api::volume::claims_of(&pod).into_iter().map(|used| used.name.into()).collect();
        let controller = controller_of(pod.metadata.owner_references.as_ref())
            .map(|owner| (owner.kind.as_str().into(), owner.name.as_str().into(), owner.uid.as_str().into()));
        let metadata = pod.metadata;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "True");
        let created = metadata.creation_timestamp.map_or(0, |t| t.0.as_second());
        let restarts = status.container_statuses.iter().flatten().map(|c| c.restart_count).max().unwrap_or_default();
        let cost = metadata.annotations.as_ref().and_then(|a| a.get(api::well_known::ANNOTATION_POD_DELETION_COST));
        Self {
            key: Some(key),
            uid: metadata.uid.unwrap_or_default().into(),
            labels: metadata.labels.unwrap_or_default(),
            controller,
            meant_for: named_node(spec.affinity.as_ref()),
            has_failed: status.phase.as_deref() == Some("Failed"),
            node: spec.node_name.filter(|name| !name.is_empty()).map(Into::into),
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded" | "Failed") => Phase::Ended,
                Some("Unknown") => Phase::Unknown,
                Some(_) | None => Phase::Pending,
            },
            ready_since: ready.map(|c| c.last_transition_time.as_ref().map_or(created, |t| t.0.as_second())),
            is_deleting: metadata.deletion_timestamp.is_some(),
            created,
            restarts,
            claims,
            device_claims,
            deletion_cost: cost.and_then(|text| text.parse().ok()).unwrap_or_default(),
            brings_claims: spec.volumes.iter().flatten().any(|volume| volume.ephemeral.is_some()),
            tolerations: spec.tolerations.unwrap_or_default(),
            load,
            run,
        }
    }

    /// Counts for its controller: not ended, not being deleted.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_deleting && self.phase != Phase::Ended
    }

    /// Itself, as events name it.
    pub(crate) fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.namespace().into()),
            name: Some(self.name().into()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    /// The patch of a status that says why a pod goes that has not ended; by `reason` others tell it from its own failure.
    pub(crate) fn disrupted(&self, reason: &str, message: &str) -> serde_json::Value {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        serde_json::json!({"metadata": {"uid": &*self.uid}, "status": {"conditions": [
            {"type": api::well_known::CONDITION_DISRUPTED, "status": "True", "reason": reason, "message": message,
                "lastTransitionTime": now}]}})
    }

    /// Ready for so many seconds: available. `Err` tells in how many more, if time alone makes it so.
    pub(crate) fn availability(&self, min_ready_seconds: i32, now: jiff::Timestamp) -> Result<(), Option<i64>> {
        let since = self.ready_since.ok_or(None)?;
        let missing = since.saturating_add(i64::from(min_ready_seconds)).saturating_sub(now.as_second());
        if min_ready_seconds <= 0 || missing <= 0 { Ok(()) } else { Err(Some(missing)) }
    }

    /// Whether its controller is the object with this uid.
    pub(crate) fn is_of(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|(_, _, owner)| **owner == *uid)
    }

    /// The node that it is on, or that it is meant for.
    pub(crate) fn place(&self) -> Option<&str> {
        self.node.as_deref().or(self.meant_for.as_deref())
    }

    /// A label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// The name alone.
    pub(crate) fn name(&self) -> &str {
        self.key.as_deref().map_or("", |key| crate::cache::split(key).1)
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.key.as_deref().map_or("", |key| crate::cache::split(key).0)
    }
}
