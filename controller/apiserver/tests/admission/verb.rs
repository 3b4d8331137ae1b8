//! The resources of admission can be found, and do what every resource does.

use axum::body::Body;
use futures::StreamExt as _;
use http::{Method, Request};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::server::{Server, admin};

const GROUP: &str = "/apis/admissionregistration.k8s.io";

#[tokio::test]
async fn c014_discovery_has_the_resources_of_admission() {
    let server = Server::start().await;
    let groups = server.get("/apis").await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|one| one["name"] == "admissionregistration.k8s.io");
    assert_eq!(group.unwrap()["preferredVersion"]["groupVersion"], "admissionregistration.k8s.io/v1");
    assert_eq!(server.get(GROUP).await.body["versions"][0]["version"], "v1");
    let served = server.get(&format!("{GROUP}/v1")).await.body;
    let names: Vec<&str> =
        served["resources"].as_array().unwrap().iter().filter_map(|resource| resource["name"].as_str()).collect();
    for name in [
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicies/status",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

/// Creates, reads, lists, watches, updates, patches and deletes objects of a collection, one and all.
async fn every_verb(server: &Server, path: &str, object: impl Fn(&str) -> Value) {
    let labelled = |name: &str| {
        let mut object = object(name);
        object["metadata"]["labels"] = json!({"of": "verbs"});
        object
    };
    let selected = format!("{path}?labelSelector=of%3Dverbs");
    let made = server.create(path, labelled("a")).await.ok();
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for name in ["b", "c"] {
        server.create(path, labelled(name)).await.ok();
    }
    assert_eq!(server.get(&format!("{path}/a")).await.body["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(server.get(&selected).await.body["items"].as_array().unwrap().len(), 3);

    let watch = Request::get(format!("{selected}&watch=true&resourceVersion={revision}")).body(Body::empty()).unwrap();
    let watch = server.api.client(admin()).oneshot(watch).await.unwrap();
    let patched =
        server.patch(&format!("{path}/a"), json!({"metadata": {"annotations": {"patched": "true"}}})).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let mut updated = patched.clone();
    updated["metadata"]["annotations"]["updated"] = "true".into();
    let updated = server.call(Method::PUT, &format!("{path}/a"), updated).await.ok();
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    assert_eq!(updated["metadata"]["generation"], made["metadata"]["generation"], "metadata is no new generation");
    server.delete(&format!("{path}/a")).await.ok();
    assert_eq!(server.get(&format!("{path}/a")).await.code, 404);
    server.delete(&selected).await.ok();
    assert_eq!(server.get(&selected).await.body["items"], json!([]));

    let mut told = String::new();
    let mut stream = watch.into_body().into_data_stream();
    while told.matches("\"DELETED\"").count() < 3 {
        told.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
    }
    let kinds: Vec<Value> = told
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| event["type"].clone())
        .collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "MODIFIED", "MODIFIED", "DELETED", "DELETED", "DELETED"]);
}

#[tokio::test]
async fn c066_c067_c092_c093_policies_and_bindings_have_every_verb() {
    let server = Server::start().await;
    let constraints = json!({"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["deployments"]}]});
    let metadata = |name: &str| json!({"name": name});
    every_verb(&server, &format!("{GROUP}/v1/validatingadmissionpolicies"), |name| {
        json!({"metadata": metadata(name), "spec": {"matchConstraints": constraints,
            "validations": [{"expression": "object.spec.replicas <= 100"}]}})
    })
    .await;
    every_verb(
        &server,
        &format!("{GROUP}/v1/validatingadmissionpolicybindings"),
        |name| json!({"metadata": metadata(name), "spec": {"policyName": "p", "validationActions": ["Deny"]}}),
    )
    .await;
    every_verb(&server, &format!("{GROUP}/v1/mutatingadmissionpolicies"), |name| {
        json!({"metadata": metadata(name), "spec": {"matchConstraints": constraints, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}})
    })
    .await;
    every_verb(
        &server,
        &format!("{GROUP}/v1/mutatingadmissionpolicybindings"),
        |name| json!({"metadata": metadata(name), "spec": {"policyName": "p"}}),
    )
    .await;
}

#[tokio::test]
async fn c084_c334_c362_quotas_ranges_and_runtime_classes_have_every_verb() {
    let server = Server::start().await;
    let namespace = "/api/v1/namespaces/default";
    every_verb(
        &server,
        &format!("{namespace}/resourcequotas"),
        |name| json!({"metadata": {"name": name}, "spec": {"hard": {"pods": "1"}}}),
    )
    .await;
    every_verb(&server, &format!("{namespace}/limitranges"), |name| {
        json!({"metadata": {"name": name}, "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}})
    })
    .await;
    every_verb(
        &server,
        "/apis/node.k8s.io/v1/runtimeclasses",
        |name| json!({"metadata": {"name": name}, "handler": "runc"}),
    )
    .await;
}
