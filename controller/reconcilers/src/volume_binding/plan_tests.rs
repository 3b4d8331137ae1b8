use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn claim(more: Value) -> Claim {
    let mut whole = json!({"metadata": {"namespace": "d", "name": "c", "uid": "u"}, "status": {"phase": "Pending"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    merge(&mut whole, &more);
    Claim::new(serde_json::from_value(whole).unwrap())
}

fn volume(name: &str, more: Value) -> Arc<Volume> {
    let mut whole = json!({"metadata": {"name": name}, "status": {"phase": "Available"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Retain"}});
    merge(&mut whole, &more);
    Arc::new(Volume::new(serde_json::from_value(whole).unwrap()))
}

fn class(provisioner: &str, waits: bool) -> Class {
    Class {
        name: "k".into(),
        provisioner: provisioner.into(),
        waits,
        reclaim: "Delete".into(),
        can_grow: true,
        mount_options: vec![],
        topologies: vec![],
    }
}

fn completed() -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v"}, "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}}})
}

fn reason(plan: &ClaimPlan) -> &'static str {
    match plan {
        ClaimPlan::Wait(Some(told)) | ClaimPlan::Lose(told) | ClaimPlan::GrowElsewhere(told) => told.reason,
        _ => "",
    }
}

#[test]
fn claims_without_a_volume_wait_or_are_provided_for() {
    let of = |more: Value, class: Option<&Class>| of_claim(&claim(more), &[], class);
    assert_eq!(reason(&of(json!({}), None)), "FailedBinding");
    let classy = json!({"spec": {"storageClassName": "k"}});
    assert_eq!(reason(&of(classy.clone(), None)), "ProvisioningFailed");
    assert_eq!(reason(&of(classy.clone(), Some(&class(PROVISIONER_LOCAL_PATH, true)))), "WaitForFirstConsumer");
    assert_eq!(reason(&of(classy.clone(), Some(&class(PROVISIONER_NONE, false)))), "ProvisioningFailed");
    assert_eq!(of(classy.clone(), Some(&class("csi.example", false))), ClaimPlan::Announce("csi.example".into()));
    let mut chosen = classy;
    merge(&mut chosen, &json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n"}}}));
    assert_eq!(of(chosen.clone(), Some(&class(PROVISIONER_LOCAL_PATH, true))), ClaimPlan::Provision);
    merge(&mut chosen, &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert_eq!(of(chosen, Some(&class(PROVISIONER_LOCAL_PATH, true))), ClaimPlan::Keep);
}

#[test]
fn claims_are_bound_to_what_they_name_or_fit() {
    let free = volume("v", json!({}));
    assert_eq!(of_claim(&claim(json!({})), &[Arc::clone(&free)], None), ClaimPlan::Bind(Arc::clone(&free)));
    let naming = json!({"spec": {"volumeName": "v"}});
    assert_eq!(of_claim(&claim(naming.clone()), &[], None), ClaimPlan::Wait(None));
    assert_eq!(of_claim(&claim(naming.clone()), &[Arc::clone(&free)], None), ClaimPlan::Bind(free));
    let small = volume("v", json!({"spec": {"capacity": {"storage": "1Mi"}}}));
    let plan = of_claim(&claim(naming.clone()), &[small], None);
    assert!(
        matches!(&plan, ClaimPlan::Wait(Some(told)) if told.message.ends_with("requested PV is too small")),
        "{plan:?}"
    );
    let other = volume("v", json!({"spec": {"claimRef": {"namespace": "d", "name": "x", "uid": "y"}}}));
    assert_eq!(reason(&of_claim(&claim(naming), &[other], None)), "FailedBinding");
}

#[test]
fn bound_claims_lose_what_is_gone_and_grow_where_they_may() {
    let own = json!({"spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "u"}}, "status": {"phase": "Bound"}});
    let mine = volume("v", own.clone());
    let kept = claim(completed());
    assert_eq!(of_claim(&kept, &[Arc::clone(&mine)], None), ClaimPlan::Keep);
    assert_eq!(reason(&of_claim(&kept, &[], None)), "ClaimLost");
    let mut theirs = own.clone();
    theirs["spec"]["claimRef"]["uid"] = "z".into();
    assert_eq!(reason(&of_claim(&kept, &[volume("v", theirs)], None)), "ClaimMisbound");
    let mut more = completed();
    merge(&mut more, &json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}));
    let growing = claim(more);
    assert_eq!(of_claim(&growing, &[Arc::clone(&mine)], None), ClaimPlan::Keep, "no class allows it");
    let class = class("csi.example", false);
    assert_eq!(reason(&of_claim(&growing, &[Arc::clone(&mine)], Some(&class))), "ExternalExpanding");
    let mut made = own;
    merge(
        &mut made,
        &json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER_LOCAL_PATH}}}),
    );
    let made = volume("v", made);
    assert_eq!(of_claim(&growing, &[Arc::clone(&made)], Some(&class)), ClaimPlan::Grow(made));
}

#[test]
fn volumes_are_reclaimed_by_their_policy() {
    let lost = |policy: &str, phase: &str, by: Option<&str>| {
        let mut more = json!({"status": {"phase": phase}, "spec": {"persistentVolumeReclaimPolicy": policy,
            "claimRef": {"namespace": "d", "name": "c", "uid": "u"}}});
        if let Some(by) = by {
            merge(&mut more, &json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": by}}}));
        }
        of_volume(&volume("v", more), None, true)
    };
    assert_eq!(lost("Retain", "Bound", None), VolumePlan::Phase("Released", None));
    assert_eq!(lost("Retain", "Released", None), VolumePlan::Keep);
    assert_eq!(lost("Delete", "Bound", Some(PROVISIONER_LOCAL_PATH)), VolumePlan::Phase("Released", None));
    assert_eq!(lost("Delete", "Released", Some(PROVISIONER_LOCAL_PATH)), VolumePlan::Delete);
    assert_eq!(lost("Delete", "Released", Some("csi.example")), VolumePlan::Keep, "its provisioner deletes it");
    for (policy, reason) in [("Delete", "VolumeFailedDelete"), ("Recycle", "VolumeFailedRecycle")] {
        let plan = lost(policy, "Released", None);
        assert!(matches!(&plan, VolumePlan::Phase("Failed", Some(told)) if told.reason == reason), "{plan:?}");
    }
}

#[test]
fn volumes_follow_their_claims() {
    let named = |uid: &str| json!({"spec": {"claimRef": {"namespace": "d", "name": "c", "uid": uid}}});
    assert_eq!(
        of_volume(&volume("v", json!({"status": {"phase": "Pending"}})), None, true),
        VolumePlan::Phase("Available", None)
    );
    assert_eq!(of_volume(&volume("v", named("")), None, true), VolumePlan::Keep, "reserved for a claim to come");
    let bound = claim(completed());
    assert_eq!(of_volume(&volume("v", named("u")), Some(&bound), true), VolumePlan::Phase("Bound", None));
    assert_eq!(of_volume(&volume("w", named("u")), Some(&bound), true), VolumePlan::Unbind);
    let mut going = named("u");
    merge(
        &mut going,
        &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER_LOCAL_PATH]},
        "status": {"phase": "Released"}}),
    );
    let going = volume("v", going);
    assert_eq!(of_volume(&going, None, true), VolumePlan::Keep, "its agent removes it");
    assert_eq!(of_volume(&going, None, false), VolumePlan::LetGo);
}

/// A world of a few claims and volumes, in which the plans are carried out at once.
fn settle(claims: &mut [Claim], volumes: &mut [Arc<Volume>]) {
    for _ in 0..20 {
        for claim in claims.iter_mut() {
            if let ClaimPlan::Bind(volume) = of_claim(claim, volumes, None) {
                let own =
                    api::volume::ClaimRef { namespace: "d".into(), name: claim.name.clone(), uid: claim.uid.clone() };
                let index = volumes.iter().position(|other| other.name == volume.name).unwrap();
                let volume = Arc::make_mut(&mut volumes[index]);
                (volume.claim, volume.phase) = (Some(own), "Bound".into());
                (claim.volume, claim.phase) = (volume.name.clone(), "Bound".into());
                (claim.is_bind_completed, claim.capacity) = (true, Some(volume.capacity));
            }
        }
    }
}

proptest! {
    #[test]
    fn no_volume_serves_two_claims_and_none_is_too_small(
        wanted in prop::collection::vec(1u32..9, 0..6), there in prop::collection::vec(1u32..9, 0..6),
    ) {
        let size = |size: &u32| json!(format!("{size}Gi"));
        let mut claims: Vec<Claim> = wanted.iter().enumerate().map(|(index, own)| claim(json!({
            "metadata": {"name": format!("c{index}"), "uid": format!("u{index}")},
            "spec": {"resources": {"requests": {"storage": size(own)}}}}))).collect();
        let mut volumes: Vec<Arc<Volume>> = there.iter().enumerate()
            .map(|(index, own)| volume(&format!("v{index}"), json!({"spec": {"capacity": {"storage": size(own)}}}))).collect();
        settle(&mut claims, &mut volumes);
        let mut used = std::collections::BTreeSet::new();
        for claim in &claims {
            match volumes.iter().find(|volume| volume.name == claim.volume) {
                Some(volume) => {
                    prop_assert!(volume.capacity >= claim.requested && volume.is_for(claim));
                    prop_assert!(used.insert(claim.volume.clone()));
                    prop_assert_eq!(of_claim(claim, &volumes, None), ClaimPlan::Keep);
                }
                None => prop_assert!(volumes.iter().all(|volume| volume.claim.is_some() || volume.capacity < claim.requested)),
            }
        }
    }
}
