//! Rules of nodes, events, storage, and the smaller kinds of a cluster.
use super::check::{Faults, amounts, cidr, is_blank, join, labels};
use super::pod::EFFECTS;
use crate::status::Cause;
use crate::tree::{at, entries, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn node(object: &Value, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, taint) in list(object, &["spec", "taints"]).iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let key = text(taint, &["key"]).unwrap_or_default();
        faults.rule(&join(&path, "key"), key, api::name::qualified_name(key));
        let value = text(taint, &["value"]).unwrap_or_default();
        faults.rule(&join(&path, "value"), value, api::name::label_value(value));
        faults.needs_one_of(taint, "effect", &path, &EFFECTS);
        if !seen.insert((key, text(taint, &["effect"]).unwrap_or_default())) {
            faults.add(Cause::duplicate(path, taint));
        }
    }
    for (index, range) in list(object, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str).enumerate() {
        cidr(range, &format!("spec.podCIDRs[{index}]"), faults);
    }
    amounts(object, &["status", "capacity"], "status.capacity", faults);
    amounts(object, &["status", "allocatable"], "status.allocatable", faults);
}

pub(super) fn event(object: &Value, faults: &mut Faults) {
    let involved = at(object, &["involvedObject"]).or_else(|| at(object, &["regarding"]));
    let key = if object.get("regarding").is_some() { "regarding" } else { "involvedObject" };
    let namespace = text(object, &["metadata", "namespace"]).unwrap_or_default();
    match involved.and_then(|i| text(i, &["namespace"])).unwrap_or_default() {
        "" if !matches!(namespace, "" | "default" | "kube-system") => {
            faults.invalid(format!("{key}.namespace"), "", "does not match event.namespace");
        }
        "" => {}
        other if other != namespace => {
            faults.invalid(format!("{key}.namespace"), other, "does not match event.namespace")
        }
        _ => {}
    }
    // Only the newer form names its reporter; the older one stays as lenient as it always was.
    if object.get("eventTime").is_some() {
        for key in ["reportingInstance", "action", "reason"] {
            if is_blank(object.get(key)) {
                faults.required(key, "");
            }
        }
    }
}

/// What a volume's spec says beside its source.
pub(super) const VOLUME_FIELDS: [&str; 10] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
    "volumeName",
];

pub(super) fn persistent_volume(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    if is_blank(spec.get("accessModes")) {
        faults.required("spec.accessModes", "");
    }
    if is_blank(spec.get("capacity")) {
        faults.required("spec.capacity", "");
    }
    amounts(spec, &["capacity"], "spec.capacity", faults);
    faults.one_of(spec, "persistentVolumeReclaimPolicy", "spec", &["Delete", "Recycle", "Retain"]);
    faults.one_of(spec, "volumeMode", "spec", &["Block", "Filesystem"]);
    let sources: Vec<&String> =
        entries(spec, &[]).map(|e| e.0).filter(|k| !VOLUME_FIELDS.contains(&k.as_str())).collect();
    match sources.len() {
        0 => faults.required("spec", "must specify a volume type"),
        1 => {}
        _ => faults.forbidden(join("spec", sources[1]), "may not specify more than 1 volume type"),
    }
    if let Some(local) = spec.get("local") {
        match text(local, &["path"]) {
            None | Some("") => faults.required("spec.local.path", ""),
            Some(path) if path.split('/').any(|part| part == "..") => {
                faults.invalid("spec.local.path", path, "must not contain '..'");
            }
            Some(_) => {}
        }
        if at(spec, &["nodeAffinity", "required"]).is_none() {
            faults.required("spec.nodeAffinity", "Local volume requires node affinity");
        }
    }
    access_modes(spec, faults);
}

fn access_modes(spec: &Value, faults: &mut Faults) {
    for mode in list(spec, &["accessModes"]) {
        const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
        if !mode.as_str().is_some_and(|m| MODES.contains(&m)) {
            faults.add(Cause::unsupported("spec.accessModes", mode, &MODES));
        }
    }
}

pub(super) fn claim(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    if is_blank(spec.get("accessModes")) {
        faults.required("spec.accessModes", "at least 1 access mode is required");
    }
    access_modes(spec, faults);
    if at(spec, &["resources", "requests", "storage"]).is_none() {
        faults.required("spec.resources[storage]", "");
    }
    amounts(spec, &["resources", "requests"], "spec.resources.requests", faults);
    faults.one_of(spec, "volumeMode", "spec", &["Block", "Filesystem"]);
    super::check::selector(&spec["selector"], "spec.selector", faults);
}

pub(super) fn storage_class(object: &Value, faults: &mut Faults) {
    if is_blank(object.get("provisioner")) {
        faults.required("provisioner", "");
    }
    faults.one_of(object, "reclaimPolicy", "", &["Delete", "Retain"]);
    faults.needs_one_of(object, "volumeBindingMode", "", &["Immediate", "WaitForFirstConsumer"]);
}

pub(super) fn priority_class(object: &Value, faults: &mut Faults) {
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    let value = object.get("value").and_then(Value::as_i64).unwrap_or(0);
    if name.starts_with("system-") {
        let critical = i64::from(api::pod::CRITICAL_PRIORITY);
        if ![("system-node-critical", critical + 1000), ("system-cluster-critical", critical)].contains(&(name, value))
        {
            faults.forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only",
            );
        }
    } else if value > 1_000_000_000 {
        faults.forbidden("value", "maximum allowed value of a user defined priority is 1000000000");
    }
    faults.one_of(object, "preemptionPolicy", "", &["Never", "PreemptLowerPriority"]);
}

pub(super) fn lease(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    if spec.get("leaseDurationSeconds").is_some_and(|v| v.as_i64().is_none_or(|n| n <= 0)) {
        faults.invalid("spec.leaseDurationSeconds", spec["leaseDurationSeconds"].clone(), "must be greater than 0");
    }
    faults.not_negative(spec, "leaseTransitions", "spec");
}

pub(super) fn runtime_class(object: &Value, faults: &mut Faults) {
    match text(object, &["handler"]) {
        None | Some("") => faults.required("handler", ""),
        Some(handler) => faults.rule("handler", handler, api::name::rfc1123_label(handler)),
    }
    amounts(object, &["overhead", "podFixed"], "overhead.podFixed", faults);
    labels(object, &["scheduling", "nodeSelector"], "scheduling.nodeSelector", faults);
    let tolerations = list(object, &["scheduling", "tolerations"]);
    super::pod::tolerations(&object["scheduling"], "scheduling", faults);
    for (index, one) in tolerations.iter().enumerate() {
        if tolerations.iter().take(index).any(|earlier| earlier == one) {
            faults.add(Cause::duplicate(format!("scheduling.tolerations[{index}]"), one));
        }
    }
}
