//! `x-kubernetes-validations`: rules in CEL, with `oldSelf`, messages, reasons and field paths.
//! Kubernetes documentation, "Validation rules"; messages: apiextensions-apiserver, `pkg/apiserver/schema/cel`.
use super::constraint::{Faults, child};
use super::node::{Additional, Kind, Node, is_integer};
use crate::status::Cause;
use controller_cel::{self as cel, Activation, Budget, Environment, EvaluationError, Program};
use serde_json::Value;

/// Longest message that a `messageExpression` may make, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;
const REASONS: [&str; 4] = ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];

/// A compiled rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    program: Program,
    pub(crate) uses_old: bool,
    message: String,
    message_program: Option<Program>,
    reason: String,
    field_path: String,
    optional_old: bool,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// On an object with metadata.
    pub(super) is_resource: bool,
    /// Below a list whose elements have no identity there is no old value to compare with.
    pub(super) is_correlatable: bool,
}

/// Compiles a rule; what is wrong with it is told below `path`.
pub(super) fn parse(path: &str, value: &Value, node: &Node, place: Place, faults: &mut Faults) -> Option<Rule> {
    let text = |name: &str| value[name].as_str().unwrap_or_default().trim();
    let source = value["rule"].as_str().unwrap_or_default();
    if source.trim().is_empty() {
        faults.add(Cause::required(child(path, "rule"), "rule is not specified"));
        return None;
    }
    let environment = Environment::new(&["self", "oldSelf"]);
    let program = match cel::compile(source, &environment) {
        Ok(program) => program,
        Err(error) => {
            faults.add(Cause::invalid(child(path, "rule"), &source.into(), &error.to_string()));
            return None;
        }
    };
    let uses_old = program.uses("oldSelf");
    if !program.may_be_bool() {
        let detail = "cel expression must evaluate to a bool";
        faults.add(Cause::invalid(child(path, "rule"), &source.into(), detail));
    }
    check_fields(&child(path, "rule"), &program, node, place, faults);
    let optional_old = value["optionalOldSelf"] == true;
    if uses_old && !place.is_correlatable {
        let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}");
        faults.add(Cause::invalid(child(path, "rule"), &source.into(), &detail));
    }
    if optional_old && !uses_old {
        let detail = "may not be set if oldSelf is not used in rule";
        faults.add(Cause::invalid(child(path, "optionalOldSelf"), &true.into(), detail));
    }
    let message = text("message");
    if message.contains('\n') {
        faults.add(Cause::invalid(child(path, "message"), &message.into(), "message must not contain line breaks"));
    }
    if value.get("message").is_some() && message.is_empty() {
        faults.add(Cause::invalid(child(path, "message"), &value["message"], "message must be non-empty if specified"));
    }
    let message_source = text("messageExpression");
    if message.is_empty() && message_source.is_empty() && source.trim().contains('\n') {
        faults.add(Cause::required(child(path, "message"), "message must be specified if rule contains line breaks"));
    }
    let message_program = match message_source {
        "" => None,
        source => match cel::compile(source, &environment) {
            Ok(program) if !program.may_be_string() => {
                let detail = "messageExpression must evaluate to a string";
                faults.add(Cause::invalid(child(path, "messageExpression"), &source.into(), detail));
                None
            }
            Ok(program) => {
                check_fields(&child(path, "messageExpression"), &program, node, place, faults);
                Some(program)
            }
            Err(error) => {
                faults.add(Cause::invalid(child(path, "messageExpression"), &source.into(), &error.to_string()));
                None
            }
        },
    };
    let reason = text("reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        faults.add(Cause::unsupported(child(path, "reason"), &value["reason"], &REASONS));
    }
    let field_path = match text("fieldPath") {
        "" => String::new(),
        given => match field_of(given, node) {
            Some(path) => path,
            None => {
                let detail = "fieldPath must be a valid path";
                faults.add(Cause::invalid(child(path, "fieldPath"), &given.into(), detail));
                String::new()
            }
        },
    };
    Some(Rule {
        program,
        uses_old,
        message: message.to_owned(),
        message_program,
        reason: reason.to_owned(),
        field_path,
        optional_old,
    })
}

/// Refuses fields that the schema does not have: a rule sees only declared ones.
fn check_fields(path: &str, program: &Program, node: &Node, place: Place, faults: &mut Faults) {
    let chains = program.selections("self").into_iter().chain(program.selections("oldSelf"));
    for chain in chains {
        if let Some(name) = undefined(node, place.is_resource, &chain) {
            let detail = format!("compilation failed: ERROR: undefined field '{name}'");
            faults.add(Cause::invalid(path, &program.source().into(), &detail));
        }
    }
}

fn undefined<'a>(node: &Node, is_resource: bool, chain: &'a [String]) -> Option<&'a str> {
    let mut node = node;
    let mut is_resource = is_resource;
    for name in chain {
        if node.kind != Kind::Object || !matches!(node.additional, Additional::None) {
            match &node.additional {
                Additional::Schema(below) if node.kind == Kind::Object => {
                    node = below;
                    continue;
                }
                _ => return None,
            }
        }
        if (is_resource || node.embedded) && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            return None;
        }
        is_resource = false;
        node = match node.properties.get(name) {
            Some(node) => node,
            None => return Some(name),
        };
    }
    None
}

/// `.spec.a` or `.spec['a']` below a node, as messages write it.
fn field_of(text: &str, node: &Node) -> Option<String> {
    let mut node = node;
    let mut path = String::new();
    for step in super::column::steps(text)? {
        let super::column::Step::Key(name) = step else { return None };
        node = node.field(&name)?;
        path = child(&path, &name);
    }
    (!path.is_empty()).then_some(path)
}

/// Evaluates the rules of a node. `unchanged`: the value is what it was, so only transition rules count.
#[allow(clippy::too_many_arguments)]
pub(super) fn evaluate(
    node: &Node,
    path: &str,
    value: &Value,
    old: Option<&Value>,
    is_resource: bool,
    unchanged: bool,
    budget: &Budget<'_>,
    faults: &mut Faults,
) {
    let kind = if is_resource { "object" } else { node.kind.as_str() };
    let applies =
        |rule: &&Rule| (rule.uses_old || !unchanged) && (!rule.uses_old || old.is_some() || rule.optional_old);
    let rules: Vec<&Rule> = node.rules.iter().filter(applies).collect();
    if rules.is_empty() || faults.is_full() {
        return;
    }
    let mut variables = Activation::default();
    variables.set("self", cel_value(node, value, is_resource));
    let old = old.map(|old| cel_value(node, old, is_resource));
    for rule in rules {
        if rule.uses_old {
            let held = match (&old, rule.optional_old) {
                (Some(old), false) => old.clone(),
                (old, _) => cel::optional(old.clone()),
            };
            variables.set("oldSelf", held);
        }
        let invalid = |detail: String| Cause::invalid(path, &kind.into(), &detail);
        match rule.program.evaluate_bool(&variables, budget) {
            Ok(true) => {}
            Ok(false) => faults.add(rule.refusal(path, kind, &variables, budget)),
            Err(error @ (EvaluationError::CostExceeded | EvaluationError::TimeExceeded)) => {
                faults.add(invalid(format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    rule.told()
                )));
                return;
            }
            Err(error @ EvaluationError::NoSuchOverload(_)) => faults.add(invalid(format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                rule.told()
            ))),
            Err(error) => faults.add(invalid(format!("{error} evaluating rule: {}", rule.told()))),
        }
    }
}

impl Rule {
    fn told(&self) -> &str {
        if self.message.is_empty() { self.program.source().trim() } else { &self.message }
    }

    fn refusal(&self, path: &str, kind: &str, variables: &Activation<'_>, budget: &Budget<'_>) -> Cause {
        let made = self.message_program.as_ref().and_then(|program| {
            // A message that cannot be made is not told; the fixed one stands in.
            let text = program.evaluate_string(variables, budget).ok()?;
            let text = text.trim();
            (!text.is_empty() && !text.contains('\n') && text.len() <= MAX_MESSAGE).then(|| text.to_owned())
        });
        let detail = made.unwrap_or_else(|| match self.message.is_empty() {
            true => format!("failed rule: {}", self.program.source().trim()),
            false => self.message.clone(),
        });
        let path = if self.field_path.is_empty() { path.to_owned() } else { child(path, &self.field_path) };
        match self.reason.as_str() {
            "FieldValueForbidden" => Cause::forbidden(path, &detail),
            "FieldValueRequired" => Cause::required(path, &detail),
            "FieldValueDuplicate" => Cause::duplicate(path, &kind.into()),
            _ => Cause::invalid(path, &kind.into(), &detail),
        }
    }
}

/// A value as rules see it: typed by its schema, and only the fields that it declares.
pub(super) fn cel_value(node: &Node, value: &Value, is_resource: bool) -> cel::Value {
    match value {
        Value::Object(map) if node.kind == Kind::Object && matches!(node.additional, Additional::None) => {
            let mut entries: Vec<(&str, cel::Value)> = Vec::new();
            for (name, value) in map {
                if is_resource || node.embedded {
                    if name == "metadata" {
                        let known: serde_json::Map<String, Value> = ["name", "generateName"]
                            .into_iter()
                            .filter_map(|key| Some((key.to_owned(), value.get(key)?.clone())))
                            .collect();
                        entries.push((name, cel::from_json(&Value::Object(known))));
                        continue;
                    }
                    if matches!(name.as_str(), "apiVersion" | "kind") {
                        entries.push((name, cel::from_json(value)));
                        continue;
                    }
                }
                if let Some(field) = node.properties.get(name) {
                    entries.push((name, cel_value(field, value, false)));
                }
            }
            cel::map(entries)
        }
        Value::Object(map) => match &node.additional {
            Additional::Schema(field) => {
                cel::map(map.iter().map(|(name, value)| (name.as_str(), cel_value(field, value, false))))
            }
            Additional::None | Additional::Any => cel::from_json(value),
        },
        Value::Array(items) => match &node.items {
            Some(item) => cel::list(items.iter().map(|value| cel_value(item, value, false))),
            None => cel::from_json(value),
        },
        Value::Number(number) if node.kind == Kind::Number => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        Value::Number(number) if node.kind == Kind::Integer && is_integer(value) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|number| number as i64))
            .map_or(cel::Value::Null, cel::Value::Int),
        Value::String(text) => {
            let typed = match node.constraint().format.as_deref() {
                _ if node.kind != Kind::String => None,
                Some("date-time") => cel::timestamp(text),
                Some("date") => cel::timestamp(&format!("{text}T00:00:00Z")),
                Some("duration") => cel::duration(text),
                Some("byte") => cel::bytes(text),
                _ => None,
            };
            typed.unwrap_or_else(|| cel::from_json(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => cel::from_json(value),
    }
}
