//! Rules of `metadata`, which every kind has.
use super::check::{Faults, is_blank, join, labels};
use crate::resource::Resource;
use crate::tree::{at, entries, list, text};
use serde_json::Value;

/// Total of all annotations, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The rule for names of a kind.
fn name_rule(resource: &Resource) -> fn(&str) -> Vec<String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => api::name::rfc1123_label,
        ("", "services") => api::name::rfc1035_label,
        ("rbac.authorization.k8s.io", _) => api::name::path_segment,
        ("certificates.k8s.io", "clustertrustbundles") => |_| Vec::new(),
        ("apiregistration.k8s.io", _) | ("networking.k8s.io", "ipaddresses") => api::name::path_segment,
        ("", "events") | ("events.k8s.io", _) => api::name::rfc1123_subdomain,
        _ => api::name::rfc1123_subdomain,
    }
}

pub(super) fn validate(resource: &Resource, object: &Value, faults: &mut Faults) {
    let metadata = at(object, &["metadata"]).unwrap_or(&Value::Null);
    let name = text(metadata, &["name"]).unwrap_or_default();
    if name.is_empty() {
        if is_blank(metadata.get("generateName")) {
            faults.required("metadata.name", "name or generateName is required");
        } else {
            let base = text(metadata, &["generateName"]).unwrap_or_default();
            // The generated part replaces a trailing dash.
            let probe = format!("{}x", base.trim_end_matches('-').chars().take(58).collect::<String>());
            faults.rule("metadata.generateName", base, name_rule(resource)(&probe));
        }
    } else {
        faults.rule("metadata.name", name, name_rule(resource)(name));
    }
    let namespace = text(metadata, &["namespace"]).unwrap_or_default();
    if resource.is_namespaced() {
        if namespace.is_empty() {
            faults.required("metadata.namespace", "");
        } else {
            faults.rule("metadata.namespace", namespace, api::name::rfc1123_label(namespace));
        }
    } else if !namespace.is_empty() {
        faults.forbidden("metadata.namespace", "not allowed on this type");
    }
    labels(metadata, &["labels"], "metadata.labels", faults);
    annotations(metadata, "annotations", "metadata.annotations", faults);
    for finalizer in list(metadata, &["finalizers"]) {
        let name = finalizer.as_str().unwrap_or_default();
        faults.rule("metadata.finalizers", name, api::name::qualified_name(name));
    }
    owner_references(metadata, faults);
}

/// The rules of annotations, and of what is like them.
pub(super) fn annotations(holder: &Value, key: &str, path: &str, faults: &mut Faults) {
    let mut total = 0usize;
    for (key, value) in entries(holder, &[key]) {
        // Their keys may have upper-case prefixes; they are compared as written.
        faults.rule(path, key, api::name::qualified_name(&key.to_lowercase()));
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > MAX_ANNOTATIONS {
        faults.add(crate::status::Cause::too_long(path, MAX_ANNOTATIONS));
    }
}

fn owner_references(metadata: &Value, faults: &mut Faults) {
    let owners = list(metadata, &["ownerReferences"]);
    for (index, owner) in owners.iter().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        for (key, word) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if is_blank(owner.get(key)) {
                faults.invalid(join(&path, key), "", &format!("{word} must not be empty"));
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            faults.invalid(path, owner.to_string(), "/v1, Kind=Event is disallowed from being an owner");
        }
    }
    if owners.iter().filter(|o| o["controller"] == true).count() > 1 {
        faults.invalid(
            "metadata.ownerReferences",
            Value::Array(owners.to_vec()),
            "Only one reference can have Controller set to true.",
        );
    }
}

/// Metadata that never changes.
pub(super) fn validate_update(old: &Value, new: &Value, faults: &mut Faults) {
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        let (before, after) = (at(old, &["metadata", key]), at(new, &["metadata", key]));
        if before != after && before.is_some() {
            faults.invalid(format!("metadata.{key}"), after.cloned().unwrap_or_default(), "field is immutable");
        }
    }
    if text(old, &["metadata", "deletionTimestamp"]).is_some() {
        let before = list(old, &["metadata", "finalizers"]);
        let added: Vec<&Value> =
            list(new, &["metadata", "finalizers"]).iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let names: Vec<&str> = added.iter().filter_map(|f| f.as_str()).collect();
            faults.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {names:?}"
                ),
            );
        }
    }
}
