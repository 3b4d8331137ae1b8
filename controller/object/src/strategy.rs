//! What the server itself writes into objects before they are stored, and what clients may not change.
mod generated;
mod taint;

use crate::resource::{Resource, Subresource};
use crate::tree::{at, child, fill, integer, list, restore};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

/// The clock and the randomness of one request.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Now, RFC 3339.
    pub now: String,
    /// A fresh uid.
    pub uid: String,
}

/// Metadata that only the server writes.
const SYSTEM_METADATA: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
    "resourceVersion",
];

/// Kinds whose `metadata.generation` counts changes of the spec.
fn counts_generations(resource: &Resource) -> bool {
    resource.custom.is_some()
        || matches!(
            (resource.group.as_str(), resource.plural.as_str()),
            ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
                | ("batch", "jobs" | "cronjobs")
                | ("autoscaling", "horizontalpodautoscalers")
                | ("", "pods" | "replicationcontrollers")
                | ("policy", "poddisruptionbudgets")
                | ("networking.k8s.io", "ingresses" | "networkpolicies" | "ingressclasses")
                | ("discovery.k8s.io", "endpointslices")
                | ("apiextensions.k8s.io", "customresourcedefinitions")
                | ("admissionregistration.k8s.io", _)
                | ("flowcontrol.apiserver.k8s.io", _)
                | ("resource.k8s.io", "resourceslices" | "devicetaintrules")
                | ("scheduling.k8s.io", "podgroups" | "workloads")
        )
}

/// Kinds whose status clients may set when they create an object or update it as a whole.
fn has_open_status(resource: &Resource) -> bool {
    !resource.has(Subresource::Status)
}

/// Fills in what a new object gets from the server, and clears what clients may not set.
pub fn prepare_for_create(resource: &Resource, object: &mut Value, stamp: &Stamp) {
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
    let Some(metadata) = child(object, "metadata").and_then(Value::as_object_mut) else { return };
    for key in SYSTEM_METADATA {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), stamp.uid.as_str().into());
    metadata.insert("creationTimestamp".to_owned(), stamp.now.as_str().into());
    if !resource.is_namespaced() {
        metadata.remove("namespace");
    }
    if counts_generations(resource) {
        metadata.insert("generation".to_owned(), 1.into());
    }
    // A node may announce its status at registration, as the kubelet does.
    if !has_open_status(resource)
        && !resource.is("", "nodes")
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if resource.is("batch", "jobs") {
        generated::job_selector(object, &stamp.uid);
    }
    if resource.is("apps", "daemonsets") {
        generated::template_generation(None, object);
    }
    taint::times(resource, None, object, &stamp.now);
    initial_status(resource, object, stamp);
}

fn initial_status(resource: &Resource, object: &mut Value, stamp: &Stamp) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => {
            object["status"] = json!({"phase": "Pending", "qosClass": qos_class(object)});
        }
        ("", "namespaces") => object["status"] = json!({"phase": "Active"}),
        ("", "persistentvolumes" | "persistentvolumeclaims") => object["status"] = json!({"phase": "Pending"}),
        ("", "services") => object["status"] = json!({"loadBalancer": {}}),
        ("networking.k8s.io", "ingresses") => object["status"] = json!({"loadBalancer": {}}),
        ("apps", "deployments")
        | ("batch", "jobs" | "cronjobs")
        | ("apps", "statefulsets")
        | ("", "resourcequotas") => {
            object["status"] = match resource.plural.as_str() {
                "statefulsets" => json!({"replicas": 0, "availableReplicas": 0}),
                _ => json!({}),
            };
        }
        ("apps", "replicasets") | ("", "replicationcontrollers") => object["status"] = json!({"replicas": 0}),
        ("apps", "daemonsets") => {
            object["status"] = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
        }
        ("policy", "poddisruptionbudgets") => {
            object["status"] =
                json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            let stored: Vec<Value> = list(object, &["spec", "versions"])
                .iter()
                .filter(|v| v["storage"] == true)
                .map(|v| v["name"].clone())
                .collect();
            object["status"] =
                json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
        }
        ("certificates.k8s.io", "certificatesigningrequests") => object["status"] = json!({}),
        ("storage.k8s.io", "volumeattachments") => object["status"] = json!({"attached": false}),
        ("", "events") => fill_event_times(object, stamp),
        _ => {}
    }
}

/// An event without any time was seen now.
fn fill_event_times(object: &mut Value, stamp: &Stamp) {
    if object.get("firstTimestamp").is_none() && object.get("eventTime").is_none() {
        fill(object, "firstTimestamp", stamp.now.as_str());
        fill(object, "lastTimestamp", stamp.now.as_str());
    }
}

fn qos_class(object: &Value) -> &'static str {
    match PodSpec::deserialize(object.get("spec").unwrap_or(&Value::Null)) {
        Ok(spec) => api::pod::qos_class(&spec).as_str(),
        // Validation refuses such a pod; the class is never seen.
        Err(_) => "BestEffort",
    }
}

/// Puts back what this request may not change, and counts the generation.
/// `old` and `new` are whole objects in the same version with their defaults, `now` is RFC 3339.
pub fn prepare_for_update(resource: &Resource, old: &Value, new: &mut Value, sub: Option<Subresource>, now: &str) {
    new["apiVersion"] = resource.api_version().into();
    new["kind"] = resource.kind.as_str().into();
    if child(new, "metadata").is_none() {
        new["metadata"] = json!({});
    }
    match sub {
        None => {
            if !has_open_status(resource) {
                restore(new, old, "status");
            }
            if resource.is("", "namespaces") {
                restore_in(new, old, "spec", "finalizers");
            }
            if resource.is("certificates.k8s.io", "certificatesigningrequests") {
                restore(new, old, "spec");
            }
            if resource.is("", "services") {
                generated::keep_allocated(old, new);
            }
            taint::times(resource, Some(old), new, now);
        }
        Some(Subresource::Status) => keep_but(new, old, &["status"]),
        Some(Subresource::Finalize) => {
            let finalizers = at(new, &["spec", "finalizers"]).cloned();
            keep_but(new, old, &["status"]);
            if let Some(spec) = child(new, "spec").and_then(Value::as_object_mut) {
                match finalizers {
                    Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                    None => spec.remove("finalizers"),
                };
            }
        }
        Some(Subresource::Approval) => {
            let conditions = at(new, &["status", "conditions"]).cloned();
            keep_but(new, old, &[]);
            if let Some(conditions) = conditions
                && let Some(status) = child(new, "status")
            {
                status["conditions"] = conditions;
            }
        }
        Some(Subresource::EphemeralContainers) => keep_spec_but(new, old, &["ephemeralContainers"]),
        Some(Subresource::Resize) => {
            let parts =
                ["containers", "initContainers", "resources"].map(|part| (part, at(new, &["spec", part]).cloned()));
            keep_but(new, old, &[]);
            for (part, wanted) in parts {
                adopt_resources(new, part, wanted);
            }
        }
        Some(
            Subresource::Scale
            | Subresource::Binding
            | Subresource::Eviction
            | Subresource::Log
            | Subresource::Exec
            | Subresource::Attach
            | Subresource::PortForward
            | Subresource::Proxy
            | Subresource::Token,
        ) => {}
    }
    restore_metadata(old, new, sub);
    if resource.is("apps", "daemonsets") {
        generated::template_generation(Some(old), new);
    }
    if counts_generations(resource) && sub != Some(Subresource::Status) {
        let generation = integer(old, &["metadata", "generation"]).unwrap_or(0);
        // A custom resource's status is a field like others where it has no path of its own.
        let changed = match resource.custom.is_some() && has_open_status(resource) {
            true => without_metadata(old) != without_metadata(new),
            false => without_metadata_and_status(old) != without_metadata_and_status(new),
        };
        let next = if changed || generation == 0 { generation.saturating_add(1) } else { generation };
        new["metadata"]["generation"] = next.into();
    }
}

/// Only containers' resources move on a resize.
fn adopt_resources(new: &mut Value, part: &str, wanted: Option<Value>) {
    let Some(wanted) = wanted else { return };
    if part == "resources" {
        if let Some(spec) = child(new, "spec") {
            spec["resources"] = wanted;
        }
        return;
    }
    for container in crate::tree::list_mut(new, &["spec", part]) {
        let name = container.get("name").cloned();
        let found = wanted.as_array().into_iter().flatten().find(|c| c.get("name") == name.as_ref());
        if let Some(found) = found {
            for key in ["resources", "resizePolicy"] {
                restore(container, found, key);
            }
        }
    }
}

fn restore_metadata(old: &Value, new: &mut Value, sub: Option<Subresource>) {
    let (Some(before), Some(metadata)) = (old.get("metadata"), new.get_mut("metadata")) else { return };
    for key in SYSTEM_METADATA {
        // The resourceVersion is the client's precondition; the API server checks it.
        if key != "resourceVersion" {
            restore(metadata, before, key);
        }
    }
    for key in ["name", "namespace"] {
        if metadata.get(key).is_none() {
            restore(metadata, before, key);
        }
    }
    restore(metadata, before, "generateName");
    if metadata.get("managedFields").is_none() {
        restore(metadata, before, "managedFields");
    }
    // A status update may label and annotate, but not adopt or release.
    if sub.is_some() {
        for key in ["ownerReferences", "finalizers"] {
            restore(metadata, before, key);
        }
    }
    for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match metadata.get(key) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            _ => false,
        };
        if empty && let Some(map) = metadata.as_object_mut() {
            map.remove(key);
        }
    }
}

/// Everything but metadata and the named parts comes from `old`.
fn keep_but(new: &mut Value, old: &Value, parts: &[&str]) {
    let mut fields = match new.take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let nothing = Map::new();
    let old = old.as_object().unwrap_or(&nothing);
    let is_named = |part: &str| part == "metadata" || parts.contains(&part);
    fields.retain(|part, _| is_named(part) || old.contains_key(part));
    // Mostly there is nothing to put back: what is equal stays where it is.
    for (part, value) in old.iter().filter(|(part, _)| !is_named(part)) {
        if fields.get(part) != Some(value) {
            fields.insert(part.clone(), value.clone());
        }
    }
    *new = Value::Object(fields);
}

fn keep_spec_but(new: &mut Value, old: &Value, parts: &[&str]) {
    let wanted: Map<String, Value> =
        parts.iter().filter_map(|part| Some(((*part).to_owned(), at(new, &["spec", part])?.clone()))).collect();
    keep_but(new, old, &[]);
    if let Some(spec) = child(new, "spec").and_then(Value::as_object_mut) {
        spec.extend(wanted);
    }
}

fn restore_in(new: &mut Value, old: &Value, part: &str, key: &str) {
    if let Some(new) = child(new, part) {
        restore(new, old.get(part).unwrap_or(&Value::Null), key);
    }
}

fn without_metadata(object: &Value) -> Map<String, Value> {
    let mut map = object.as_object().cloned().unwrap_or_default();
    for key in ["metadata", "apiVersion", "kind"] {
        map.remove(key);
    }
    map
}

fn without_metadata_and_status(object: &Value) -> Map<String, Value> {
    let mut map = object.as_object().cloned().unwrap_or_default();
    for key in ["metadata", "status", "apiVersion", "kind"] {
        map.remove(key);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn stamp() -> Stamp {
        Stamp { now: NOW.into(), uid: "u".into() }
    }

    #[test]
    fn jobs_select_by_their_own_uid_and_services_keep_addresses() {
        let jobs = Table::builtin().find("batch", "v1", "jobs").unwrap();
        let mut job = json!({"metadata": {"name": "j", "uid": "forged"}, "spec": {"template": {}}});
        crate::defaulting::default(jobs, &mut job);
        prepare_for_create(jobs, &mut job, &stamp());
        assert_eq!(job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
        let services = Table::builtin().find("", "v1", "services").unwrap();
        let old = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 81, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}]}});
        prepare_for_update(services, &old, &mut new, None, NOW);
        assert_eq!(new["spec"]["clusterIP"], "10.43.0.9");
        assert_eq!(new["spec"]["ports"][1]["nodePort"], 30001);
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
    }

    #[test]
    fn a_daemon_set_counts_its_templates() {
        const ANNOTATION: &str = "deprecated.daemonset.template.generation";
        let sets = Table::builtin().find("apps", "v1", "daemonsets").unwrap();
        let mut old = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {}}}});
        prepare_for_create(sets, &mut old, &stamp());
        assert_eq!(old["metadata"]["annotations"][ANNOTATION], "1");
        let mut same = json!({"metadata": {"name": "d", "annotations": {"a": "b"}},
            "spec": {"minReadySeconds": 1, "template": {"spec": {}}}});
        prepare_for_update(sets, &old, &mut same, None, NOW);
        assert_eq!(
            (&same["metadata"]["annotations"][ANNOTATION], &same["metadata"]["generation"]),
            (&json!("1"), &json!(2))
        );
        let mut new = json!({"metadata": {"name": "d", "annotations": {ANNOTATION: "9"}},
            "spec": {"template": {"spec": {"hostNetwork": true}}}});
        prepare_for_update(sets, &same, &mut new, None, NOW);
        assert_eq!(new["metadata"]["annotations"][ANNOTATION], "2");
    }

    #[test]
    fn a_new_pod_is_pending() {
        let pods = Table::builtin().find("", "v1", "pods").unwrap();
        let mut pod = json!({"metadata": {"name": "a", "uid": "x", "resourceVersion": "7"}, "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}, "status": {"phase": "Running"}});
        prepare_for_create(pods, &mut pod, &stamp());
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
        assert_eq!(
            pod["metadata"],
            json!({"name": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1})
        );
    }

    #[test]
    fn updates_keep_status_and_status_updates_keep_spec() {
        let deployments = Table::builtin().find("apps", "v1", "deployments").unwrap();
        let old = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "uid": "u", "generation": 4, "managedFields": [1]}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"metadata": {"name": "a", "uid": "other", "generation": 9}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        prepare_for_update(deployments, &old, &mut new, None, NOW);
        assert_eq!(new["status"], json!({"replicas": 1}));
        assert_eq!(new["metadata"], json!({"name": "a", "uid": "u", "generation": 5, "managedFields": [1]}));
        let mut new = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        prepare_for_update(deployments, &old, &mut new, Some(Subresource::Status), NOW);
        assert_eq!(new["status"], json!({"replicas": 9}));
        assert_eq!(new["spec"], json!({"replicas": 1}));
        assert_eq!(new["metadata"]["generation"], 4);
        assert_eq!(new["metadata"]["labels"]["x"], "y");
    }
}
