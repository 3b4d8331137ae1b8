//! What objects use of a ResourceQuota: charged by the API server when an object is stored, counted anew by the quota
//! reconciler when objects are gone. Kubernetes documentation, "Resource Quotas"; the evaluators of pkg/quota/v1.
mod scope;
mod usage;

pub use usage::usage;

use crate::pod::Amounts;
use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::Container;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use usage::{compute, spec_of};

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
mod tests;
