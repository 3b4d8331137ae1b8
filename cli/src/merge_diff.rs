//! What changed between two objects, as a merge patch (RFC 7386), and whether two such changes meet.

use serde_json::{Map, Value};

/// The merge patch that makes `new` of `old`; `None` where they are equal. A null in `new` counts as absent.
pub(crate) fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| new.get(*key).is_none_or(Value::is_null)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new.iter().filter(|(_, value)| !value.is_null()) {
        match old.get(key) {
            None => drop(patch.insert(key.clone(), value.clone())),
            Some(before) => patch.extend(merge_diff(before, value).map(|change| (key.clone(), change))),
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Whether two merge patches change the same field to different values.
pub(crate) fn meet(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().any(|(key, value)| other.get(key).is_some_and(|there| meet(value, there)))
        }
        (one, other) => one != other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_holds_what_changed() {
        let old = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": null});
        let new = json!({"a": 1, "b": {"c": [1, 2]}, "f": "x"});
        let patch = merge_diff(&old, &new).unwrap_or_default();
        assert_eq!(patch, json!({"b": {"c": [1, 2], "d": null}, "e": null, "f": "x"}));
        let made = controller_object::patch::merge_patch(&old, &patch).ok();
        assert_eq!(made, Some(new));
        assert_eq!(merge_diff(&old, &old), None);
    }

    #[test]
    fn changes_meet_in_one_field() {
        let one = json!({"a": {"b": 1}, "c": 2});
        assert!(!meet(&one, &json!({"a": {"x": 1}, "c": 2})));
        assert!(meet(&one, &json!({"a": {"b": 2}})));
        assert!(meet(&one, &json!({"a": null})));
    }
}
