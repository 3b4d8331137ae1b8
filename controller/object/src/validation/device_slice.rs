//! Rules of what drivers tell of their devices, and of rules that taint them (pkg/apis/resource/validation).
use super::check::{Faults, is_blank, join};
use super::device::{attribute_name, driver, too_many};
use crate::status::Cause;
use crate::tree::{entries, integer, list, text};
use api::quantity::Quantity;
use serde_json::Value;
use std::collections::BTreeSet;

/// `ResourceSliceMaxDevices`
const MOST_DEVICES: usize = 128;
/// `ResourceSliceMaxAttributesAndCapacitiesPerDevice`
const MOST_ATTRIBUTES: usize = 32;
/// `DeviceAttributeMaxValueLength`
const LONGEST_VALUE: usize = 64;
/// The fields of which an attribute has one.
const VALUES: [&str; 8] = ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
const EFFECTS: [&str; 3] = ["NoSchedule", "NoExecute", "None"];

pub(super) fn slice(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    driver(spec, "spec", faults);
    match text(spec, &["pool", "name"]).unwrap_or_default() {
        "" => faults.required("spec.pool.name", ""),
        name => {
            for part in name.split('/') {
                faults.rule("spec.pool.name", part, api::name::rfc1123_subdomain(part));
            }
        }
    }
    if integer(spec, &["pool", "resourceSliceCount"]).is_none_or(|count| count <= 0) {
        let count = spec["pool"]["resourceSliceCount"].clone();
        faults.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero");
    }
    if integer(spec, &["pool", "generation"]).is_some_and(|generation| generation < 0) {
        let generation = spec["pool"]["generation"].clone();
        faults.invalid("spec.pool.generation", generation, "must be greater than or equal to zero");
    }
    place(spec, "spec", &["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"], faults);
    let devices = list(spec, &["devices"]);
    too_many(devices, MOST_DEVICES, "spec.devices", faults);
    let mut names = BTreeSet::new();
    for (index, one) in devices.iter().take(MOST_DEVICES).enumerate() {
        let path = format!("spec.devices[{index}]");
        let field = join(&path, "name");
        match text(one, &["name"]).unwrap_or_default() {
            "" => faults.required(field, ""),
            name => {
                faults.rule(&field, name, api::name::rfc1123_label(name));
                if !names.insert(name) {
                    faults.add(Cause::duplicate(field, &name.into()));
                }
            }
        }
        if spec["perDeviceNodeSelection"] == true {
            place(one, &path, &["nodeName", "nodeSelector", "allNodes"], faults);
        }
        device(one, &path, faults);
    }
}

/// From where devices are reached: exactly one of these.
fn place(of: &Value, path: &str, fields: &[&str], faults: &mut Faults) {
    let is_set = |field: &&&str| !is_blank(of.get(**field)) && of[**field] != false;
    let named = fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
    match fields.iter().filter(is_set).count() {
        1 => {}
        0 => faults.required(path, &format!("exactly one of {named} is required")),
        _ => faults.invalid(path, "{...}", &format!("exactly one of {named} is required, but multiple fields are set")),
    }
    let terms = list(of, &["nodeSelector", "nodeSelectorTerms"]);
    if of["nodeSelector"].is_object() && terms.len() != 1 {
        let field = join(path, "nodeSelector.nodeSelectorTerms");
        faults.invalid(
            field,
            of["nodeSelector"]["nodeSelectorTerms"].clone(),
            "must have exactly one node selector term",
        );
    }
}

/// `BindingConditionsMaxSize`, `BindingFailureConditionsMaxSize`
const MOST_BINDING: usize = 4;

/// What a driver says before a pod is bound that uses the device: when it may be, and when it never may.
fn binding(device: &Value, path: &str, faults: &mut Faults) {
    let fields = ["bindingConditions", "bindingFailureConditions"];
    let mut names = BTreeSet::new();
    for (field, other) in [(fields[0], fields[1]), (fields[1], fields[0])] {
        let (at, all) = (join(path, field), list(device, &[field]));
        too_many(all, MOST_BINDING, &at, faults);
        for (index, name) in all.iter().take(MOST_BINDING).enumerate() {
            let (at, name) = (format!("{at}[{index}]"), name.as_str().unwrap_or_default());
            faults.rule(&at, name, api::name::qualified_name(name));
            if !names.insert(name) {
                faults.add(Cause::duplicate(at, &name.into()));
            }
        }
        if !all.is_empty() && list(device, &[other]).is_empty() {
            faults.required(join(path, other), &format!("{other} are required to use {field}"));
        }
    }
}

/// `CapacityRequestPolicyDiscreteMaxOptions`
const MOST_VALID_VALUES: usize = 10;

/// How requests take of a capacity.
fn policy(policy: &Value, is_shared: bool, capacity: &Value, path: &str, faults: &mut Faults) {
    let path = join(path, "requestPolicy");
    if !is_shared {
        faults.forbidden(path.as_str(), "allowMultipleAllocations must be true");
    }
    let amount =
        |of: &Value, field: &str| of.get(field).and_then(Value::as_str).and_then(|own| Quantity::parse(own).ok());
    let (default, whole) = (amount(policy, "default"), amount(capacity, "value"));
    let (values, range) = (list(policy, &["validValues"]), &policy["validRange"]);
    if !values.is_empty() && range.is_object() {
        let detail = "at most one of `validRange`, `validValues` may be specified";
        return faults.invalid(path.as_str(), policy.clone(), detail);
    }
    let mut bounds = |of: &Value, field: &str, at: &str, least: Option<Quantity>, most: Option<Quantity>| {
        let Some(own) = amount(of, field) else { return };
        if let Some(least) = least.filter(|least| own < *least) {
            faults.invalid(join(at, field), of[field].clone(), &format!("must be greater than or equal to {least}"));
        }
        if let Some(most) = most.filter(|most| own > *most) {
            faults.invalid(join(at, field), of[field].clone(), &format!("must be less than or equal to {most}"));
        }
    };
    bounds(policy, "default", &path, Some(Quantity::ZERO), whole);
    if range.is_object() {
        let at = join(&path, "validRange");
        let (min, max) = (amount(range, "min"), amount(range, "max"));
        bounds(range, "min", &at, Some(Quantity::ZERO), max.or(whole));
        bounds(range, "max", &at, None, whole);
        bounds(policy, "default", &path, min, max);
    }
    if (!values.is_empty() || range.is_object()) && default.is_none() {
        faults.required(join(&path, "default"), "required when validValues or validRange is defined");
    }
    too_many(values, MOST_VALID_VALUES, &join(&path, "validValues"), faults);
    let amounts: Vec<Quantity> =
        values.iter().filter_map(|own| Quantity::parse(own.as_str().unwrap_or_default()).ok()).collect();
    if !amounts.is_sorted_by(|one, next| one < next) {
        faults.invalid(join(&path, "validValues"), policy["validValues"].clone(), "must be sorted in ascending order");
    }
    if default.is_some_and(|default| !amounts.is_empty() && !amounts.contains(&default)) {
        faults.invalid(join(&path, "default"), policy["default"].clone(), "must be one of validValues");
    }
}

fn device(device: &Value, path: &str, faults: &mut Faults) {
    let count = entries(device, &["attributes"]).count() + entries(device, &["capacity"]).count();
    if count > MOST_ATTRIBUTES {
        faults.add(Cause::too_many(path, count, MOST_ATTRIBUTES));
    }
    for (name, value) in entries(device, &["attributes"]).take(MOST_ATTRIBUTES) {
        let field = format!("{path}.attributes[{name}]");
        attribute_name(name, false, &field, faults);
        match VALUES.iter().filter(|kind| value.get(**kind).is_some_and(|own| !own.is_null())).count() {
            1 => {}
            0 => faults.required(field.as_str(), "exactly one value must be specified"),
            _ => faults.invalid(field.as_str(), value.clone(), "exactly one value must be specified"),
        }
        for kind in ["string", "version"] {
            if text(value, &[kind]).is_some_and(|own| own.len() > LONGEST_VALUE) {
                faults.add(Cause::too_long(join(&field, kind), LONGEST_VALUE));
            }
        }
        if let Some(version) = text(value, &["version"])
            && controller_cel::semver(version).is_none()
        {
            faults.invalid(join(&field, "version"), version, "must be a string compatible with semver.org spec 2.0.0");
        }
    }
    for (name, value) in entries(device, &["capacity"]).take(MOST_ATTRIBUTES) {
        let field = format!("{path}.capacity[{name}]");
        attribute_name(name, false, &field, faults);
        if let Some(text) = text(value, &["value"])
            && let Err(error) = Quantity::parse(text)
        {
            faults.invalid(join(&field, "value"), text, &error.to_string());
        }
        if value["requestPolicy"].is_object() {
            policy(&value["requestPolicy"], device["allowMultipleAllocations"] == true, value, &field, faults);
        }
    }
    binding(device, path, faults);
    for (index, one) in list(device, &["taints"]).iter().enumerate() {
        taint(one, &format!("{path}.taints[{index}]"), faults);
    }
}

fn taint(taint: &Value, path: &str, faults: &mut Faults) {
    let field = join(path, "key");
    match text(taint, &["key"]).unwrap_or_default() {
        "" => faults.required(field, ""),
        key => faults.rule(&field, key, api::name::qualified_name(key)),
    }
    let value = text(taint, &["value"]).unwrap_or_default();
    faults.rule(&join(path, "value"), value, api::name::label_value(value));
    faults.needs_one_of(taint, "effect", path, &EFFECTS);
}

pub(super) fn taint_rule(object: &Value, faults: &mut Faults) {
    taint(&object["spec"]["taint"], "spec.taint", faults);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::check::told;
    use serde_json::json;

    #[test]
    fn slices_and_rules_that_are_well_formed_are_taken() {
        let device = json!({"name": "d", "attributes": {"model": {"string": "x"}, "v.com/version": {"version": "1.2.3"}},
            "capacity": {"memory": {"value": "1Gi"}}, "taints": [{"key": "k", "effect": "NoSchedule"}]});
        let spec = json!({"driver": "d.com", "nodeName": "n", "pool": {"name": "n", "generation": 0, "resourceSliceCount": 1},
            "devices": [device]});
        assert_eq!(told(slice, &json!({"spec": spec})), [""; 0]);
        assert_eq!(told(taint_rule, &json!({"spec": {"taint": {"key": "k", "effect": "NoExecute"}}})), [""; 0]);
        let found = told(taint_rule, &json!({"spec": {}}));
        assert!(found[0].starts_with("spec.taint.key: Required value"), "{found:?}");
    }

    #[test]
    fn a_device_says_when_who_uses_it_may_be_bound_and_when_not() {
        let of = |conditions: Value, failures: Value| {
            let device = json!({"name": "d", "bindingConditions": conditions, "bindingFailureConditions": failures});
            told(
                slice,
                &json!({"spec": {"driver": "d.com", "nodeName": "n",
                "pool": {"name": "n", "generation": 0, "resourceSliceCount": 1}, "devices": [device]}}),
            )
        };
        assert_eq!(of(json!(["d.com/attached"]), json!(["d.com/broken"])), [""; 0]);
        assert_eq!(of(json!([]), json!([])), [""; 0]);
        let at = "spec.devices[0].binding";
        for (conditions, failures, start) in [
            (json!(["a"]), json!([]), "FailureConditions: Required value"),
            (json!([]), json!(["a"]), "Conditions: Required value"),
            (json!(["a"]), json!(["a"]), "FailureConditions[0]: Duplicate value"),
            (json!(["a b"]), json!(["c"]), "Conditions[0]: Invalid value"),
            (json!(["a", "b", "c", "d", "e"]), json!(["f"]), "Conditions: Too many"),
        ] {
            let found = of(conditions.clone(), failures);
            assert!(found.len() == 1 && found[0].starts_with(&format!("{at}{start}")), "{conditions}: {found:?}");
        }
    }

    #[test]
    fn policies_say_what_requests_may_take() {
        let of = |shared: bool, policy: Value| {
            let device = json!({"name": "d", "allowMultipleAllocations": shared,
                "capacity": {"memory": {"value": "8Gi", "requestPolicy": policy}}});
            told(
                slice,
                &json!({"spec": {"driver": "d.com", "nodeName": "n",
                "pool": {"name": "n", "generation": 0, "resourceSliceCount": 1}, "devices": [device]}}),
            )
        };
        let good = [
            json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]}),
            json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "4Gi", "step": "1Gi"}}),
            json!({"default": "8Gi"}),
        ];
        for policy in good {
            assert_eq!(of(true, policy.clone()), [""; 0], "{policy}");
        }
        let at = "spec.devices[0].capacity[memory].requestPolicy";
        for (shared, policy, start) in [
            (false, json!({"default": "1Gi"}), ": Forbidden"),
            (true, json!({"default": "9Gi"}), ".default: Invalid value"),
            (true, json!({"validValues": ["1Gi"]}), ".default: Required value"),
            (true, json!({"validRange": {"min": "1Gi"}}), ".default: Required value"),
            (true, json!({"default": "1Gi", "validValues": ["2Gi", "1Gi"]}), ".validValues: Invalid value"),
            (true, json!({"default": "3Gi", "validValues": ["1Gi", "2Gi"]}), ".default: Invalid value"),
            (true, json!({"default": "1Gi", "validRange": {"min": "2Gi"}}), ".default: Invalid value"),
            (
                true,
                json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "9Gi"}}),
                ".validRange.max: Invalid value",
            ),
            (true, json!({"default": "1Gi", "validValues": ["1Gi"], "validRange": {"min": "1Gi"}}), ": Invalid value"),
        ] {
            let found = of(shared, policy.clone());
            assert!(found.len() == 1 && found[0].starts_with(&format!("{at}{start}")), "{policy}: {found:?}");
        }
    }

    #[test]
    fn slices_say_where_their_devices_are_and_what_they_are_like() {
        let of = |change: fn(&mut Value)| {
            let mut spec = json!({"driver": "d.com", "nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "d"}]});
            change(&mut spec);
            told(slice, &json!({"spec": spec})).join("; ")
        };
        for (found, start) in [
            (of(|spec| spec["nodeName"] = "".into()), "spec: Required value: exactly one of"),
            (of(|spec| spec["allNodes"] = true.into()), "spec: Invalid value"),
            (
                of(|spec| spec["pool"]["resourceSliceCount"] = 0.into()),
                "spec.pool.resourceSliceCount: Invalid value: 0",
            ),
            (of(|spec| spec["driver"] = "-".into()), "spec.driver: Invalid value"),
            (
                of(|spec| spec["devices"] = json!([{"name": "d"}, {"name": "d"}])),
                "spec.devices[1].name: Duplicate value",
            ),
            (
                of(|spec| spec["devices"][0]["attributes"] = json!({"a": {}})),
                "spec.devices[0].attributes[a]: Required value: exactly one value must be specified",
            ),
            (
                of(|spec| spec["devices"][0]["attributes"] = json!({"a": {"version": "one"}})),
                "spec.devices[0].attributes[a].version: Invalid value",
            ),
            (
                of(|spec| spec["devices"][0]["capacity"] = json!({"m": {"value": "much"}})),
                "spec.devices[0].capacity[m].value: Invalid value",
            ),
            (
                of(|spec| spec["devices"][0]["taints"] = json!([{"key": "k", "effect": "Never"}])),
                "spec.devices[0].taints[0].effect: Unsupported value",
            ),
        ] {
            assert!(found.starts_with(start), "{start}: {found}");
        }
    }
}
