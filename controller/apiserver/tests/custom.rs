//! Custom resources as clients meet them. Functions are named after the lines of `../shared/conformance-1.37.txt`.

#[path = "admission/hook.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod hook;
mod server;

use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use server::{Server, admin, server};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition of `PLURAL.GROUP` with one version.
fn definition(group: &str, plural: &str, kind: &str, schema: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Creates a definition and waits until it is established.
async fn establish(server: &Server, definition: Value) -> Value {
    let created = server.create(CRDS, definition).await;
    assert_eq!(created.code, 201, "{}", created.body);
    established(server, created.body["metadata"]["name"].as_str().unwrap()).await
}

async fn established(server: &Server, name: &str) -> Value {
    until(server, &format!("{CRDS}/{name}"), |body| {
        let conditions = body["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
    })
    .await
}

/// Watches one object until it is as wanted.
async fn until(server: &Server, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let (collection, name) = path.rsplit_once('/').unwrap();
    let mut events = events(server, &format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}")).await;
    loop {
        let event = events.next().await;
        if wanted(&event["object"]) && event["type"] != "DELETED" {
            return event["object"].clone();
        }
    }
}

/// Waits until an object is gone.
async fn until_gone(server: &Server, path: &str) {
    let (collection, name) = path.rsplit_once('/').unwrap();
    let query = format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut events = events(server, &query).await;
    // A name that is not there is gone already; its watch has no event.
    while server.get(path).await.code != 404 {
        if events.next().await["type"] == "DELETED" {
            return;
        }
    }
}

struct Events {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = Result<bytes::Bytes, axum::Error>> + Send>>,
    text: String,
}

impl Events {
    async fn next(&mut self) -> Value {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return event;
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next()).await;
            self.text.push_str(
                std::str::from_utf8(&piece.expect("an event in time").expect("the stream goes on").unwrap()).unwrap(),
            );
        }
    }
}

impl Events {
    async fn ended(&mut self) -> bool {
        let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next()).await;
        self.text.is_empty() && piece.expect("an end in time").is_none()
    }
}

async fn events(server: &Server, path: &str) -> Events {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = server.send(admin(), request).await;
    assert_eq!(response.status(), 200);
    Events { body: Box::pin(response.into_body().into_data_stream()), text: String::new() }
}

async fn patch_json(server: &Server, path: &str, patch: Value) -> server::Answer {
    server.raw(admin(), Method::PATCH, path, "application/json-patch+json", patch.to_string()).await
}

#[tokio::test]
async fn c026_c028_c033_c037_definitions_are_created_discovered_and_deleted() {
    let server = server().await;
    let root = server.get("/apis").await.body;
    assert!(root["groups"].as_array().unwrap().iter().any(|group| group["name"] == "apiextensions.k8s.io"));
    let group = server.get("/apis/apiextensions.k8s.io").await.body;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let list = server.get("/apis/apiextensions.k8s.io/v1").await.body;
    assert!(list["resources"].as_array().unwrap().iter().any(|one| one["name"] == "customresourcedefinitions"));

    assert_eq!(server.get("/apis/example.com/v1/foos").await.code, 404);
    let mut wanted = definition("example.com", "foos", "Foo", open());
    wanted["spec"]["names"]["shortNames"] = json!(["fo"]);
    wanted["spec"]["names"]["categories"] = json!(["all"]);
    let crd = establish(&server, wanted).await;
    assert_eq!(crd["status"]["acceptedNames"]["singular"], "foo");
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "FooList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let list = server.get("/apis/example.com/v1").await.body;
    let foo = &list["resources"][0];
    assert_eq!(
        (&foo["name"], &foo["shortNames"], &foo["categories"]),
        (&json!("foos"), &json!(["fo"]), &json!(["all"]))
    );
    let request = Request::builder()
        .uri("/apis")
        .header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let answer = server.send(admin(), request.body(Body::empty()).unwrap()).await;
    let aggregated: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let found = aggregated["items"].as_array().unwrap().iter().find(|group| group["metadata"]["name"] == "example.com");
    assert_eq!(found.unwrap()["versions"][0]["resources"][0]["resource"], "foos");

    // More than are deleted in one turn.
    for n in 0..600 {
        let body = json!({"metadata": {"name": format!("a{n}")}});
        let made = server.create("/apis/example.com/v1/namespaces/default/foos", body).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    assert_eq!(server.call(Method::DELETE, &format!("{CRDS}/foos.example.com"), Value::Null).await.code, 200);
    until_gone(&server, &format!("{CRDS}/foos.example.com")).await;
    assert_eq!(server.get("/apis/example.com/v1").await.code, 404);
    assert_eq!(server.get("/apis/example.com/v1/namespaces/default/foos/a").await.code, 404);
    establish(&server, definition("example.com", "foos", "Foo", open())).await;
    let left = server.get("/apis/example.com/v1/foos").await.body;
    assert_eq!(left["items"], json!([]), "the objects went with the definition");
}

#[tokio::test]
async fn c034_the_status_of_a_definition_is_read_and_written() {
    let server = server().await;
    establish(&server, definition("example.com", "foos", "Foo", open())).await;
    let path = format!("{CRDS}/foos.example.com/status");
    let mut read = server.get(&path).await.body;
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "set by a test", "lastTransitionTime": "2024-01-01T00:00:00Z"});
    read["status"]["conditions"].as_array_mut().unwrap().push(condition);
    let put = server.call(Method::PUT, &path, read).await;
    assert_eq!(put.code, 200, "{}", put.body);
    let has =
        |body: &Value, kind: &str| body["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == kind);
    assert!(has(&put.body, "StatusUpdate"));
    let patch = json!([{"op": "add", "path": "/status/conditions/-", "value": {"type": "StatusPatched", "status": "True", "reason": "E2E", "message": "m", "lastTransitionTime": "2024-01-01T00:00:00Z"}}]);
    let patched = patch_json(&server, &path, patch).await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let later = server.get(&format!("{CRDS}/foos.example.com")).await.body;
    for kind in ["StatusUpdate", "StatusPatched", "Established", "NamesAccepted"] {
        assert!(has(&later, kind), "{kind} in {}", later["status"]);
    }
}

#[tokio::test]
async fn c035_definitions_are_listed_and_deleted_by_selector() {
    let server = server().await;
    for index in 0..10 {
        let mut one = definition("many.example.com", &format!("foo{index}s"), &format!("Foo{index}"), open());
        one["metadata"]["labels"] = json!({"test": "many"});
        establish(&server, one).await;
    }
    establish(&server, definition("example.com", "foos", "Foo", open())).await;
    let listed = server.get(&format!("{CRDS}?labelSelector=test%3Dmany")).await.body;
    assert_eq!(listed["items"].as_array().unwrap().len(), 10);
    let deleted = server.call(Method::DELETE, &format!("{CRDS}?labelSelector=test%3Dmany"), Value::Null).await;
    assert_eq!(deleted.code, 200, "{}", deleted.body);
    for index in 0..10 {
        until_gone(&server, &format!("{CRDS}/foo{index}s.many.example.com")).await;
    }
    assert_eq!(server.get(CRDS).await.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn c032_objects_are_watched() {
    let server = server().await;
    establish(&server, definition("example.com", "foos", "Foo", open())).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let mut seen = events(&server, &format!("{foos}?watch=true")).await;
    for name in ["a", "b"] {
        server.create(foos, json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": name}})).await;
        assert_eq!(seen.next().await["type"], "ADDED");
        server.call(Method::PATCH, &format!("{foos}/{name}"), json!({"dummy": "test"})).await;
        let event = seen.next().await;
        assert_eq!((&event["type"], &event["object"]["dummy"]), (&json!("MODIFIED"), &json!("test")));
        server.call(Method::DELETE, &format!("{foos}/{name}"), Value::Null).await;
        let event = seen.next().await;
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("DELETED"), &json!(name)));
    }
    // A watch tells the end of its objects, and ends with their definition.
    server.create(foos, json!({"metadata": {"name": "last"}})).await;
    assert_eq!(seen.next().await["type"], "ADDED");
    server.call(Method::DELETE, &format!("{CRDS}/foos.example.com"), Value::Null).await;
    assert_eq!(seen.next().await["type"], "DELETED");
    assert!(seen.ended().await);
}

#[tokio::test]
async fn c036_defaulting_on_request_and_from_storage() {
    let server = server().await;
    let plain = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
    let name = "foos.example.com";
    establish(&server, definition("example.com", "foos", "Foo", plain)).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    server.create(foos, json!({"metadata": {"name": "old"}})).await;
    assert!(server.get(&format!("{foos}/old")).await.body.get("a").is_none());
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let patched = patch_json(
        &server,
        &format!("{CRDS}/{name}"),
        json!([
        {"op": "add", "path": format!("{schema}/a/default"), "value": "A"}]),
    )
    .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    assert_eq!(server.get(&format!("{foos}/old")).await.body["a"], "A", "from storage");
    assert_eq!(server.get(foos).await.body["items"][0]["a"], "A");
    let made = server.create(foos, json!({"metadata": {"name": "new"}})).await.body;
    assert_eq!((&made["a"], made.get("b")), (&json!("A"), None), "on request");
    let patched = patch_json(
        &server,
        &format!("{CRDS}/{name}"),
        json!([
        {"op": "add", "path": format!("{schema}/b/default"), "value": "B"},
        {"op": "remove", "path": format!("{schema}/a/default")}]),
    )
    .await;
    assert_eq!(patched.code, 200, "{}", patched.body);
    let old = server.get(&format!("{foos}/old")).await.body;
    assert_eq!((old.get("a"), &old["b"]), (None, &json!("B")));
    let new = server.get(&format!("{foos}/new")).await.body;
    assert_eq!((&new["a"], &new["b"]), (&json!("A"), &json!("B")), "what was stored stays");
    let bad = patch_json(
        &server,
        &format!("{CRDS}/{name}"),
        json!([
        {"op": "add", "path": format!("{schema}/a/default"), "value": 5}]),
    )
    .await;
    assert_eq!(bad.code, 422);
    assert!(
        bad.message().contains("openAPIV3Schema.properties[a].default: Invalid value: \"integer\""),
        "{}",
        bad.message()
    );
}

#[tokio::test]
async fn c038_objects_are_selected_by_fields() {
    let server = server().await;
    let properties = json!({"color": {"type": "string"}, "size": {"type": "integer"}});
    let mut crd = definition("example.com", "shirts", "Shirt", object(properties));
    crd["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}]);
    establish(&server, crd).await;
    let shirts = "/apis/example.com/v1/namespaces/default/shirts";
    for (name, color, size) in [("a", "blue", 1), ("b", "blue", 2), ("c", "red", 2)] {
        server.create(shirts, json!({"metadata": {"name": name}, "spec": {"color": color, "size": size}})).await;
    }
    let names = async |selector: &str| -> Vec<String> {
        let listed = server.get(&format!("{shirts}?fieldSelector={selector}")).await.body;
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("spec.color%3Dblue").await, ["a", "b"]);
    assert_eq!(names("spec.color%3Dblue,spec.size%3D2").await, ["b"]);
    let refused = server.get(&format!("{shirts}?fieldSelector=spec.other%3D1")).await;
    assert_eq!(refused.code, 400);
    let mut seen = events(&server, &format!("{shirts}?watch=true&fieldSelector=spec.color%3Dred")).await;
    assert_eq!(seen.next().await["object"]["metadata"]["name"], "c");
    server.call(Method::PATCH, &format!("{shirts}/a"), json!({"spec": {"color": "red"}})).await;
    assert_eq!(seen.next().await["type"], "ADDED");
}

async fn schema_of(server: &Server, group: &str, version: &str, kind: &str) -> Option<Value> {
    let document = server.get(&format!("/openapi/v3/apis/{group}/{version}")).await;
    let schemas = document.body["components"]["schemas"].as_object()?.clone();
    let wanted = json!([{"group": group, "version": version, "kind": kind}]);
    schemas.values().find(|schema| schema["x-kubernetes-group-version-kind"] == wanted).cloned()
}

#[tokio::test]
async fn c039_c040_c045_c046_c047_schemas_are_published_and_follow_their_versions() {
    let server = server().await;
    let schema =
        || object(json!({"bars": {"type": "array", "description": "List of Bars.", "items": {"type": "string"}}}));
    let mut crd = definition("one.example.com", "foos", "Foo", schema());
    let mut second = crd["spec"]["versions"][0].clone();
    (second["name"], second["storage"]) = (json!("v2"), json!(false));
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    establish(&server, crd).await;
    establish(&server, definition("one.example.com", "bars", "Bar", schema())).await;
    establish(&server, definition("two.example.com", "foos", "Foo", schema())).await;
    for (group, version, kind) in [
        ("one.example.com", "v1", "Foo"),
        ("one.example.com", "v2", "Foo"),
        ("one.example.com", "v1", "Bar"),
        ("two.example.com", "v1", "Foo"),
    ] {
        let found = schema_of(&server, group, version, kind).await.unwrap();
        assert_eq!(found["properties"]["spec"]["properties"]["bars"]["description"], "List of Bars.");
        assert!(found["properties"]["metadata"]["allOf"][0]["$ref"].as_str().unwrap().ends_with("ObjectMeta"));
    }
    // kubectl reads here that it must not send strategic merge patches.
    let document = server.get("/openapi/v3/apis/one.example.com/v1").await.body;
    let patch = &document["paths"]["/apis/one.example.com/v1/namespaces/{namespace}/foos/{name}"]["patch"];
    let accepted = patch["requestBody"]["content"].as_object().unwrap();
    assert!(accepted.contains_key("application/merge-patch+json"));
    assert!(!accepted.contains_key("application/strategic-merge-patch+json"));
    let group = server.get("/apis/one.example.com").await.body;
    assert_eq!(group["preferredVersion"]["version"], "v2", "the newest stable version comes first");
    let hash = async || {
        let index = server.get("/openapi/v3").await.body;
        index["paths"]["apis/one.example.com/v2"]["serverRelativeURL"].clone()
    };
    let before = hash().await;
    let path = format!("{CRDS}/foos.one.example.com");
    let described = "/spec/versions/1/schema/openAPIV3Schema/properties/spec/description";
    patch_json(&server, &path, json!([{"op": "add", "path": described, "value": "A spec."}])).await;
    assert_ne!(before, hash().await, "the document's address follows its content");
    let whole = server.get("/openapi/v2").await.body;
    assert!(whole["definitions"]["com.example.one.v2.Foo"]["properties"]["spec"].is_object());
    // c040
    let renamed =
        patch_json(&server, &path, json!([{"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}])).await;
    assert_eq!(renamed.code, 200, "{}", renamed.body);
    assert!(schema_of(&server, "one.example.com", "v4", "Foo").await.is_some());
    assert_eq!(server.get("/openapi/v3/apis/one.example.com/v2").await.code, 404);
    // c039
    patch_json(&server, &path, json!([{"op": "replace", "path": "/spec/versions/1/served", "value": false}])).await;
    assert_eq!(server.get("/openapi/v3/apis/one.example.com/v4").await.code, 404);
    assert_eq!(server.get("/apis/one.example.com/v4/foos").await.code, 404);
    assert!(schema_of(&server, "one.example.com", "v1", "Foo").await.is_some());
}

#[tokio::test]
async fn c041_c042_c044_c050_unknown_fields_stay_where_the_schema_preserves_them() {
    let server = server().await;
    establish(&server, definition("example.com", "roots", "Root", open())).await;
    let nested = json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "description": "Open.", "properties": {"known": {"type": "string"}}}}});
    establish(&server, definition("example.com", "nesteds", "Nested", nested)).await;
    let roots = "/apis/example.com/v1/namespaces/default/roots?fieldValidation=Strict";
    let made = server.create(roots, json!({"metadata": {"name": "a"}, "foo": {"deep": [1, {"x": null}]}})).await;
    assert_eq!((made.code, &made.body["foo"]["deep"]), (201, &json!([1, {"x": null}])), "{}", made.body);
    let nesteds = "/apis/example.com/v1/namespaces/default/nesteds";
    let body = json!({"metadata": {"name": "a"}, "spec": {"known": "k", "more": {"a": 1}}, "other": 1});
    let strict = server.create(&format!("{nesteds}?fieldValidation=Strict"), body.clone()).await;
    assert_eq!(strict.code, 400);
    assert!(strict.message().contains("strict decoding error: unknown field \"other\""), "{}", strict.message());
    let made = server.create(nesteds, body).await;
    assert_eq!((&made.body["spec"]["more"], made.body.get("other")), (&json!({"a": 1}), None));
    let published = schema_of(&server, "example.com", "v1", "Nested").await.unwrap();
    assert_eq!(published["properties"]["spec"]["description"], "Open.");
    let applied = server
        .raw(admin(), Method::PATCH, "/apis/example.com/v1/namespaces/default/nesteds/b?fieldManager=me", "application/apply-patch+yaml",
            json!({"apiVersion": "example.com/v1", "kind": "Nested", "metadata": {"name": "b"}, "spec": {"more": {"a": 1, "b": {}}}}).to_string())
        .await;
    assert_eq!(applied.code, 201, "{}", applied.body);
    let fields = &applied.body["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert!(fields["f:more"]["f:a"].is_object(), "{fields}");
}

#[tokio::test]
async fn c051_c052_c053_c055_unknown_and_doubled_fields_are_told_or_refused() {
    let server = server().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "foo": {"type": "string"}, "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
            "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}, "name": {"type": "string"}}}},
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}});
    establish(&server, definition("example.com", "foos", "Foo", schema)).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let doubled = r#"{"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "NAME", "unknownMeta": 1}, "spec": {"foo": "a", "foo": "b",
        "unknown": 1, "ports": [{"port": 1, "extra": 2}], "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "unknownSubMeta": 1}, "free": 1}}}"#;
    let send = async |name: &str, validation: &str| {
        let path = format!("{foos}?fieldValidation={validation}");
        server.raw(admin(), Method::POST, &path, "application/json", doubled.replace("NAME", name)).await
    };
    let strict = send("strict", "Strict").await;
    assert_eq!(strict.code, 400, "{}", strict.body);
    for part in [
        "strict decoding error: duplicate field \"spec.foo\"",
        "unknown field \"metadata.unknownMeta\"",
        "unknown field \"spec.unknown\"",
        "unknown field \"spec.ports[0].extra\"",
        "unknown field \"spec.embedded.metadata.unknownSubMeta\"",
    ] {
        assert!(strict.message().contains(part), "{part} in {}", strict.message());
    }
    let warned = send("warn", "Warn").await;
    assert_eq!((warned.code, warned.warnings.len()), (201, 5), "{:?} {}", warned.warnings, warned.body);
    assert_eq!(warned.body["spec"]["embedded"]["free"], 1);
    assert!(warned.body["spec"].get("unknown").is_none());
    assert!(send("ignore", "Ignore").await.warnings.is_empty());
    let patched =
        server.call(Method::PATCH, &format!("{foos}/warn?fieldValidation=Strict"), json!({"spec": {"other": 1}})).await;
    assert_eq!(patched.code, 422);
    assert!(patched.message().contains("strict decoding error: unknown field \"spec.other\""), "{}", patched.message());
    let twice = server
        .raw(
            admin(),
            Method::PATCH,
            &format!("{foos}/warn?fieldValidation=Strict"),
            "application/merge-patch+json",
            r#"{"spec": {"foo": "a", "foo": "b"}}"#,
        )
        .await;
    assert!(twice.message().contains("strict decoding error: duplicate field \"spec.foo\""), "{}", twice.message());
    let text = "apiVersion: example.com/v1\nkind: Foo\nmetadata:\n  name: applied\nspec:\n  foo: a\n  foo: b\n";
    let apply = async |validation: &str| {
        let path = format!("{foos}/applied?fieldManager=me&fieldValidation={validation}");
        server.raw(admin(), Method::PATCH, &path, "application/apply-patch+yaml", text).await
    };
    let strict = apply("Strict").await;
    assert_eq!(strict.code, 400);
    assert!(strict.message().contains("line 7: key \"foo\" already set in map"), "{}", strict.message());
    let warned = apply("Warn").await;
    assert!(warned.code == 201 && warned.warnings[0].contains("already set in map"), "{:?}", warned.warnings);
    let strategic = server
        .raw(admin(), Method::PATCH, &format!("{foos}/warn"), "application/strategic-merge-patch+json", "{}")
        .await;
    assert_eq!(strategic.code, 415);
}

#[tokio::test]
async fn c043_objects_are_validated_with_kubernetes_words() {
    let server = server().await;
    let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
        "count": {"type": "integer", "minimum": 1, "maximum": 10, "exclusiveMaximum": true, "multipleOf": 2},
        "kind": {"type": "string", "enum": ["A", "B"]},
        "when": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string"}},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
            "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}}}},
        "any": {"x-kubernetes-int-or-string": true},
        "null": {"type": "string", "nullable": true},
        "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}}}});
    establish(&server, definition("example.com", "foos", "Foo", schema)).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let good = json!({"metadata": {"name": "good"}, "spec": {"name": "abc", "count": 4, "kind": "A", "when": "2024-01-01T00:00:00Z", "tags": ["a", "b"],
        "ports": [{"port": 1}, {"port": 2}], "any": "50%", "null": null, "one": {"a": "x"}}});
    let made = server.create(foos, good.clone()).await;
    assert_eq!(made.code, 201, "{}", made.body);
    for (field, value, want) in [
        (
            "name",
            json!(5),
            "spec.name: Invalid value: \"integer\": spec.name in body must be of type string: \"integer\"",
        ),
        ("name", json!("ABC"), "spec.name: Invalid value: \"ABC\": spec.name in body should match '^[a-z]+$'"),
        ("name", json!("a"), "spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long"),
        ("name", json!("abcdefg"), "spec.name: Too long: may not be more than 5 bytes"),
        // A null that is not allowed is as if it were not there.
        ("name", json!(null), "spec.name: Required value"),
        ("count", json!(0), "spec.count: Invalid value: 0: spec.count in body should be greater than or equal to 1"),
        ("count", json!(10), "spec.count: Invalid value: 10: spec.count in body should be less than 10"),
        ("count", json!(3), "spec.count: Invalid value: 3: spec.count in body should be a multiple of 2"),
        ("count", json!(1.5), "spec.count in body must be of type integer: \"number\""),
        ("kind", json!("C"), "spec.kind: Unsupported value: \"C\": supported values: \"A\", \"B\""),
        ("when", json!("now"), "spec.when in body must be of type date-time: \"now\""),
        ("tags", json!(["a", "a"]), "spec.tags[1]: Duplicate value: \"a\""),
        ("tags", json!(["a", "b", "c", "d"]), "spec.tags: Too many: 4: must have at most 3 items"),
        ("ports", json!([{"port": 1}, {"port": 1}]), "spec.ports[1]: Duplicate value: {\"port\":1}"),
        ("ports", json!([{}]), "spec.ports[0].port: Required value"),
        ("one", json!({}), "spec.one in body must validate one and only one schema (oneOf). Found none valid"),
    ] {
        let mut bad = good.clone();
        bad["metadata"]["name"] = "bad".into();
        bad["spec"][field] = value.clone();
        let refused = server.create(foos, bad).await;
        assert_eq!(refused.code, 422, "{field} {value}: {}", refused.body);
        assert!(refused.message().starts_with("Foo.example.com \"bad\" is invalid: "), "{}", refused.message());
        assert!(refused.message().contains(want), "{want}\n{}", refused.message());
    }
    let missing = server.create(foos, json!({"metadata": {"name": "bad"}})).await;
    assert!(missing.message().contains("spec: Required value"), "{}", missing.message());
    let named = server.create(foos, json!({"metadata": {"name": "Bad_Name"}, "spec": {"name": "abc"}})).await;
    assert!(named.message().contains("metadata.name: Invalid value: \"Bad_Name\""), "{}", named.message());
}

#[tokio::test]
async fn rules_are_checked_with_old_values_messages_and_ratcheting() {
    let server = server().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min ' + string(self.min) + ' is above max'", "fieldPath": ".min", "reason": "FieldValueForbidden"},
            {"rule": "self.max >= oldSelf.max", "message": "max cannot shrink"}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "default": 10},
            "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
            "items": {"type": "array", "maxItems": 5, "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}}}}}});
    establish(&server, definition("example.com", "foos", "Foo", schema)).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let made = server
        .create(foos, json!({"metadata": {"name": "a"}, "spec": {"min": 1, "fixed": "x", "items": ["ab"]}}))
        .await;
    assert_eq!((made.code, &made.body["spec"]["max"]), (201, &json!(10)), "{}", made.body);
    let refused = server.create(foos, json!({"metadata": {"name": "b"}, "spec": {"min": 11, "items": ["b"]}})).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("spec.min: Forbidden: min 11 is above max"), "{}", refused.message());
    assert!(
        refused.message().contains("spec.items[0]: Invalid value: \"string\": failed rule: self.startsWith('a')"),
        "{}",
        refused.message()
    );
    let patch = async |patch: Value| server.call(Method::PATCH, &format!("{foos}/a"), patch).await;
    let shrunk = patch(json!({"spec": {"max": 9}})).await;
    assert!(shrunk.message().contains("spec: Invalid value: \"object\": max cannot shrink"), "{}", shrunk.message());
    let changed = patch(json!({"spec": {"fixed": "y"}})).await;
    assert!(changed.message().contains("spec.fixed: Invalid value: \"string\": is immutable"), "{}", changed.message());
    assert_eq!(patch(json!({"spec": {"max": 12}})).await.code, 200);
    // A rule that comes later does not hold what is stored and unchanged.
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/fixed/maxLength";
    let tightened =
        patch_json(&server, &format!("{CRDS}/foos.example.com"), json!([{"op": "add", "path": path, "value": 0}]))
            .await;
    assert_eq!(tightened.code, 200, "{}", tightened.body);
    assert_eq!(patch(json!({"spec": {"max": 13}})).await.code, 200);
    let costly = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"}]}}});
    establish(&server, definition("example.com", "slows", "Slow", costly)).await;
    let numbers: Vec<u64> = (0..1000).collect();
    let slow = server
        .create("/apis/example.com/v1/namespaces/default/slows", json!({"metadata": {"name": "s"}, "l": numbers}))
        .await;
    assert!(slow.message().contains("operation cancelled: actual cost limit exceeded"), "{}", slow.message());
}

#[tokio::test]
async fn bad_definitions_are_refused_by_field() {
    let server = server().await;
    let with = |path: &str, value: Value| {
        let mut crd = definition("example.com", "foos", "Foo", object(json!({"a": {"type": "string"}})));
        let (parent, key) = path.rsplit_once('/').unwrap();
        crd.pointer_mut(parent).unwrap()[key] = value;
        crd
    };
    let root = "/spec/versions/0/schema/openAPIV3Schema";
    let a = format!("{root}/properties/spec/properties/a");
    for (path, value, want) in [
        ("/spec/group", json!("com"), "should be a domain with at least one dot"),
        ("/metadata/name", json!("bars.example.com"), "must be spec.names.plural+\".\"+spec.group"),
        ("/spec/scope", json!("Everywhere"), "spec.scope: Unsupported value: \"Everywhere\""),
        ("/spec/versions/0/storage", json!(false), "must have exactly one version marked as storage version"),
        (root, json!({"properties": {}}), "type: Required value: must not be empty at the root"),
        (root, json!({"type": "array", "items": {"type": "string"}}), "must be object at the root"),
        (
            &a,
            json!({}),
            "properties[spec].properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (&a, json!({"type": "array"}), "properties[a].items: Required value: must be specified"),
        (&a, json!({"type": "string", "pattern": "("}), "must be a valid regular expression, but isn't"),
        (
            &a,
            json!({"type": "string", "anyOf": [{"type": "string"}]}),
            "anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            &a,
            json!({"type": "object", "allOf": [{"properties": {"x": {"minLength": 1}}}]}),
            "properties[x]: Required value: because it is defined in",
        ),
        (
            &a,
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            "x-kubernetes-list-map-keys: Required value",
        ),
        (
            &a,
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "self >"}]}),
            "x-kubernetes-validations[0].rule: Invalid value: \"self >\": compilation failed: ERROR: <input>:1:7: Syntax error",
        ),
        (
            &a,
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "foo == 1"}]}),
            "undeclared reference to 'foo'",
        ),
        (
            &a,
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.zzz == 1"}]}),
            "undefined field 'zzz'",
        ),
        ("/spec/versions/0/selectableFields", json!([{"jsonPath": ".spec.zzz"}]), "does not refer to a valid field"),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "A", "type": "string", "jsonPath": "spec"}]),
            "is an invalid jsonpath",
        ),
        ("/spec/conversion", json!({"strategy": "Webhook"}), "spec.conversion.webhook: Required value"),
    ] {
        let refused = server.create(CRDS, with(path, value)).await;
        assert_eq!(refused.code, 422, "{path}: {}", refused.body);
        assert!(refused.message().contains(want), "{want}\n{}", refused.message());
    }
    let text = json!({"metadata": {"name": "foos.example.com"}, "spec": {}})
        .to_string()
        .replace("\"spec\":{}", "\"spec\":SPEC");
    let mut nested = String::from("{\"type\":\"object\"}");
    for _ in 0..1000 {
        nested = format!("{{\"type\":\"object\",\"properties\":{{\"a\":{nested}}}}}");
    }
    let refused = server.raw(admin(), Method::POST, CRDS, "application/json", text.replace("SPEC", &nested)).await;
    assert_eq!(refused.code, 400, "nested too deeply");
    establish(&server, definition("example.com", "foos", "Foo", object(json!({})))).await;
    let taken = server.create(CRDS, definition("example.com", "others", "Foo", object(json!({})))).await;
    assert_eq!(taken.code, 201);
    let seen =
        until(&server, &format!("{CRDS}/others.example.com"), |body| body["status"]["conditions"][0].is_object()).await;
    let accepted =
        seen["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "NamesAccepted").unwrap();
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("ListKindConflict")));
    assert_eq!(server.get("/apis/example.com/v1/others").await.code, 404);
    // A name that becomes free is given to who waits for it.
    establish(&server, definition("free.example.com", "foos", "Foo", object(json!({})))).await;
    server.create(CRDS, definition("free.example.com", "waits", "Foo", object(json!({})))).await;
    server.call(Method::DELETE, &format!("{CRDS}/foos.free.example.com"), Value::Null).await;
    established(&server, "waits.free.example.com").await;
    let moved = patch_json(
        &server,
        &format!("{CRDS}/foos.example.com"),
        json!([{"op": "replace", "path": "/spec/scope", "value": "Cluster"}]),
    )
    .await;
    assert!(
        moved.message().contains("spec.scope: Invalid value: \"Cluster\": field is immutable"),
        "{}",
        moved.message()
    );
}

#[tokio::test]
async fn status_scale_columns_and_generation() {
    let server = server().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}, "selector": {"type": "string"}}}}});
    let mut crd = definition("example.com", "foos", "Foo", schema);
    let version = &mut crd["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.selector"}});
    version["additionalPrinterColumns"] = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]);
    establish(&server, crd).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let made =
        server.create(foos, json!({"metadata": {"name": "a"}, "spec": {"size": 2}, "status": {"size": 9}})).await.body;
    assert_eq!((&made["metadata"]["generation"], made.get("status")), (&json!(1), None));
    let path = format!("{foos}/a");
    let status = server
        .call(
            Method::PATCH,
            &format!("{path}/status"),
            json!({"spec": {"size": 7}, "status": {"size": 1, "selector": "a=b"}}),
        )
        .await
        .body;
    assert_eq!(
        (&status["spec"]["size"], &status["status"]["size"], &status["metadata"]["generation"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let scale = server.get(&format!("{path}/scale")).await.body;
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]), (&json!(2), &json!({"replicas": 1, "selector": "a=b"})));
    let scaled = server.call(Method::PUT, &format!("{path}/scale"), json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a", "namespace": "default"}, "spec": {"replicas": 5}})).await;
    assert_eq!((scaled.code, &scaled.body["spec"]["replicas"]), (200, &json!(5)), "{}", scaled.body);
    let now = server.get(&path).await.body;
    assert_eq!((&now["spec"]["size"], &now["metadata"]["generation"]), (&json!(5), &json!(2)));
    let request = Request::builder().uri(foos).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let answer = server.send(admin(), request.body(Body::empty()).unwrap()).await;
    let table: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["Name", "Size", "Age"]);
    assert_eq!(table["rows"][0]["cells"][1], 5);
    let discovered = server.get("/apis/example.com/v1").await.body;
    let scale =
        discovered["resources"].as_array().unwrap().iter().find(|one| one["name"] == "foos/scale").unwrap().clone();
    assert_eq!((&scale["kind"], &scale["group"]), (&json!("Scale"), &json!("autoscaling")));
}

#[tokio::test]
async fn versions_share_storage_and_finalizers_hold_a_definition() {
    let server = server().await;
    let mut crd = definition("example.com", "foos", "Foo", open());
    let mut second = crd["spec"]["versions"][0].clone();
    (second["name"], second["storage"]) = (json!("v2"), json!(false));
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    establish(&server, crd).await;
    let made = server
        .create(
            "/apis/example.com/v2/namespaces/default/foos",
            json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}, "x": 1}),
        )
        .await;
    assert_eq!((made.code, &made.body["apiVersion"]), (201, &json!("example.com/v2")), "{}", made.body);
    let other = server.get("/apis/example.com/v1/namespaces/default/foos/a").await.body;
    assert_eq!((&other["apiVersion"], &other["x"]), (&json!("example.com/v1"), &json!(1)));
    let path = format!("{CRDS}/foos.example.com");
    let swapped = patch_json(&server, &path, json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false}, {"op": "replace", "path": "/spec/versions/1/storage", "value": true}])).await;
    assert_eq!(swapped.code, 200, "{}", swapped.body);
    let crd = until(&server, &path, |body| {
        body["status"]["storedVersions"].as_array().is_some_and(|stored| stored.len() == 2)
    })
    .await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));
    let dropped = patch_json(&server, &path, json!([{"op": "remove", "path": "/spec/versions/0"}])).await;
    assert!(
        dropped.message().contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{}",
        dropped.message()
    );
    assert_eq!(server.get("/apis/example.com/v1/namespaces/default/foos/a").await.body["apiVersion"], "example.com/v1");

    server.call(Method::DELETE, &path, Value::Null).await;
    let going = until(&server, &path, |body| {
        body["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Terminating")
    })
    .await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let refused =
        server.create("/apis/example.com/v1/namespaces/default/foos", json!({"metadata": {"name": "b"}})).await;
    assert_eq!(refused.code, 405, "{}", refused.body);
    let held = "/apis/example.com/v1/namespaces/default/foos/a";
    until(&server, held, |body| body["metadata"]["deletionTimestamp"].is_string()).await;
    let freed = server.call(Method::PATCH, held, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200, "{}", freed.body);
    until_gone(&server, &path).await;
}

/// Between `hostPort: "a:1"` of v1 and `host` and `port` of v2.
fn turn(object: &Value, wanted: &str) -> Value {
    let mut turned = object.clone();
    if turned["apiVersion"] == wanted {
        return turned;
    }
    turned["apiVersion"] = wanted.into();
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    let fields = turned.as_object_mut().unwrap();
    if wanted.ends_with("/v2") {
        let joined = text("hostPort");
        let (host, port) = joined.split_once(':').unwrap_or_default();
        fields.remove("hostPort");
        fields.insert("host".into(), host.into());
        fields.insert("port".into(), port.into());
    } else {
        fields.remove("host");
        fields.remove("port");
        fields.insert("hostPort".into(), format!("{}:{}", text("host"), text("port")).into());
    }
    turned
}

async fn converting(group: &str) -> (Server, hook::Hook) {
    let server = server().await;
    let hook = hook::Hook::start(|path, request| {
        if path == "/fail" {
            return Some(json!({"result": {"status": "Failure", "message": "cannot do it"}}));
        }
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        let objects: Vec<Value> =
            request["objects"].as_array().unwrap().iter().map(|object| turn(object, wanted)).collect();
        Some(json!({"result": {"status": "Success"}, "convertedObjects": objects}))
    })
    .await;
    let schema = |fields: Value| json!({"type": "object", "properties": fields});
    let mut crd = definition(group, "hosts", "Host", schema(json!({"hostPort": {"type": "string"}})));
    let second = json!({"name": "v2", "served": true, "storage": false, "selectableFields": [{"jsonPath": ".host"}],
        "schema": {"openAPIV3Schema": schema(json!({"host": {"type": "string"}, "port": {"type": "string"}}))}});
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://127.0.0.1:{}/convert", hook.port), "caBundle": hook.bundle}}});
    establish(&server, crd).await;
    (server, hook)
}

#[tokio::test]
async fn c031_a_webhook_converts_between_versions() {
    let (server, hook) = converting("one.example.com").await;
    let (v1, v2) =
        ("/apis/one.example.com/v1/namespaces/default/hosts", "/apis/one.example.com/v2/namespaces/default/hosts");
    server.create(v1, json!({"metadata": {"name": "a"}, "hostPort": "localhost:8080"})).await;
    assert!(hook.asked().is_empty(), "what is stored as it was sent needs no webhook");
    let read = server.get(&format!("{v2}/a")).await.body;
    assert_eq!(
        (&read["host"], &read["port"], read.get("hostPort")),
        (&json!("localhost"), &json!("8080"), None),
        "{read}"
    );
    let patched = server.call(Method::PATCH, &format!("{v2}/a"), json!({"port": "9090"})).await;
    assert_eq!((patched.code, &patched.body["port"]), (200, &json!("9090")), "{}", patched.body);
    assert_eq!(server.get(&format!("{v1}/a")).await.body["hostPort"], "localhost:9090");
    let made = server.create(v2, json!({"metadata": {"name": "b"}, "host": "h", "port": "1"})).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(server.get(&format!("{v1}/b")).await.body["hostPort"], "h:1");
    let path = format!("{CRDS}/hosts.one.example.com");
    let url = format!("https://127.0.0.1:{}/fail", hook.port);
    patch_json(
        &server,
        &path,
        json!([{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/url", "value": url}]),
    )
    .await;
    let failed = server.get(&format!("{v2}/a")).await;
    assert_eq!(failed.code, 500);
    assert!(
        failed.message().contains("conversion webhook for one.example.com/v1, Kind=Host failed: cannot do it"),
        "{}",
        failed.message()
    );
    assert_eq!(server.get(&format!("{v1}/a")).await.code, 200);
}

#[tokio::test]
async fn c030_c038_lists_and_watches_are_converted() {
    let (server, _hook) = converting("two.example.com").await;
    let (v1, v2) =
        ("/apis/two.example.com/v1/namespaces/default/hosts", "/apis/two.example.com/v2/namespaces/default/hosts");
    server.create(v1, json!({"metadata": {"name": "a"}, "hostPort": "x:1"})).await;
    let path = format!("{CRDS}/hosts.two.example.com");
    let swapped = patch_json(&server, &path, json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false}, {"op": "replace", "path": "/spec/versions/1/storage", "value": true}])).await;
    assert_eq!(swapped.code, 200, "{}", swapped.body);
    server.create(v2, json!({"metadata": {"name": "b"}, "host": "y", "port": "2"})).await;
    let list = server.get(v2).await.body;
    let hosts: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["host"]).collect();
    assert_eq!(hosts, ["x", "y"], "{list}");
    let list = server.get(v1).await.body;
    let hosts: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["hostPort"]).collect();
    assert_eq!(hosts, ["x:1", "y:2"], "{list}");
    let selected = server.get(&format!("{v2}?fieldSelector=host%3Dx")).await.body;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let mut seen = events(&server, &format!("{v1}?watch=true")).await;
    for want in ["x:1", "y:2"] {
        assert_eq!(seen.next().await["object"]["hostPort"], want);
    }
    server.call(Method::PATCH, &format!("{v2}/b"), json!({"port": "3"})).await;
    let event = seen.next().await;
    assert_eq!((&event["type"], &event["object"]["hostPort"]), (&json!("MODIFIED"), &json!("y:3")));
    server.call(Method::DELETE, &format!("{v2}/b"), Value::Null).await;
    let event = seen.next().await;
    assert_eq!((&event["type"], &event["object"]["hostPort"]), (&json!("DELETED"), &json!("y:3")));
    let emptied = server.call(Method::DELETE, v1, Value::Null).await;
    assert_eq!((emptied.code, &server.get(v2).await.body["items"]), (200, &json!([])));
}

#[tokio::test]
async fn apply_follows_the_schema_and_deprecated_versions_warn() {
    let server = server().await;
    let item = json!({"type": "object", "required": ["name"], "properties": {"name": {"type": "string"},
        "protocol": {"type": "string", "default": "TCP"}, "port": {"type": "integer"}}});
    let schema = object(json!({
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "protocol"], "items": item},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}}}));
    let mut crd = definition("example.com", "foos", "Foo", schema);
    let mut old = crd["spec"]["versions"][0].clone();
    (old["name"], old["storage"], old["deprecated"]) = (json!("v1beta1"), json!(false), json!(true));
    crd["spec"]["versions"].as_array_mut().unwrap().push(old);
    establish(&server, crd).await;
    let path = "/apis/example.com/v1/namespaces/default/foos/a";
    let apply = async |manager: &str, spec: Value| {
        let body =
            json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec}).to_string();
        server
            .raw(
                admin(),
                Method::PATCH,
                &format!("{path}?fieldManager={manager}"),
                "application/apply-patch+yaml",
                body,
            )
            .await
    };
    let one = json!({"ports": [{"name": "a", "port": 1}], "tags": ["x"], "plain": ["1"], "whole": {"a": "1"}, "map": {"k": "1"}});
    assert_eq!(apply("one", one.clone()).await.code, 201);
    let two = apply("two", json!({"ports": [{"name": "b", "port": 2}, {"name": "a", "protocol": "UDP", "port": 3}], "tags": ["y"], "map": {"l": "2"}})).await;
    assert_eq!(two.code, 200, "{}", two.body);
    let spec = &two.body["spec"];
    assert_eq!(
        (spec["ports"].as_array().unwrap().len(), &spec["tags"], &spec["map"]),
        (3, &json!(["x", "y"]), &json!({"k": "1", "l": "2"}))
    );
    for (taken, field) in [
        (json!({"ports": [{"name": "a", "port": 9}]}), ".spec.ports[name=\"a\",protocol=\"TCP\"].port"),
        (json!({"plain": ["2"]}), ".spec.plain"),
        (json!({"whole": {"b": "1"}}), ".spec.whole"),
        (json!({"map": {"k": "2"}}), ".spec.map.k"),
    ] {
        let conflict = apply("three", taken).await;
        assert_eq!(conflict.code, 409, "{}", conflict.body);
        assert_eq!(conflict.body["details"]["causes"][0]["field"], field);
    }
    let same = apply("one", one).await;
    assert_eq!((same.code, &same.body["metadata"]["resourceVersion"]), (200, &two.body["metadata"]["resourceVersion"]));
    let less = apply("one", json!({"tags": ["x"]})).await;
    assert_eq!(less.body["spec"]["ports"].as_array().unwrap().len(), 2, "{}", less.body);
    let blind = server.call(Method::PUT, path, json!({"metadata": {"name": "a"}, "spec": {}})).await;
    assert!(
        blind.message().contains("metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"),
        "{}",
        blind.message()
    );
    let nobody = server.call(Method::PUT, &format!("{path}b"), json!({"metadata": {"name": "ab"}})).await;
    assert_eq!(nobody.code, 404);
    let old = server.get("/apis/example.com/v1beta1/namespaces/default/foos/a").await;
    assert_eq!(old.warnings, ["299 - \"example.com/v1beta1 Foo is deprecated; use example.com/v1 Foo\""]);
    assert!(less.warnings.is_empty());
}

#[tokio::test]
async fn a_plural_that_a_built_in_kind_has_too_means_nothing_of_it() {
    let server = server().await;
    for (plural, kind) in [("bindings", "Binding"), ("namespaces", "Namespace"), ("pods", "Pod")] {
        establish(&server, definition("own.example.com", plural, kind, open())).await;
        let path = format!("/apis/own.example.com/v1/namespaces/default/{plural}");
        let body = json!({"apiVersion": "own.example.com/v1", "kind": kind, "spec": {"nodeName": "n"},
            "metadata": {"name": "a", "finalizers": ["example.com/held"]}});
        let created = server.create(&path, body).await;
        assert_eq!((created.code, &created.body["kind"]), (201, &json!(kind)), "{}", created.body);
        let deleted = server.delete(&format!("{path}/a")).await.ok();
        assert_eq!(deleted["status"], Value::Null, "{plural}");
        assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 0, "{plural}");
    }
}
