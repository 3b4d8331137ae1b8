//! Who owns a claim, so that it goes with its owner (API field `persistentVolumeClaimRetentionPolicy`): pure.
use super::identity::{parent, pod_name};
use super::plan::ordinals;
use crate::pod::PodFacts;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// Who is to own the claims of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Nobody: the claims stay.
    Nobody,
    /// The set: they go when it is deleted.
    Set,
    /// The pod, which is on its way out: they go with it.
    Pod,
}

fn deletes(policy: Option<&String>) -> bool {
    policy.is_some_and(|policy| policy == "Delete")
}

fn owner(set: &StatefulSet, ordinal: i32) -> Owner {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let is_wanted = ordinals(set).contains(&ordinal);
    match (when_deleted, when_scaled) {
        (_, true) if !is_wanted => Owner::Pod,
        (true, _) => Owner::Set,
        (false, _) => Owner::Nobody,
    }
}

/// The owners that a claim of the pod with this ordinal must have; `None` where it has them. A claim whose controller is
/// somebody else is left alone. Without a pod only the set can be its owner.
pub(super) fn owners(
    set: &StatefulSet,
    ordinal: i32,
    pod: Option<&PodFacts>,
    known: &[OwnerReference],
) -> Option<Vec<OwnerReference>> {
    let name = pod_name(set, ordinal);
    let uid = parent(set).uid();
    let is_set = |own: &OwnerReference| own.kind == "StatefulSet" && own.uid == uid;
    // An earlier pod of that name is no owner either.
    let is_pod = |own: &OwnerReference| own.kind == "Pod" && own.name == name;
    if known.iter().any(|own| own.controller == Some(true) && !is_set(own) && !is_pod(own)) {
        return None;
    }
    let by_pod = |pod: &PodFacts| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: name.clone(),
        uid: pod.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let wanted = match owner(set, ordinal) {
        Owner::Nobody => None,
        Owner::Set => Some(parent(set).owner_reference()),
        // Until there is a pod again the claim stays as it is.
        Owner::Pod => Some(by_pod(pod?)),
    };
    let mut owners: Vec<OwnerReference> = known.iter().filter(|own| !is_set(own) && !is_pod(own)).cloned().collect();
    owners.extend(wanted);
    (owners != known).then_some(owners)
}

/// Whether a claim still belongs to an earlier pod of this name, with which it goes.
pub(super) fn is_stale(set: &StatefulSet, ordinal: i32, known: &[OwnerReference]) -> bool {
    let name = pod_name(set, ordinal);
    known.iter().any(|own| own.kind == "Pod" && own.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
        let spec =
            json!({"replicas": 2, "selector": {}, "template": {}, "persistentVolumeClaimRetentionPolicy": policy});
        serde_json::from_value(json!({"metadata": {"name": "web", "uid": "set"}, "spec": spec})).unwrap()
    }

    fn uids(owners: Option<Vec<OwnerReference>>) -> Option<Vec<String>> {
        owners.map(|owners| owners.into_iter().map(|own| own.uid).collect())
    }

    #[test]
    fn claims_go_with_whom_the_policy_says() {
        let pod = PodFacts { uid: "pod".into(), ..PodFacts::default() };
        let of = |deleted: &str, scaled: &str, ordinal| uids(owners(&set(deleted, scaled), ordinal, Some(&pod), &[]));
        let only = |uid: &str| Some(vec![uid.to_owned()]);
        assert_eq!(
            [of("Retain", "Retain", 0), of("Retain", "Retain", 5), of("Retain", "Delete", 0)],
            [None, None, None]
        );
        assert_eq!(
            [of("Delete", "Retain", 0), of("Delete", "Retain", 5), of("Delete", "Delete", 0)],
            [(); 3].map(|()| only("set"))
        );
        assert_eq!([of("Retain", "Delete", 2), of("Delete", "Delete", 2)], [only("pod"), only("pod")]);
    }

    #[test]
    fn a_claim_changes_hands_and_strangers_keep_theirs() {
        let pod = PodFacts { uid: "pod".into(), ..PodFacts::default() };
        let set = set("Delete", "Delete");
        let by_set = owners(&set, 1, Some(&pod), &[]).unwrap();
        assert_eq!(owners(&set, 1, Some(&pod), &by_set), None);
        let mut small = set.clone();
        small.spec.replicas = Some(1);
        let by_pod = owners(&small, 1, Some(&pod), &by_set).unwrap();
        assert_eq!(uids(Some(by_pod.clone())), Some(vec!["pod".to_owned()]));
        assert!(is_stale(&set, 1, &by_pod) && !is_stale(&set, 1, &by_set));
        assert_eq!(uids(owners(&set, 1, Some(&pod), &by_pod)), Some(vec!["set".to_owned()]));
        let other =
            OwnerReference { uid: "x".into(), kind: "Other".into(), controller: Some(true), ..by_set[0].clone() };
        assert_eq!(owners(&set, 1, Some(&pod), std::slice::from_ref(&other)), None);
        let second = OwnerReference { controller: None, ..other };
        assert_eq!(uids(owners(&set, 1, Some(&pod), &[second])), Some(vec!["x".to_owned(), "set".to_owned()]));
    }
}
