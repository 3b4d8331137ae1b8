//! `/openapi/v3`: schemas with descriptions, list and patch keys, and the paths that kubectl looks for.
//! Documents are made when asked for; descriptions stay packed in the binary until then.
pub mod gnostic;
pub mod v2;

use crate::custom;
use crate::resource::{Resource, Subresource, Table, Verbs, join_version};
use crate::schema::{Field, ListKind, Node, Scalar, Schema, Shape, Type, TypeId};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const PACKED: &[u8] = include_bytes!("../generated/descriptions.zst");
/// Unpacked, the descriptions take about one and a half megabytes.
const MAX_UNPACKED: u64 = 16 * 1024 * 1024;
const INPUTS: &str = include_str!("../generated/inputs.sha256");

type Descriptions = BTreeMap<String, BTreeMap<String, String>>;

fn descriptions() -> Descriptions {
    use std::io::Read as _;
    let mut text = Vec::new();
    let unpacked = zstd::Decoder::new(PACKED).and_then(|decoder| decoder.take(MAX_UNPACKED).read_to_end(&mut text));
    // The bytes are part of the binary and a test reads them; without them documents lack words, nothing else.
    unpacked.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Path of a group version below `/openapi/v3`.
fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`
pub fn index(table: &Table) -> Value {
    let mut paths = Map::new();
    for group in table.groups() {
        for version in table.versions(group) {
            let path = path_of(group, version);
            let url = format!("/openapi/v3/{path}?hash={}", hash(table, group, version));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// What the address of a document has as its hash; `None` where there is no such document.
pub fn hash_of(table: &Table, group_version: &str) -> Option<String> {
    let (group, version) = split(group_version)?;
    table.versions(group).iter().any(|known| known == version).then(|| hash(table, group, version))
}

/// A hash of all documents together.
pub fn hash_of_all(table: &Table) -> String {
    use sha2::Digest as _;
    let mut all = sha2::Sha256::new();
    for group in table.groups() {
        for version in table.versions(group) {
            all.update(hash(table, group, version));
        }
    }
    all.finalize().iter().take(32).map(|b| format!("{b:02X}")).collect()
}

/// Group and version of a path below `/openapi/v3`.
fn split(group_version: &str) -> Option<(&str, &str)> {
    match group_version.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => Some(("", version)),
        ["apis", group, version] => Some((group, version)),
        _ => None,
    }
}

/// Changes whenever the document of the group version could.
fn hash(table: &Table, group: &str, version: &str) -> String {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    hash.update(INPUTS);
    hash.update(env!("CARGO_PKG_VERSION"));
    for resource in table.all().filter(|r| r.group == group && r.version == version) {
        hash.update(format!(
            "{} {} {:?} {:?}\n",
            resource.plural, resource.kind, resource.scope, resource.subresources
        ));
        if let Some(custom) = &resource.custom {
            hash.update(&custom.digest);
        }
    }
    hash.finalize().iter().take(32).map(|b| format!("{b:02X}")).collect()
}

/// The document of one group version, as JSON text.
pub fn document(table: &Table, group_version: &str) -> Option<Vec<u8>> {
    serde_json::to_vec(&described(table, group_version, &descriptions())?).ok()
}

/// The same with descriptions that are at hand.
fn described(table: &Table, group_version: &str, words: &Descriptions) -> Option<Value> {
    let (group, version) = split(group_version)?;
    let resources: Vec<&Resource> =
        table.all().map(AsRef::as_ref).filter(|r| r.group == group && r.version == version).collect();
    if resources.is_empty() {
        return None;
    }
    let schema = Schema::builtin();
    let mut schemas = Map::new();
    let mut paths = Map::new();
    let mut wanted: BTreeSet<TypeId> = BTreeSet::new();
    for resource in &resources {
        match &resource.custom {
            Some(custom) => {
                schemas.insert(resource.type_name.clone(), custom::published(resource, custom));
                wanted.extend(schema.find(&format!("{META}.ObjectMeta")));
            }
            None => wanted.extend(resource.root),
        }
        add_paths(&mut paths, resource);
        if resource.verbs != Verbs::CreateOnly {
            schemas.insert(format!("{}List", resource.type_name), list_schema(resource));
            wanted.extend(schema.find(LIST_META));
        }
        for subresource in &resource.subresources {
            wanted.extend(exchanged_type(*subresource).and_then(|name| schema.find(name)));
        }
    }
    wanted.extend(["Status", "DeleteOptions"].iter().filter_map(|n| schema.find(&format!("{META}.{n}"))));
    for id in closure(schema, wanted) {
        let kind = schema.get(id);
        schemas.insert(kind.name.to_string(), type_schema(table, schema, kind, words.get(&*kind.name)));
    }
    schemas.insert(format!("{META}.Patch"), json!({"type": "object", "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body."}));
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

fn exchanged_type(subresource: Subresource) -> Option<&'static str> {
    match subresource {
        Subresource::Scale => Some("io.k8s.api.autoscaling.v1.Scale"),
        Subresource::Eviction => Some("io.k8s.api.policy.v1.Eviction"),
        Subresource::Binding => Some("io.k8s.api.core.v1.Binding"),
        Subresource::Token => Some("io.k8s.api.authentication.v1.TokenRequest"),
        Subresource::Status
        | Subresource::Log
        | Subresource::Exec
        | Subresource::Attach
        | Subresource::PortForward
        | Subresource::Proxy
        | Subresource::Approval
        | Subresource::Finalize
        | Subresource::EphemeralContainers
        | Subresource::Resize => None,
    }
}

/// The types and everything they refer to.
fn closure(schema: &Schema, mut open: BTreeSet<TypeId>) -> BTreeSet<TypeId> {
    let mut done = BTreeSet::new();
    while let Some(id) = open.pop_first() {
        if !done.insert(id) {
            continue;
        }
        let mut visit = |node: &Node| {
            let mut node = node;
            while let Node::List(item) | Node::Map(item) = node {
                node = item;
            }
            if let Node::Ref(next) = node
                && !done.contains(next)
            {
                open.insert(*next);
            }
        };
        match &schema.get(id).shape {
            Shape::Struct(fields) => fields.iter().for_each(|f| visit(&f.node)),
            Shape::Alias(node) => visit(node),
        }
    }
    done
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn group_version_kind(resource: &Resource, kind: &str) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": kind})
}

fn list_schema(resource: &Resource) -> Value {
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "items": {"type": "array", "items": {"allOf": [reference(&resource.type_name)], "default": {}}},
            "metadata": {"allOf": [reference(LIST_META)], "default": {}},
        },
        "x-kubernetes-group-version-kind": [group_version_kind(resource, &resource.list_kind)],
    })
}

fn type_schema(table: &Table, schema: &Schema, kind: &Type, words: Option<&BTreeMap<String, String>>) -> Value {
    let word = |field: &str| words.and_then(|w| w.get(field));
    let mut value = match &kind.shape {
        Shape::Alias(node) => node_schema(schema, node),
        Shape::Struct(fields) => {
            let mut properties = Map::new();
            for field in fields {
                properties.insert(field.name.to_string(), field_schema(schema, field, word(&field.name)));
            }
            let required: Vec<&str> = fields.iter().filter(|f| f.required).map(|f| &*f.name).collect();
            let mut value = json!({"type": "object", "properties": properties});
            if !required.is_empty() {
                value["required"] = json!(required);
            }
            value
        }
    };
    if let Some(word) = word("") {
        value["description"] = word.as_str().into();
    }
    if kind.atomic {
        value["x-kubernetes-map-type"] = "atomic".into();
    }
    let kinds: Vec<Value> =
        table.all().filter(|r| r.type_name == *kind.name).map(|r| group_version_kind(r, &r.kind)).collect();
    if !kinds.is_empty() {
        value["x-kubernetes-group-version-kind"] = kinds.into();
    }
    value
}

fn field_schema(schema: &Schema, field: &Field, word: Option<&String>) -> Value {
    let mut value = node_schema(schema, &field.node);
    // Beside a `$ref` nothing else is read.
    if value.get("$ref").is_some() {
        value = json!({"allOf": [value]});
    }
    if let Some(word) = word {
        value["description"] = word.as_str().into();
    }
    if field.list_stated {
        let (kind, keys) = match &field.list {
            ListKind::Atomic => ("atomic", None),
            ListKind::Set => ("set", None),
            ListKind::Map(keys) => ("map", Some(keys)),
        };
        value["x-kubernetes-list-type"] = kind.into();
        if let Some(keys) = keys {
            value["x-kubernetes-list-map-keys"] = keys.iter().map(|k| Value::from(&**k)).collect();
        }
    }
    if let Some(atomic) = field.atomic {
        value["x-kubernetes-map-type"] = if atomic { "atomic" } else { "granular" }.into();
    }
    let strategies =
        [(field.patch.merge, "merge"), (field.patch.replace, "replace"), (field.patch.retain_keys, "retainKeys")];
    let strategies: Vec<&str> = strategies.into_iter().filter(|s| s.0).map(|s| s.1).collect();
    if !strategies.is_empty() {
        value["x-kubernetes-patch-strategy"] = strategies.join(",").into();
    }
    if let Some(key) = &field.patch.key {
        value["x-kubernetes-patch-merge-key"] = (&**key).into();
    }
    value
}

fn node_schema(schema: &Schema, node: &Node) -> Value {
    match node {
        Node::Ref(id) => reference(&schema.get(*id).name),
        Node::List(item) => json!({"type": "array", "items": node_schema(schema, item)}),
        Node::Map(item) => json!({"type": "object", "additionalProperties": node_schema(schema, item)}),
        Node::Object => json!({"type": "object"}),
        Node::Any | Node::Deduced => json!({}),
        Node::Scalar(scalar) => match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Number => json!({"type": "number", "format": "double"}),
            Scalar::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        },
    }
}

fn query(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": "string", "uniqueItems": true}})
}

fn operation(resource: &Resource, action: &str) -> Value {
    let mut parameters = Vec::new();
    if matches!(action, "post" | "put" | "patch") {
        parameters.push(query(
            "dryRun",
            "When present, indicates that modifications should not be persisted. Valid values are: All.",
        ));
        parameters.push(query("fieldManager", "The name of the actor that makes the change."));
        parameters
            .push(query("fieldValidation", "What to do about unknown or doubled fields: Ignore, Warn or Strict."));
    }
    if action == "patch" {
        parameters.push(json!({"name": "force", "in": "query", "description": "Take fields over from other managers. Apply patches only.", "schema": {"type": "boolean", "uniqueItems": true}}));
    }
    if matches!(action, "list" | "deletecollection" | "watch") {
        for (name, description) in [
            ("labelSelector", "Restricts the objects by their labels."),
            ("fieldSelector", "Restricts the objects by their fields."),
            ("continue", "The token of the previous page."),
            ("resourceVersion", "How old the answer may be."),
        ] {
            parameters.push(query(name, description));
        }
        parameters.push(json!({"name": "limit", "in": "query", "description": "Objects on one page.", "schema": {"type": "integer", "uniqueItems": true}}));
    }
    let answer = match action {
        "list" => format!("{}List", resource.type_name),
        "delete" | "deletecollection" => format!("{META}.Status"),
        _ => resource.type_name.clone(),
    };
    let content = |name: &str| json!({"schema": reference(name)});
    let mut value = json!({
        "operationId": format!("{action}{}{}", if resource.is_namespaced() { "Namespaced" } else { "" }, resource.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": content(&answer)}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": group_version_kind(resource, &resource.kind),
    });
    match action {
        "post" | "put" => {
            value["requestBody"] = json!({"required": true, "content": {"application/json": content(&resource.type_name), "application/yaml": content(&resource.type_name)}});
        }
        "patch" => {
            let patch = content(&format!("{META}.Patch"));
            value["requestBody"] = json!({"required": true, "content": {
                "application/apply-patch+yaml": patch, "application/json-patch+json": patch,
                "application/merge-patch+json": patch}});
            // Clients read here how they may patch; custom resources have no patch keys.
            if resource.custom.is_none() {
                value["requestBody"]["content"]["application/strategic-merge-patch+json"] = patch;
            }
        }
        "delete" | "deletecollection" => {
            value["requestBody"] = json!({"content": {"application/json": content(&format!("{META}.DeleteOptions"))}});
        }
        _ => {}
    }
    value
}

fn path_parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let root = format!("/{}", path_of(&resource.group, &resource.version));
    let mut shared = Vec::new();
    let collection = if resource.is_namespaced() {
        if resource.verbs == Verbs::Storage {
            paths.insert(format!("{root}/{}", resource.plural), json!({"get": operation(resource, "list")}));
        }
        shared.push(path_parameter("namespace"));
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let mut item = json!({"parameters": shared});
    let actions: &[(&str, &str)] = match resource.verbs {
        Verbs::Storage => &[("get", "list"), ("post", "post"), ("delete", "deletecollection")],
        Verbs::CreateOnly => &[("post", "post")],
        Verbs::ReadOnly => &[("get", "list")],
    };
    for (method, action) in actions {
        item[*method] = operation(resource, action);
    }
    paths.insert(collection.clone(), item);
    shared.push(path_parameter("name"));
    let actions: &[&str] = match resource.verbs {
        Verbs::Storage => &["get", "put", "patch", "delete"],
        Verbs::CreateOnly => return,
        Verbs::ReadOnly => &["get"],
    };
    let mut item = json!({"parameters": shared});
    for action in actions {
        item[*action] = operation(resource, action);
    }
    paths.insert(format!("{collection}/{{name}}"), item);
    for subresource in &resource.subresources {
        if subresource.verbs() != ["get", "patch", "update"] {
            continue;
        }
        let mut item = json!({"parameters": shared});
        for action in ["get", "put", "patch"] {
            item[action] = operation(resource, action);
            if let Some((group, version, kind)) = subresource.kind() {
                item[action]["x-kubernetes-group-version-kind"] =
                    json!({"group": group, "version": version, "kind": kind});
            }
            item[action]["operationId"] = format!("{action}{}{}", resource.kind, subresource.as_str()).into();
        }
        paths.insert(format!("{collection}/{{name}}/{}", subresource.as_str()), item);
    }
}

/// The description of a type (empty field) or of a field.
pub fn description(type_name: &str, field: &str) -> Option<String> {
    descriptions().get(type_name)?.get(field).cloned()
}

/// `group/version` of every document.
pub fn group_versions(table: &Table) -> Vec<String> {
    table.groups().flat_map(|g| table.versions(g).iter().map(move |v| join_version(g, v))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_keys_words_and_no_dangling_references() {
        let table = Table::builtin();
        let index = index(table);
        for path in index["paths"].as_object().unwrap().keys() {
            let document: Value = serde_json::from_slice(&document(table, path).unwrap()).unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let mut open = vec![&document];
            while let Some(value) = open.pop() {
                match value {
                    Value::Object(map) => {
                        if let Some(Value::String(target)) = map.get("$ref") {
                            let name = target.strip_prefix("#/components/schemas/").unwrap();
                            assert!(schemas.contains_key(name), "{path}: {name}");
                        }
                        open.extend(map.values());
                    }
                    Value::Array(items) => open.extend(items),
                    _ => {}
                }
            }
        }
        let apps: Value = serde_json::from_slice(&document(table, "apis/apps/v1").unwrap()).unwrap();
        let schemas = &apps["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert!(containers["description"].as_str().is_some_and(|d| d.contains("containers")));
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"],
            "Deployment"
        );
        assert!(
            apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]["requestBody"]
                .is_object()
        );
        assert!(document(table, "apis/nope/v1").is_none());
    }
}
