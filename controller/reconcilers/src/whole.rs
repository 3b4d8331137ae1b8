//! Statuses as merge patches write them.
use serde::Serialize;
use serde_json::{Value, json};

/// A status that names all of these fields, so that a merge patch (RFC 7386) leaves nothing old of them behind.
pub(crate) fn whole(status: &impl Serialize, fields: &[&str]) -> Value {
    let mut value = json!(status);
    if let Some(all) = value.as_object_mut() {
        for field in fields {
            all.entry(*field).or_insert(Value::Null);
        }
    }
    value
}
