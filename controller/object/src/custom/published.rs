//! The schema of a custom resource as OpenAPI publishes it: what was written, with `apiVersion`, `kind` and `metadata`.
use super::Custom;
use crate::resource::Resource;
use serde_json::{Map, Value, json};

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The published schema.
pub(crate) fn published(resource: &Resource, custom: &Custom) -> Value {
    let written = serde_json::from_str::<Value>(&custom.schema).ok();
    let mut schema = written.unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    envelope(&mut schema);
    embedded(&mut schema);
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
    schema
}

/// The fields that every object has.
fn envelope(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    properties["metadata"] = json!({"description": METADATA, "allOf": [{"$ref": META}]});
}

/// Embedded objects have them too.
fn embedded(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for property in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten().map(|entry| entry.1)
    {
        embedded(property);
        if property["x-kubernetes-embedded-resource"] == true {
            envelope(property);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(name) {
            embedded(inner);
            if inner["x-kubernetes-embedded-resource"] == true {
                envelope(inner);
            }
        }
    }
}
