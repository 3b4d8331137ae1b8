//! Rules of claims to devices and of classes (pkg/apis/resource/validation).
use super::check::{Faults, is_blank, join};
use crate::status::Cause;
use crate::tree::{integer, list, text};
use controller_cel::{Environment, compile};
use serde_json::Value;
use std::collections::BTreeSet;

/// `DeviceRequestsMaxSize`, `DeviceSelectorsMaxSize`, `DeviceConstraintsMaxSize`, `DeviceConfigMaxSize`.
const MOST: usize = 32;
/// `FirstAvailableDeviceRequestMaxSize`
const MOST_ALTERNATIVES: usize = 8;
/// `CELSelectorExpressionMaxLength`
const LONGEST_SELECTOR: usize = 10 * 1024;

pub(super) fn too_many(items: &[Value], most: usize, field: &str, faults: &mut Faults) {
    if items.len() > most {
        faults.add(Cause::too_many(field, items.len(), most));
    }
}

pub(super) fn claim(object: &Value, faults: &mut Faults) {
    devices(&object["spec"]["devices"], "spec.devices", faults);
}

pub(super) fn template(object: &Value, faults: &mut Faults) {
    devices(&object["spec"]["spec"]["devices"], "spec.spec.devices", faults);
}

/// The claims that a pod names, and those of them that its containers do.
pub(super) fn of_pod(spec: &Value, path: &str, faults: &mut Faults) {
    let mut names = BTreeSet::new();
    for (index, claim) in list(spec, &["resourceClaims"]).iter().enumerate() {
        let at = format!("{}[{index}]", join(path, "resourceClaims"));
        let field = join(&at, "name");
        match text(claim, &["name"]).unwrap_or_default() {
            "" => faults.required(&field, ""),
            name if !names.insert(name) => faults.add(Cause::duplicate(&field, &name.into())),
            name => faults.rule(&field, name, api::name::rfc1123_label(name)),
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|field| (field, claim.get(field)));
        let given = sources.into_iter().filter(|(_, source)| !is_blank(*source));
        match given.clone().count() {
            0 => faults.invalid(
                &at,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => faults.invalid(
                &at,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for (field, source) in given {
            let name = source.and_then(Value::as_str).unwrap_or_default();
            faults.rule(&join(&at, field), name, api::name::rfc1123_subdomain(name));
        }
    }
    for kind in ["initContainers", "containers"] {
        for (index, container) in list(spec, &[kind]).iter().enumerate() {
            for (number, wish) in list(container, &["resources", "claims"]).iter().enumerate() {
                let field = format!("{}[{index}].resources.claims[{number}].name", join(path, kind));
                match text(wish, &["name"]).unwrap_or_default() {
                    "" => faults.required(field, ""),
                    name if !names.contains(name) => faults.add(Cause::not_found(field, &name.into())),
                    _ => {}
                }
            }
        }
    }
}

/// What a claim asks for.
fn devices(devices: &Value, path: &str, faults: &mut Faults) {
    let (requests, constraints) = (list(devices, &["requests"]), list(devices, &["constraints"]));
    too_many(requests, MOST, &join(path, "requests"), faults);
    too_many(constraints, MOST, &join(path, "constraints"), faults);
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (index, one) in requests.iter().take(MOST).enumerate() {
        request(one, &format!("{path}.requests[{index}]"), &mut names, faults);
    }
    for (index, one) in constraints.iter().take(MOST).enumerate() {
        let path = format!("{path}.constraints[{index}]");
        known_requests(one, &path, &names, faults);
        let (matching, distinct) = (text(one, &["matchAttribute"]), text(one, &["distinctAttribute"]));
        match (matching, distinct) {
            (None, None) => faults.required(join(&path, "matchAttribute"), ""),
            (Some(_), Some(_)) => {
                let detail = "only one of `matchAttribute` and `distinctAttribute` may be set";
                faults.invalid(path.as_str(), one.clone(), detail);
            }
            (Some(name), None) => attribute_name(name, true, &join(&path, "matchAttribute"), faults),
            (None, Some(name)) => attribute_name(name, true, &join(&path, "distinctAttribute"), faults),
        }
    }
    let config = list(devices, &["config"]);
    too_many(config, MOST, &join(path, "config"), faults);
    for (index, one) in config.iter().take(MOST).enumerate() {
        let path = format!("{path}.config[{index}]");
        known_requests(one, &path, &names, faults);
        opaque(one, &path, faults);
    }
}

/// The name of a request, once; alternatives are named after the request that they are part of.
fn name(of: &Value, path: &str, whole: Option<&str>, names: &mut BTreeSet<String>, faults: &mut Faults) {
    let field = join(path, "name");
    match text(of, &["name"]).unwrap_or_default() {
        "" => faults.required(field, ""),
        name => {
            faults.rule(&field, name, api::name::rfc1123_label(name));
            let full = whole.map_or_else(|| name.to_owned(), |whole| format!("{whole}/{name}"));
            if !names.insert(full) {
                faults.add(Cause::duplicate(field, &name.into()));
            }
        }
    }
}

fn request(one: &Value, path: &str, names: &mut BTreeSet<String>, faults: &mut Faults) {
    name(one, path, None, names, faults);
    let alternatives = list(one, &["firstAvailable"]);
    match (one["exactly"].is_object(), alternatives.is_empty()) {
        (false, true) => faults.required(path, "exactly one of `exactly` or `firstAvailable` is required"),
        (true, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            faults.invalid(path, one.clone(), detail);
        }
        (true, true) => wish(&one["exactly"], &join(path, "exactly"), faults),
        (false, false) => {
            too_many(alternatives, MOST_ALTERNATIVES, &join(path, "firstAvailable"), faults);
            let whole = text(one, &["name"]).unwrap_or_default();
            for (index, part) in alternatives.iter().take(MOST_ALTERNATIVES).enumerate() {
                let path = format!("{path}.firstAvailable[{index}]");
                name(part, &path, Some(whole), names, faults);
                wish(part, &path, faults);
            }
        }
    }
}

fn wish(wish: &Value, path: &str, faults: &mut Faults) {
    let field = join(path, "deviceClassName");
    match text(wish, &["deviceClassName"]).unwrap_or_default() {
        "" => faults.required(field, ""),
        class => faults.rule(&field, class, api::name::rfc1123_subdomain(class)),
    }
    selectors(wish, path, faults);
    let count = integer(wish, &["count"]);
    match text(wish, &["allocationMode"]) {
        None | Some("ExactCount") if count.is_some_and(|count| count <= 0) => {
            faults.invalid(join(path, "count"), count.unwrap_or_default(), "must be greater than zero");
        }
        None | Some("ExactCount") => {}
        Some("All") if count.is_some_and(|count| count != 0) => {
            let detail = "must not be specified when allocationMode is 'All'";
            faults.invalid(join(path, "count"), count.unwrap_or_default(), detail);
        }
        Some("All") => {}
        Some(_) => faults.one_of(wish, "allocationMode", path, &["All", "ExactCount"]),
    }
    for (index, one) in list(wish, &["tolerations"]).iter().enumerate() {
        let path = format!("{path}.tolerations[{index}]");
        let (key, operator) = (text(one, &["key"]).unwrap_or_default(), text(one, &["operator"]));
        faults.one_of(one, "operator", &path, &["Equal", "Exists"]);
        if !key.is_empty() {
            faults.rule(&join(&path, "key"), key, api::name::qualified_name(key));
        } else if operator != Some("Exists") {
            faults.invalid(
                join(&path, "operator"),
                operator.unwrap_or_default(),
                "must be `Exists` when `key` is empty",
            );
        }
        if operator == Some("Exists") && !is_blank(one.get("value")) {
            faults.invalid(join(&path, "value"), one["value"].clone(), "must be empty when `operator` is `Exists`");
        }
        faults.one_of(one, "effect", &path, &["NoExecute", "NoSchedule"]);
    }
}

fn selectors(holder: &Value, path: &str, faults: &mut Faults) {
    let all = list(holder, &["selectors"]);
    too_many(all, MOST, &join(path, "selectors"), faults);
    for (index, one) in all.iter().take(MOST).enumerate() {
        let path = format!("{path}.selectors[{index}].cel");
        if !one["cel"].is_object() {
            faults.required(path, "");
            continue;
        }
        let field = join(&path, "expression");
        match text(one, &["cel", "expression"]).unwrap_or_default() {
            source if source.len() > LONGEST_SELECTOR => faults.add(Cause::too_long(field, LONGEST_SELECTOR)),
            source => match compile(source, &Environment::new(&["device"])) {
                Err(error) => faults.invalid(field, source, &error.to_string()),
                Ok(program) if !program.may_be_bool() => {
                    faults.invalid(field, source, "must evaluate to bool or the unknown type");
                }
                Ok(_) => {}
            },
        }
    }
}

/// Requests that something is about: those that there are.
fn known_requests(of: &Value, path: &str, names: &BTreeSet<String>, faults: &mut Faults) {
    for (index, one) in list(of, &["requests"]).iter().enumerate() {
        if !one.as_str().is_some_and(|name| names.contains(name)) {
            let detail =
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            faults.invalid(format!("{path}.requests[{index}]"), one.clone(), detail);
        }
    }
}

fn opaque(config: &Value, path: &str, faults: &mut Faults) {
    let opaque = join(path, "opaque");
    if !config["opaque"].is_object() {
        return faults.required(opaque, "");
    }
    driver(&config["opaque"], &opaque, faults);
    if is_blank(config["opaque"].get("parameters")) && !config["opaque"]["parameters"].is_object() {
        faults.required(join(&opaque, "parameters"), "");
    }
}

pub(super) fn driver(of: &Value, path: &str, faults: &mut Faults) {
    let field = join(path, "driver");
    match text(of, &["driver"]).unwrap_or_default() {
        "" => faults.required(field, ""),
        name if name.len() > 63 => faults.add(Cause::too_long(field, 63)),
        name => faults.rule(&field, name, api::name::rfc1123_subdomain(&name.to_lowercase())),
    }
}

/// `[domain/]identifier`
pub(super) fn attribute_name(name: &str, needs_domain: bool, field: &str, faults: &mut Faults) {
    let (domain, own) = match name.rsplit_once('/') {
        Some((domain, own)) => (Some(domain), own),
        None => (None, name),
    };
    match domain {
        None if needs_domain => faults.invalid(field, name, "must include a domain"),
        None => {}
        Some(domain) => faults.rule(field, domain, api::name::rfc1123_subdomain(domain)),
    }
    let is_identifier = own.len() <= 32
        && own.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && own.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_identifier {
        faults.invalid(field, own, "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')");
    }
}

pub(super) fn class(object: &Value, faults: &mut Faults) {
    selectors(&object["spec"], "spec", faults);
    let config = list(object, &["spec", "config"]);
    too_many(config, MOST, "spec.config", faults);
    for (index, one) in config.iter().take(MOST).enumerate() {
        opaque(one, &format!("spec.config[{index}]"), faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::check::told;
    use serde_json::json;

    #[test]
    fn what_is_well_formed_is_taken() {
        let exactly = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1,
            "selectors": [{"cel": {"expression": "device.driver == 'd.com'"}}], "tolerations": [{"operator": "Exists"}]});
        let devices = json!({"requests": [{"name": "a", "exactly": exactly},
            {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "c"}, {"name": "y", "deviceClassName": "d"}]}],
            "constraints": [{"requests": ["a", "b/x"], "matchAttribute": "d.com/numa"}],
            "config": [{"requests": ["b"], "opaque": {"driver": "d.com", "parameters": {}}}]});
        assert_eq!(told(claim, &json!({"spec": {"devices": devices}})), [""; 0]);
        assert_eq!(told(template, &json!({"spec": {"spec": {"devices": devices}}})), [""; 0]);
        assert_eq!(told(class, &json!({"spec": {}})), [""; 0]);
    }

    #[test]
    fn a_pod_names_each_claim_once_and_its_containers_no_other() {
        let of = |claims: Value, wishes: Value| {
            let spec = json!({"resourceClaims": claims, "containers": [{"resources": {"claims": wishes}}]});
            let mut faults = Faults::default();
            of_pod(&spec, "spec", &mut faults);
            faults.into_causes().iter().map(Cause::describe).collect::<Vec<_>>()
        };
        let good = json!({"name": "a", "resourceClaimName": "x.y"});
        assert_eq!(of(json!([good]), json!([{"name": "a"}, {"name": "a", "request": "r"}])), Vec::<String>::new());
        for (claims, wishes, start) in [
            (json!([good, good]), json!([]), "spec.resourceClaims[1].name: Duplicate value: \"a\""),
            (json!([{"resourceClaimName": "x"}]), json!([]), "spec.resourceClaims[0].name: Required value"),
            (json!([{"name": "a"}]), json!([]), "spec.resourceClaims[0]: Invalid value"),
            (
                json!([{"name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": "y"}]),
                json!([]),
                "spec.resourceClaims[0]: Invalid value",
            ),
            (
                json!([{"name": "a", "resourceClaimName": "../x"}]),
                json!([]),
                "spec.resourceClaims[0].resourceClaimName: Invalid value",
            ),
            (json!([good]), json!([{"name": "b"}]), "spec.containers[0].resources.claims[0].name: Not found: \"b\""),
        ] {
            let found = of(claims, wishes);
            assert!(found.len() == 1 && found[0].starts_with(start), "{start}: {found:?}");
        }
    }

    #[test]
    fn what_is_not_names_its_field() {
        let of_request = |request: Value| told(claim, &json!({"spec": {"devices": {"requests": [request]}}}));
        let exactly = |more: Value| {
            let mut exactly = json!({"deviceClassName": "c"});
            exactly.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            of_request(json!({"name": "r", "exactly": exactly}))
        };
        let cel = |source: &str| exactly(json!({"selectors": [{"cel": {"expression": source}}]}));
        for (found, start) in [
            (of_request(json!({"name": "r"})), "spec.devices.requests[0]: Required value: exactly one of"),
            (of_request(json!({"exactly": {"deviceClassName": "c"}})), "spec.devices.requests[0].name: Required value"),
            (
                exactly(json!({"deviceClassName": ""})),
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
            ),
            (exactly(json!({"count": 0})), "spec.devices.requests[0].exactly.count: Invalid value: 0"),
            (
                exactly(json!({"allocationMode": "All", "count": 2})),
                "spec.devices.requests[0].exactly.count: Invalid value: 2",
            ),
            (
                exactly(json!({"allocationMode": "Some"})),
                "spec.devices.requests[0].exactly.allocationMode: Unsupported value",
            ),
            (exactly(json!({"selectors": [{}]})), "spec.devices.requests[0].exactly.selectors[0].cel: Required value"),
            (cel("device."), "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value"),
            (cel("object.x"), "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value"),
            (cel("'text'"), "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value"),
            (cel(&" ".repeat(10_241)), "spec.devices.requests[0].exactly.selectors[0].cel.expression: Too long"),
            (
                told(
                    claim,
                    &json!({"spec": {"devices": {"constraints": [{"requests": ["x"], "matchAttribute": "d.com/a"}]}}}),
                ),
                "spec.devices.constraints[0].requests[0]: Invalid value",
            ),
            (
                told(claim, &json!({"spec": {"devices": {"constraints": [{"matchAttribute": "a"}]}}})),
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": must include a domain",
            ),
            (told(class, &json!({"spec": {"config": [{}]}})), "spec.config[0].opaque: Required value"),
        ] {
            assert!(found.first().is_some_and(|first| first.starts_with(start)), "{start}: {found:?}");
        }
        let twice = json!([{"name": "r", "exactly": {"deviceClassName": "c"}}, {"name": "r", "exactly": {"deviceClassName": "c"}}]);
        assert_eq!(
            told(claim, &json!({"spec": {"devices": {"requests": twice}}})),
            ["spec.devices.requests[1].name: Duplicate value: \"r\""]
        );
        let many: Vec<Value> =
            (0..33).map(|n| json!({"name": format!("r{n}"), "exactly": {"deviceClassName": "c"}})).collect();
        let found = told(claim, &json!({"spec": {"devices": {"requests": many}}}));
        assert!(found[0].starts_with("spec.devices.requests: Too many"), "{found:?}");
    }
}
