//! Fields that no schema names go, and clients that asked are told.
use super::constraint::child;
use super::node::{Additional, Node};
use crate::decode::conform_metadata;
use serde_json::Value;

/// More unknown fields than this are not told.
const MAX_UNKNOWN: usize = 100;

/// Gives an object the structure of its schema; answers the paths of what was dropped. Types of fields are not checked
/// here, but in validation; those of metadata are.
pub(crate) fn conform(node: &Node, object: &mut Value) -> Result<Vec<String>, String> {
    let mut unknown = Vec::new();
    resource(node, "", object, &mut unknown)?;
    unknown.sort();
    unknown.truncate(MAX_UNKNOWN);
    Ok(unknown)
}

/// An object with `apiVersion`, `kind` and `metadata`.
fn resource(node: &Node, path: &str, object: &mut Value, unknown: &mut Vec<String>) -> Result<(), String> {
    if let Some(map) = object.as_object_mut() {
        if let Some(metadata) = map.get_mut("metadata").filter(|metadata| !metadata.is_null()) {
            unknown.extend(conform_metadata(&child(path, "metadata"), metadata)?);
        }
        if map.get("metadata").is_some_and(Value::is_null) {
            map.remove("metadata");
        }
    }
    fields(node, path, object, true, unknown)
}

fn fields(
    node: &Node,
    path: &str,
    value: &mut Value,
    is_resource: bool,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| !value.is_null() || !is_no_value(node, name));
            let drops = !node.keeps_unknown() && matches!(node.additional, Additional::None);
            let mut dropped = Vec::new();
            for (name, value) in map.iter_mut() {
                if is_resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                match node.field(name) {
                    Some(field) if field.embedded => resource(field, &child(path, name), value, unknown)?,
                    Some(field) => fields(field, &child(path, name), value, false, unknown)?,
                    None if drops => dropped.push(name.clone()),
                    None => {}
                }
            }
            for name in dropped {
                map.remove(&name);
                if unknown.len() < MAX_UNKNOWN * 10 {
                    unknown.push(child(path, &name));
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = &node.items else { return Ok(()) };
            for (index, value) in items.iter_mut().enumerate() {
                let path = format!("{path}[{index}]");
                match item.embedded {
                    true => resource(item, &path, value, unknown)?,
                    false => fields(item, &path, value, false, unknown)?,
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

/// Whether null says nothing for a field: its schema neither allows it nor has a default to put in its place. Kubernetes
/// documentation, "Defaulting and Nullable".
fn is_no_value(node: &Node, name: &str) -> bool {
    node.properties.get(name).is_some_and(|field| !field.nullable && field.default.is_none())
}

/// The same for a part of an object, as defaults are. Metadata of embedded objects is taken as it is.
pub(super) fn conform_part(node: &Node, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    // Only metadata can fail, and none is looked at where the value is no resource.
    match fields(node, "", value, node.embedded, &mut unknown) {
        Ok(()) => unknown,
        Err(problem) => vec![problem],
    }
}
