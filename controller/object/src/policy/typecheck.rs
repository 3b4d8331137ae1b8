//! What can be said of a policy's expressions before any request: fields that the kinds they are for do not have.
//! admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyStatus, typeChecking.
use super::{Purpose, compiled, text};
use crate::resource::{Resource, Table};
use crate::schema::{Cursor, View};
use crate::tree::list;
use serde_json::{Value, json};

/// Kinds that are looked at; more are not told of.
const KINDS: usize = 10;

/// `expressionWarnings`: one for each expression that names fields which do not exist.
pub fn warnings(table: &Table, policy: &Value) -> Vec<Value> {
    let spec = &policy["spec"];
    let kinds = kinds(table, spec);
    let has_params = super::ParamKind::read(spec).is_some();
    let mut found = Vec::new();
    let mut look = |source: &str, purpose: Purpose, field: String| {
        let Ok(program) = compiled(source, purpose, has_params) else { return };
        let mut told = Vec::new();
        for resource in &kinds {
            let Some(cursor) = resource.cursor() else { continue };
            for variable in ["object", "oldObject"] {
                let missing = program.selections(variable).into_iter().find_map(|path| missing(cursor, &path));
                told.extend(missing.map(|name| {
                    let at = source.find(&format!(".{name}")).unwrap_or(0);
                    format!(
                        "{}: ERROR: <input>:1:{}: undefined field '{name}'\n | {source}\n | {}^\n",
                        resource.describe_kind(),
                        at + 1,
                        ".".repeat(at)
                    )
                }));
            }
        }
        if !told.is_empty() {
            found.push(json!({"fieldRef": field, "warning": told.join("\n")}));
        }
    };
    for (index, one) in list(spec, &["validations"]).iter().enumerate() {
        look(text(one, "expression"), Purpose::Validation, format!("spec.validations[{index}].expression"));
        let message = text(one, "messageExpression");
        if !message.is_empty() {
            look(message, Purpose::Message, format!("spec.validations[{index}].messageExpression"));
        }
    }
    for (index, one) in list(spec, &["variables"]).iter().enumerate() {
        look(text(one, "expression"), Purpose::Variable, format!("spec.variables[{index}].expression"));
    }
    found
}

/// The kinds that the rules name without wildcards.
fn kinds<'t>(table: &'t Table, spec: &Value) -> Vec<&'t Resource> {
    let mut kinds: Vec<&Resource> = Vec::new();
    for rule in list(spec, &["matchConstraints", "resourceRules"]) {
        let words = |key: &str| list(rule, &[key]).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        for group in words("apiGroups") {
            for version in words("apiVersions") {
                for resource in words("resources") {
                    let found = table.find(group, version, resource);
                    kinds.extend(found.map(|found| &**found).filter(|_| kinds.len() < KINDS));
                }
            }
        }
    }
    kinds
}

/// The first step of a path that does not exist. What has no fixed fields has every field.
fn missing(cursor: Cursor<'_>, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    match cursor.view() {
        View::Struct(_) => match cursor.field(first) {
            Some(field) => missing(field, rest),
            None => Some(first.clone()),
        },
        _ => None,
    }
}
