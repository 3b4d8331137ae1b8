//! Defaults of what describes the network: services, endpoints, ingresses, policies.
use crate::tree::{fill, fill_text, list_mut, text};
use serde_json::{Value, json};

pub(super) fn service(object: &mut Value) {
    let Some(spec) = crate::tree::child(object, "spec") else { return };
    fill_text(spec, "sessionAffinity", "None");
    fill_text(spec, "type", "ClusterIP");
    let kind = text(spec, &["type"]).unwrap_or_default().to_owned();
    if text(spec, &["sessionAffinity"]) == Some("ClientIP")
        && let Some(client) =
            crate::tree::child(spec, "sessionAffinityConfig").and_then(|c| crate::tree::child(c, "clientIP"))
    {
        fill(client, "timeoutSeconds", 10_800);
    }
    for port in list_mut(spec, &["ports"]) {
        fill_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        let open = port.get("targetPort").is_none_or(|t| t == 0 || t == "");
        if open
            && !number.is_null()
            && let Some(map) = port.as_object_mut()
        {
            map.insert("targetPort".to_owned(), number);
        }
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        fill_text(spec, "internalTrafficPolicy", "Cluster");
    }
}

pub(super) fn endpoints(object: &mut Value) {
    for subset in list_mut(object, &["subsets"]) {
        for port in list_mut(subset, &["ports"]) {
            fill_text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    for port in list_mut(object, &["ports"]) {
        fill(port, "name", "");
        fill_text(port, "protocol", "TCP");
    }
}

pub(super) fn ingress(object: &mut Value) {
    for rule in list_mut(object, &["spec", "rules"]) {
        for path in list_mut(rule, &["http", "paths"]) {
            // `pathType` is mandatory; nothing to fill in, but an empty path means everything.
            if text(path, &["pathType"]) == Some("Prefix") {
                fill_text(path, "path", "/");
            }
        }
    }
}

pub(super) fn network_policy(object: &mut Value) {
    for direction in ["ingress", "egress"] {
        for rule in list_mut(object, &["spec", direction]) {
            for port in list_mut(rule, &["ports"]) {
                fill_text(port, "protocol", "TCP");
            }
        }
    }
    let Some(spec) = object.get_mut("spec") else { return };
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    fill(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    fill(spec, "podSelector", json!({}));
}
