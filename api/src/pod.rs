//! What a pod asks for as a whole, and its quality-of-service class.
use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements};
use std::collections::BTreeMap;

/// Pods of this priority and above are critical: that of the class `system-cluster-critical`.
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// How a pod is treated when its node runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// Every container has limits for cpu and memory, and requests equal to them.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is requested or limited.
    BestEffort,
}

impl QosClass {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

type RawAmounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Reads amounts; unreadable ones count as nothing (validation refuses them at the door).
pub fn amounts(raw: Option<&RawAmounts>) -> Amounts {
    raw.into_iter()
        .flatten()
        .map(|(name, quantity)| (name.clone(), Quantity::parse(&quantity.0).unwrap_or(Quantity::ZERO)))
        .collect()
}

fn of(resources: Option<&ResourceRequirements>, side: Side) -> Amounts {
    let raw = resources.and_then(|r| match side {
        Side::Requests => r.requests.as_ref(),
        Side::Limits => r.limits.as_ref(),
    });
    amounts(raw)
}

/// Adds amounts by name.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, quantity) in more {
        let sum = total.get(name).map_or(*quantity, |q| q.plus(*quantity));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, floor: &Amounts) {
    for (name, quantity) in floor {
        let most = total.get(name).map_or(*quantity, |q| q.larger(*quantity));
        total.insert(name.clone(), most);
    }
}

/// Whether an init container keeps running beside the main ones.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Sum of the containers and sidecars, but at least what any init container needs beside the sidecars
/// started before it; pod-level resources replace it by name; then the overhead.
fn effective(spec: &PodSpec, side: Side) -> Amounts {
    total(spec, side, |container| of(container.resources.as_ref(), side))
}

/// The same with what each container counts for.
fn total(spec: &PodSpec, side: Side, of_container: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of_container(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.as_deref().unwrap_or_default() {
        let own = of_container(container);
        if is_sidecar(container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut with = own;
            add(&mut with, &sidecars);
            raise(&mut peak, &with);
        }
    }
    raise(&mut total, &peak);
    for (name, quantity) in of(spec.resources.as_ref(), side) {
        total.insert(name, quantity);
    }
    for (name, quantity) in amounts(spec.overhead.as_ref()) {
        match (side, total.get(&name).copied()) {
            (_, Some(base)) => {
                total.insert(name, base.plus(quantity));
            }
            (Side::Requests, None) => {
                total.insert(name, quantity);
            }
            // An unlimited pod stays unlimited.
            (Side::Limits, None) => {}
        }
    }
    total
}

/// What a pod that runs takes of its node while its resources are on their way from one amount to another: of each
/// container the largest of what it asks for, what its node has allocated to it, and what it has. What can never be given
/// (`PodResizePending` with reason `Infeasible`) is not asked for. KEP 1287, "Scheduler and API Server Interaction".
pub fn reserved(spec: &PodSpec, status: &PodStatus) -> Amounts {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let statuses = || lists.into_iter().flatten().flatten().filter(|own| own.resources.is_some());
    if statuses().next().is_none() {
        return requests(spec);
    }
    let is_infeasible =
        status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
        });
    let is_init = |name: &str| {
        let mut init = spec.init_containers.iter().flatten();
        init.any(|own| own.name == name && !is_sidecar(own))
    };
    total(spec, Side::Requests, |container| {
        let asked = of(container.resources.as_ref(), Side::Requests);
        let status = statuses().find(|own| own.name == container.name && !is_init(&own.name));
        let Some(status) = status else { return asked };
        let mut most = if is_infeasible { Amounts::new() } else { asked };
        raise(&mut most, &of(status.resources.as_ref(), Side::Requests));
        raise(&mut most, &amounts(status.allocated_resources.as_ref()));
        most
    })
}

/// What the scheduler reserves for the pod.
pub fn requests(spec: &PodSpec) -> Amounts {
    effective(spec, Side::Requests)
}

/// What the pod as a whole may use; a name that a container leaves open is only a lower bound.
pub fn limits(spec: &PodSpec) -> Amounts {
    effective(spec, Side::Limits)
}

/// The class that the spec gives.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let relevant = |amounts: Amounts| -> Amounts {
        amounts.into_iter().filter(|(name, q)| matches!(name.as_str(), "cpu" | "memory") && !q.is_zero()).collect()
    };
    let class = |all: &mut dyn Iterator<Item = Option<&ResourceRequirements>>| {
        let (mut any, mut guaranteed) = (false, true);
        let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
        for resources in all {
            let own_requests = relevant(of(resources, Side::Requests));
            let own_limits = relevant(of(resources, Side::Limits));
            any |= !own_requests.is_empty() || !own_limits.is_empty();
            guaranteed &= own_limits.len() == 2;
            add(&mut requests, &own_requests);
            add(&mut limits, &own_limits);
        }
        match (any, guaranteed && requests == limits) {
            (false, _) => QosClass::BestEffort,
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
        }
    };
    if spec.resources.as_ref().is_some_and(|r| r.requests.is_some() || r.limits.is_some()) {
        return class(&mut std::iter::once(spec.resources.as_ref()));
    }
    let containers = spec.init_containers.as_deref().unwrap_or_default().iter().chain(&spec.containers);
    class(&mut containers.map(|c| c.resources.as_ref()))
}

/// The class that the status records, else the one the spec gives.
pub fn recorded_qos_class(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => pod.spec.as_ref().map_or(QosClass::BestEffort, qos_class),
    }
}

/// Whether a pod has come to its end.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn requests_count_init_containers_sidecars_and_overhead() {
        let s = spec(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}}, {"name": "b", "resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "500m"}}}],
            "overhead": {"cpu": "10m"}}));
        let r = requests(&s);
        assert_eq!(r["cpu"].milli(), 560);
        assert_eq!(r["memory"].to_string(), "1Gi");
        assert!(limits(&s).is_empty());
    }

    #[test]
    fn a_pod_on_its_way_to_other_amounts_counts_for_the_largest() {
        let s = spec(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "10m"}}}]}));
        let of = |name: &str, actual: &str, allocated: &str| {
            json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": actual}}, "allocatedResources": {"cpu": allocated}})
        };
        let cpu = |a: [&str; 2], reason: &str| {
            let status: PodStatus = serde_json::from_value(json!({
                "containerStatuses": [of("a", a[0], a[1])],
                "initContainerStatuses": [of("s", "200m", "100m"), of("i", "9", "9")],
                "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}]}))
            .unwrap();
            reserved(&s, &status)["cpu"].milli()
        };
        assert_eq!(cpu(["1", "1"], "Deferred"), 3200, "what it waits for is kept for it");
        assert_eq!(cpu(["1", "2"], "Infeasible"), 2200, "what it never gets is not");
        assert_eq!(cpu(["4", "2"], ""), 4200, "what it has not given back yet is its own");
        assert_eq!(reserved(&s, &PodStatus::default())["cpu"].milli(), 3100);
    }

    #[test]
    fn qos() {
        let with = |resources: serde_json::Value| {
            qos_class(&spec(json!({"containers": [{"name": "a", "resources": resources}]})))
        };
        assert_eq!(with(json!({})), QosClass::BestEffort);
        assert_eq!(with(json!({"requests": {"cpu": "1"}})), QosClass::Burstable);
        assert_eq!(
            with(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}})),
            QosClass::Guaranteed
        );
        assert_eq!(
            with(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}})),
            QosClass::Burstable
        );
        assert_eq!(with(json!({"requests": {"example.com/x": "1"}})), QosClass::BestEffort);
    }
}
