//! Walking JSON trees by fixed paths.
use serde_json::{Map, Value};

/// The value at a path of keys.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(*key))
}

/// The text at a path.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path).and_then(Value::as_str)
}

/// The integer at a path.
pub(crate) fn integer(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The elements of the list at a path; none when absent.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of the map at a path; none when absent.
pub(crate) fn entries<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    at(value, path).and_then(Value::as_object).into_iter().flatten()
}

/// The list at a path, for change; none when absent.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    match path.iter().try_fold(value, |value, key| value.get_mut(*key)).and_then(Value::as_array_mut) {
        Some(items) => items.as_mut_slice(),
        None => &mut [],
    }
}

/// The map under `key`, made when absent. `None` when `value` or what stands there is no map.
pub(crate) fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let child = value.as_object_mut()?.entry(key).or_insert_with(|| Value::Object(Map::new()));
    child.is_object().then_some(child)
}

/// Sets `key` where it is absent.
pub(crate) fn fill(value: &mut Value, key: &str, default: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.entry(key).or_insert_with(|| default.into());
    }
}

/// Sets `key` where it is absent or an empty string.
pub(crate) fn fill_text(value: &mut Value, key: &str, default: &str) {
    if let Some(map) = value.as_object_mut()
        && map.get(key).and_then(Value::as_str).is_none_or(str::is_empty)
    {
        map.insert(key.to_owned(), default.into());
    }
}

/// Puts back what `old` has under `key`, or removes it.
pub(crate) fn restore(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => {
            map.insert(key.to_owned(), value.clone());
        }
        None => {
            map.remove(key);
        }
    }
}
