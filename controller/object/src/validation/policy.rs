//! Rules of admission policies, of their bindings, and of match conditions, with the messages of Kubernetes
//! (pkg/apis/admissionregistration/validation).
use super::check::{Faults, is_blank, join, selector};
use super::webhook::rule_with_operations;
use crate::policy::{Purpose, compiled};
use crate::status::Cause;
use crate::tree::{list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const MAX_CONDITIONS: usize = 64;
const MAX_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;
/// What no variable may be called (CEL specification, RESERVED).
const RESERVED: [&str; 22] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
    "",
];

/// `matchConditions` of a webhook or a policy.
pub(super) fn conditions(holder: &Value, params: bool, path: &str, faults: &mut Faults) {
    let path = join(path, "matchConditions");
    let conditions = list(holder, &["matchConditions"]);
    if conditions.len() > MAX_CONDITIONS {
        faults.add(Cause::too_many(path.as_str(), conditions.len(), MAX_CONDITIONS));
        return;
    }
    let mut names = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let source = text(condition, &["expression"]).unwrap_or_default();
        expression(source.trim(), Purpose::Condition, params, &join(&path, "expression"), "", faults);
        match text(condition, &["name"]).unwrap_or_default() {
            "" => faults.required(join(&path, "name"), ""),
            name => {
                faults.rule(&join(&path, "name"), name, api::name::qualified_name(name));
                if !names.insert(name) {
                    faults.add(Cause::duplicate(join(&path, "name"), &name.into()));
                }
            }
        }
    }
}

fn expression(source: &str, purpose: Purpose, params: bool, field: &str, missing: &str, faults: &mut Faults) {
    if source.trim().is_empty() {
        return faults.required(field, missing);
    }
    if let Err(problem) = compiled(source, purpose, params) {
        faults.invalid(field, source, &problem);
    }
}

pub(super) fn validating(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let params = common(spec, faults);
    let (validations, annotations) = (list(spec, &["validations"]), list(spec, &["auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        for key in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            faults.required(join("spec", key), detail);
        }
    }
    for (index, one) in validations.iter().enumerate() {
        validation(one, params, &format!("spec.validations[{index}]"), faults);
    }
    if annotations.len() > MAX_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        faults.invalid("spec.auditAnnotations", spec["auditAnnotations"].clone(), &detail);
    }
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    let mut keys = BTreeSet::new();
    for (index, one) in annotations.iter().enumerate() {
        let path = format!("spec.auditAnnotations[{index}]");
        let key = text(one, &["key"]).unwrap_or_default();
        let full = format!("{name}/{key}");
        faults.rule(&join(&path, "key"), &full, api::name::qualified_name(&full));
        if !keys.insert(key) {
            faults.add(Cause::duplicate(join(&path, "key"), &key.into()));
        }
        let source = text(one, &["valueExpression"]).unwrap_or_default().trim();
        let field = join(&path, "valueExpression");
        if source.len() > MAX_VALUE_EXPRESSION {
            faults.required(field, &format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length"));
            continue;
        }
        expression(source, Purpose::Annotation, params, &field, "valueExpression is not specified", faults);
    }
}

fn validation(one: &Value, params: bool, path: &str, faults: &mut Faults) {
    let of = |key: &str| text(one, &[key]).unwrap_or_default();
    let field = join(path, "expression");
    expression(of("expression"), Purpose::Validation, params, &field, "expression is not specified", faults);
    let (message, made) = (of("message"), of("messageExpression"));
    if !made.is_empty() {
        let field = join(path, "messageExpression");
        match made.trim() {
            "" => faults.invalid(field, made, "must be non-empty if specified"),
            _ => expression(made, Purpose::Message, params, &field, "", faults),
        }
    }
    if !message.is_empty() && message.trim().is_empty() {
        faults.invalid(join(path, "message"), message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        faults.invalid(join(path, "message"), message, "message must not contain line breaks");
    }
    faults.one_of(one, "reason", path, &["Forbidden", "Invalid", "RequestEntityTooLarge"]);
}

pub(super) fn mutating(object: &Value, faults: &mut Faults) {
    let spec = &object["spec"];
    let params = common(spec, faults);
    faults.needs_one_of(spec, "reinvocationPolicy", "spec", &["IfNeeded", "Never"]);
    let mutations = list(spec, &["mutations"]);
    if mutations.is_empty() {
        faults.required("spec.mutations", "mutations must contain at least one item");
    }
    for (index, one) in mutations.iter().enumerate() {
        let path = format!("spec.mutations[{index}]");
        faults.needs_one_of(one, "patchType", &path, &["ApplyConfiguration", "JSONPatch"]);
        let (key, other, purpose) = match text(one, &["patchType"]).unwrap_or_default() {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", Purpose::ApplyConfiguration),
            "JSONPatch" => ("jsonPatch", "applyConfiguration", Purpose::JsonPatch),
            _ => continue,
        };
        let patch_type = text(one, &["patchType"]).unwrap_or_default();
        if !is_blank(one.get(other)) {
            faults.invalid(join(&path, other), "{}", &format!("must not be specified when patchType is {patch_type}"));
        }
        if one.get(key).is_none_or(Value::is_null) {
            faults.required(join(&path, key), &format!("must be specified when patchType is {patch_type}"));
            continue;
        }
        let source = text(one, &[key, "expression"]).unwrap_or_default();
        let field = format!("{path}.{key}.expression");
        expression(source, purpose, params, &field, "expression is not specified", faults);
    }
}

/// What policies of both kinds have; tells whether there are parameters.
fn common(spec: &Value, faults: &mut Faults) -> bool {
    faults.needs_one_of(spec, "failurePolicy", "spec", &["Fail", "Ignore"]);
    let params = spec.get("paramKind").filter(|kind| !kind.is_null());
    if let Some(kind) = params {
        param_kind(kind, "spec.paramKind", faults);
    }
    match spec.get("matchConstraints").filter(|given| !given.is_null()) {
        None => faults.required("spec.matchConstraints", ""),
        Some(given) => {
            match_resources(given, "spec.matchConstraints", faults);
            if list(given, &["resourceRules"]).is_empty() {
                faults.required("spec.matchConstraints.resourceRules", "");
            }
        }
    }
    conditions(spec, params.is_some(), "spec", faults);
    for (index, one) in list(spec, &["variables"]).iter().enumerate() {
        let path = format!("spec.variables[{index}]");
        match text(one, &["name"]).unwrap_or_default() {
            name if name.trim().is_empty() => faults.required(join(&path, "name"), "name is not specified"),
            name if !is_identifier(name) => {
                faults.invalid(join(&path, "name"), name, "name is not a valid CEL identifier");
            }
            _ => {}
        }
        let source = text(one, &["expression"]).unwrap_or_default();
        let field = join(&path, "expression");
        expression(source, Purpose::Variable, params.is_some(), &field, "expression is not specified", faults);
    }
    params.is_some()
}

fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first == '_' || first.is_ascii_alphabetic())
        && letters.all(|letter| letter == '_' || letter.is_ascii_alphanumeric())
        && !RESERVED.contains(&name)
}

fn param_kind(kind: &Value, path: &str, faults: &mut Faults) {
    let field = join(path, "apiVersion");
    match text(kind, &["apiVersion"]).unwrap_or_default() {
        "" => faults.required(field, ""),
        given if given.matches('/').count() > 1 => {
            faults.invalid(field, given, &format!("unexpected GroupVersion string: {given}"));
        }
        given => {
            let (group, version) = given.split_once('/').unwrap_or(("", given));
            if !group.is_empty() {
                faults.rule(&field, group, api::name::rfc1123_subdomain(group));
            }
            match version {
                "" => faults.invalid(field, given, "version must be specified"),
                version => faults.rule(&field, version, api::name::rfc1035_label(version)),
            }
        }
    }
    let field = join(path, "kind");
    match text(kind, &["kind"]).unwrap_or_default() {
        "" => faults.required(field, ""),
        given => {
            for message in api::name::rfc1035_label(&given.to_lowercase()) {
                let detail = format!("may have mixed case, but should otherwise match: {message}");
                faults.invalid(field.clone(), given, &detail);
            }
        }
    }
}

fn match_resources(given: &Value, path: &str, faults: &mut Faults) {
    faults.needs_one_of(given, "matchPolicy", path, &["Equivalent", "Exact"]);
    for key in ["namespaceSelector", "objectSelector"] {
        match given.get(key) {
            Some(value) => selector(value, &join(path, key), faults),
            None => faults.required(join(path, key), ""),
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(given, &[key]).iter().enumerate() {
            let path = format!("{path}.{key}[{index}]");
            let mut seen = BTreeSet::new();
            for (index, name) in list(rule, &["resourceNames"]).iter().filter_map(Value::as_str).enumerate() {
                let field = format!("{path}.resourceNames[{index}]");
                faults.rule(&field, name, api::name::path_segment(name));
                if !seen.insert(name) {
                    faults.add(Cause::duplicate(field, &name.into()));
                }
            }
            rule_with_operations(rule, &path, faults);
        }
    }
}

pub(super) fn binding(object: &Value, validates: bool, faults: &mut Faults) {
    let spec = &object["spec"];
    match text(spec, &["policyName"]).unwrap_or_default() {
        "" => faults.required("spec.policyName", ""),
        name => faults.rule("spec.policyName", name, api::name::rfc1123_subdomain(name)),
    }
    if let Some(reference) = spec.get("paramRef").filter(|given| !given.is_null()) {
        param_ref(reference, "spec.paramRef", faults);
    }
    if let Some(given) = spec.get("matchResources").filter(|given| !given.is_null()) {
        match_resources(given, "spec.matchResources", faults);
    }
    if !validates {
        return;
    }
    let actions: Vec<&str> = list(spec, &["validationActions"]).iter().filter_map(Value::as_str).collect();
    let field = "spec.validationActions";
    let known = ["Audit", "Deny", "Warn"];
    for (index, action) in actions.iter().enumerate() {
        if !known.contains(action) {
            faults.add(Cause::unsupported(format!("{field}[{index}]"), &(*action).into(), &known));
        }
        if actions.iter().take(index).any(|earlier| earlier == action) {
            faults.add(Cause::duplicate(format!("{field}[{index}]"), &(*action).into()));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        faults.invalid(field, spec["validationActions"].clone(), detail);
    }
    if actions.is_empty() {
        faults.required(field, "at least one validation action is required");
    }
}

fn param_ref(reference: &Value, path: &str, faults: &mut Faults) {
    let name = text(reference, &["name"]).unwrap_or_default();
    let selected = reference.get("selector").filter(|given| !given.is_null());
    if !name.is_empty() {
        faults.rule(&join(path, "name"), name, api::name::path_segment(name));
    }
    match (name.is_empty(), selected) {
        (false, Some(_)) => {
            for key in ["name", "selector"] {
                faults.forbidden(join(path, key), "name and selector are mutually exclusive");
            }
        }
        (true, None) => faults.required(path, "one of name or selector must be specified"),
        _ => {}
    }
    if let Some(given) = selected {
        selector(given, &join(path, "selector"), faults);
    }
    faults.needs_one_of(reference, "parameterNotFoundAction", path, &["Deny", "Allow"]);
}
