//! Which fields a field selector may name, by kind, and their values.
use crate::resource::Resource;
use crate::tree::at;
use serde_json::Value;

/// Fields beyond name and namespace, by group and plural (the `SelectableFields` functions of Kubernetes' registries).
fn extra(resource: &Resource) -> &'static [&'static str] {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "replicationcontrollers") | ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        ("certificates.k8s.io", "certificatesigningrequests" | "clustertrustbundles") => &["spec.signerName"],
        ("certificates.k8s.io", "podcertificaterequests") => &["spec.signerName", "spec.podName", "spec.nodeName"],
        ("resource.k8s.io", "resourceslices") => &["spec.nodeName", "spec.driver"],
        _ => &[],
    }
}

/// The fields of a built-in kind that a field selector may name.
pub fn all(resource: &Resource) -> impl Iterator<Item = &'static str> {
    let namespace = resource.is_namespaced().then_some("metadata.namespace");
    ["metadata.name"].into_iter().chain(namespace).chain(extra(resource).iter().copied())
}

/// The fields of a built-in kind that [`selectable`] reads for a selector of any of [`all`].
pub fn looked_at(resource: &Resource) -> impl Iterator<Item = &'static str> {
    all(resource).map(|path| match (resource.plural.as_str(), path) {
        ("events", "source") => "source.component",
        ("jobs", "status.successful") => "status.succeeded",
        (_, path) => path,
    })
}

/// Whether a field selector on this kind may name `path`.
pub fn supported(resource: &Resource, path: &str) -> bool {
    path == "metadata.name"
        || (path == "metadata.namespace" && resource.is_namespaced())
        || extra(resource).contains(&path)
        || resource.custom.as_ref().is_some_and(|custom| custom.selectable.iter().any(|field| field == path))
}

/// The value that a field selector compares; absent fields are empty. `None`: not supported for this kind.
pub fn selectable(resource: &Resource, object: &Value, path: &str) -> Option<String> {
    if !supported(resource, path) {
        return None;
    }
    let walk = |path: &str| at(object, &path.split('.').collect::<Vec<_>>()).cloned();
    let value = match (resource.plural.as_str(), path) {
        ("pods", "status.podIPs") => walk("status.podIPs").and_then(|ips| ips.get(0)?.get("ip").cloned()),
        ("events", "source") => {
            let component = walk("source.component").filter(|v| v.as_str().is_some_and(|s| !s.is_empty()));
            component.or_else(|| walk("reportingComponent"))
        }
        ("jobs", "status.successful") => Some(walk("status.succeeded").unwrap_or_else(|| 0.into())),
        ("replicasets" | "replicationcontrollers", _) => Some(walk(path).unwrap_or_else(|| 0.into())),
        ("nodes", "spec.unschedulable") | ("pods", "spec.hostNetwork") => {
            Some(walk(path).unwrap_or_else(|| false.into()))
        }
        _ if resource.custom.is_some() && !path.starts_with("metadata.") => {
            crate::custom::selected(object, path).cloned()
        }
        _ => walk(path),
    };
    Some(match value {
        Some(Value::String(text)) => text,
        Some(other @ (Value::Number(_) | Value::Bool(_))) => other.to_string(),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;
    use serde_json::json;

    #[test]
    fn values() {
        let table = Table::builtin();
        let pods = table.find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}});
        for (path, want) in [
            ("metadata.name", Some("a")),
            ("metadata.namespace", Some("")),
            ("status.phase", Some("Running")),
            ("spec.nodeName", Some("")),
            ("spec.hostNetwork", Some("false")),
            ("status.podIPs", Some("10.0.0.1")),
            ("spec.containers", None),
        ] {
            assert_eq!(selectable(pods, &pod, path).as_deref(), want, "{path}");
        }
        assert!(!supported(table.find("", "v1", "nodes").unwrap(), "metadata.namespace"));
    }
}
