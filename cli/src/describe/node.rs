//! What is said about a node: what it reports, its lease, what its pods asked for.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::Value;

use super::kinds::{at, labels, sorted, table, text};
use super::page::{Page, local_time};
use super::related::of_kind;
use super::template::{list, shown, string};
use crate::duration::age;
use api::quantity::Quantity;

/// How a time that was never set reads.
const NEVER: &str = "Mon, 01 Jan 0001 00:00:00 +0000";

/// Writes a node; `found` holds its lease and its pods, nothing when they could not be read.
pub(super) fn write(page: &mut Page, node: &Value, found: Option<&[Value]>, now: Timestamp) {
    let roles = at(node, "/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let roles: Vec<&str> = roles.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    page.field(0, "Name", text(node, "/metadata/name"));
    page.field(0, "Roles", if roles.is_empty() { "<none>".into() } else { roles.join(",") });
    labels(page, node);
    page.field(0, "CreationTimestamp", local_time(&text(node, "/metadata/creationTimestamp")));
    let null = Value::Null;
    let (spec, status) = (node.get("spec").unwrap_or(&null), node.get("status").unwrap_or(&null));
    let mut taints: Vec<&Value> = list(spec, "taints").collect();
    taints.sort_by_key(|taint| (shown(taint.get("effect")), shown(taint.get("key"))));
    let taints: Vec<String> = taints
        .into_iter()
        .map(|taint| {
            let value = string(taint, "value").map(|value| format!("={value}")).unwrap_or_default();
            format!("{}{value}:{}", shown(taint.get("key")), shown(taint.get("effect")))
        })
        .collect();
    page.values(0, "Taints", &taints);
    page.field(0, "Unschedulable", spec.get("unschedulable").and_then(Value::as_bool).unwrap_or(false).to_string());
    let related = found.unwrap_or_default();
    lease(page, node, of_kind(related, "Lease").next());
    reported(page, status);
    if let Some(range) = string(spec, "podCIDR") {
        page.field(0, "PodCIDR", range);
    }
    let ranges: Vec<String> = list(spec, "podCIDRs").map(|range| shown(Some(range))).collect();
    if !ranges.is_empty() {
        page.field(0, "PodCIDRs", ranges.join(","));
    }
    if let Some(id) = string(spec, "providerID") {
        page.field(0, "ProviderID", id);
    }
    if found.is_some() {
        let pods: Vec<&Value> = of_kind(related, "Pod").collect();
        asked_for(page, status, &pods, now);
    }
}

fn lease(page: &mut Page, node: &Value, lease: Option<&Value>) {
    let Some(lease) = lease else {
        let name = text(node, "/metadata/name");
        return page.field(0, "Lease", format!("Failed to get lease: leases.coordination.k8s.io \"{name}\" not found"));
    };
    page.heading(0, "Lease");
    let time = |key: &str| match text(lease, &format!("/spec/{key}")) {
        time if time.is_empty() => "<unset>".to_owned(),
        time => local_time(&time),
    };
    let holder = text(lease, "/spec/holderIdentity");
    page.field(1, "HolderIdentity", if holder.is_empty() { "<unset>".into() } else { holder });
    page.field(1, "AcquireTime", time("acquireTime"));
    page.field(1, "RenewTime", time("renewTime"));
}

fn reported(page: &mut Page, status: &Value) {
    let time = |condition: &Value, key: &str| match shown(condition.get(key)) {
        time if time.is_empty() => NEVER.to_owned(),
        time => local_time(&time),
    };
    let rows = list(status, "conditions").map(|condition| {
        let part = |key: &str| shown(condition.get(key));
        let (beat, change) = (time(condition, "lastHeartbeatTime"), time(condition, "lastTransitionTime"));
        let spaced = [part("type"), part("status"), beat, change, part("reason")].map(|cell| format!("{cell} "));
        let mut row = spaced.to_vec();
        row.push(part("message"));
        row
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        page.heading(0, "Conditions");
        table(page, &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"], rows);
    }
    page.heading(0, "Addresses");
    list(status, "addresses")
        .for_each(|address| page.field(1, &shown(address.get("type")), shown(address.get("address"))));
    for (key, title) in [("capacity", "Capacity"), ("allocatable", "Allocatable")] {
        let amounts = sorted(status, &format!("/{key}"));
        if amounts.is_empty() {
            continue;
        }
        page.heading(0, title);
        amounts.iter().for_each(|(name, amount)| page.field(1, name, shown(Some(amount))));
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
        ("kubeProxyVersion", "Kube-Proxy Version"),
    ];
    for (key, title) in info {
        page.field(1, title, text(status, &format!("/nodeInfo/{key}")));
    }
}

/// What the pods of a node asked for, each alone and together, beside what the node has to give.
fn asked_for(page: &mut Page, status: &Value, pods: &[&Value], now: Timestamp) {
    page.field(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    let has = |name: &str| {
        let given = status.get("allocatable").filter(|given| given.as_object().is_some_and(|given| !given.is_empty()));
        let amounts = given.or(status.get("capacity"));
        quantity(amounts.and_then(|amounts| amounts.get(name)))
    };
    let share = |name: &str, amount: Quantity| {
        let (amount_milli, all) = (i128::from(amount.milli()), i128::from(has(name).milli()));
        let percent = if all > 0 { amount_milli * 100 / all } else { 0 };
        format!("{amount} ({percent}%)")
    };
    let specs: Vec<PodSpec> = pods
        .iter()
        .map(|pod| pod.get("spec").and_then(|spec| PodSpec::deserialize(spec).ok()).unwrap_or_default())
        .collect();
    let requests: Vec<api::pod::Amounts> = specs.iter().map(api::pod::requests).collect();
    let limits: Vec<api::pod::Amounts> = specs.iter().map(api::pod::limits).collect();
    let amount = |amounts: &api::pod::Amounts, name: &str| amounts.get(name).copied().unwrap_or(quantity(None));
    let rows = pods.iter().zip(requests.iter().zip(&limits)).map(|(pod, (requests, limits))| {
        let mut row = vec![text(pod, "/metadata/namespace"), text(pod, "/metadata/name"), String::new()];
        for name in ["cpu", "memory"] {
            row.extend([share(name, amount(requests, name)), share(name, amount(limits, name))]);
        }
        row.push(age(pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str), now));
        row
    });
    let titles = ["Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"];
    page.cells(1, titles.iter().map(|title| (*title).to_owned()));
    page.cells(1, titles.iter().map(|title| "-".repeat(title.len())));
    rows.for_each(|row| page.cells(1, row));
    page.heading(0, "Allocated resources");
    page.cells(1, ["(Total limits may be over 100 percent, i.e., overcommitted.)".to_owned()]);
    let total = |all: &[api::pod::Amounts], name: &str| {
        all.iter().fold(quantity(None), |sum, amounts| sum.plus(amount(amounts, name)))
    };
    let plain = ["cpu", "memory", "ephemeral-storage"];
    let mut rows: Vec<Vec<String>> = Vec::new();
    for name in plain {
        rows.push(vec![name.into(), share(name, total(&requests, name)), share(name, total(&limits, name))]);
    }
    // What else the node has: huge pages with their share, devices by their number.
    for name in sorted(status, "/allocatable").into_keys() {
        let (asked, limit) = (total(&requests, name), total(&limits, name));
        if name.starts_with("hugepages-") {
            rows.push(vec![name.clone(), share(name, asked), share(name, limit)]);
        } else if name.contains('/') {
            rows.push(vec![name.clone(), asked.to_string(), limit.to_string()]);
        }
    }
    table(page, &["Resource", "Requests", "Limits"], rows);
}

fn quantity(value: Option<&Value>) -> Quantity {
    let text = shown(value);
    Quantity::parse(&text).unwrap_or_else(|_| Quantity::from_milli(0))
}
