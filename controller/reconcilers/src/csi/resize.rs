//! A claim that asks for more than it has: pure. Steps, conditions and statuses as the external resizer has them, recovery
//! included (Kubernetes documentation, "Persistent Volumes", expanding, recovering).
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const STORAGE: &str = "storage";
const RESIZING: &str = "Resizing";
const NODE_PENDING: &str = "FileSystemResizePending";
const IN_PROGRESS: &str = "ControllerResizeInProgress";
const INFEASIBLE: &str = "ControllerResizeInfeasible";

/// What is to be done about a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing, or it is the node's turn.
    Leave,
    /// The driver lets the volume grow to this.
    Grow(Quantity),
    /// Nobody asks for more any longer: what was said of it goes.
    Forget,
}

fn storage(amounts: Option<&BTreeMap<String, RawQuantity>>) -> Option<Quantity> {
    Quantity::parse(&amounts?.get(STORAGE)?.0).ok()
}

/// Decides about a claim and its volume.
pub(super) fn step(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Step {
    let (Some(spec), Some(status)) = (&claim.spec, &claim.status) else { return Step::Leave };
    let is_going = claim.metadata.deletion_timestamp.is_some() || volume.metadata.deletion_timestamp.is_some();
    let of_volume = volume.spec.as_ref();
    let owner = of_volume.and_then(|spec| spec.claim_ref.as_ref()).and_then(|own| own.uid.as_ref());
    if is_going || status.phase.as_deref() != Some("Bound") || owner != claim.metadata.uid.as_ref() {
        return Step::Leave;
    }
    let requests = spec.resources.as_ref().and_then(|own| own.requests.as_ref());
    let (Some(asked), Some(has)) = (storage(requests), storage(status.capacity.as_ref())) else { return Step::Leave };
    let is = of_volume.and_then(|spec| storage(spec.capacity.as_ref())).unwrap_or(Quantity::ZERO);
    let state = status.allocated_resource_statuses.as_ref().and_then(|all| all.get(STORAGE)).map(String::as_str);
    match state {
        // The node has a part in it, and does it.
        Some(state) if state.starts_with("Node") && is >= asked => Step::Leave,
        // What was begun may have been done: a volume never shrinks.
        Some(IN_PROGRESS) => Step::Grow(storage(status.allocated_resources.as_ref()).unwrap_or(asked)),
        Some(INFEASIBLE) if asked <= has => Step::Forget,
        _ if asked > has => Step::Grow(asked),
        _ => Step::Leave,
    }
}

fn conditions(status: &PersistentVolumeClaimStatus, own: Option<(&str, &str)>, now: &str) -> Value {
    let known = status.conditions.as_deref().unwrap_or_default();
    let is_ours = |condition: &PersistentVolumeClaimCondition| [RESIZING, NODE_PENDING].contains(&&*condition.type_);
    let mut all: Vec<Value> = known.iter().filter(|condition| !is_ours(condition)).map(|own| json!(own)).collect();
    if let Some((kind, message)) = own {
        let same = known.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        let since = same.and_then(|condition| condition.last_transition_time.clone());
        let since = since.map_or_else(|| json!(now), |since| json!(since));
        all.push(json!({"type": kind, "status": "True", "message": message, "lastTransitionTime": since}));
    }
    json!(all)
}

/// The status of a claim whose volume is about to grow to this.
pub(super) fn begun(status: &PersistentVolumeClaimStatus, size: Quantity, now: &str) -> Value {
    json!({"conditions": conditions(status, Some((RESIZING, "")), now),
        "allocatedResources": {STORAGE: size.to_string()}, "allocatedResourceStatuses": {STORAGE: IN_PROGRESS}})
}

/// The status of a claim whose volume never grows to what was asked.
pub(super) fn infeasible(status: &PersistentVolumeClaimStatus, why: &str, now: &str) -> Value {
    json!({"conditions": conditions(status, Some((RESIZING, why)), now),
        "allocatedResourceStatuses": {STORAGE: INFEASIBLE}})
}

/// The status of a claim whose volume has grown, where the node has a part in it, too.
pub(super) fn node_pending(status: &PersistentVolumeClaimStatus, now: &str) -> Value {
    let message = "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
    json!({"conditions": conditions(status, Some((NODE_PENDING, message)), now),
        "allocatedResourceStatuses": {STORAGE: "NodeResizePending"}})
}

/// The status of a claim whose volume has grown to this.
pub(super) fn done(status: &PersistentVolumeClaimStatus, size: Quantity) -> Value {
    json!({"conditions": conditions(status, None, ""), "capacity": {STORAGE: size.to_string()},
        "allocatedResources": {STORAGE: size.to_string()}, "allocatedResourceStatuses": {STORAGE: null}})
}

/// The status of a claim that does not ask for more any longer.
pub(super) fn forgotten(status: &PersistentVolumeClaimStatus) -> Value {
    json!({"conditions": conditions(status, None, ""), "allocatedResources": {STORAGE: null},
        "allocatedResourceStatuses": {STORAGE: null}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    fn size(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    fn decide(asked: &str, has: &str, is: &str, more: Value) -> Step {
        let mut status = json!({"phase": "Bound", "capacity": {STORAGE: has}});
        for (key, value) in more.as_object().into_iter().flatten() {
            status[key] = value.clone();
        }
        let claim =
            json!({"metadata": {"uid": "u"}, "spec": {"resources": {"requests": {STORAGE: asked}}}, "status": status});
        let volume = json!({"metadata": {}, "spec": {"capacity": {STORAGE: is}, "claimRef": {"uid": "u"}}});
        step(&from_value(claim).unwrap(), &from_value(volume).unwrap())
    }

    fn state(state: &str, allocated: &str) -> Value {
        json!({"allocatedResourceStatuses": {STORAGE: state}, "allocatedResources": {STORAGE: allocated}})
    }

    #[test]
    fn a_claim_grows_to_what_it_asks_for() {
        assert_eq!(decide("1Gi", "1Gi", "1Gi", json!({})), Step::Leave);
        assert_eq!(decide("2Gi", "1Gi", "1Gi", json!({})), Step::Grow(size("2Gi")));
        assert_eq!(decide("2Gi", "1Gi", "1Gi", json!({"phase": "Pending"})), Step::Leave);
        assert_eq!(decide("2Gi", "1Gi", "2Gi", json!({})), Step::Grow(size("2Gi")), "the end was not told");
    }

    #[test]
    fn what_was_begun_is_ended_first_and_what_cannot_be_may_be_taken_back() {
        assert_eq!(decide("2Gi", "1Gi", "1Gi", state(IN_PROGRESS, "5Gi")), Step::Grow(size("5Gi")));
        assert_eq!(decide("1Gi", "1Gi", "1Gi", state(IN_PROGRESS, "5Gi")), Step::Grow(size("5Gi")));
        assert_eq!(decide("2Gi", "1Gi", "1Gi", state(INFEASIBLE, "5Gi")), Step::Grow(size("2Gi")));
        assert_eq!(decide("1Gi", "1Gi", "1Gi", state(INFEASIBLE, "5Gi")), Step::Forget);
    }

    #[test]
    fn the_nodes_turn_is_the_nodes() {
        assert_eq!(decide("2Gi", "1Gi", "2Gi", state("NodeResizePending", "2Gi")), Step::Leave);
        assert_eq!(decide("3Gi", "1Gi", "2Gi", state("NodeResizePending", "2Gi")), Step::Grow(size("3Gi")));
    }

    #[test]
    fn conditions_keep_their_time_and_those_of_others() {
        let status: PersistentVolumeClaimStatus = from_value(json!({"conditions": [
            {"type": "Other", "status": "True"},
            {"type": RESIZING, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
        .unwrap();
        let now = "2026-02-02T00:00:00Z";
        let begun = begun(&status, size("2Gi"), now);
        assert_eq!(begun["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(begun["conditions"][0]["type"], "Other");
        let pending = node_pending(&status, now);
        assert_eq!(pending["conditions"][1]["type"], NODE_PENDING);
        assert_eq!(pending["conditions"][1]["lastTransitionTime"], now);
        assert_eq!(done(&status, size("2Gi"))["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(forgotten(&status)["allocatedResourceStatuses"][STORAGE], Value::Null);
    }
}
