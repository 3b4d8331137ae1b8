//! Strategic merge patch: lists merge by key or value where the schema says so.
//! Directives: `$patch: delete|replace|merge`, `$retainKeys`, `$deleteFromPrimitiveList/F`, `$setElementOrder/F`.
use crate::resource::Resource;
use crate::schema::{Cursor, View};
use crate::status::Status;
use serde_json::{Map, Value};
use std::collections::HashMap;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";
const MAX_DEPTH: usize = 200;

/// Applies a strategic merge patch to an object of `resource`.
pub fn strategic_merge_patch(resource: &Resource, object: &Value, patch: &Value) -> Result<Value, Status> {
    let (Value::Object(original), Value::Object(changes)) = (object, patch) else {
        return Err(Status::bad_request("strategic merge patch must be a JSON object"));
    };
    merge_map(resource.cursor(), original.clone(), changes, 0).map(Value::Object).map_err(Status::bad_request)
}

fn merge_map(
    cursor: Option<Cursor<'_>>,
    mut original: Map<String, Value>,
    changes: &Map<String, Value>,
    depth: usize,
) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err("patch exceeds the maximum depth".to_owned());
    }
    match changes.get(PATCH).map(|v| v.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            let mut result = stripped_map(changes);
            result.remove(PATCH);
            return Ok(result);
        }
        Some("delete") => return Ok(Map::new()),
        Some(other) => {
            return Err(format!("unknown patch type {other:?} found in {PATCH}, expected delete, merge or replace"));
        }
    }
    if let Some(keep) = changes.get(RETAIN) {
        let keep = keep.as_array().ok_or_else(|| format!("{RETAIN} must be a list"))?;
        for key in changes.keys().filter(|key| !key.starts_with('$')) {
            if !changes[key].is_null() && !keep.iter().any(|k| k.as_str() == Some(key)) {
                return Err(format!("{RETAIN} list doesn't contain {key:?}, which the patch sets"));
            }
        }
        original.retain(|key, _| keep.iter().any(|k| k.as_str() == Some(key)));
    }
    for (key, change) in changes {
        if key == PATCH || key == RETAIN {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_PREFIX) {
            let gone = change.as_array().ok_or_else(|| format!("{key} must be a list"))?;
            if let Some(Value::Array(items)) = original.get_mut(field) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if let Some(field) = key.strip_prefix(ORDER_PREFIX) {
            // The order alone, without changes to the list; with changes it is read below.
            if !changes.contains_key(field)
                && let Some(Value::Array(items)) = original.remove(field)
            {
                let ordered = reorder(list_key(cursor, field), items, &[], change)?;
                original.insert(field.to_owned(), Value::Array(ordered));
            }
            continue;
        }
        if change.is_null() {
            original.remove(key);
            continue;
        }
        let field = cursor.and_then(|c| c.field(key));
        let merged = match (original.remove(key), change) {
            (Some(Value::Object(before)), Value::Object(after)) => {
                if field.and_then(Cursor::patch).is_some_and(|p| p.replace) {
                    Value::Object(stripped_map(after))
                } else {
                    Value::Object(merge_map(field, before, after, depth + 1)?)
                }
            }
            (Some(Value::Array(before)), Value::Array(after)) => {
                let order = changes.get(&format!("{ORDER_PREFIX}{key}"));
                Value::Array(merge_list(field, before, after, order, depth + 1)?)
            }
            (None, Value::Object(after)) => Value::Object(merge_map(field, Map::new(), after, depth + 1)?),
            (None, Value::Array(after)) => {
                let order = changes.get(&format!("{ORDER_PREFIX}{key}"));
                Value::Array(merge_list(field, Vec::new(), after, order, depth + 1)?)
            }
            (_, other) => stripped(other),
        };
        original.insert(key.clone(), merged);
    }
    Ok(original)
}

/// The key that tells the elements of a list apart.
fn list_key<'a>(cursor: Option<Cursor<'a>>, field: &str) -> Option<&'a str> {
    cursor?.field(field)?.patch()?.key.as_deref()
}

fn merge_list(
    field: Option<Cursor<'_>>,
    before: Vec<Value>,
    after: &[Value],
    order: Option<&Value>,
    depth: usize,
) -> Result<Vec<Value>, String> {
    let kind = field.and_then(Cursor::patch);
    let merges = kind.is_some_and(|k| k.merge);
    if !merges {
        return Ok(after.iter().filter(|item| item.get(PATCH).is_none()).map(stripped).collect());
    }
    let Some(key) = kind.and_then(|k| k.key.as_deref()) else {
        // Scalars: a set union in order of first appearance.
        let mut result = before.clone();
        for item in after {
            if !result.contains(item) {
                result.push(item.clone());
            }
        }
        return match order {
            Some(order) => reorder(None, result, &before, order),
            None => Ok(result),
        };
    };
    let item_cursor = match field.map(Cursor::view) {
        Some(View::List(item)) => Some(item),
        _ => None,
    };
    let replaces = after.iter().any(|item| item.get(PATCH).and_then(Value::as_str) == Some("replace"));
    let start = if replaces { Vec::new() } else { before.clone() };
    let mut at: HashMap<String, usize> = HashMap::new();
    for (index, item) in start.iter().enumerate() {
        if let Some(id) = item.get(key) {
            at.entry(id.to_string()).or_insert(index);
        }
    }
    // Deleted elements leave a gap until the end, so that places stay valid.
    let mut places: Vec<Option<Value>> = start.into_iter().map(Some).collect();
    for item in after {
        let Value::Object(changes) = item else {
            return Err(format!("expected objects in a list that merges by {key:?}"));
        };
        let directive = changes.get(PATCH).and_then(Value::as_str);
        if directive == Some("replace") && !changes.contains_key(key) {
            continue;
        }
        let Some(id) = changes.get(key) else {
            return Err(format!("map: {item} does not contain declared merge key: {key}"));
        };
        let known = at.get(&id.to_string()).copied().and_then(|index| places.get_mut(index));
        match (directive, known) {
            (Some("delete"), Some(place)) => {
                *place = None;
                at.remove(&id.to_string());
            }
            (Some("delete"), None) => {}
            (_, Some(place)) => {
                let current = place.take().and_then(|v| v.as_object().cloned()).unwrap_or_default();
                *place = Some(Value::Object(merge_map(item_cursor, current, changes, depth + 1)?));
            }
            (_, None) => {
                at.insert(id.to_string(), places.len());
                places.push(Some(Value::Object(merge_map(item_cursor, Map::new(), changes, depth + 1)?)));
            }
        }
    }
    let result: Vec<Value> = places.into_iter().flatten().collect();
    match order {
        Some(order) => reorder(Some(key), result, &before, order),
        None => Ok(result),
    }
}

/// Puts listed elements into the given order; others keep their place relative to their neighbours in `before`.
fn reorder(key: Option<&str>, items: Vec<Value>, before: &[Value], order: &Value) -> Result<Vec<Value>, String> {
    let order = order.as_array().ok_or_else(|| format!("{ORDER_PREFIX} directives must be lists"))?;
    let id = |item: &Value| match key {
        Some(key) => item.get(key).map(Value::to_string),
        None => Some(item.to_string()),
    };
    let index = |items: &[Value]| -> HashMap<String, usize> {
        items.iter().enumerate().rev().filter_map(|(at, item)| Some((id(item)?, at))).collect()
    };
    let (ranks, places) = (index(order), index(before));
    let rank = |item: &Value| id(item).and_then(|id| ranks.get(&id).copied());
    let place = |item: &Value| id(item).and_then(|id| places.get(&id).copied());
    let (mut listed, others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|item| rank(item).is_some());
    listed.sort_by_cached_key(&rank);
    // Merge: an unlisted element goes before the first listed one that stood behind it.
    let mut result = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in listed {
        while let Some(other) = others.peek() {
            match (place(other), place(&item)) {
                (Some(a), Some(b)) if a < b => result.extend(others.next()),
                _ => break,
            }
        }
        result.push(item);
    }
    result.extend(others);
    Ok(result)
}

/// A value of the patch as it enters the object: without directives and nulls.
fn stripped(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(stripped_map(map)),
        Value::Array(items) => Value::Array(items.iter().map(stripped).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn stripped_map(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter()
        .filter(|(key, value)| {
            !value.is_null()
                && *key != PATCH
                && *key != RETAIN
                && !key.starts_with(DELETE_PREFIX)
                && !key.starts_with(ORDER_PREFIX)
        })
        .map(|(key, value)| (key.clone(), stripped(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;
    use serde_json::json;

    fn patch(object: Value, patch: Value) -> Result<Value, Status> {
        strategic_merge_patch(Table::builtin().find("", "v1", "pods").unwrap(), &object, &patch)
    }

    #[test]
    fn containers_merge_by_name() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "a:1", "args": ["x"]}, {"name": "b", "image": "b:1"}]}});
        let result =
            patch(pod.clone(), json!({"spec": {"containers": [{"name": "a", "image": "a:2", "args": ["y"]}]}}))
                .unwrap();
        assert_eq!(
            result["spec"]["containers"],
            json!([{"name": "a", "image": "a:2", "args": ["y"]}, {"name": "b", "image": "b:1"}])
        );
        let result = patch(pod.clone(), json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"$patch": "delete", "name": "b"}]}})).unwrap();
        assert_eq!(result["spec"]["containers"], json!([{"name": "a", "image": "a:1", "args": ["x"]}]));
        let result =
            patch(pod.clone(), json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}})).unwrap();
        assert_eq!(result["spec"]["containers"], json!([{"name": "c"}]));
        let result = patch(pod.clone(), json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c"}]}})).unwrap();
        let names: Vec<_> =
            result["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
        assert_eq!(names, ["c", "b", "a"]);
        assert!(patch(pod, json!({"spec": {"containers": [{"image": "x"}]}})).is_err());
    }

    #[test]
    fn maps_and_primitive_lists() {
        let pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}, "spec": {"tolerations": [{"key": "a"}]}});
        let result =
            patch(pod.clone(), json!({"metadata": {"labels": {"a": null, "c": "3"}, "finalizers": ["z"]}})).unwrap();
        assert_eq!(result["metadata"], json!({"labels": {"b": "2", "c": "3"}, "finalizers": ["x", "y", "z"]}));
        let result = patch(pod.clone(), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}})).unwrap();
        assert_eq!(result["metadata"]["finalizers"], json!(["y"]));
        let result = patch(pod.clone(), json!({"spec": {"tolerations": [{"key": "b"}]}})).unwrap();
        assert_eq!(result["spec"]["tolerations"], json!([{"key": "b"}]));
        let result = patch(pod.clone(), json!({"metadata": {"labels": {"$patch": "replace", "z": "1"}}})).unwrap();
        assert_eq!(result["metadata"]["labels"], json!({"z": "1"}));
        assert!(patch(pod, json!({"metadata": {"$patch": "nope"}})).is_err());
    }

    #[test]
    fn retain_keys_clears_the_rest() {
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let result = patch(pod, json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}})).unwrap();
        assert_eq!(result["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/x"}}]));
    }
}
