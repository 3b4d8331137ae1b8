//! An object against its schema: types and constraints first, then lists' identities, then rules.
//! What an update leaves as it was is not held against it ("Validation ratcheting").
use super::Custom;
use super::constraint::{Faults, child};
use super::node::{Additional, Kind, Node};
use super::rule;
use crate::schema::ListKind;
use crate::status::{Cause, CauseReason};
use crate::tree::list;
use controller_cel::Budget;
use serde_json::Value;
use std::collections::HashMap;

/// What the rules of one object may cost together (`RuntimeCELCostBudget` of k8s.io/apiserver).
const RULE_COST: u64 = 10_000_000;
/// Finalizers without a domain that Kubernetes itself uses.
const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
/// Larger objects are refused, in bytes of JSON: defaults can make a small one large.
const MAX_OBJECT: usize = 3 << 20;

/// Everything that is wrong with an object.
pub(crate) fn validate(node: &Node, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut faults = Faults::default();
    if size(object, MAX_OBJECT) > MAX_OBJECT {
        return vec![Cause::too_long("", MAX_OBJECT)];
    }
    structure(node, "", object, old, true, &mut faults);
    if !node.has_rules {
        return faults.causes;
    }
    // A rule may rely on types and sizes.
    if faults.causes.iter().any(|cause| blocks(cause.reason)) {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        faults.add(Cause::invalid("<nil>", &"null".into(), detail));
        return faults.causes;
    }
    let budget = Budget::new(RULE_COST);
    rules(node, "", object, old, true, &budget, &mut faults);
    faults.causes
}

/// Whether a fault keeps rules from being evaluated (`hasBlockingErr` of apiextensions-apiserver).
fn blocks(reason: CauseReason) -> bool {
    matches!(
        reason,
        CauseReason::NotSupported
            | CauseReason::Required
            | CauseReason::TooLong
            | CauseReason::TooMany
            | CauseReason::TypeInvalid
    )
}

/// The figures of the `scale` subresource must be counts.
pub(crate) fn scale(custom: &Custom, object: &Value) -> Vec<Cause> {
    let Some(scale) = &custom.scale else { return Vec::new() };
    let mut faults = Faults::default();
    for path in [&scale.spec_replicas, &scale.status_replicas] {
        let found = path.iter().try_fold(object, |value, key| value.get(key));
        let count = found.and_then(Value::as_i64).unwrap_or(0);
        // Kubernetes names the path as the definition has it, with its dot.
        let field = format!(".{}", path.join("."));
        if count < 0 {
            faults.add(Cause::invalid(field, &count.into(), "should be a non-negative integer"));
        } else if count > i64::from(i32::MAX) {
            faults.add(Cause::invalid(field, &count.into(), "should be less than or equal to 2147483647"));
        }
    }
    faults.causes
}

/// What clients are told of finalizers that they add.
pub fn finalizer_warnings(old: Option<&Value>, new: &Value) -> Vec<String> {
    let before = old.map_or(&[] as &[Value], |old| list(old, &["metadata", "finalizers"]));
    let added = list(new, &["metadata", "finalizers"]).iter().filter(|finalizer| !before.contains(finalizer));
    let bare = added.filter_map(Value::as_str).filter(|name| !name.contains('/') && !STANDARD.contains(name));
    let told = bare.map(|name| {
        format!(
            "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        )
    });
    told.collect()
}

/// The size of a value's JSON, roughly, counted no further than `limit`.
pub(super) fn size(value: &Value, limit: usize) -> usize {
    let mut total = 0usize;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        total += match value {
            Value::String(text) => text.len() + 3,
            Value::Array(items) => {
                open.extend(items);
                2
            }
            Value::Object(map) => {
                open.extend(map.values());
                2 + map.keys().map(|key| key.len() + 4).sum::<usize>()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => 5,
        };
        if total > limit {
            break;
        }
    }
    total
}

/// Types, constraints, lists' identities.
fn structure(node: &Node, path: &str, value: &Value, old: Option<&Value>, is_root: bool, faults: &mut Faults) {
    if old == Some(value) || faults.is_full() {
        return;
    }
    if value.is_null() && (node.nullable || node.kind == Kind::Any) {
        return;
    }
    if !node.kind.fits(value) {
        let want = if node.kind == Kind::IntOrString { "integer,string" } else { node.kind.as_str() };
        faults.wrong_type(path, value, want);
        return;
    }
    node.constraint().check(path, value, faults);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if is_root && matches!(name.as_str(), "apiVersion" | "kind") {
                    continue;
                }
                if let Some(field) = node.field(name) {
                    let before = old.and_then(|old| old.get(name));
                    structure(field, &child(path, name), value, before, false, faults);
                }
            }
            if node.embedded {
                embedded(path, value, faults);
            }
        }
        Value::Array(items) => {
            let before = Correlation::new(node, old);
            if let Some(item) = &node.items {
                for (index, value) in items.iter().enumerate() {
                    structure(item, &format!("{path}[{index}]"), value, before.of(value), false, faults);
                }
            }
            doubles(node, path, items, faults);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An embedded object says what it is.
fn embedded(path: &str, value: &Value, faults: &mut Faults) {
    for name in ["apiVersion", "kind"] {
        if value[name].as_str().is_none_or(str::is_empty) {
            faults.add(Cause::required(child(path, name), "must not be empty"));
        }
    }
}

/// The identity of an element, as text.
fn identity(kind: &ListKind, node: &Node, item: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(item.to_string()),
        ListKind::Map(keys) => {
            let properties = node.items.as_ref().map(|items| &items.properties);
            let values: Vec<Value> = keys
                .iter()
                .map(|key| {
                    let default = || properties.and_then(|of| of.get(&**key)).and_then(|node| node.default.clone());
                    item.get(&**key).cloned().or_else(default).unwrap_or_default()
                })
                .collect();
            Some(Value::Array(values).to_string())
        }
    }
}

/// Elements of sets and maps stand once.
fn doubles(node: &Node, path: &str, items: &[Value], faults: &mut Faults) {
    let Some(kind) = &node.list else { return };
    let mut seen = std::collections::HashSet::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(identity) = identity(kind, node, item) else { return };
        if seen.insert(identity) {
            continue;
        }
        let shown = match kind {
            ListKind::Map(keys) => {
                let entries = keys.iter().filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
                Value::Object(entries.collect())
            }
            ListKind::Set | ListKind::Atomic => item.clone(),
        };
        faults.add(Cause::duplicate(format!("{path}[{index}]"), &shown));
    }
}

/// Finds the old element of a new one, in lists whose elements have keys.
struct Correlation<'a> {
    node: &'a Node,
    old: HashMap<String, &'a Value>,
}

impl<'a> Correlation<'a> {
    fn new(node: &'a Node, old: Option<&'a Value>) -> Self {
        let Some(kind @ ListKind::Map(_)) = &node.list else { return Self { node, old: HashMap::new() } };
        let items = old.and_then(Value::as_array).into_iter().flatten();
        Self { node, old: items.filter_map(|item| Some((identity(kind, node, item)?, item))).collect() }
    }

    fn of(&self, item: &Value) -> Option<&'a Value> {
        if self.old.is_empty() {
            return None;
        }
        self.old.get(&identity(self.node.list.as_ref()?, self.node, item)?).copied()
    }
}

/// Rules, from the top.
fn rules(
    node: &Node,
    path: &str,
    value: &Value,
    old: Option<&Value>,
    is_root: bool,
    budget: &Budget<'_>,
    faults: &mut Faults,
) {
    if !node.has_rules || value.is_null() || budget.remaining() == 0 {
        return;
    }
    let unchanged = old == Some(value);
    rule::evaluate(node, path, value, old.filter(|old| !old.is_null()), is_root, unchanged, budget, faults);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let Some(field) = node.field(name).filter(|field| field.has_rules) else { continue };
                let is_key = !node.properties.contains_key(name) && matches!(node.additional, Additional::Schema(_));
                let path = if is_key { format!("{path}[{name}]") } else { child(path, name) };
                rules(field, &path, value, old.and_then(|old| old.get(name)), false, budget, faults);
            }
        }
        Value::Array(items) => {
            let Some(item) = node.items.as_ref().filter(|item| item.has_rules) else { return };
            let before = Correlation::new(node, old);
            // Elements without identity are unchanged where their list is.
            for (index, value) in items.iter().enumerate() {
                let old = before.of(value).or_else(|| unchanged.then_some(value).filter(|_| node.list.is_none()));
                rules(item, &format!("{path}[{index}]"), value, old, false, budget, faults);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
