//! Admission of custom resources.

use serde_json::{Value, json};

use crate::hook::{Hook, deny, patch};
use crate::server::Server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const FOOS: &str = "/apis/example.com/v1/namespaces/default/foos";

fn version(name: &str, storage: bool, keeps: bool) -> Value {
    let mut data = json!({"type": "object", "properties": {"start": {"type": "string"}, "stage-1": {"type": "string"},
        "level": {"type": "string", "default": "low"}}});
    if keeps {
        data["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"data": data}}}})
}

async fn define(server: &Server, versions: Value) {
    let definition = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo", "singular": "foo", "listKind": "FooList"}, "versions": versions}});
    server.create(DEFINITIONS, definition).await.ok();
}

async fn configure(server: &Server, kind: &str, webhooks: Value) {
    let configuration = json!({"metadata": {"name": "c"}, "webhooks": webhooks});
    server.create(&format!("{GROUP}/{kind}webhookconfigurations"), configuration).await.ok();
}

fn foo(name: &str, data: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn c010_custom_resources_are_refused() {
    let server = Server::start().await;
    define(&server, json!([version("v1", true, true)])).await;
    let hook = Hook::start(|_, request| {
        let about = if request["operation"] == "DELETE" { &request["oldObject"] } else { &request["object"] };
        match about["data"]["bad"].as_str() {
            Some("yes") => deny("the custom resource contains unwanted data"),
            _ => Some(json!({"allowed": true})),
        }
    })
    .await;
    let entry = hook.entry("h", "/", json!(["CREATE", "UPDATE", "DELETE"]), json!(["foos"]));
    server.create(FOOS, foo("old", json!({"bad": "yes"}))).await.ok();
    configure(&server, "validating", json!([entry])).await;
    for answer in [
        server.create(FOOS, foo("new", json!({"bad": "yes"}))).await,
        server.patch(&format!("{FOOS}/old"), json!({"data": {"other": "x"}})).await,
        server.delete(&format!("{FOOS}/old")).await,
    ] {
        assert!(answer.refused(400).ends_with("the custom resource contains unwanted data"), "{}", answer.body);
    }
    let (_, request) = hook.asked().pop().unwrap();
    assert_eq!(request["kind"], json!({"group": "example.com", "version": "v1", "kind": "Foo"}));
    server.create(FOOS, foo("good", json!({}))).await.ok();
}

#[tokio::test]
async fn c016_c018_custom_resources_are_changed_pruned_and_defaulted() {
    let server = Server::start().await;
    define(&server, json!([version("v1", true, false)])).await;
    let hook =
        Hook::start(|path, _| patch(json!([{"op": "add", "path": format!("/data{path}"), "value": "yes"}]))).await;
    let entry = |path: &str| hook.entry("h", path, json!(["CREATE"]), json!(["foos"]));
    let named = |mut entry: Value, name: &str| {
        entry["name"] = format!("{name}.example.com").into();
        entry
    };
    configure(&server, "mutating", json!([named(entry("/stage-1"), "one"), named(entry("/stage-2"), "two")])).await;
    let made = server.create(FOOS, foo("f", json!({"start": "yes"}))).await.ok();
    assert_eq!(made["data"], json!({"start": "yes", "stage-1": "yes", "level": "low"}));
    assert_eq!(server.get(&format!("{FOOS}/f")).await.body["data"], made["data"]);
}

#[tokio::test]
async fn c017_objects_are_changed_whatever_version_they_are_stored_in() {
    let server = Server::start().await;
    define(&server, json!([version("v1", true, true), version("v2", false, true)])).await;
    let hook = Hook::start(|_, request| match request["object"]["apiVersion"].as_str() {
        Some("example.com/v1") => patch(json!([{"op": "add", "path": "/data/mutated", "value": request["operation"]}])),
        _ => deny("another version"),
    })
    .await;
    let mut entry = hook.entry("h", "/", json!(["CREATE", "UPDATE"]), json!(["foos"]));
    entry["rules"][0]["apiVersions"] = json!(["v1"]);
    configure(&server, "mutating", json!([entry])).await;
    let made = server.create(FOOS, foo("f", json!({"start": "yes"}))).await.ok();
    assert_eq!(made["data"]["mutated"], "CREATE");
    let moved = json!({"spec": {"versions": [version("v1", false, true), version("v2", true, true)]}});
    server.patch(&format!("{DEFINITIONS}/foos.example.com"), moved).await.ok();
    let patched = server.patch(&format!("{FOOS}/f"), json!({"data": {"mutated-again": "now"}})).await.ok();
    assert_eq!((&patched["data"]["mutated"], &patched["data"]["mutated-again"]), (&json!("UPDATE"), &json!("now")));
    // A request in the other version is shown in the one that the rule names, and comes back in its own.
    let v2 = "/apis/example.com/v2/namespaces/default/foos";
    let mut other = foo("g", json!({}));
    other["apiVersion"] = "example.com/v2".into();
    let made = server.create(v2, other).await.ok();
    assert_eq!((&made["apiVersion"], &made["data"]["mutated"]), (&json!("example.com/v2"), &json!("CREATE")));
}

#[tokio::test]
async fn policies_judge_and_change_custom_resources_by_custom_parameters() {
    let server = Server::start().await;
    define(&server, json!([version("v1", true, true)])).await;
    let constraints = json!({"resourceRules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"],
        "operations": ["CREATE"], "resources": ["foos"]}]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": constraints,
        "paramKind": {"apiVersion": "example.com/v1", "kind": "Foo"},
        "matchConditions": [{"name": "named", "expression": "object.metadata.name != 'param'"}],
        "validations": [{"expression": "object.data.start == params.data.start"}]}});
    server.create(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.ok();
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "param", "parameterNotFoundAction": "Allow"}}});
    server.create(&format!("{GROUP}/validatingadmissionpolicybindings"), binding).await.ok();
    let change = json!({"metadata": {"name": "m"}, "spec": {"matchConstraints": constraints, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
            "Object{data: Object.data{level: 'high'}}"}}]}});
    server.create(&format!("{GROUP}/mutatingadmissionpolicies"), change).await.ok();
    let binding = json!({"metadata": {"name": "m"}, "spec": {"policyName": "m"}});
    server.create(&format!("{GROUP}/mutatingadmissionpolicybindings"), binding).await.ok();
    let made = server.create(FOOS, foo("param", json!({"start": "a"}))).await.ok();
    assert_eq!(made["data"]["level"], "high");
    server.create(FOOS, foo("same", json!({"start": "a"}))).await.ok();
    server.create(FOOS, foo("other", json!({"start": "b"}))).await.refused(422);
}
