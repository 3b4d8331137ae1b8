//! Values that the server chooses once and keeps.
use crate::tree::{child, list, list_mut, text};
use api::well_known::{LABEL_JOB_CONTROLLER_UID, LABEL_JOB_NAME};
use serde_json::{Value, json};

/// A job selects its pods by its uid, unless the user says otherwise.
pub(super) fn job_selector(object: &mut Value, uid: &str) {
    let name = text(object, &["metadata", "name"]).unwrap_or_default().to_owned();
    let Some(spec) = child(object, "spec") else { return };
    if spec["manualSelector"] == true || spec.get("selector").is_some() {
        return;
    }
    let labels = child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| child(m, "labels"));
    if let Some(labels) = labels {
        // The names without a prefix are the older ones, which tools still select by.
        for (key, value) in
            [("controller-uid", uid), ("job-name", &name), (LABEL_JOB_CONTROLLER_UID, uid), (LABEL_JOB_NAME, &name)]
        {
            labels[key] = value.into();
        }
    }
    spec["selector"] = json!({"matchLabels": {LABEL_JOB_CONTROLLER_UID: uid}});
}

/// A service that is written without its addresses and node ports keeps those it has.
pub(super) fn keep_allocated(old: &Value, new: &mut Value) {
    let kind = |object: &Value| text(object, &["spec", "type"]).unwrap_or("ClusterIP").to_owned();
    let (before, after) = (kind(old), kind(new));
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
    let taken: Vec<i64> = list(spec, &["ports"]).iter().filter_map(|p| p.get("nodePort")?.as_i64()).collect();
    for port in list_mut(spec, &["ports"]) {
        if port.get("nodePort").and_then(Value::as_i64).is_some_and(|n| n != 0) {
            continue;
        }
        let same =
            old_ports.iter().find(|o| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol"));
        if let Some(number) = same.and_then(|o| o.get("nodePort")?.as_i64()).filter(|n| !taken.contains(n)) {
            port["nodePort"] = number.into();
        }
    }
}
