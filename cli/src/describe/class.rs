//! What is said about classes: of storage, of Ingresses, of priority.

use serde_json::Value;

use super::kinds::{at, labels, text};
use super::page::Page;
use super::template::{list, pairs, shown, string};

/// Annotations that make a class the default one.
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// `a=b,c=d`, or `<none>`.
fn in_one_line(object: &Value, pointer: &str) -> String {
    let all = pairs(at(object, pointer), "=");
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

/// Writes a StorageClass.
pub(super) fn storage(page: &mut Page, object: &Value) {
    let own = at(object, "/metadata/annotations").unwrap_or(&Value::Null);
    let is_default = DEFAULT.iter().any(|key| string(own, key) == Some("true"));
    page.field(0, "Name", text(object, "/metadata/name"));
    page.field(0, "IsDefaultClass", if is_default { "Yes" } else { "No" });
    page.field(0, "Annotations", in_one_line(object, "/metadata/annotations"));
    page.field(0, "Provisioner", text(object, "/provisioner"));
    page.field(0, "Parameters", in_one_line(object, "/parameters"));
    let expansion = at(object, "/allowVolumeExpansion").and_then(Value::as_bool);
    let expansion = expansion.map_or("<unset>", |allowed| if allowed { "True" } else { "False" });
    page.field(0, "AllowVolumeExpansion", expansion);
    let mut options = list(object, "mountOptions").map(|option| shown(Some(option))).peekable();
    if options.peek().is_none() {
        page.field(0, "MountOptions", "<none>");
    } else {
        page.heading(0, "MountOptions");
        options.for_each(|option| page.cells(1, [option]));
    }
    for (key, title) in [("reclaimPolicy", "ReclaimPolicy"), ("volumeBindingMode", "VolumeBindingMode")] {
        if let Some(text) = string(object, key) {
            page.field(0, title, text);
        }
    }
    let mut terms = list(object, "allowedTopologies").enumerate().peekable();
    if terms.peek().is_none() {
        return;
    }
    page.field(0, "AllowedTopologies", "");
    for (position, term) in terms {
        let mut expressions = list(term, "matchLabelExpressions").map(|expression| {
            let values: Vec<String> = list(expression, "values").map(|value| shown(Some(value))).collect();
            format!("{} in [{}]", shown(expression.get("key")), values.join(", "))
        });
        page.field(1, &format!("Term {position}"), expressions.next().unwrap_or_else(|| "<none>".to_owned()));
        expressions.for_each(|expression| page.cells(1, [String::new(), expression]));
    }
}

/// Writes an IngressClass.
pub(super) fn ingress(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    labels(page, object);
    page.field(0, "Controller", text(object, "/spec/controller"));
    let Some(parameters) = at(object, "/spec/parameters").filter(|parameters| parameters.is_object()) else { return };
    page.heading(0, "Parameters");
    if let Some(group) = string(parameters, "apiGroup") {
        page.field(1, "APIGroup", group);
    }
    page.field(1, "Kind", text(parameters, "/kind"));
    page.field(1, "Name", text(parameters, "/name"));
}

/// Writes a PriorityClass.
pub(super) fn priority(page: &mut Page, object: &Value) {
    page.field(0, "Name", text(object, "/metadata/name"));
    page.field(0, "Value", text(object, "/value"));
    let is_default = at(object, "/globalDefault").and_then(Value::as_bool).unwrap_or(false);
    page.field(0, "GlobalDefault", is_default.to_string());
    page.field(0, "PreemptionPolicy", string(object, "preemptionPolicy").unwrap_or("PreemptLowerPriority"));
    page.field(0, "Description", text(object, "/description"));
    page.field(0, "Annotations", in_one_line(object, "/metadata/annotations"));
}
