//! What is said about an object, kind by kind; any kind that has no words of its own is shown field by field.

use serde_json::Value;

use super::page::{Page, local_time};
use super::related;
use super::template::{self, list, pairs, shown, string};
use super::{access, autoscaler, class, namespace, network, node, policy, service, storage, workloads};
use jiff::Timestamp;

/// Writes everything about an object but its events. `found` holds the objects that are shown with it, as
/// [`related::of`] reads them; nothing when they could not be read.
pub(crate) fn write(page: &mut Page, object: &Value, found: Option<&[Value]>, now: Timestamp) {
    let related = found.unwrap_or_default();
    match (string(object, "kind").unwrap_or_default(), string(object, "apiVersion").unwrap_or_default()) {
        ("Pod", "v1") => pod(page, object),
        ("Node", "v1") => node::write(page, object, found, now),
        ("Service", "v1") => service::write(page, object, related),
        ("Namespace", "v1") => namespace::write(page, object, related),
        ("PersistentVolumeClaim", "v1") => storage::claim(page, object, related),
        ("PersistentVolume", "v1") => storage::volume(page, object),
        ("ServiceAccount", "v1") => access::account(page, object, found),
        ("ResourceQuota", "v1") => namespace::quota(page, object),
        ("LimitRange", "v1") => namespace::range(page, object),
        ("StorageClass", "storage.k8s.io/v1") => class::storage(page, object),
        ("IngressClass", "networking.k8s.io/v1") => class::ingress(page, object),
        ("PriorityClass", "scheduling.k8s.io/v1") => class::priority(page, object),
        ("HorizontalPodAutoscaler", "autoscaling/v2") => autoscaler::write(page, object),
        ("Job", "batch/v1") => workloads::job(page, object),
        ("CronJob", "batch/v1") => workloads::cron_job(page, object),
        ("StatefulSet", "apps/v1") => workloads::stateful_set(page, object, related),
        ("DaemonSet", "apps/v1") => workloads::daemon_set(page, object, related),
        ("Ingress", "networking.k8s.io/v1") => network::ingress(page, object, related),
        ("NetworkPolicy", "networking.k8s.io/v1") => policy::network(page, object),
        ("PodDisruptionBudget", "policy/v1") => policy::disruptions(page, object),
        ("Role" | "ClusterRole", RBAC) => access::role(page, object),
        ("RoleBinding" | "ClusterRoleBinding", RBAC) => access::binding(page, object),
        ("ConfigMap", "v1") => config_map(page, object),
        ("Secret", "v1") => secret(page, object),
        ("Deployment", "apps/v1") => deployment(page, object, related),
        ("ReplicaSet", "apps/v1") | ("ReplicationController", "v1") => replica_set(page, object, related),
        _ => any(page, object),
    }
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Whether the page of an object ends with its events. Nothing happens to what only holds words.
pub(crate) fn has_events(object: &Value) -> bool {
    let still = match string(object, "apiVersion").unwrap_or_default() {
        "v1" => ["Namespace", "Secret", "ResourceQuota", "LimitRange"].as_slice(),
        RBAC => ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"].as_slice(),
        "networking.k8s.io/v1" => ["NetworkPolicy"].as_slice(),
        _ => [].as_slice(),
    };
    !still.contains(&string(object, "kind").unwrap_or_default())
}

pub(super) fn at<'a>(object: &'a Value, pointer: &str) -> Option<&'a Value> {
    object.pointer(pointer)
}

pub(super) fn text(object: &Value, pointer: &str) -> String {
    shown(at(object, pointer))
}

pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    at(object, pointer).and_then(Value::as_i64).unwrap_or(0)
}

pub(super) fn head(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    if at(object, "/metadata/namespace").is_some() {
        page.field(0, "Namespace", text(object, "/metadata/namespace"));
    }
}

pub(super) fn labels(page: &mut Page, object: &Value) {
    page.values(0, "Labels", &pairs(at(object, "/metadata/labels"), "="));
    page.values(0, "Annotations", &annotations(object));
}

/// The annotations, a long one below its key. The copy of the manifest that `kubectl apply` keeps is left out.
pub(super) fn annotations(object: &Value) -> Vec<String> {
    const WIDEST: usize = 140;
    let all = at(object, "/metadata/annotations").and_then(Value::as_object).into_iter().flatten();
    let all: std::collections::BTreeMap<&String, &Value> = all.collect();
    let mut lines = Vec::new();
    for (key, value) in all {
        if key == "kubectl.kubernetes.io/last-applied-configuration" {
            continue;
        }
        let value = shown(Some(value));
        let value = value.strip_suffix('\n').unwrap_or(&value);
        if key.len() + value.len() + 2 <= WIDEST && !value.contains('\n') {
            lines.push(format!("{key}: {value}"));
            continue;
        }
        lines.push(format!("{key}:"));
        lines.extend(value.split('\n').map(|line| match line.char_indices().nth(WIDEST - 2) {
            Some((end, _)) => format!("  {}...", &line[..end]),
            None => format!("  {line}"),
        }));
    }
    lines
}

/// The members of a map by name.
pub(super) fn sorted<'a>(object: &'a Value, pointer: &str) -> std::collections::BTreeMap<&'a String, &'a Value> {
    at(object, pointer).and_then(Value::as_object).into_iter().flatten().collect()
}

pub(super) fn owner(page: &mut Page, object: &Value) {
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
            template::write_container(page, "", container, status_of(pod, statuses, container));
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

pub(super) fn conditions(page: &mut Page, object: &Value) {
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

pub(super) fn selector(object: &Value) -> String {
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

fn config_map(page: &mut Page, object: &Value) {
    head(page, object);
    labels(page, object);
    page.cells(0, [String::new()]);
    page.cells(0, ["Data".to_owned()]);
    page.cells(0, ["====".to_owned()]);
    for (key, value) in sorted(object, "/data") {
        page.cells(0, [format!("{key}:")]);
        page.cells(0, ["----".to_owned()]);
        shown(Some(value)).split('\n').for_each(|line| page.cells(0, [line.to_owned()]));
        page.cells(0, [String::new()]);
    }
    page.cells(0, [String::new()]);
    page.cells(0, ["BinaryData".to_owned()]);
    page.cells(0, ["====".to_owned()]);
    for (key, value) in sorted(object, "/binaryData") {
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
    for (key, value) in sorted(object, "/data") {
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
        write(&mut page, &object, None, Timestamp::UNIX_EPOCH);
        assert!(page.text().contains("k:  5 bytes"), "{}", page.text());
        assert!(!page.text().contains("aGVsbG8"));
    }

    #[test]
    fn broken_objects_are_shown_without_a_panic() {
        let kinds = [
            ("v1", "Pod Node Service Namespace ConfigMap Secret Widget PersistentVolume PersistentVolumeClaim"),
            ("v1", "ServiceAccount ResourceQuota LimitRange"),
            ("storage.k8s.io/v1", "StorageClass"),
            ("scheduling.k8s.io/v1", "PriorityClass"),
            ("apps/v1", "Deployment ReplicaSet StatefulSet DaemonSet"),
            ("batch/v1", "Job CronJob"),
            ("autoscaling/v2", "HorizontalPodAutoscaler"),
            ("networking.k8s.io/v1", "Ingress IngressClass NetworkPolicy"),
            ("policy/v1", "PodDisruptionBudget"),
            (RBAC, "Role ClusterRole RoleBinding ClusterRoleBinding"),
        ];
        let kinds = kinds.iter().flat_map(|(group, kinds)| kinds.split(' ').map(move |kind| (group, kind)));
        for (group, kind) in kinds {
            let mut page = Page::default();
            write(
                &mut page,
                &json!({"kind": kind, "apiVersion": group, "metadata": 1, "spec": [], "status": "x", "data": null}),
                Some(&[]),
                Timestamp::UNIX_EPOCH,
            );
            assert!(page.text().starts_with("Name:"));
        }
    }
}
