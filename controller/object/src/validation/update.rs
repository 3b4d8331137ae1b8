//! What may not change once an object is there.
use super::check::Faults;
use crate::resource::{Resource, Subresource};
use crate::tree::{at, list, list_mut, text};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::Value;

/// Fields that keep their first value, by kind.
fn fixed(resource: &Resource) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("apps", "deployments" | "replicasets" | "daemonsets") => &["spec.selector"],
        ("batch", "jobs") => &[
            "spec.selector",
            "spec.completionMode",
            "spec.podFailurePolicy",
            "spec.backoffLimitPerIndex",
            "spec.successPolicy",
            "spec.managedBy",
        ],
        ("", "secrets") => &["type"],
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => &["roleRef"],
        ("storage.k8s.io", "storageclasses") => &["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"],
        ("scheduling.k8s.io", "priorityclasses") => &["value", "preemptionPolicy"],
        ("scheduling.k8s.io", "podgroups") => &super::scheduling::FIXED_IN_GROUP,
        ("scheduling.k8s.io", "workloads") => &["spec.controllerRef"],
        ("discovery.k8s.io", "endpointslices") => &["addressType"],
        ("node.k8s.io", "runtimeclasses") => &["handler"],
        ("networking.k8s.io", "ingressclasses") => &["spec.controller"],
        ("storage.k8s.io", "csidrivers") => &["spec.attachRequired", "spec.volumeLifecycleModes"],
        ("storage.k8s.io", "volumeattachments") => &["spec"],
        ("resource.k8s.io", "resourceclaims" | "resourceclaimtemplates") => &["spec"],
        ("resource.k8s.io", "resourceslices") => &["spec.driver", "spec.pool.name", "spec.nodeName"],
        ("apps", "controllerrevisions") => &["data"],
        ("certificates.k8s.io", "podcertificaterequests") => &["spec"],
        ("apiextensions.k8s.io", "customresourcedefinitions") => &["spec.group", "spec.scope", "spec.names.plural"],
        ("", "persistentvolumeclaims") => {
            &["spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeMode"]
        }
        _ => &[],
    }
}

pub(super) fn validate(resource: &Resource, old: &Value, new: &Value, sub: Option<Subresource>, faults: &mut Faults) {
    for path in fixed(resource) {
        let keys: Vec<&str> = path.split('.').collect();
        let (before, after) = (at(old, &keys), at(new, &keys));
        if before != after && (before.is_some() || !resource.is("", "persistentvolumeclaims")) {
            faults.invalid(*path, after.cloned().unwrap_or_default(), "field is immutable");
        }
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod(old, new, sub, faults),
        ("", "configmaps" | "secrets") => frozen_data(old, new, faults),
        ("", "services") => service(old, new, faults),
        ("apps", "statefulsets") => stateful_set(old, new, faults),
        ("", "resourcequotas") => super::quota::quota_update(old, new, faults),
        ("", "persistentvolumes") => persistent_volume(old, new, faults),
        ("", "persistentvolumeclaims") => {
            let volume = |o: &Value| text(o, &["spec", "volumeName"]).unwrap_or_default().to_owned();
            if !volume(old).is_empty() && volume(old) != volume(new) {
                faults.forbidden("spec", "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
            }
            let storage = |o: &Value| super::check::amount(o, &["spec", "resources", "requests", "storage"]);
            // One that did not come to what it asked for may ask for less, but for more than it has.
            let has = super::check::amount(old, &["status", "capacity", "storage"]);
            if storage(new) < storage(old) && (has.is_none() || storage(new) <= has) {
                faults.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
            }
        }
        ("batch", "jobs") => super::job::update(old, new, faults),
        ("scheduling.k8s.io", "podgroups") => super::scheduling::pod_group_update(old, new, faults),
        ("scheduling.k8s.io", "workloads") => super::scheduling::workload_update(old, new, faults),
        _ => {}
    }
}

/// Where the data is, how it is used and who reaches it stays as it was made.
fn persistent_volume(old: &Value, new: &Value, faults: &mut Faults) {
    let sources = |object: &Value| -> Vec<(String, Value)> {
        let spec = object["spec"].as_object().cloned().unwrap_or_default();
        spec.into_iter().filter(|(key, _)| !super::cluster::VOLUME_FIELDS.contains(&key.as_str())).collect()
    };
    if sources(old) != sources(new) {
        faults.forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation");
    }
    for (key, field) in [("volumeMode", "spec.volumeMode"), ("nodeAffinity", "spec.nodeAffinity")] {
        let (before, after) = (at(old, &["spec", key]), at(new, &["spec", key]));
        if before.is_some() && before != after {
            faults.invalid(field, after.cloned().unwrap_or_default(), "field is immutable");
        }
    }
}

fn frozen_data(old: &Value, new: &Value, faults: &mut Faults) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        faults.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for key in ["data", "binaryData"] {
        if old.get(key) != new.get(key) {
            faults.forbidden(key, "field is immutable when `immutable` is set");
        }
    }
}

fn service(old: &Value, new: &Value, faults: &mut Faults) {
    let kind = |o: &Value| text(o, &["spec", "type"]).unwrap_or("ClusterIP").to_owned();
    if kind(old) == "ExternalName" || kind(new) == "ExternalName" {
        return;
    }
    let key = ["spec", "clusterIP"];
    let before = text(old, &key).unwrap_or_default();
    if !before.is_empty() && Some(before) != text(new, &key) {
        faults.invalid("spec.clusterIP", text(new, &key).unwrap_or_default(), "field is immutable");
    }
}

fn stateful_set(old: &Value, new: &Value, faults: &mut Faults) {
    const OPEN: [&str; 8] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        "status",
    ];
    let closed = |object: &Value| {
        let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
        spec.retain(|key, _| !OPEN.contains(&key.as_str()));
        spec
    };
    if closed(old) != closed(new) {
        faults.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

/// A pod's spec is fixed but for images, deadlines, tolerations that are added, and what subresources open.
fn pod(old: &Value, new: &Value, sub: Option<Subresource>, faults: &mut Faults) {
    if sub == Some(Subresource::EphemeralContainers) {
        let (before, after) =
            (list(old, &["spec", "ephemeralContainers"]), list(new, &["spec", "ephemeralContainers"]));
        for container in before {
            match after.iter().find(|c| c.get("name") == container.get("name")) {
                None => faults.forbidden(
                    "spec.ephemeralContainers",
                    &format!("existing ephemeral containers {} may not be removed\n", container["name"]),
                ),
                Some(same) if same != container => {
                    faults.forbidden(
                        "spec.ephemeralContainers",
                        &format!("existing ephemeral containers {} may not be changed\n", container["name"]),
                    );
                }
                Some(_) => {}
            }
        }
        return;
    }
    if sub == Some(Subresource::Resize) && qos_class(old) != qos_class(new) {
        let class = qos_class(new).map(|class| class.as_str()).unwrap_or_default();
        faults.invalid("spec", class, "Pod QOS Class may not change as a result of resizing");
    }
    let (before, after) = (at(old, &["spec", "activeDeadlineSeconds"]), at(new, &["spec", "activeDeadlineSeconds"]));
    if let Some(limit) = before.and_then(Value::as_i64) {
        match after.and_then(Value::as_i64) {
            None => faults.invalid(
                "spec.activeDeadlineSeconds",
                Value::Null,
                "must not update from a positive integer to nil value",
            ),
            Some(now) if now > limit => {
                faults.invalid(
                    "spec.activeDeadlineSeconds",
                    now,
                    &format!("must be less than or equal to previous value ({limit})"),
                );
            }
            Some(_) => {}
        }
    }
    let kept = list(old, &["spec", "tolerations"]);
    if kept.iter().any(|t| !list(new, &["spec", "tolerations"]).iter().any(|n| same_toleration(t, n))) {
        faults.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
    }
    if opened(old, old, sub) != opened(new, old, sub) {
        faults.forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)");
    }
}

/// The class that a pod's spec gives; `None` for one that is refused anyway.
fn qos_class(pod: &Value) -> Option<api::pod::QosClass> {
    let spec = PodSpec::deserialize(&pod["spec"]).ok()?;
    Some(api::pod::qos_class(&spec))
}

fn same_toleration(a: &Value, b: &Value) -> bool {
    ["key", "operator", "value", "effect"].iter().all(|key| a.get(*key) == b.get(*key))
}

/// The spec with what may change taken out.
fn opened(object: &Value, old: &Value, sub: Option<Subresource>) -> Value {
    let mut spec = object["spec"].clone();
    for part in ["containers", "initContainers"] {
        for container in list_mut(&mut spec, &[part]) {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
                if sub == Some(Subresource::Resize) {
                    container.remove("resources");
                    container.remove("resizePolicy");
                }
            }
        }
    }
    if let Some(map) = spec.as_object_mut() {
        map.remove("activeDeadlineSeconds");
        map.remove("tolerations");
        if sub == Some(Subresource::Resize) {
            map.remove("resources");
        }
        if sub == Some(Subresource::Binding) {
            map.remove("nodeName");
        }
        // Gates may be lifted, one by one; while any stands, the node selection may narrow.
        let gated = !list(old, &["spec", "schedulingGates"]).is_empty();
        let gates = list(object, &["spec", "schedulingGates"]);
        if gated && gates.iter().all(|g| list(old, &["spec", "schedulingGates"]).contains(g)) {
            for key in ["schedulingGates", "nodeSelector", "affinity"] {
                map.remove(key);
            }
        }
    }
    spec
}
