//! The three kinds of patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch.
mod json;
mod strategic;

use crate::status::Status;
pub use json::json_patch;
use serde_json::{Map, Value};
pub use strategic::strategic_merge_patch;

/// Applies a merge patch: maps merge, `null` deletes, everything else replaces.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("merge patch must be a JSON object"));
    }
    Ok(merged(object, patch))
}

fn merged(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result: Map<String, Value> = target.as_object().cloned().unwrap_or_default();
    for (key, change) in patch {
        if change.is_null() {
            result.remove(key);
        } else {
            let current = result.remove(key).unwrap_or(Value::Null);
            result.insert(key.clone(), merged(&current, change));
        }
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_follows_the_rfc() {
        for (object, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": [2, 3]}), json!({"a": [2, 3]})),
            (json!({"a": "x"}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
        ] {
            assert_eq!(merge_patch(&object, &patch).unwrap(), want);
        }
        assert!(merge_patch(&json!({}), &json!([])).is_err());
    }
}
