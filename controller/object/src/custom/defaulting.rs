//! Defaults of schemas: for fields that are absent, and for nulls where null is not allowed.
//! Kubernetes documentation, "Defaulting" and "Defaulting and Nullable".
use super::node::Node;
use super::validate::size;
use crate::schema::ListKind;
use serde_json::Value;

/// Bytes that defaults may add to one object. A list of many empty objects with large defaults would grow without end;
/// an object that grew so far is refused by validation.
const MAX_ADDED: usize = 4 << 20;

/// Fills in defaults. Doing it twice changes nothing.
pub(crate) fn fill_defaults(node: &Node, object: &mut Value) {
    let mut left = MAX_ADDED;
    fill(node, object, true, &mut left);
}

/// Fills in the keys of elements only: without them an element of a list cannot be told from others.
pub(crate) fn fill_keys(node: &Node, value: &mut Value) {
    if !node.has_defaults {
        return;
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                if let Some(field) = node.field(name) {
                    fill_keys(field, value);
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = &node.items else { return };
            let keys = match &node.list {
                Some(ListKind::Map(keys)) => keys.as_slice(),
                _ => &[],
            };
            for value in items {
                for key in keys {
                    let default = item.properties.get(&**key).and_then(|node| node.default.as_ref());
                    if let (Some(default), Value::Object(map)) = (default, &mut *value) {
                        map.entry(key.to_string()).or_insert_with(|| default.clone());
                    }
                }
                fill_keys(item, value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn fill(node: &Node, value: &mut Value, is_resource: bool, left: &mut usize) {
    if !node.has_defaults || *left == 0 {
        return;
    }
    match value {
        Value::Object(map) => {
            let is_resource = is_resource || node.embedded;
            for (name, field) in &node.properties {
                if is_resource && name == "metadata" {
                    continue;
                }
                let is_absent = match map.get(name) {
                    None => true,
                    Some(value) => value.is_null() && !field.nullable,
                };
                if let (true, Some(default)) = (is_absent, &field.default) {
                    let cost = size(default, MAX_ADDED) + name.len();
                    if cost > *left {
                        *left = 0;
                        return;
                    }
                    *left -= cost;
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if is_resource && name == "metadata" {
                    continue;
                }
                if let Some(field) = node.field(name) {
                    fill(field, value, false, left);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                items.iter_mut().for_each(|value| fill(item, value, false, left));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
