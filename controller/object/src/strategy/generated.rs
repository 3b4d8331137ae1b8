//! Values that the server chooses once and keeps.
use crate::tree::{at, child, list, list_mut, text};
use api::well_known::{LABEL_JOB_CONTROLLER_UID, LABEL_JOB_CONTROLLER_UID_OLD, LABEL_JOB_NAME, LABEL_JOB_NAME_OLD};
use serde_json::Value;

const GENERATION: &str = "deprecated.daemonset.template.generation";

/// A job selects its pods by its uid, unless the user says otherwise.
pub(super) fn job_selector(object: &mut Value, uid: &str) {
    let name = text(object, &["metadata", "name"]).unwrap_or_default().to_owned();
    let Some(spec) = child(object, "spec") else { return };
    if spec["manualSelector"] == true {
        return;
    }
    let labels = child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| child(m, "labels"));
    if let Some(labels) = labels.and_then(Value::as_object_mut) {
        // The names without a prefix are the older ones, which tools still select by. Who has given them another value
        // learns so from validation.
        for (key, value) in [
            (LABEL_JOB_CONTROLLER_UID_OLD, uid),
            (LABEL_JOB_NAME_OLD, &name),
            (LABEL_JOB_CONTROLLER_UID, uid),
            (LABEL_JOB_NAME, &name),
        ] {
            labels.entry(key).or_insert_with(|| value.into());
        }
    }
    if let Some(selector) = child(spec, "selector").and_then(|selector| child(selector, "matchLabels"))
        && let Some(labels) = selector.as_object_mut()
    {
        labels.insert(LABEL_JOB_CONTROLLER_UID.to_owned(), uid.into());
    }
}

/// A DaemonSet tells in an annotation which template of its history this is, for the clients of old that asked for it.
pub(super) fn template_generation(old: Option<&Value>, new: &mut Value) {
    let told = |object: &Value| text(object, &["metadata", "annotations", GENERATION])?.parse::<i64>().ok();
    let next = match old {
        None => told(new).unwrap_or(1),
        Some(old) => {
            let is_new = at(old, &["spec", "template"]) != at(new, &["spec", "template"]);
            told(old).unwrap_or(0).saturating_add(i64::from(is_new))
        }
    };
    if let Some(annotations) = child(new, "metadata").and_then(|metadata| child(metadata, "annotations")) {
        annotations[GENERATION] = next.max(1).to_string().into();
    }
}

/// A service that is written without its addresses and node ports keeps those it has.
pub(super) fn keep_allocated(old: &Value, new: &mut Value) {
    let kind = |object: &Value| text(object, &["spec", "type"]).unwrap_or("ClusterIP").to_owned();
    let (before, after) = (kind(old), kind(new));
    drop_unused(old, new, &before, &after);
    if before == "ExternalName" || after == "ExternalName" {
        return;
    }
    let old_ports = list(old, &["spec", "ports"]).to_vec();
    let Some(spec) = child(new, "spec") else { return };
    let open = text(spec, &["clusterIP"]).is_none_or(str::is_empty) && list(spec, &["clusterIPs"]).is_empty();
    for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let blank = text(spec, &[key]).is_none_or(str::is_empty) && list(spec, &[key]).is_empty();
        if blank
            && (open || key.starts_with("ip"))
            && let Some(value) = old.get("spec").and_then(|s| s.get(key))
        {
            spec[key] = value.clone();
        }
    }
    if !matches!(after.as_str(), "NodePort" | "LoadBalancer") {
        return;
    }
    if spec.get("healthCheckNodePort").is_none_or(|port| *port == 0)
        && let Some(port) = old.get("spec").and_then(|s| s.get("healthCheckNodePort"))
        && text(spec, &["externalTrafficPolicy"]) == Some("Local")
        && after == "LoadBalancer"
    {
        spec["healthCheckNodePort"] = port.clone();
    }
    // Defaults are filled in later.
    let protocol = |port: &Value| text(port, &["protocol"]).unwrap_or("TCP").to_owned();
    let taken: Vec<i64> = list(spec, &["ports"]).iter().filter_map(|p| p.get("nodePort")?.as_i64()).collect();
    for port in list_mut(spec, &["ports"]) {
        if port.get("nodePort").and_then(Value::as_i64).is_some_and(|n| n != 0) {
            continue;
        }
        let same = old_ports.iter().find(|o| o.get("port") == port.get("port") && protocol(o) == protocol(port));
        if let Some(number) = same.and_then(|o| o.get("nodePort")?.as_i64()).filter(|n| !taken.contains(n)) {
            port["nodePort"] = number.into();
        }
    }
}

/// What only the former type uses goes with it, unless the author wrote something else there.
fn drop_unused(old: &Value, new: &mut Value, before: &str, after: &str) {
    let has_node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let checks_health = |object: &Value| {
        text(object, &["spec", "type"]) == Some("LoadBalancer")
            && text(object, &["spec", "externalTrafficPolicy"]) == Some("Local")
    };
    let drops_health = checks_health(old) && !checks_health(new);
    let Some(spec) = child(new, "spec") else { return };
    let mut unused: Vec<&str> = Vec::new();
    if before != "ExternalName" && after == "ExternalName" {
        unused.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if has_node_ports(before) && !has_node_ports(after) {
        unused.push("externalTrafficPolicy");
    }
    if before == "LoadBalancer" && after != "LoadBalancer" {
        unused.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if drops_health {
        unused.push("healthCheckNodePort");
    }
    let former = &old["spec"];
    if let Some(spec) = spec.as_object_mut() {
        for key in unused.into_iter().filter(|key| spec_equals(former, spec, key)).collect::<Vec<_>>() {
            spec.remove(key);
        }
    }
    if has_node_ports(before) && !has_node_ports(after) {
        let old_ports = list(old, &["spec", "ports"]);
        for port in list_mut(spec, &["ports"]) {
            let number = port.get("nodePort").cloned();
            if number.is_some() && old_ports.iter().any(|old| old.get("nodePort") == number.as_ref()) {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
    }
}

fn spec_equals(former: &Value, spec: &serde_json::Map<String, Value>, key: &str) -> bool {
    spec.get(key).is_some() && former.get(key) == spec.get(key)
}
