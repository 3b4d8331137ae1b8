//! What one object uses.
use super::{ALL_DEVICES, COMPUTE, DEVICE_CLASS, NAMED, ONE, STORAGE_CLASS};
use crate::pod::{Amounts, add, limits, requests};
use crate::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize as _;
use serde_json::Value;

/// Everything that an object uses, whatever quotas limit. `now` is in seconds since 1970: a pod that should be gone by
/// then uses nothing any more.
pub fn usage(group: &str, plural: &str, object: &Value, now: i64) -> Amounts {
    let one = Quantity::from_units(ONE, Format::DecimalSi);
    let count = if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    let mut used = Amounts::from([(count, one)]);
    if (group, plural) == ("resource.k8s.io", "resourceclaims") {
        add(&mut used, &devices(object));
    }
    if !group.is_empty() {
        return used;
    }
    match plural {
        "pods" => add(&mut used, &pod(object, now)),
        "services" => add(&mut used, &service(object)),
        "persistentvolumeclaims" => add(&mut used, &claim(object)),
        named if NAMED.contains(&named) => drop(used.insert(named.to_owned(), one)),
        _ => {}
    }
    used
}

/// The spec of a pod, as far as it can be read.
pub(super) fn spec_of(pod: &Value) -> PodSpec {
    pod.get("spec").and_then(|spec| PodSpec::deserialize(spec).ok()).unwrap_or_default()
}

fn pod(object: &Value, now: i64) -> Amounts {
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let ends = object.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
    let ends = ends.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_second);
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if matches!(phase, "Succeeded" | "Failed") || ends.is_some_and(|ends| now > ends.saturating_add(grace)) {
        return Amounts::new();
    }
    let spec = spec_of(object);
    compute(&requests(&spec), &limits(&spec))
}

/// The names by which quotas know requests and limits.
pub(super) fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), Quantity::from_units(ONE, Format::DecimalSi))]);
    for (name, quantity) in requests {
        let native = COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-");
        if native {
            used.insert(name.clone(), *quantity);
        }
        if native || name.contains('/') {
            used.insert(format!("requests.{name}"), *quantity);
        }
    }
    for name in COMPUTE {
        if let Some(quantity) = limits.get(name) {
            used.insert(format!("limits.{name}"), *quantity);
        }
    }
    used
}

fn service(object: &Value) -> Amounts {
    let kind = object.pointer("/spec/type").and_then(Value::as_str).unwrap_or_default();
    let ports = object.pointer("/spec/ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let allocates = object.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    let given = ports.iter().filter(|port| port.get("nodePort").and_then(Value::as_i64).is_some_and(|n| n != 0));
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => given.count(),
        _ => 0,
    };
    let amount = |count: usize| Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
    Amounts::from([
        ("services".to_owned(), amount(1)),
        ("services.nodeports".to_owned(), amount(node_ports)),
        ("services.loadbalancers".to_owned(), amount(usize::from(kind == "LoadBalancer"))),
    ])
}

fn claim(object: &Value) -> Amounts {
    let one = Quantity::from_units(ONE, Format::DecimalSi);
    let mut used = Amounts::from([("persistentvolumeclaims".to_owned(), one)]);
    let amount =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).and_then(|text| Quantity::parse(text).ok());
    // While a claim grows, what was promised counts, even if the request was taken back.
    let storage = match (amount("/spec/resources/requests/storage"), amount("/status/allocatedResources/storage")) {
        (Some(asked), Some(promised)) => Some(asked.larger(promised)),
        (asked, promised) => asked.or(promised),
    };
    let annotated = object.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    let class = annotated.or_else(|| object.pointer("/spec/storageClassName")).and_then(Value::as_str);
    let prefix = class.filter(|class| !class.is_empty()).map(|class| format!("{class}{STORAGE_CLASS}"));
    if let Some(prefix) = &prefix {
        used.insert(format!("{prefix}persistentvolumeclaims"), one);
    }
    if let Some(storage) = storage {
        used.insert("requests.storage".to_owned(), storage);
        if let Some(prefix) = &prefix {
            used.insert(format!("{prefix}requests.storage"), storage);
        }
    }
    used
}

/// The devices of each class that a claim asks for; of alternatives the one that asks for most.
fn devices(claim: &Value) -> Amounts {
    let list = |holder: &Value, key: &str| holder.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let one = |request: &Value| {
        let class = request.get("deviceClassName").and_then(Value::as_str)?;
        let count = match request.get("allocationMode").and_then(Value::as_str) {
            Some("All") => ALL_DEVICES,
            _ => request.get("count").and_then(Value::as_i64).unwrap_or(1),
        };
        Some((format!("{class}{DEVICE_CLASS}"), Quantity::from_units(count, Format::DecimalSi)))
    };
    let mut used = Amounts::new();
    let spec = claim.pointer("/spec/devices").cloned().unwrap_or_default();
    for request in list(&spec, "requests") {
        let mut most: Amounts = request.get("exactly").and_then(one).into_iter().collect();
        for (class, count) in list(&request, "firstAvailable").iter().filter_map(one) {
            let larger = most.get(&class).map_or(count, |known| known.larger(count));
            most.insert(class, larger);
        }
        add(&mut used, &most);
    }
    used
}
