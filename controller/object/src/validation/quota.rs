//! Rules of ResourceQuotas and LimitRanges (pkg/apis/core/validation).
use super::check::{Faults, amounts, is_blank, join};
use crate::status::Cause;
use crate::tree::{at, entries, list, text};
use api::quantity::Quantity;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Limits that count whole objects.
const COUNTS: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// Limits on what pods and claims ask for.
const ASKED: [&str; 11] = [
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "storage",
];
/// What scopes of pods may limit beside their number.
const COMPUTE: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn is_standard(name: &str) -> bool {
    let bare = name.strip_prefix("requests.").unwrap_or(name);
    COUNTS.contains(&name) || ASKED.contains(&name) || bare.starts_with("hugepages-")
}

pub(super) fn quota(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    amounts(object, &["spec", "hard"], "spec.hard", faults);
    let names: Vec<&str> = entries(spec, &["hard"]).map(|(name, _)| name.as_str()).collect();
    for (name, value) in entries(spec, &["hard"]) {
        let field = format!("spec.hard[{name}]");
        if !name.contains('/') && !is_standard(name) {
            faults.invalid(field.clone(), name.as_str(), "must be a standard resource for quota");
        }
        let quantity = value.as_str().and_then(|text| Quantity::parse(text).ok());
        let is_whole = quantity.is_none_or(|quantity| quantity.nano() % 1_000_000_000 == 0);
        if (COUNTS.contains(&name.as_str()) || name.starts_with("count/")) && !is_whole {
            faults.invalid(field, value.clone(), "must be an integer");
        }
    }
    let scopes: Vec<&str> = list(spec, &["scopes"]).iter().filter_map(Value::as_str).collect();
    let refuse = |faults: &mut Faults, detail: &str| faults.invalid("spec.scopes", spec["scopes"].clone(), detail);
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            refuse(faults, "unsupported scope");
        } else if !names.iter().all(|name| may_limit(scope, name)) {
            refuse(faults, "unsupported scope applied to resource");
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            refuse(faults, "conflicting scopes");
        }
    }
    for expression in list(spec, &["scopeSelector", "matchExpressions"]) {
        scope_expression(expression, &names, faults);
    }
}

fn may_limit(scope: &str, name: &str) -> bool {
    match scope {
        _ if !is_standard(name) => true,
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage" | "storage"),
        _ => name == "pods" || COMPUTE.contains(&name),
    }
}

fn scope_expression(expression: &Value, names: &[&str], faults: &mut Faults) {
    let path = "spec.scopeSelector.matchExpressions";
    let of = |key: &str| text(expression, &[key]).unwrap_or_default();
    let (scope, operator) = (of("scopeName"), of("operator"));
    if !SCOPES.contains(&scope) {
        faults.invalid(join(path, "scopeName"), scope, "unsupported scope");
    } else if !names.iter().all(|name| may_limit(scope, name)) {
        faults.invalid(path, expression.clone(), "unsupported scope applied to resource");
    }
    if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope) && operator != "Exists" {
        let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        faults.invalid(join(path, "operator"), operator, detail);
    }
    let is_empty = is_blank(expression.get("values"));
    match operator {
        "In" | "NotIn" if is_empty => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            faults.required(join(path, "values"), detail);
        }
        "Exists" | "DoesNotExist" if !is_empty => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            faults.invalid(join(path, "values"), expression["values"].clone(), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => faults.invalid(join(path, "operator"), other, "not a valid selector operator"),
    }
}

/// Scopes say which objects were counted, so they stay.
pub(super) fn quota_update(old: &Value, new: &Value, faults: &mut Faults) {
    let scopes = |object: &Value| -> BTreeSet<String> {
        list(object, &["spec", "scopes"]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if scopes(old) != scopes(new) {
        faults.invalid("spec.scopes", new["spec"]["scopes"].clone(), "field is immutable");
    }
}

const LIMIT_TYPES: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];

pub(super) fn limit_range(object: &Value, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, limit) in list(object, &["spec", "limits"]).iter().enumerate() {
        let path = format!("spec.limits[{index}]");
        let kind = text(limit, &["type"]).unwrap_or_default();
        let field = join(&path, "type");
        faults.rule(&field, kind, api::name::qualified_name(kind));
        if !LIMIT_TYPES.contains(&kind) && !kind.contains('/') && !kind.is_empty() {
            faults.invalid(field.clone(), kind, "must be a standard limit type or fully qualified");
        }
        if !seen.insert(kind) {
            faults.add(Cause::duplicate(field, &kind.into()));
        }
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if kind == "Pod" && key.starts_with("default") {
                if !is_blank(limit.get(key)) {
                    faults.forbidden(join(&path, key), "may not be specified when `type` is 'Pod'");
                }
                continue;
            }
            amounts(limit, &[key], &join(&path, key), faults);
        }
        let has_storage = |key: &str| at(limit, &[key, "storage"]).is_some();
        if kind == "PersistentVolumeClaim" && !has_storage("min") && !has_storage("max") {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            faults.required(join(&path, "limits"), detail);
        }
        bounds(limit, &path, faults);
    }
}

/// Amounts of one limit that contradict each other.
fn bounds(limit: &Value, path: &str, faults: &mut Faults) {
    let of = |key: &str| -> BTreeMap<&str, Quantity> {
        let entries = entries(limit, &[key]);
        entries.filter_map(|(name, value)| Some((name.as_str(), Quantity::parse(value.as_str()?).ok()?))).collect()
    };
    let (min, max, ratio) = (of("min"), of("max"), of("maxLimitRequestRatio"));
    let (default, request) = (of("default"), of("defaultRequest"));
    let names: BTreeSet<&str> =
        [&min, &max, &ratio, &default, &request].iter().flat_map(|map| map.keys().copied()).collect();
    for name in names {
        let mut ordered = |key: &str,
                           low: (&str, &BTreeMap<&str, Quantity>),
                           high: (&str, &BTreeMap<&str, Quantity>),
                           shown: &Quantity| {
            if let (Some(one), Some(other)) = (low.1.get(name), high.1.get(name))
                && one.nano() > other.nano()
            {
                let detail = format!("{} value {one} is greater than {} value {other}", low.0, high.0);
                faults.invalid(format!("{path}.{key}[{name}]"), shown.to_string(), &detail);
            }
        };
        let shown = |map: &BTreeMap<&str, Quantity>| map.get(name).copied().unwrap_or(Quantity::ZERO);
        ordered("min", ("min", &min), ("max", &max), &shown(&min));
        ordered("defaultRequest", ("min", &min), ("default request", &request), &shown(&request));
        ordered("defaultRequest", ("default request", &request), ("max", &max), &shown(&request));
        ordered("defaultRequest", ("default request", &request), ("default limit", &default), &shown(&request));
        ordered("default", ("min", &min), ("default", &default), &shown(&min));
        ordered("default", ("default", &default), ("max", &max), &shown(&max));
        let Some(ratio) = ratio.get(name) else { continue };
        let field = format!("{path}.maxLimitRequestRatio[{name}]");
        if ratio.nano() < 1_000_000_000 {
            faults.invalid(field.clone(), ratio.to_string(), &format!("ratio {ratio} is less than 1"));
        }
        if let (Some(least), Some(most)) = (min.get(name).filter(|least| !least.is_zero()), max.get(name)) {
            let widest = most.nano() as f64 / least.nano() as f64;
            if ratio.nano() as f64 / 1e9 > widest {
                let detail = format!("ratio {ratio} is greater than max/min = {widest:.6}");
                faults.invalid(field, ratio.to_string(), &detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(limit: Value) -> Vec<String> {
        let mut faults = Faults::default();
        limit_range(&json!({"spec": {"limits": [limit]}}), &mut faults);
        faults.into_causes().iter().map(Cause::describe).collect()
    }

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        for (limit, expected) in [
            (
                json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}}),
                None,
            ),
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                Some("spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"),
            ),
            (
                json!({"type": "Container", "default": {"cpu": "2"}, "max": {"cpu": "1"}}),
                Some("spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1"),
            ),
            (
                json!({"type": "Container", "defaultRequest": {"cpu": "2"}, "default": {"cpu": "1"}}),
                Some(
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value 2 is greater than default limit value 1",
                ),
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}),
                Some("spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"),
            ),
            (
                json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                Some(
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
                ),
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                Some("spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"),
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                Some(
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                ),
            ),
            (
                json!({"type": "Thing"}),
                Some("spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully qualified"),
            ),
        ] {
            let told = told(limit.clone());
            assert_eq!(told.first().map(String::as_str), expected, "{limit}: {told:?}");
        }
    }
}
