//! What objects use of a ResourceQuota: charged by the API server when an object is stored, counted anew by the quota
//! reconciler when objects are gone. Kubernetes documentation, "Resource Quotas"; the evaluators of pkg/quota/v1.
use crate::pod::{Amounts, QosClass, add, limits, qos_class, requests};
use crate::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Container, PodAffinityTerm, PodSpec};
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A count of one.
const ONE: i64 = 1;
/// Objects that have a name of their own beside `count/...`, all of the core group.
const NAMED: [&str; 7] =
    ["configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// What makes every container say how much it wants, once a quota names it.
const MUST_BE_SAID: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What a claim for all devices counts as: no claim gets more (resource.k8s.io/v1, AllocationResultsMaxSize).
const ALL_DEVICES: i64 = 32;

/// Which objects a quota is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `Terminating`, `BestEffort`, `PriorityClass` ...
    pub name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    pub values: Vec<String>,
}

/// A quota, as its spec says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// The limits.
    pub hard: Amounts,
    /// All of them must hold.
    pub scopes: Vec<Scope>,
}

/// A map of amounts; what cannot be read counts as nothing.
pub fn amounts(map: Option<&Value>) -> Amounts {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.clone(), Quantity::parse(&text).unwrap_or(Quantity::ZERO))
        })
        .collect()
}

fn strings(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Quota {
    /// Reads `spec` of a ResourceQuota.
    pub fn read(spec: &Value) -> Self {
        let plain = strings(spec.get("scopes")).into_iter();
        let plain = plain.map(|name| Scope { name, operator: "Exists".into(), values: Vec::new() });
        let text = |one: &Value, key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let selected = spec.pointer("/scopeSelector/matchExpressions").and_then(Value::as_array).into_iter().flatten();
        let selected = selected.map(|one| Scope {
            name: text(one, "scopeName"),
            operator: text(one, "operator"),
            values: strings(one.get("values")),
        });
        Self { hard: amounts(spec.get("hard")), scopes: plain.chain(selected).collect() }
    }

    /// The limits that objects of a resource count against.
    pub fn counted(&self, group: &str, plural: &str) -> Vec<&str> {
        self.hard.keys().map(String::as_str).filter(|name| kind_of(name) == Some((group, plural))).collect()
    }

    /// Whether the quota limits this object.
    pub fn covers(&self, group: &str, plural: &str, object: &Value) -> bool {
        !self.counted(group, plural).is_empty() && self.scopes.iter().all(|scope| scope.holds(group, plural, object))
    }

    /// The resources, as (group, plural), that have to be counted.
    pub fn kinds(&self) -> BTreeSet<(&str, &str)> {
        self.hard.keys().filter_map(|name| kind_of(name)).collect()
    }

    /// What an object uses of this quota; nothing where it is not for it.
    pub fn charge(&self, group: &str, plural: &str, object: &Value, now: i64) -> Amounts {
        if !self.covers(group, plural, object) {
            return Amounts::new();
        }
        let mut used = usage(group, plural, object, now);
        used.retain(|name, _| self.hard.contains_key(name));
        used
    }

    /// Nothing of everything that is limited: where counting starts.
    pub fn nothing(&self) -> Amounts {
        let zero = |quantity: &Quantity| quantity.minus(*quantity);
        self.hard.iter().map(|(name, quantity)| (name.clone(), zero(quantity))).collect()
    }
}

/// Whose objects count against a limit, as (group, plural).
fn kind_of(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        return Some(counted.split_once('.').map_or(("", counted), |(plural, group)| (group, plural)));
    }
    if name == "requests.storage" || name.contains(STORAGE_CLASS) {
        return Some(("", "persistentvolumeclaims"));
    }
    if name.ends_with(DEVICE_CLASS) {
        return Some(("resource.k8s.io", "resourceclaims"));
    }
    if name.starts_with("services.") {
        return Some(("", "services"));
    }
    if NAMED.contains(&name) {
        return Some(("", name));
    }
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let is_extended = bare.contains('/') && name.starts_with("requests.");
    (COMPUTE.contains(&bare) || bare.starts_with("hugepages-") || is_extended).then_some(("", "pods"))
}

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

fn spec_of(pod: &Value) -> PodSpec {
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
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
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

impl Scope {
    fn holds(&self, group: &str, plural: &str, object: &Value) -> bool {
        match (group, plural) {
            ("", "pods") => self.holds_pod(&spec_of(object)),
            ("", "persistentvolumeclaims") if self.name == "VolumeAttributesClass" => {
                let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
                let named = [
                    "/spec/volumeAttributesClassName",
                    "/status/currentVolumeAttributesClassName",
                    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
                ];
                let classes = named.iter().filter_map(|pointer| text(pointer)).filter(|class| !class.is_empty());
                let classes: BTreeSet<&str> = classes.collect();
                match classes.is_empty() {
                    true => self.selects(None),
                    false => classes.into_iter().any(|class| self.selects(Some(class))),
                }
            }
            // Scopes are about pods and claims; a quota with one limits nothing else.
            _ => false,
        }
    }

    fn holds_pod(&self, spec: &PodSpec) -> bool {
        let ends = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
        match self.name.as_str() {
            "Terminating" => ends,
            "NotTerminating" => !ends,
            "BestEffort" => qos_class(spec) == QosClass::BestEffort,
            "NotBestEffort" => qos_class(spec) != QosClass::BestEffort,
            "PriorityClass" => self.selects(spec.priority_class_name.as_deref().filter(|name| !name.is_empty())),
            "CrossNamespacePodAffinity" => reaches_other_namespaces(spec),
            _ => false,
        }
    }

    fn selects(&self, name: Option<&str>) -> bool {
        let listed = name.is_some_and(|name| self.values.iter().any(|value| value == name));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "DoesNotExist" => name.is_none(),
            _ => name.is_some(),
        }
    }
}

fn reaches_other_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let reaches = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some()
    };
    let near = affinity.pod_affinity.iter().flat_map(|one| {
        let preferred = one.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        one.required_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .chain(preferred.map(|term| &term.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|one| {
        let preferred = one.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        one.required_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .chain(preferred.map(|term| &term.pod_affinity_term))
    });
    near.chain(far).any(reaches)
}

/// What containers of a pod leave unsaid although a quota limits it, in the words of Kubernetes:
/// `must specify cpu for: a,b; memory for: a`. `counted` are the quota's limits for pods.
pub fn unsaid(counted: &[&str], pod: &Value) -> Option<String> {
    let wanted: BTreeSet<&str> = counted.iter().copied().filter(|name| MUST_BE_SAID.contains(name)).collect();
    if wanted.is_empty() {
        return None;
    }
    let spec = spec_of(pod);
    let said = |resources: Option<&k8s_openapi::api::core::v1::ResourceRequirements>| {
        let part = |raw| crate::pod::amounts(raw);
        compute(
            &part(resources.and_then(|one| one.requests.as_ref())),
            &part(resources.and_then(|one| one.limits.as_ref())),
        )
    };
    let whole = said(spec.resources.as_ref());
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let init: &[Container] = spec.init_containers.as_deref().unwrap_or_default();
    for container in spec.containers.iter().chain(init) {
        let own = said(container.resources.as_ref());
        for name in wanted.iter().filter(|name| !own.contains_key(**name) && !whole.contains_key(**name)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    let told = missing
        .iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.iter().copied().collect::<Vec<_>>().join(",")));
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("must specify {}", told.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(amounts: &Amounts) -> String {
        amounts.iter().map(|(name, quantity)| format!("{name}={quantity}")).collect::<Vec<_>>().join(",")
    }

    fn pod_of(requests: Value, limits: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests, "limits": limits}}]}})
    }

    #[test]
    fn pods_use_requests_limits_and_extended_resources() {
        let mut pod = pod_of(
            json!({"cpu": "500m", "memory": "1Gi", "example.com/dongle": "3", "hugepages-2Mi": "4Mi"}),
            json!({"cpu": "1", "example.com/dongle": "3"}),
        );
        assert_eq!(
            told(&usage("", "pods", &pod, 0)),
            "count/pods=1,cpu=500m,hugepages-2Mi=4Mi,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=500m,\
             requests.example.com/dongle=3,requests.hugepages-2Mi=4Mi,requests.memory=1Gi"
        );
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(told(&usage("", "pods", &pod, 0)), "count/pods=1");
        pod["status"] = json!({});
        pod["metadata"] = json!({"deletionTimestamp": "1970-01-01T00:01:40Z", "deletionGracePeriodSeconds": 10});
        assert!(
            usage("", "pods", &pod, 110).contains_key("pods") && !usage("", "pods", &pod, 111).contains_key("pods")
        );
    }

    #[test]
    fn services_claims_and_others_are_counted() {
        let service = |spec: Value| told(&usage("", "services", &json!({"spec": spec}), 0));
        assert_eq!(
            service(json!({"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]})),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        assert_eq!(
            service(json!({"type": "ClusterIP", "ports": [{"port": 1}]})),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"
        );
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            told(&usage("", "persistentvolumeclaims", &claim, 0)),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        assert_eq!(told(&usage("", "configmaps", &json!({}), 0)), "configmaps=1,count/configmaps=1");
        assert_eq!(told(&usage("apps", "replicasets", &json!({}), 0)), "count/replicasets.apps=1");
        let claim = json!({"spec": {"devices": {"requests": [{"exactly": {"deviceClassName": "gpu", "count": 2}},
            {"firstAvailable": [{"deviceClassName": "gpu", "count": 3}, {"deviceClassName": "fpga", "allocationMode": "All"}]}]}}});
        assert_eq!(
            told(&usage("resource.k8s.io", "resourceclaims", &claim, 0)),
            "count/resourceclaims.resource.k8s.io=1,fpga.deviceclass.resource.k8s.io/devices=32,\
             gpu.deviceclass.resource.k8s.io/devices=5"
        );
    }

    #[test]
    fn limits_say_whose_objects_count() {
        for (name, expected) in [
            ("pods", Some(("", "pods"))),
            ("requests.cpu", Some(("", "pods"))),
            ("requests.nvidia.com/gpu", Some(("", "pods"))),
            ("requests.storage", Some(("", "persistentvolumeclaims"))),
            ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
            ("gpu.deviceclass.resource.k8s.io/devices", Some(("resource.k8s.io", "resourceclaims"))),
            ("services.nodeports", Some(("", "services"))),
            ("count/deployments.apps", Some(("apps", "deployments"))),
            ("count/secrets", Some(("", "secrets"))),
            ("limits.nvidia.com/gpu", None),
            ("whatever", None),
        ] {
            assert_eq!(kind_of(name), expected, "{name}");
        }
    }

    #[test]
    fn scopes_choose_the_objects() {
        let quota = |scope: Value| Quota::read(&json!({"hard": {"pods": "1"}, "scopes": [scope]}));
        let selected = |name: &str, operator: &str, values: Value| {
            Quota::read(&json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
                {"scopeName": name, "operator": operator, "values": values}]}}))
        };
        let best = pod_of(json!({}), json!({}));
        let mut burst = pod_of(json!({"cpu": "1"}), json!({}));
        burst["spec"]["activeDeadlineSeconds"] = 5.into();
        burst["spec"]["priorityClassName"] = "high".into();
        for (quota, on_best, on_burst) in [
            (quota("BestEffort".into()), true, false),
            (quota("NotBestEffort".into()), false, true),
            (quota("Terminating".into()), false, true),
            (quota("NotTerminating".into()), true, false),
            (selected("PriorityClass", "In", json!(["high"])), false, true),
            (selected("PriorityClass", "NotIn", json!(["high"])), true, false),
            (selected("PriorityClass", "Exists", json!([])), false, true),
            (selected("PriorityClass", "DoesNotExist", json!([])), true, false),
            (quota("CrossNamespacePodAffinity".into()), false, false),
        ] {
            let covers = |pod| quota.covers("", "pods", pod);
            assert_eq!((covers(&best), covers(&burst)), (on_best, on_burst), "{quota:?}");
        }
        let scoped = Quota::read(&json!({"hard": {"services": "1", "pods": "1"}, "scopes": ["BestEffort"]}));
        assert!(!scoped.covers("", "services", &json!({})));
        let far = json!({"spec": {"containers": [], "affinity": {"podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k", "namespaceSelector": {}}]}}}});
        assert!(quota("CrossNamespacePodAffinity".into()).covers("", "pods", &far));
    }

    #[test]
    fn containers_must_say_what_is_limited() {
        let pod =
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(
            unsaid(&["cpu", "limits.memory", "pods"], &pod),
            Some("must specify cpu for: b; limits.memory for: a,b".into())
        );
        assert_eq!(unsaid(&["pods"], &pod), None);
    }
}
