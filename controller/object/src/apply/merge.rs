//! Merging an applied configuration into an object, and removing what nobody owns any more.
use super::set::{FieldSet, element_step};
use crate::schema::{Cursor, ListKind, View};
use serde_json::Value;
use std::collections::HashMap;

/// The live value with the applied one laid over it.
pub(super) fn merge(cursor: Cursor<'_>, live: &Value, applied: &Value) -> Value {
    if cursor.is_atomic() {
        return applied.clone();
    }
    match (cursor.view(), live, applied) {
        (View::Struct(_) | View::Map(_) | View::Deduced, Value::Object(live), Value::Object(applied)) => {
            let mut result = live.clone();
            for (key, value) in applied {
                let merged = match (cursor.field(key), live.get(key)) {
                    (Some(field), Some(before)) => merge(field, before, value),
                    _ => value.clone(),
                };
                result.insert(key.clone(), merged);
            }
            Value::Object(result)
        }
        (View::List(item), Value::Array(live), Value::Array(applied)) => {
            Value::Array(merge_list(item, cursor.list_kind(), live, applied))
        }
        _ => applied.clone(),
    }
}

/// Elements keep the applied order; elements of others keep their place before the one they stood before.
fn merge_list(item: Cursor<'_>, kind: &ListKind, live: &[Value], applied: &[Value]) -> Vec<Value> {
    // The first element of a name counts.
    let index = |items: &[Value]| -> HashMap<String, usize> {
        let named = items.iter().enumerate().rev();
        named.filter_map(|(at, item)| Some((element_step(kind, item)?, at))).collect()
    };
    let (in_live, in_applied) = (index(live), index(applied));
    let merged = |at: usize| {
        let before = element_step(kind, &applied[at]).and_then(|step| in_live.get(&step));
        match before {
            Some(before) => merge(item, &live[*before], &applied[at]),
            None => applied[at].clone(),
        }
    };
    let mut result = Vec::with_capacity(live.len() + applied.len());
    let mut next = 0;
    for value in live {
        match element_step(kind, value).and_then(|step| in_applied.get(&step).copied()) {
            None => result.push(value.clone()),
            Some(at) => {
                while next <= at {
                    result.push(merged(next));
                    next += 1;
                }
            }
        }
    }
    result.extend((next..applied.len()).map(merged));
    result
}

/// The path of the first atomic list, map or struct, as `.spec.template.spec.nodeSelector`.
pub(super) fn atomic_path(cursor: Cursor<'_>, applied: &Value) -> Option<String> {
    match (cursor.view(), applied) {
        (View::Struct(_) | View::Map(_) | View::List(_), Value::Object(_) | Value::Array(_)) if cursor.is_atomic() => {
            Some(String::new())
        }
        (View::Struct(_) | View::Map(_), Value::Object(fields)) => fields.iter().find_map(|(key, value)| {
            let below = atomic_path(cursor.field(key)?, value)?;
            Some(format!(".{key}{below}"))
        }),
        (View::List(_), Value::Array(_)) if *cursor.list_kind() == ListKind::Atomic => Some(String::new()),
        (View::List(item), Value::Array(items)) => items.iter().enumerate().find_map(|(index, value)| {
            let below = atomic_path(item, value)?;
            Some(format!("[{index}]{below}"))
        }),
        _ => None,
    }
}

/// Removes the paths of `before` that are not in `keep`.
pub(super) fn remove_unowned(value: &mut Value, before: &FieldSet, keep: &FieldSet) {
    remove_below(value, before, keep, &[]);
}

/// `identity`: keys without which the element could not be told from others.
fn remove_below(value: &mut Value, before: &FieldSet, keep: &FieldSet, identity: &[String]) {
    let nobody = FieldSet::default();
    for (step, gone) in &before.below {
        let kept = keep.below.get(step);
        if kept.is_none() && gone.is_member() {
            if !identity.contains(step) {
                remove(value, step);
            }
            continue;
        }
        let Some(child) = child_mut(value, step) else { continue };
        let was_hollow = is_hollow(child);
        remove_below(child, gone, kept.unwrap_or(&nobody), &identity_of(step));
        if kept.is_none() && is_hollow(child) && !was_hollow {
            remove(value, step);
        }
    }
}

/// The steps to the keys of an element.
fn identity_of(step: &str) -> Vec<String> {
    let keys =
        step.strip_prefix("k:").and_then(|keys| serde_json::from_str::<serde_json::Map<String, Value>>(keys).ok());
    keys.iter().flat_map(serde_json::Map::keys).map(|key| format!("f:{key}")).collect()
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Where an element with these keys (or this value) stands. Without the schema at hand the keys of the step decide.
fn position(items: &[Value], step: &str) -> Option<usize> {
    if let Some(value) = step.strip_prefix("v:") {
        let value: Value = serde_json::from_str(value).ok()?;
        return items.iter().position(|item| *item == value);
    }
    let keys: serde_json::Map<String, Value> = serde_json::from_str(step.strip_prefix("k:")?).ok()?;
    let kind = ListKind::Map(keys.keys().map(|key| key.as_str().into()).collect());
    items.iter().position(|item| element_step(&kind, item).as_deref() == Some(step))
}

fn child_mut<'a>(value: &'a mut Value, step: &str) -> Option<&'a mut Value> {
    if let Some(name) = step.strip_prefix("f:") {
        return value.get_mut(name);
    }
    let items = value.as_array_mut()?;
    let at = position(items, step)?;
    items.get_mut(at)
}

fn remove(value: &mut Value, step: &str) {
    match (value, step.strip_prefix("f:")) {
        (Value::Object(map), Some(name)) => {
            map.remove(name);
        }
        (Value::Array(items), None) => {
            if let Some(at) = position(items, step) {
                items.remove(at);
            }
        }
        _ => {}
    }
}
