//! JSON patch, RFC 6902, with the bounds that keep a small patch from making a huge object.
use crate::status::{Reason, Status};
use serde_json::Value;

/// As Kubernetes: more operations than this are refused.
const MAX_OPERATIONS: usize = 10_000;
/// Largest total of what `copy` operations copy.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// Applies a JSON patch.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, Status> {
    let Some(operations) = patch.as_array() else {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal into a JSON patch, expected an array of operations",
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::request_entity_too_large(&format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut document = object.clone();
    let mut copied = 0usize;
    for (index, operation) in operations.iter().enumerate() {
        apply(&mut document, operation, &mut copied).map_err(|fault| match fault {
            Fault::Malformed(detail) => {
                Status::bad_request(format!("error decoding patch: operation {index}: {detail}"))
            }
            Fault::Impossible(detail) => Status::new(
                Reason::Invalid,
                format!("the server rejected our request due to an error in our request: operation {index}: {detail}"),
            ),
        })?;
    }
    Ok(document)
}

enum Fault {
    Malformed(String),
    Impossible(String),
}

fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), Fault> {
    let text = |key: &str| {
        let value = operation.get(key).and_then(Value::as_str);
        value.ok_or_else(|| Fault::Malformed(format!("expected a string in {key:?}")))
    };
    let value = || operation.get("value").cloned().ok_or_else(|| Fault::Malformed("expected \"value\"".to_owned()));
    let path = tokens(text("path")?)?;
    match text("op")? {
        "add" => add(document, &path, value()?),
        "remove" => remove(document, &path).map(drop),
        "replace" => {
            let target = find_mut(document, &path)?;
            *target = value()?;
            Ok(())
        }
        "move" => {
            let from = tokens(text("from")?)?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(Fault::Impossible("cannot move a value into itself".to_owned()));
            }
            let moved = remove(document, &from)?;
            add(document, &path, moved)
        }
        "copy" => {
            let source = find_mut(document, &tokens(text("from")?)?)?.clone();
            *copied = copied.saturating_add(source.to_string().len());
            if *copied > MAX_COPIED {
                return Err(Fault::Impossible(format!("copies are larger than {MAX_COPIED} bytes")));
            }
            add(document, &path, source)
        }
        "test" => {
            let want = value()?;
            // Kubernetes' library takes a field that is not there for null, and clients rely on it.
            if want.is_null()
                && let Some((last, parents)) = path.split_last()
                && let Ok(Value::Object(parent)) = find_mut(document, parents)
                && !parent.contains_key(last)
            {
                return Ok(());
            }
            match *find_mut(document, &path)? == want {
                true => Ok(()),
                false => Err(Fault::Impossible(format!("testing path {} failed", text("path")?))),
            }
        }
        other => {
            Err(Fault::Malformed(format!("unexpected op {other:?}, expected add, remove, replace, move, copy or test")))
        }
    }
}

fn tokens(pointer: &str) -> Result<Vec<String>, Fault> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = pointer.strip_prefix('/') else {
        return Err(Fault::Malformed(format!("path {pointer:?} must start with '/'")));
    };
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

fn missing(token: &str) -> Fault {
    Fault::Impossible(format!("path has no value at {token:?}"))
}

fn position(token: &str, length: usize) -> Result<usize, Fault> {
    let leading_zero = token.len() > 1 && token.starts_with('0');
    let index: usize =
        token.parse().ok().filter(|_| !leading_zero && !token.starts_with('+')).ok_or_else(|| missing(token))?;
    if index < length { Ok(index) } else { Err(missing(token)) }
}

fn find_mut<'a>(document: &'a mut Value, path: &[String]) -> Result<&'a mut Value, Fault> {
    path.iter().try_fold(document, |value, token| match value {
        Value::Object(map) => map.get_mut(token).ok_or_else(|| missing(token)),
        Value::Array(items) => {
            let at = position(token, items.len())?;
            items.get_mut(at).ok_or_else(|| missing(token))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(missing(token)),
    })
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), Fault> {
    let Some((last, parent)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    match find_mut(document, parent)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
            Ok(())
        }
        Value::Array(items) => {
            let at = if last == "-" { items.len() } else { position(last, items.len() + 1)? };
            items.insert(at, value);
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(missing(last)),
    }
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, Fault> {
    let Some((last, parent)) = path.split_last() else {
        return Err(Fault::Impossible("cannot remove the whole object".to_owned()));
    };
    match find_mut(document, parent)? {
        Value::Object(map) => map.remove(last).ok_or_else(|| missing(last)),
        Value::Array(items) => {
            let at = position(last, items.len())?;
            Ok(items.remove(at))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Err(missing(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations() {
        let object = json!({"a": {"b": [1, 2]}, "c/d": 1});
        for (patch, want) in [
            (json!([{"op": "add", "path": "/a/b/-", "value": 3}]), Some(json!({"a": {"b": [1, 2, 3]}, "c/d": 1}))),
            (json!([{"op": "add", "path": "/a/b/0", "value": 0}]), Some(json!({"a": {"b": [0, 1, 2]}, "c/d": 1}))),
            (json!([{"op": "remove", "path": "/c~1d"}]), Some(json!({"a": {"b": [1, 2]}}))),
            (json!([{"op": "replace", "path": "/a/b", "value": 5}]), Some(json!({"a": {"b": 5}, "c/d": 1}))),
            (json!([{"op": "move", "from": "/a/b", "path": "/e"}]), Some(json!({"a": {}, "c/d": 1, "e": [1, 2]}))),
            (
                json!([{"op": "copy", "from": "/c~1d", "path": "/a/x"}]),
                Some(json!({"a": {"b": [1, 2], "x": 1}, "c/d": 1})),
            ),
            (json!([{"op": "test", "path": "/a/b/1", "value": 2}]), Some(object.clone())),
            (json!([{"op": "test", "path": "/a/b/1", "value": 3}]), None),
            (json!([{"op": "test", "path": "/a/absent", "value": null}]), Some(object.clone())),
            (json!([{"op": "test", "path": "/a/b", "value": null}]), None),
            (json!([{"op": "test", "path": "/absent/absent", "value": null}]), None),
            (json!([{"op": "test", "path": "/a/b/1", "value": null}]), None),
            (json!([{"op": "test", "path": "/a/b/1/absent", "value": null}]), None),
            (json!([{"op": "remove", "path": "/x"}]), None),
            (json!([{"op": "replace", "path": "/x", "value": 1}]), None),
            (json!([{"op": "add", "path": "/a/b/9", "value": 1}]), None),
            (json!([{"op": "move", "from": "/a", "path": "/a/b"}]), None),
            (json!([{"op": "nope", "path": "/a"}]), None),
            (json!([{"path": "/a"}]), None),
            (json!({}), None),
        ] {
            assert_eq!(json_patch(&object, &patch).ok(), want, "{patch}");
        }
    }

    #[test]
    fn doubling_copies_are_stopped() {
        let mut patch = vec![json!({"op": "add", "path": "/a", "value": ["xxxxxxxxxxxxxxxx"]})];
        patch.extend((0..60).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        assert!(json_patch(&json!({}), &Value::Array(patch)).is_err());
    }
}
