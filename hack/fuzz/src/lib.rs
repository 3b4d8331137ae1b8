//! What the fuzz targets share: a kind, two values out of one input, the way of an object through the server.
//! Never holds a check that the unit tests lack.
//! Start reading at `fuzz_targets`, one file per decoder.

use controller_object::apply::{Manager, Operation};
use controller_object::decode::{FieldValidation, conform, decode};
use controller_object::media::MediaType;
use controller_object::resource::{Resource, Table};
use controller_object::{defaulting, validation};
use serde_json::{Value, json};

/// Pods have most of what a schema can have.
pub fn pods() -> &'static Resource {
    Table::builtin().find("", "v1", "pods").expect("a built-in kind")
}

/// A body of a medium, as far as the server takes it.
pub fn body(media: MediaType, bytes: &[u8]) {
    if let Ok(decoded) = decode(Table::builtin(), pods(), media, bytes, FieldValidation::Warn) {
        object(decoded.object);
    }
}

/// What happens to every pod that was decoded.
pub fn object(mut object: Value) {
    defaulting::default(pods(), &mut object);
    let _ = validation::validate_create(pods(), &object);
}

/// The same for what a patch made.
pub fn patched(mut value: Value) {
    if conform(pods(), &mut value, FieldValidation::Ignore).is_ok() {
        object(value);
    }
}

/// Two JSON values, one a line.
pub fn two(bytes: &[u8]) -> Option<(Value, Value)> {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (first, second) = (lines.next()?, lines.next()?);
    Some((serde_json::from_slice(first).ok()?, serde_json::from_slice(second).ok()?))
}

/// A pod to patch.
pub fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}, "finalizers": ["x/y"]},
        "spec": {"containers": [{"name": "c", "image": "i", "args": ["x"], "env": [{"name": "A", "value": "1"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}]}], "nodeSelector": {"disk": "ssd"}}})
}

/// Somebody who writes.
pub fn manager(name: &str, operation: Operation) -> Manager {
    Manager { name: name.into(), operation, subresource: None, now: "2026-01-01T00:00:00Z".into() }
}
