//! What becomes of a claim, and the claim that a template makes: pure.
use api::resource_claim::is_owned;
use api::well_known::{ANNOTATION_POD_CLAIM_NAME, FINALIZER_RESOURCE_CLAIM};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// What is to be written, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// The new status.
    pub(super) status: Option<ResourceClaimStatus>,
    /// The finalizers that are left.
    pub(super) finalizers: Option<Vec<String>>,
    /// It goes: it was made for a pod that has ended or is gone.
    pub(super) deletes: bool,
}

/// Whether whoever has reserved it is a pod; others free what they have themselves.
pub(super) fn is_pod(consumer: &ResourceClaimConsumerReference) -> bool {
    consumer.resource == "pods" && consumer.api_group.as_deref().unwrap_or_default().is_empty()
}

/// The pod that a claim was made for: name and uid.
pub(super) fn owner(metadata: &ObjectMeta) -> Option<(&str, &str)> {
    let mut owners = metadata.owner_references.iter().flatten();
    let own = owners.find(|own| own.controller == Some(true) && own.kind == "Pod" && own.api_version == "v1")?;
    Some((&own.name, &own.uid))
}

/// Whether a pod, as it is now, does not use what it has reserved any more: it has ended, or goes before it had a node.
pub(super) fn is_done(pod: &Pod) -> bool {
    let has_node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    api::pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() && !has_node
}

/// What becomes of a claim; `is_over` tells of a pod by name and uid that it does not use it any more.
pub(super) fn plan(claim: &ResourceClaim, is_over: impl Fn(&str, &str) -> bool) -> Plan {
    let status = claim.status.clone().unwrap_or_default();
    let reserved = status.reserved_for.clone().unwrap_or_default();
    let is_kept = |own: &&ResourceClaimConsumerReference| !is_pod(own) || !is_over(&own.name, &own.uid);
    let kept: Vec<_> = reserved.iter().filter(is_kept).cloned().collect();
    let finalizers = claim.metadata.finalizers.as_deref().unwrap_or_default();
    let is_ours = finalizers.iter().any(|own| own == FINALIZER_RESOURCE_CLAIM);
    let mut plan = Plan::default();
    let has_fewer = kept.len() < reserved.len();
    let is_free = kept.is_empty();
    let goes = claim.metadata.deletion_timestamp.is_some();
    // What nobody uses any more is free for others at once.
    let frees = is_ours && is_free && (has_fewer || goes);
    if has_fewer || frees && status.allocation.is_some() {
        let allocation = status.allocation.clone().filter(|_| !frees);
        // What drivers say is about devices that it has no longer.
        let devices = status.devices.clone().filter(|_| !frees);
        plan.status = Some(ResourceClaimStatus { allocation, devices, reserved_for: (!is_free).then_some(kept) });
    }
    if frees {
        let left = finalizers.iter().filter(|own| *own != FINALIZER_RESOURCE_CLAIM).cloned();
        plan.finalizers = Some(left.collect());
    }
    plan.deletes = is_free && !goes && owner(&claim.metadata).is_some_and(|(name, uid)| is_over(name, uid));
    plan
}

/// The claim that a template makes for one of the claims of a pod.
pub(super) fn from_template(pod: &Pod, pod_claim: &str, template: ResourceClaimTemplate) -> ResourceClaim {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = template.spec.unwrap_or_default();
    let metadata = spec.metadata.unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: name.clone(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(ANNOTATION_POD_CLAIM_NAME.to_owned(), pod_claim.to_owned());
    let metadata = ObjectMeta {
        generate_name: Some(format!("{name}-{pod_claim}-")),
        labels: metadata.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    ResourceClaim { metadata, spec: spec.spec, status: None }
}

/// Whether a pod that nobody scheduled, because it came with its node, is to be among those that a claim is kept for.
pub(super) fn is_to_be_reserved(claim: &ResourceClaim, pod_uid: &str, is_generated: bool) -> bool {
    let status = claim.status.clone().unwrap_or_default();
    let reserved = status.reserved_for.unwrap_or_default();
    status.allocation.is_some()
        && claim.metadata.deletion_timestamp.is_none()
        && (!is_generated || is_owned(&claim.metadata, pod_uid))
        && reserved.len() < api::resource_claim::MOST_RESERVATIONS
        && !reserved.iter().any(|own| own.uid == pod_uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn claim(owner: Option<&str>, reserved: &[&str], more: Value) -> ResourceClaim {
        let owners: Vec<Value> = owner
            .map(|uid| json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid, "controller": true}))
            .into_iter()
            .collect();
        let reserved: Vec<Value> =
            reserved.iter().map(|uid| json!({"resource": "pods", "name": uid, "uid": uid})).collect();
        let mut claim = json!({"metadata": {"name": "c", "ownerReferences": owners,
            "finalizers": ["other", FINALIZER_RESOURCE_CLAIM]}, "spec": {},
            "status": {"allocation": {"devices": {}}, "reservedFor": reserved}});
        for (path, value) in more.as_object().unwrap() {
            *claim.pointer_mut(path).unwrap() = value.clone();
        }
        from_value(claim).unwrap()
    }

    fn of(claim: &ResourceClaim, over: &[&str]) -> Plan {
        plan(claim, |_, uid| over.contains(&uid))
    }

    #[test]
    fn a_claim_is_freed_when_the_last_pod_has_ended() {
        let shared = claim(None, &["a", "b"], json!({}));
        assert_eq!(of(&shared, &[]), Plan::default());
        let one = of(&shared, &["a"]);
        let status = one.status.unwrap();
        assert!(status.allocation.is_some(), "the other still has it");
        assert_eq!(status.reserved_for.unwrap()[0].uid, "b");
        assert_eq!((one.finalizers, one.deletes), (None, false));
        let all = of(&shared, &["a", "b"]);
        assert_eq!(all.status, Some(ResourceClaimStatus::default()));
        assert_eq!((all.finalizers, all.deletes), (Some(vec!["other".to_owned()]), false));
    }

    #[test]
    fn a_claim_of_a_pods_own_goes_with_it() {
        let own = claim(Some("a"), &["a"], json!({}));
        assert_eq!(of(&own, &[]), Plan::default());
        let plan = of(&own, &["a"]);
        assert!(plan.deletes && plan.status.is_some());
        assert!(!of(&claim(Some("a"), &["b"], json!({})), &["a"]).deletes, "somebody else still uses it");
    }

    #[test]
    fn one_that_is_being_deleted_waits_for_whoever_uses_it() {
        let mut going = claim(None, &["a"], json!({}));
        going.metadata.deletion_timestamp = from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(of(&going, &[]), Plan::default());
        assert!(of(&going, &["a"]).finalizers.is_some());
        let mut unused = claim(None, &[], json!({}));
        assert_eq!(of(&unused, &[]), Plan::default(), "allocated and not reserved: whoever allocates is at it");
        unused.metadata.deletion_timestamp = going.metadata.deletion_timestamp;
        let plan = of(&unused, &[]);
        assert!(plan.status.is_some_and(|status| status.allocation.is_none()) && plan.finalizers.is_some());
    }

    #[test]
    fn what_others_have_reserved_is_theirs() {
        let foreign =
            json!({"/status/reservedFor": [{"apiGroup": "g", "resource": "things", "name": "t", "uid": "t"}]});
        assert_eq!(of(&claim(None, &[], foreign), &["t"]), Plan::default());
    }

    #[test]
    fn a_claim_from_a_template_belongs_to_its_pod() {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let template = from_value(json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"a": "b"}},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}}))
        .unwrap();
        let made = from_template(&pod, "gpu", template);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("p-gpu-"));
        assert!(api::resource_claim::is_made_for(&made.metadata, "u", "gpu"));
        assert_eq!(json!(made)["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(json!(made)["spec"]["devices"]["requests"][0]["name"], "r");
    }

    #[test]
    fn a_pod_is_done_when_it_has_ended_or_never_had_a_node() {
        let pod = |phase: &str, node: &str, goes: bool| -> Pod {
            let time = goes.then_some("2026-01-01T00:00:00Z");
            from_value(json!({"metadata": {"deletionTimestamp": time}, "spec": {"containers": [], "nodeName": node},
                "status": {"phase": phase}}))
            .unwrap()
        };
        assert!(is_done(&pod("Succeeded", "n", false)) && is_done(&pod("Pending", "", true)));
        assert!(!is_done(&pod("Running", "n", true)) && !is_done(&pod("Pending", "", false)));
    }
}
