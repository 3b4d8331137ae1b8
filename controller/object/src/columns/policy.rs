//! The cells of what governs requests: admission policies, priority and fairness.
use super::cells::{age, or_empty, plain, selector};
use crate::tree::{at, list, text};
use serde_json::Value;

const UNSET: &str = "<unset>";
const NONE: &str = "<none>";

/// The kind of a policy's parameters.
pub(super) fn param_kind(o: &Value) -> Value {
    let kind = at(o, &["spec", "paramKind"]).filter(|kind| kind.is_object());
    let part = |kind: &Value, field: &str| text(kind, &[field]).unwrap_or_default().to_owned();
    kind.map_or_else(|| UNSET.into(), |kind| format!("{}/{}", part(kind, "apiVersion"), part(kind, "kind")).into())
}

/// Which parameters a binding means. Whether they have a namespace is not to be seen here: `*` stands for none.
pub(super) fn param_ref(o: &Value) -> Value {
    let path = ["spec", "paramRef"];
    let part = |field: &str| text(o, &[path[0], path[1], field]).filter(|text| !text.is_empty());
    match part("name") {
        Some(name) => format!("{}/{name}", part("namespace").unwrap_or("*")).into(),
        None if at(o, &["spec", "paramRef", "selector"]).is_some() => selector(o, &["spec", "paramRef", "selector"]),
        None => UNSET.into(),
    }
}

pub(super) fn flow_schema(o: &Value, now: i64) -> Vec<Value> {
    let dangling = list(o, &["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
    vec![
        or_empty(o, &["spec", "priorityLevelConfiguration", "name"]),
        plain(o, &["spec", "matchingPrecedence"], "0"),
        text(o, &["spec", "distinguisherMethod", "type"]).unwrap_or(NONE).into(),
        age(o, now),
        dangling.map_or_else(|| "?".into(), |condition| or_empty(condition, &["status"])),
    ]
}

pub(super) fn priority_level(o: &Value, now: i64) -> Vec<Value> {
    let queuing = |field: &str| plain(o, &["spec", "limited", "limitResponse", "queuing", field], NONE);
    vec![
        or_empty(o, &["spec", "type"]),
        plain(o, &["spec", "limited", "nominalConcurrencyShares"], NONE),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(o, now),
    ]
}

/// Flow schemas are told in the order in which they are tried.
pub(super) fn order(o: &Value) -> (i64, &str) {
    let precedence = at(o, &["spec", "matchingPrecedence"]).and_then(Value::as_i64).unwrap_or(0);
    (precedence, text(o, &["metadata", "name"]).unwrap_or_default())
}
