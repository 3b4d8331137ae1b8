//! `/openapi/v2`: all documents of version 3 as one of version 2 (the OpenAPI 2.0 specification), for older clients and
//! generators. Made when asked for.
use super::{described, descriptions, index};
use crate::resource::Table;
use serde_json::{Map, Value, json};

/// The media type of the document as protobuf.
pub const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What client-go asks for and, because of its `@`, cannot read in an answer.
pub const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Schemas nest no deeper; what does is cut.
const MAX_DEPTH: usize = 100;

/// The document of everything that is served.
pub fn whole(table: &Table) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    let (index, words) = (index(table), descriptions());
    for path in index["paths"].as_object().into_iter().flatten().map(|(path, _)| path) {
        let Some(Value::Object(mut part)) = described(table, path, &words) else { continue };
        if let Some(Value::Object(items)) = part.remove("paths") {
            paths.extend(items.into_iter().map(|(path, item)| (path, path_item(item))));
        }
        let schemas = part.get_mut("components").and_then(|components| components.get_mut("schemas"));
        if let Some(Value::Object(schemas)) = schemas.map(Value::take) {
            definitions.extend(schemas.into_iter().map(|(name, value)| (name, schema(value, 0))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.37.0"},
        "paths": paths,
        "definitions": definitions,
    })
}

/// A schema without what version 2 does not know.
fn schema(value: Value, depth: usize) -> Value {
    let Value::Object(mut map) = value else { return value };
    if depth > MAX_DEPTH {
        return json!({});
    }
    // A reference that had words beside it.
    if let Some(Value::Array(mut all)) = map.remove("allOf")
        && all.len() == 1
        && let Some(Value::Object(only)) = all.pop()
    {
        map.extend(only);
    }
    if let Some(Value::String(target)) = map.get_mut("$ref") {
        *target = target.replace("#/components/schemas/", "#/definitions/");
    }
    let either = map.remove("oneOf").or_else(|| map.remove("anyOf"));
    let is_mixed = either
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(|kinds| kinds.iter().any(|kind| kind["type"] == "string") && !map.contains_key("type"));
    if is_mixed {
        // IntOrString and Quantity are strings with a format here.
        map.insert("type".into(), "string".into());
    }
    // Version 2 cannot say that unknown fields stay beside known ones.
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        for structure in ["properties", "additionalProperties", "items", "required"] {
            map.remove(structure);
        }
    }
    // Nor that null is a value of a type.
    if is_nullable(map.get("nullable")) {
        for typed in ["type", "properties", "items"] {
            map.remove(typed);
        }
    }
    // kubectl refuses to read lists of anything.
    if map.get("type").is_some_and(|kind| kind == "array") && !map.contains_key("items") {
        map.remove("type");
    }
    for unknown in ["anyOf", "not", "nullable"] {
        map.remove(unknown);
    }
    let properties = map.get("properties").and_then(Value::as_object);
    let nullable = properties.into_iter().flatten().filter(|(_, property)| is_nullable(property.get("nullable")));
    let nullable: Vec<String> = nullable.map(|(name, _)| name.clone()).collect();
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|own| name == own));
        if required.is_empty() {
            map.remove("required");
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(name) {
            *inner = schema(inner.take(), depth + 1);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for property in properties.values_mut() {
            *property = schema(property.take(), depth + 1);
        }
    }
    Value::Object(map)
}

fn is_nullable(flag: Option<&Value>) -> bool {
    flag.and_then(Value::as_bool).unwrap_or(false)
}

fn path_item(mut item: Value) -> Value {
    for (key, value) in item.as_object_mut().into_iter().flatten() {
        if key == "parameters" {
            parameters(value);
        } else {
            operation(value);
        }
    }
    item
}

/// Types of parameters stand beside their names in version 2.
fn parameters(list: &mut Value) {
    for parameter in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(Value::Object(schema)) = parameter.remove("schema") {
            parameter.extend(schema);
        }
    }
}

fn operation(operation: &mut Value) {
    let Some(map) = operation.as_object_mut() else { return };
    if let Some(list) = map.get_mut("parameters") {
        parameters(list);
    }
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object();
        let consumes: Vec<&String> = content.into_iter().flatten().map(|(media_type, _)| media_type).collect();
        let of_body = content.and_then(|content| content.values().next()).map(|first| first["schema"].clone());
        let required = body["required"].as_bool().unwrap_or(false);
        let parameter = json!({"name": "body", "in": "body", "required": required,
            "schema": schema(of_body.unwrap_or_default(), 0)});
        map.insert("consumes".into(), json!(consumes));
        if let Some(list) = map.entry("parameters").or_insert_with(|| json!([])).as_array_mut() {
            list.push(parameter);
        }
    }
    map.insert("produces".into(), json!(["application/json", "application/yaml"]));
    for response in map.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten().map(|entry| entry.1) {
        let answered = response["content"]["application/json"]["schema"].take();
        if let Some(response) = response.as_object_mut() {
            response.remove("content");
            response.insert("schema".into(), schema(answered, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_version_2_cannot_say_is_left_open() {
        let list = json!({"type": "array", "nullable": true, "x-kubernetes-preserve-unknown-fields": true});
        let own = json!({"type": "object", "required": ["name", "list"], "properties": {
            "name": {"type": "string"}, "list": list,
            "free": {"type": "array", "x-kubernetes-preserve-unknown-fields": true},
            "maybe": {"type": "object", "nullable": true, "properties": {"a": {"type": "string"}}}}});
        let keeps = json!({"x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(
            schema(own, 0),
            json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "list": keeps, "free": keeps, "maybe": {}}})
        );
    }

    #[test]
    fn everything_stands_in_one_document_and_refers_only_to_it() {
        let document = whole(Table::builtin());
        let definitions = document["definitions"].as_object().unwrap();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        let name = target.strip_prefix("#/definitions/").unwrap();
                        assert!(definitions.contains_key(name), "{name}");
                    }
                    open.extend(map.values());
                }
                Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
        let spec = &definitions["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["containers"]["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
        assert_eq!(spec["securityContext"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSecurityContext");
        assert!(spec["securityContext"]["description"].is_string());
        let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
        assert_eq!(
            (&port["type"], &port["format"], port.get("oneOf")),
            (&json!("string"), &json!("int-or-string"), None)
        );
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|parameter| parameter["name"] == "dryRun" && parameter["type"] == "string"));
        assert!(parameters.iter().any(|parameter| parameter["in"] == "body"));
        assert!(patch["consumes"].as_array().unwrap().len() == 4, "{patch}");
    }
}
