//! What is said about an object, kind by kind; any kind that has no words of its own is shown field by field.

use serde_json::Value;

use super::page::{Page, local_time};
use super::related;
use super::template::{self, list, pairs, shown, string};

/// Writes everything about an object but its events.
pub(crate) fn write(page: &mut Page, object: &Value, related: &[Value]) {
    match (string(object, "kind").unwrap_or_default(), string(object, "apiVersion").unwrap_or_default()) {
        ("Pod", "v1") => pod(page, object),
        ("Node", "v1") => node(page, object),
        ("Service", "v1") => service(page, object),
        ("Namespace", "v1") => namespace(page, object),
        ("ConfigMap", "v1") => config_map(page, object),
        ("Secret", "v1") => secret(page, object),
        ("Deployment", "apps/v1") => deployment(page, object, related),
        ("ReplicaSet", "apps/v1") => replica_set(page, object, related),
        _ => any(page, object),
    }
}

fn at<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    object.pointer(pointer)
}

fn text(object: &Value, pointer: &str) -> String {
    shown(at(object, pointer))
}

fn number(object: &Value, pointer: &str) -> i64 {
    at(object, pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn head(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    if at(object, "/metadata/namespace").is_some() {
        page.field(0, "Namespace", text(object, "/metadata/namespace"));
    }
}

fn labels(page: &mut Page, object: &Value) {
    page.values(0, "Labels", &pairs(at(object, "/metadata/labels"), "="));
    page.values(0, "Annotations", &pairs(at(object, "/metadata/annotations"), ": "));
}

fn owner(page: &mut Page, object: &Value) {
    let owners = at(object, "/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let controller = owners.into_iter().find(|owner| owner["controller"] == true);
    if let Some(owner) = controller {
        page.field(0, "Controlled By", format!("{}/{}", shown(owner.get("kind")), shown(owner.get("name"))));
    }
}

/// A table below a heading: titles, rules, rows.
pub(crate) fn table(page: &mut Page, titles: &[&str], rows: Vec<Vec<String>>) {
    page.cells(1, titles.iter().map(|title| (*title).to_owned()));
    page.cells(1, titles.iter().map(|title| "-".repeat(title.len().max(4))));
    rows.into_iter().for_each(|row| page.cells(1, row));
}

fn status_of<'a>(pod: &'a Value, key: &str, container: &Value) -> Option<&'a Value> {
    let statuses = pod.get("status")?.get(key)?.as_array()?;
    statuses.iter().find(|status| status.get("name") == container.get("name"))
}

fn pod(page: &mut Page, pod: &Value) {
    let null = Value::Null;
    let (spec, status) = (pod.get("spec").unwrap_or(&null), pod.get("status").unwrap_or(&null));
    head(page, pod);
    page.field(0, "Priority", number(pod, "/spec/priority").to_string());
    if let Some(class) = string(spec, "priorityClassName") {
        page.field(0, "Priority Class Name", class);
    }
    if let Some(account) = string(spec, "serviceAccountName") {
        page.field(0, "Service Account", account);
    }
    match (string(spec, "nodeName"), string(status, "hostIP")) {
        (Some(node), address) => page.field(0, "Node", format!("{node}/{}", address.unwrap_or_default())),
        (None, _) => page.field(0, "Node", "<none>"),
    }
    if let Some(start) = string(status, "startTime") {
        page.field(0, "Start Time", local_time(start));
    }
    labels(page, pod);
    match at(pod, "/metadata/deletionTimestamp").and_then(Value::as_str) {
        Some(_) => {
            page.field(0, "Status", "Terminating");
            let grace = number(pod, "/metadata/deletionGracePeriodSeconds");
            page.field(0, "Termination Grace Period", format!("{grace}s"));
        }
        None => page.field(0, "Status", text(pod, "/status/phase")),
    }
    for (key, title) in [("reason", "Reason"), ("message", "Message")] {
        if let Some(text) = string(status, key) {
            page.field(0, title, text);
        }
    }
    page.field(0, "IP", string(status, "podIP").unwrap_or_default());
    match list(status, "podIPs").next() {
        Some(_) => {
            page.heading(0, "IPs");
            list(status, "podIPs").for_each(|address| page.field(1, "IP", shown(address.get("ip"))));
        }
        None => page.field(0, "IPs", "<none>"),
    }
    owner(page, pod);
    let groups = [
        ("initContainers", "initContainerStatuses", "Init Containers"),
        ("containers", "containerStatuses", "Containers"),
        ("ephemeralContainers", "ephemeralContainerStatuses", "Ephemeral Containers"),
    ];
    for (key, statuses, title) in groups {
        if list(spec, key).next().is_some() {
            page.heading(0, title);
        }
        for container in list(spec, key) {
            let status = status_of(pod, statuses, container).unwrap_or(&null);
            template::write_container(page, "", container, Some(status));
        }
    }
    if list(status, "conditions").next().is_some() {
        page.heading(0, "Conditions");
        page.cells(1, ["Type".to_owned(), "Status".to_owned()]);
        list(status, "conditions").for_each(|condition| {
            page.cells(
                1,
                [format!("{} ", shown(condition.get("type"))), format!("{} ", shown(condition.get("status")))],
            )
        });
    }
    template::write_volumes(page, 0, "", spec);
    page.field(0, "QoS Class", text(pod, "/status/qosClass"));
    page.values(0, "Node-Selectors", &pairs(spec.get("nodeSelector"), "="));
    page.values(0, "Tolerations", &template::tolerations(spec));
}

fn conditions(page: &mut Page, object: &Value) {
    let rows: Vec<Vec<String>> = at(object, "/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|condition| {
            let part = |key: &str| shown(condition.get(key));
            vec![format!("{} ", part("type")), part("status"), part("reason")]
        })
        .collect();
    if !rows.is_empty() {
        page.heading(0, "Conditions");
        page.cells(1, ["Type", "Status", "Reason"].map(str::to_owned));
        page.cells(1, ["----", "------", "------"].map(str::to_owned));
        rows.into_iter().for_each(|row| page.cells(1, row));
    }
}

fn deployment(page: &mut Page, object: &Value, sets: &[Value]) {
    head(page, object);
    page.field(0, "CreationTimestamp", local_time(&text(object, "/metadata/creationTimestamp")));
    labels(page, object);
    page.field(0, "Selector", selector(object));
    let desired = at(object, "/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    page.field(
        0,
        "Replicas",
        format!(
            "{desired} desired | {} updated | {} total | {} available | {} unavailable",
            number(object, "/status/updatedReplicas"),
            number(object, "/status/replicas"),
            number(object, "/status/availableReplicas"),
            number(object, "/status/unavailableReplicas")
        ),
    );
    page.field(0, "StrategyType", text(object, "/spec/strategy/type"));
    page.field(0, "MinReadySeconds", number(object, "/spec/minReadySeconds").to_string());
    if let Some(rolling) = at(object, "/spec/strategy/rollingUpdate") {
        let (down, up) = (shown(rolling.get("maxUnavailable")), shown(rolling.get("maxSurge")));
        page.field(0, "RollingUpdateStrategy", format!("{down} max unavailable, {up} max surge"));
    }
    template::write(page, object.pointer("/spec/template").unwrap_or(&Value::Null));
    conditions(page, object);
    let (old, new) = related::replica_sets(object, sets);
    page.field(0, "OldReplicaSets", old);
    page.field(0, "NewReplicaSet", new);
}

fn selector(object: &Value) -> String {
    let selector = at(object, "/spec/selector").map(crate::pods::selector_text).unwrap_or_default();
    if selector.is_empty() { "<none>".into() } else { selector }
}

fn replica_set(page: &mut Page, object: &Value, pods: &[Value]) {
    head(page, object);
    page.field(0, "Selector", selector(object));
    labels(page, object);
    owner(page, object);
    let desired = at(object, "/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    page.field(0, "Replicas", format!("{} current / {desired} desired", number(object, "/status/replicas")));
    page.field(0, "Pods Status", related::phases(pods));
    template::write(page, object.pointer("/spec/template").unwrap_or(&Value::Null));
    conditions(page, object);
}

fn node(page: &mut Page, node: &Value) {
    let roles = at(node, "/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let roles: Vec<&str> = roles.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    page.field(0, "Name", text(node, "/metadata/name"));
    page.field(0, "Roles", if roles.is_empty() { "<none>".into() } else { roles.join(",") });
    labels(page, node);
    page.field(0, "CreationTimestamp", local_time(&text(node, "/metadata/creationTimestamp")));
    let null = Value::Null;
    let (spec, status) = (node.get("spec").unwrap_or(&null), node.get("status").unwrap_or(&null));
    let taints: Vec<String> = list(spec, "taints")
        .map(|taint| {
            let value = string(taint, "value").map(|value| format!("={value}")).unwrap_or_default();
            format!("{}{value}:{}", shown(taint.get("key")), shown(taint.get("effect")))
        })
        .collect();
    page.values(0, "Taints", &taints);
    page.field(0, "Unschedulable", spec.get("unschedulable").and_then(Value::as_bool).unwrap_or(false).to_string());
    page.heading(0, "Conditions");
    let rows = list(status, "conditions").map(|condition| {
        let part = |key: &str| shown(condition.get(key));
        let (beat, change) = (local_time(&part("lastHeartbeatTime")), local_time(&part("lastTransitionTime")));
        let spaced = [part("type"), part("status"), beat, change].map(|cell| format!("{cell} "));
        let mut row = spaced.to_vec();
        row.extend([format!("{} ", part("reason")), part("message")]);
        row
    });
    let rows = rows.collect();
    table(page, &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"], rows);
    page.heading(0, "Addresses");
    list(status, "addresses")
        .for_each(|address| page.field(1, &shown(address.get("type")), shown(address.get("address"))));
    for (key, title) in [("capacity", "Capacity"), ("allocatable", "Allocatable")] {
        page.heading(0, title);
        let amounts = status.get(key).and_then(Value::as_object).into_iter().flatten();
        amounts.for_each(|(name, amount)| page.field(1, name, shown(Some(amount))));
    }
    page.heading(0, "System Info");
    let info = [
        ("machineID", "Machine ID"),
        ("systemUUID", "System UUID"),
        ("bootID", "Boot ID"),
        ("kernelVersion", "Kernel Version"),
        ("osImage", "OS Image"),
        ("operatingSystem", "Operating System"),
        ("architecture", "Architecture"),
        ("containerRuntimeVersion", "Container Runtime Version"),
        ("kubeletVersion", "Kubelet Version"),
    ];
    for (key, title) in info {
        page.field(1, title, text(status, &format!("/nodeInfo/{key}")));
    }
    for (key, title) in [("podCIDR", "PodCIDR"), ("providerID", "ProviderID")] {
        if let Some(text) = string(spec, key) {
            page.field(0, title, text);
        }
    }
}

fn service(page: &mut Page, object: &Value) {
    head(page, object);
    labels(page, object);
    let plain = pairs(at(object, "/spec/selector"), "=");
    page.field(0, "Selector", if plain.is_empty() { "<none>".into() } else { plain.join(",") });
    page.field(0, "Type", text(object, "/spec/type"));
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    for (key, title) in [("ipFamilyPolicy", "IP Family Policy"), ("clusterIP", "IP"), ("externalName", "External Name")]
    {
        if let Some(text) = string(spec, key) {
            page.field(0, title, text);
        }
    }
    let addresses: Vec<String> = list(spec, "clusterIPs").map(|address| shown(Some(address))).collect();
    if !addresses.is_empty() {
        page.field(0, "IPs", addresses.join(","));
    }
    for port in list(spec, "ports") {
        let (name, protocol) = (string(port, "name").unwrap_or("<unset>"), string(port, "protocol").unwrap_or("TCP"));
        page.field(0, "Port", format!("{name}  {}/{protocol}", shown(port.get("port"))));
        page.field(0, "TargetPort", format!("{}/{protocol}", shown(port.get("targetPort"))));
        if port.get("nodePort").is_some() {
            page.field(0, "NodePort", format!("{name}  {}/{protocol}", shown(port.get("nodePort"))));
        }
    }
    page.field(0, "Session Affinity", text(object, "/spec/sessionAffinity"));
    if let Some(policy) = string(spec, "internalTrafficPolicy") {
        page.field(0, "Internal Traffic Policy", policy);
    }
}

fn namespace(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    labels(page, object);
    page.field(0, "Status", text(object, "/status/phase"));
    conditions(page, object);
}

fn config_map(page: &mut Page, object: &Value) {
    head(page, object);
    labels(page, object);
    page.cells(0, [String::new()]);
    page.cells(0, ["Data".to_owned()]);
    page.cells(0, ["====".to_owned()]);
    for (key, value) in object.get("data").and_then(Value::as_object).into_iter().flatten() {
        page.cells(0, [format!("{key}:")]);
        page.cells(0, ["----".to_owned()]);
        shown(Some(value)).split('\n').for_each(|line| page.cells(0, [line.to_owned()]));
        page.cells(0, [String::new()]);
    }
    page.cells(0, [String::new()]);
    page.cells(0, ["BinaryData".to_owned()]);
    page.cells(0, ["====".to_owned()]);
    for (key, value) in object.get("binaryData").and_then(Value::as_object).into_iter().flatten() {
        page.cells(0, [format!("{key}: {} bytes", decoded_length(value))]);
    }
    page.cells(0, [String::new()]);
}

/// Values of secrets are counted, never shown.
fn secret(page: &mut Page, object: &Value) {
    head(page, object);
    labels(page, object);
    page.cells(0, [String::new()]);
    page.field(0, "Type", text(object, "/type"));
    page.cells(0, [String::new()]);
    page.cells(0, ["Data".to_owned()]);
    page.cells(0, ["====".to_owned()]);
    for (key, value) in object.get("data").and_then(Value::as_object).into_iter().flatten() {
        page.field(0, key, format!("{} bytes", decoded_length(value)));
    }
}

fn decoded_length(value: &Value) -> usize {
    use base64::Engine;
    let text = value.as_str().unwrap_or_default();
    base64::engine::general_purpose::STANDARD.decode(text).map_or(0, |bytes| bytes.len())
}

/// Any object, field by field.
fn any(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    page.field(0, "Namespace", text(object, "/metadata/namespace"));
    labels(page, object);
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "metadata" => {
                page.heading(0, "Metadata");
                let hidden = ["name", "namespace", "labels", "annotations", "managedFields"];
                let map = value.as_object().into_iter().flatten();
                map.filter(|(key, _)| !hidden.contains(&key.as_str()))
                    .for_each(|(key, value)| tree(page, 1, key, value));
            }
            _ => tree(page, 0, key, value),
        }
    }
}

fn tree(page: &mut Page, level: usize, key: &str, value: &Value) {
    // A page ends somewhere, even for an object that does not.
    if level > 40 {
        return;
    }
    match value {
        Value::Object(map) => {
            page.heading(level, &words(key));
            map.iter().for_each(|(key, value)| tree(page, level + 1, key, value));
        }
        Value::Array(all) => {
            page.heading(level, &words(key));
            for item in all {
                match item {
                    Value::Object(map) => map.iter().for_each(|(key, value)| tree(page, level + 1, key, value)),
                    other => page.cells(level + 1, [shown(Some(other))]),
                }
            }
        }
        other => page.field(level, &words(key), shown(Some(other))),
    }
}

/// `apiVersion` as `API Version`, `podCIDR` as `Pod CIDR`.
fn words(key: &str) -> String {
    if key.contains(['.', '/', '-', ' ']) {
        return key.to_owned();
    }
    let mut text = String::new();
    let mut previous_lower = false;
    for c in key.chars() {
        if c.is_uppercase() && previous_lower {
            text.push(' ');
        }
        previous_lower = c.is_lowercase() || c.is_ascii_digit();
        if text.is_empty() { text.extend(c.to_uppercase()) } else { text.push(c) }
    }
    match text.strip_prefix("Api ") {
        Some(rest) => format!("API {rest}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_become_words() {
        assert_eq!((words("apiVersion").as_str(), words("podCIDR").as_str()), ("API Version", "Pod CIDR"));
        assert_eq!(words("app.kubernetes.io/name"), "app.kubernetes.io/name");
    }

    #[test]
    fn secrets_are_counted_and_never_shown() {
        let mut page = Page::default();
        let object =
            json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "data": {"k": "aGVsbG8="}});
        write(&mut page, &object, &[]);
        assert!(page.text().contains("k:  5 bytes"), "{}", page.text());
        assert!(!page.text().contains("aGVsbG8"));
    }

    #[test]
    fn broken_objects_are_shown_without_a_panic() {
        for kind in ["Pod", "Node", "Service", "Namespace", "ConfigMap", "Secret", "Widget"] {
            let mut page = Page::default();
            write(
                &mut page,
                &json!({"kind": kind, "apiVersion": "v1", "metadata": 1, "spec": [], "status": "x", "data": null}),
                &[],
            );
            assert!(page.text().starts_with("Name:"));
        }
    }
}
