//! Maps that have a value for every key: domains of a device's attributes, of which the absent ones are empty
//! (Kubernetes documentation, "Dynamic Resource Allocation", selectors).
use super::Value;
use kube_cel::cel::objects::{Map, Opaque};
use std::sync::Arc;

/// A map, and what it says of keys that it has not.
#[derive(Debug, PartialEq, Eq)]
struct Total {
    map: Value,
    absent: Value,
}

impl Opaque for Total {
    fn runtime_type_name(&self) -> &str {
        "map"
    }
}

/// A map with text keys that is asked for `absent` where a key is missing; `in` and macros see what is there.
pub fn total<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>, absent: Value) -> Value {
    Value::Opaque(Arc::new(Total { map: super::map(entries), absent }))
}

/// The map that a value is, and what it says of absent keys; `None` for values of other types.
pub(super) fn as_map(value: &Value) -> Option<(&Map, Option<&Value>)> {
    match value {
        Value::Map(map) => Some((map, None)),
        Value::Opaque(opaque) => match opaque.downcast_ref::<Total>() {
            Some(Total { map: Value::Map(map), absent }) => Some((map, Some(absent))),
            Some(_) | None => None,
        },
        _ => None,
    }
}
