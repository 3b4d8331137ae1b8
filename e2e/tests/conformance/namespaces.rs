//! Namespaces: changes, finalizers, and what goes with them.

use e2e::api::Patch;
use serde_json::{Value, json};

use crate::server::api;

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "600"], "imagePullPolicy": "Never"}]}})
}

#[tokio::test]
async fn c071_c072_pods_and_services_go_with_their_namespace() {
    let api = api("gone").await;
    api.post(&api.path("v1", "pods"), pod("p")).await.ok();
    api.post(&api.path("v1", "services"), json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}))
        .await
        .ok();
    let path = format!("/api/v1/namespaces/{}", api.namespace);
    api.delete(&path, Value::Null).await.ok();
    api.until_gone(&path).await;
    // Made again, it is empty.
    api.post("/api/v1/namespaces", json!({"metadata": {"name": api.namespace}})).await.ok();
    for plural in ["pods", "services"] {
        assert_eq!(api.get(&api.path("v1", plural)).await.ok()["items"], json!([]));
    }
}

#[tokio::test]
async fn c074_pods_go_first() {
    let api = api("ordered").await;
    let mut held = pod("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(&api.path("v1", "pods"), held).await.ok();
    let maps = api.path("v1", "configmaps");
    api.post(&maps, json!({"metadata": {"name": "kept"}})).await.ok();
    let path = format!("/api/v1/namespaces/{}", api.namespace);
    api.delete(&path, Value::Null).await.ok();
    api.until(&api.path("v1", "pods"), "held", "the pod is asked to go", |pod| {
        pod["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    api.until("/api/v1/namespaces", &api.namespace, "what is left is told", |namespace| {
        let conditions = namespace["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "NamespaceFinalizersRemaining" && condition["status"] == "True")
    })
    .await;
    assert_eq!(api.get(&format!("{maps}/kept")).await.code, 200, "what is no pod waits for the pods");
    let free = json!({"metadata": {"finalizers": null}});
    api.patch(&format!("{}/held", api.path("v1", "pods")), Patch::Merge, free).await.ok();
    api.until_gone(&path).await;
}

#[tokio::test]
async fn c069_c070_c073_namespaces_change_by_put_patch_and_status() {
    let api = api("changes").await;
    let path = format!("/api/v1/namespaces/{}", api.namespace);
    let label = |name: &str| json!({"metadata": {"labels": {name: "yes"}}});
    let patched = api.patch(&path, Patch::Strategic, label("patched")).await.ok();
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
    let mut whole = patched;
    whole["metadata"]["labels"]["put"] = "yes".into();
    assert_eq!(api.put(&path, whole).await.ok()["metadata"]["labels"]["put"], "yes");

    let status = format!("{path}/status");
    let condition = json!({"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "patched"});
    let patched = api.patch(&status, Patch::Merge, json!({"status": {"conditions": [condition]}})).await.ok();
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatch");
    let mut updated = patched;
    updated["status"]["conditions"][0]["type"] = "StatusUpdate".into();
    let updated = api.put(&status, updated).await.ok();
    assert_eq!(
        (&updated["status"]["conditions"][0]["type"], &updated["status"]["phase"]),
        (&json!("StatusUpdate"), &json!("Active"))
    );
    assert_eq!(api.get(&status).await.ok()["status"]["conditions"][0]["type"], "StatusUpdate");
}

#[tokio::test]
async fn c068_a_finalizer_is_set_and_taken_through_finalize() {
    let api = api("finalize").await;
    let path = format!("/api/v1/namespaces/{}", api.namespace);
    let mut namespace = api.get(&path).await.ok();
    namespace["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fake"]);
    let set = api.put(&format!("{path}/finalize"), namespace).await.ok();
    assert_eq!(set["spec"]["finalizers"], json!(["kubernetes", "e2e.example.com/fake"]));
    let mut namespace = set;
    namespace["spec"]["finalizers"] = json!(["kubernetes"]);
    assert_eq!(api.put(&format!("{path}/finalize"), namespace).await.ok()["spec"]["finalizers"], json!(["kubernetes"]));
    api.delete(&path, Value::Null).await.ok();
    api.until_gone(&path).await;
}
