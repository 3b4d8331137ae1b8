//! The rules of CustomResourceDefinition objects themselves.
//! Messages: apiextensions-apiserver, `pkg/apis/apiextensions/validation/validation.go`.
use super::constraint::{Faults, child};
use super::names::{APPROVAL, is_protected};
use super::node::{Additional, Kind, Node};
use super::validate::validate;
use super::{column, defaulting, parse, prune, resource};
use crate::status::Cause;
use crate::tree::{list, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Most selectable fields of a version.
const MAX_SELECTABLE: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];
const COLUMN_FORMATS: [&str; 10] =
    ["int32", "int64", "float", "double", "byte", "date", "date-time", "password", "", "bool"];
const MAX_WARNING: usize = 256;

/// Everything that is wrong with a new definition, metadata's general rules aside.
pub fn validate_definition(definition: &Value) -> Vec<Cause> {
    let mut faults = Faults::default();
    whole(definition, None, &mut faults);
    faults.causes
}

/// Everything that is wrong with a changed definition.
pub fn validate_definition_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut faults = Faults::default();
    // What was stored before a rule existed may stay.
    if old["spec"] != new["spec"] {
        whole(new, Some(old), &mut faults);
    }
    let conditions = list(old, &["status", "conditions"]);
    let established = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
    let fixed: &[&[&str]] = if established { &[&["scope"], &["names", "kind"]] } else { &[] };
    for path in fixed.iter().chain([&["group"] as &[&str], &["names", "plural"]].iter()) {
        let of = |value: &Value| path.iter().fold(value["spec"].clone(), |value, key| value[*key].clone());
        if of(old) != of(new) {
            faults.add(Cause::invalid(format!("spec.{}", path.join(".")), &of(new), "field is immutable"));
        }
    }
    let versions: Vec<&Value> = list(new, &["spec", "versions"]).iter().map(|version| &version["name"]).collect();
    for (index, stored) in list(new, &["status", "storedVersions"]).iter().enumerate() {
        if !versions.contains(&stored) {
            let name = stored.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            faults.add(Cause::invalid(format!("status.storedVersions[{index}]"), stored, &detail));
        }
    }
    faults.causes
}

fn whole(definition: &Value, old: Option<&Value>, faults: &mut Faults) {
    let spec = &definition["spec"];
    let group = text(spec, &["group"]).unwrap_or_default();
    let plural = text(spec, &["names", "plural"]).unwrap_or_default();
    if group.is_empty() {
        faults.add(Cause::required("spec.group", ""));
    } else {
        named("spec.group", group, api::name::rfc1123_subdomain(group), faults);
        if !group.contains('.') {
            faults.add(Cause::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
        }
    }
    let name = text(definition, &["metadata", "name"]).unwrap_or_default();
    if name != format!("{plural}.{group}") {
        faults.add(Cause::invalid("metadata.name", &name.into(), "must be spec.names.plural+\".\"+spec.group"));
    }
    if old.is_none() && is_protected(group) {
        approval(definition, faults);
    }
    names(&spec["names"], faults);
    match spec["scope"].as_str() {
        None | Some("") => faults.add(Cause::required("spec.scope", "")),
        Some("Cluster" | "Namespaced") => {}
        Some(_) => faults.add(Cause::unsupported("spec.scope", &spec["scope"], &["Cluster", "Namespaced"])),
    }
    if spec["preserveUnknownFields"] == true {
        let detail =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        faults.add(Cause::invalid("spec.preserveUnknownFields", &true.into(), detail));
    }
    versions(spec, old, faults);
    conversion(&spec["conversion"], faults);
}

fn approval(definition: &Value, faults: &mut Faults) {
    let path = format!("metadata.annotations[{APPROVAL}]");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match text(definition, &["metadata", "annotations", APPROVAL]).unwrap_or_default() {
        "" => {
            let detail = format!("protected groups must have approval annotation {APPROVAL:?}, {see}");
            faults.add(Cause::required(path, &detail));
        }
        given if given.starts_with("unapproved") || given.starts_with("https://") => {}
        given => {
            let detail = format!("must be a URL of the approval or begin with \"unapproved\", {see}");
            faults.add(Cause::invalid(path, &given.into(), &detail));
        }
    }
}

fn named(path: &str, value: &str, messages: Vec<String>, faults: &mut Faults) {
    if !messages.is_empty() {
        faults.add(Cause::invalid(path, &value.into(), &messages.join(",")));
    }
}

fn names(names: &Value, faults: &mut Faults) {
    for key in ["plural", "singular", "kind", "listKind"] {
        let path = format!("spec.names.{key}");
        let name = text(names, &[key]).unwrap_or_default();
        if name.is_empty() {
            faults.add(Cause::required(path, ""));
            continue;
        }
        let is_kind = key.ends_with("ind");
        let messages = match is_kind {
            true => api::name::rfc1035_label(&name.to_lowercase()),
            false => api::name::rfc1035_label(name),
        };
        if !messages.is_empty() && is_kind {
            let detail = format!("may have mixed case, but should otherwise match: {}", messages.join(","));
            faults.add(Cause::invalid(path, &name.into(), &detail));
        } else {
            named(&path, name, messages, faults);
        }
    }
    if text(names, &["kind"]) == text(names, &["listKind"]) && text(names, &["kind"]).is_some() {
        faults.add(Cause::invalid("spec.names.listKind", &names["listKind"], "kind and listKind may not be the same"));
    }
    for key in ["shortNames", "categories"] {
        for (index, name) in list(names, &[key]).iter().filter_map(Value::as_str).enumerate() {
            named(&format!("spec.names.{key}[{index}]"), name, api::name::rfc1035_label(name), faults);
        }
    }
}

fn versions(spec: &Value, old: Option<&Value>, faults: &mut Faults) {
    let versions = list(spec, &["versions"]);
    let shown: Value = versions.iter().map(|version| version["name"].clone()).collect();
    if versions.is_empty() {
        faults.add(Cause::required("spec.versions", "must have at least one version"));
        return;
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        faults.add(Cause::invalid("spec.versions", &shown, detail));
    }
    let unique: BTreeSet<&str> = versions.iter().filter_map(|version| version["name"].as_str()).collect();
    if unique.len() != versions.len() {
        faults.add(Cause::invalid("spec.versions", &shown, "must contain unique version names"));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, &["name"]).unwrap_or_default();
        named(&child(&path, "name"), name, api::name::rfc1035_label(name), faults);
        let warning = text(version, &["deprecationWarning"]);
        if let Some(warning) = warning {
            let at = child(&path, "deprecationWarning");
            if version["deprecated"] != true {
                faults.add(Cause::invalid(at, &warning.into(), "can only be set for deprecated versions"));
            } else if warning.len() > MAX_WARNING {
                faults.add(Cause::too_long(at, MAX_WARNING));
            }
        }
        // An unchanged version is not judged again: rules may have become stricter.
        let before = old.map_or(&[] as &[Value], |old| list(old, &["spec", "versions"]));
        if !before.contains(version) {
            self::version(&path, version, faults);
        }
    }
}

fn version(path: &str, version: &Value, faults: &mut Faults) {
    let at = child(path, "schema.openAPIV3Schema");
    let node = match version["schema"].get("openAPIV3Schema") {
        Some(schema) => {
            let node = parse::parse(&at, schema, faults);
            defaults(&at, &node, schema, true, faults);
            node
        }
        None => {
            faults.add(Cause::required(at, "schemas are required"));
            Node::default()
        }
    };
    for (index, column) in list(version, &["additionalPrinterColumns"]).iter().enumerate() {
        printed(&format!("{path}.additionalPrinterColumns[{index}]"), column, faults);
    }
    if let Some(scale) = version["subresources"].get("scale") {
        let at = child(path, "subresources.scale");
        for (key, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
            let given = text(scale, &[key]).unwrap_or_default();
            if given.is_empty() {
                faults.add(Cause::required(child(&at, key), ""));
            } else if resource::keys(given).is_none() || !given.starts_with(prefix) {
                let detail = format!("should be a json path under {}", prefix.trim_end_matches('.'));
                faults.add(Cause::invalid(child(&at, key), &given.into(), &detail));
            }
        }
        let selector = text(scale, &["labelSelectorPath"]).unwrap_or_default();
        let under = [".spec.", ".status."].into_iter().any(|prefix| selector.starts_with(prefix));
        if !selector.is_empty() && (resource::keys(selector).is_none() || !under) {
            let detail = "should be a json path under either .spec or .status";
            faults.add(Cause::invalid(child(&at, "labelSelectorPath"), &selector.into(), detail));
        }
    }
    selectable(&child(path, "selectableFields"), version, &node, faults);
}

fn printed(path: &str, column: &Value, faults: &mut Faults) {
    for key in ["name", "type", "jsonPath"] {
        if text(column, &[key]).unwrap_or_default().is_empty() {
            faults.add(Cause::required(child(path, key), ""));
        }
    }
    let kind = text(column, &["type"]).unwrap_or_default();
    if !kind.is_empty() && !COLUMN_TYPES.contains(&kind) {
        let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
        faults.add(Cause::invalid(child(path, "type"), &kind.into(), &detail));
    }
    let format = text(column, &["format"]).unwrap_or_default();
    if !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        faults.add(Cause::invalid(child(path, "format"), &format.into(), &detail));
    }
    let given = text(column, &["jsonPath"]).unwrap_or_default();
    if !given.is_empty() && column::steps(given).is_none() {
        let detail = "is an invalid jsonpath: expected a simple path as .spec.field, .spec.list[0] or .status.conditions[?(@.type==\"Ready\")].status";
        faults.add(Cause::invalid(child(path, "jsonPath"), &given.into(), detail));
    }
}

fn selectable(path: &str, version: &Value, node: &Node, faults: &mut Faults) {
    let fields = list(version, &["selectableFields"]);
    if fields.len() > MAX_SELECTABLE {
        faults.add(Cause::too_many(path, fields.len(), MAX_SELECTABLE));
    }
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let at = format!("{path}[{index}].jsonPath");
        let given = text(field, &["jsonPath"]).unwrap_or_default();
        if given.is_empty() {
            faults.add(Cause::required(at, ""));
            continue;
        }
        if !seen.insert(given) {
            faults.add(Cause::duplicate(at, &given.into()));
            continue;
        }
        let mut refuse = |detail: &str| faults.add(Cause::invalid(at.clone(), &given.into(), detail));
        let Some(keys) = resource::keys(given) else {
            refuse("is an invalid path: does not refer to a valid field");
            continue;
        };
        if keys.first().is_some_and(|key| key == "metadata") {
            refuse("must not point to fields in metadata");
            continue;
        }
        let found = keys.iter().try_fold(node, |node, key| match node.additional {
            Additional::None => node.property(key),
            Additional::Any | Additional::Schema(_) => None,
        });
        match found.map(|node| node.kind) {
            None => refuse("is an invalid path: does not refer to a valid field"),
            Some(Kind::String | Kind::Integer | Kind::Boolean) => {}
            Some(_) => refuse(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ),
        }
    }
}

/// Every default must be what its own schema allows.
fn defaults(path: &str, node: &Node, schema: &Value, is_root: bool, faults: &mut Faults) {
    if !node.has_defaults || faults.is_full() {
        return;
    }
    if let Some(default) = &node.default {
        let at = child(path, "default");
        let mut pruned = default.clone();
        let unknown = if is_root { Vec::new() } else { prune::conform_part(node, &mut pruned) };
        if !unknown.is_empty() {
            let detail = "must not have unknown fields";
            faults.add(Cause::invalid(at.clone(), default, detail));
        }
        defaulting::fill_defaults(node, &mut pruned);
        if default.is_null() && !node.nullable && node.kind != Kind::Any {
            faults.add(Cause::invalid(at.clone(), default, "must not be null if nullable is false"));
        } else {
            for mut cause in validate(node, &pruned, None) {
                cause.field = match cause.field.as_str() {
                    "" => at.clone(),
                    field if field.starts_with('[') => format!("{at}{field}"),
                    field => child(&at, field),
                };
                faults.add(cause);
            }
        }
    }
    for (name, property) in &node.properties {
        if is_root && name == "metadata" {
            continue;
        }
        let at = format!("{}[{name}]", child(path, "properties"));
        defaults(&at, property, &schema["properties"][name], false, faults);
    }
    if let Additional::Schema(below) = &node.additional {
        defaults(&child(path, "additionalProperties"), below, &schema["additionalProperties"], false, faults);
    }
    if let Some(items) = &node.items {
        defaults(&child(path, "items"), items, &schema["items"], false, faults);
    }
}

fn conversion(conversion: &Value, faults: &mut Faults) {
    let path = "spec.conversion";
    let webhook = conversion.get("webhook");
    match conversion["strategy"].as_str() {
        None | Some("" | "None") => {
            if webhook.is_some() {
                let at = child(path, "webhook");
                faults.add(Cause::forbidden(at, "should not be set when strategy is not set to Webhook"));
            }
        }
        Some("Webhook") => match webhook {
            None => {
                let at = child(path, "webhook");
                faults.add(Cause::required(at, "required when strategy is set to Webhook"));
            }
            Some(webhook) => self::webhook(&child(path, "webhook"), webhook, faults),
        },
        Some(_) => {
            let given = &conversion["strategy"];
            faults.add(Cause::unsupported(child(path, "strategy"), given, &["None", "Webhook"]));
        }
    }
}

fn webhook(path: &str, webhook: &Value, faults: &mut Faults) {
    let client = crate::validation::client_config(&webhook["clientConfig"], &child(path, "clientConfig"));
    client.into_iter().for_each(|cause| faults.add(cause));
    let accepted = list(webhook, &["conversionReviewVersions"]);
    let at = child(path, "conversionReviewVersions");
    if accepted.is_empty() {
        faults.add(Cause::required(at, ""));
    } else if !accepted.iter().any(|version| matches!(version.as_str(), Some("v1" | "v1beta1"))) {
        let detail = "must include at least one of v1, v1beta1";
        faults.add(Cause::invalid(at, &json!(accepted), detail));
    }
}
