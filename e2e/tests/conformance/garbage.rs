//! What goes with its owner, and what stays.

use e2e::api::{Api, Patch};
use serde_json::{Value, json};

use crate::server::api;

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "gc"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers":
        [{"name": "c", "image": "busybox", "command": ["sleep", "600"], "imagePullPolicy": "Never"}]}})
}

/// Waits until as many objects are there.
async fn count(api: &Api, path: &str, wanted: usize) -> Vec<Value> {
    api.until_all(path, &format!("{wanted} objects"), |items| items.len() == wanted).await
}

async fn deployment(api: &Api) -> String {
    let path = api.path("apps/v1", "deployments");
    let object = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "gc"}}, "template": template()}});
    api.post(&path, object).await.ok();
    count(api, &api.path("v1", "pods"), 2).await;
    format!("{path}/d")
}

#[tokio::test]
async fn c057_replica_sets_go_with_their_deployment() {
    let api = api("background").await;
    let object = deployment(&api).await;
    api.delete(&object, json!({"propagationPolicy": "Background"})).await.ok();
    api.until_gone(&object).await;
    count(&api, &api.path("apps/v1", "replicasets"), 0).await;
    count(&api, &api.path("v1", "pods"), 0).await;
}

#[tokio::test]
async fn c062_orphans_stay() {
    let api = api("orphan").await;
    let object = deployment(&api).await;
    api.delete(&object, json!({"propagationPolicy": "Orphan"})).await.ok();
    api.until_gone(&object).await;
    let sets = count(&api, &api.path("apps/v1", "replicasets"), 1).await;
    assert_eq!(sets[0]["metadata"].get("ownerReferences"), None, "{}", sets[0]);
    count(&api, &api.path("v1", "pods"), 2).await;
}

async fn controller(api: &Api, name: &str, replicas: u32) -> (String, Value) {
    let path = api.path("v1", "replicationcontrollers");
    let object = json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"app": "gc"}, "template": template()}});
    let made = api.post(&path, object).await.ok();
    (format!("{path}/{name}"), made)
}

#[tokio::test]
async fn c058_c059_pods_of_a_replication_controller_go_before_or_after_it() {
    let api = api("rc").await;
    let pods = api.path("v1", "pods");
    let (object, _) = controller(&api, "background", 2).await;
    count(&api, &pods, 2).await;
    api.delete(&object, json!({"propagationPolicy": "Background"})).await.ok();
    count(&api, &pods, 0).await;

    let (object, _) = controller(&api, "foreground", 3).await;
    let held = count(&api, &pods, 3).await;
    let held = format!("{pods}/{}", held[0]["metadata"]["name"].as_str().expect("a name"));
    api.patch(&held, Patch::Merge, json!({"metadata": {"finalizers": ["example.com/hold"]}})).await.ok();
    api.delete(&object, json!({"propagationPolicy": "Foreground"})).await.ok();
    count(&api, &pods, 1).await;
    let waiting = api.get(&object).await.ok();
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]), "it waits for its pods");
    api.patch(&held, Patch::Merge, json!({"metadata": {"finalizers": null}})).await.ok();
    api.until_gone(&object).await;
}

#[tokio::test]
async fn c063_pods_of_an_orphaning_replication_controller_stay() {
    let api = api("rcorphan").await;
    let pods = api.path("v1", "pods");
    let (object, _) = controller(&api, "orphaning", 10).await;
    count(&api, &pods, 10).await;
    api.delete(&object, json!({"propagationPolicy": "Orphan"})).await.ok();
    api.until_gone(&object).await;
    for pod in count(&api, &pods, 10).await {
        assert_eq!(pod["metadata"].get("ownerReferences"), None);
    }
}

/// A ConfigMap as an owner or a dependent: the collector does not care what things are.
async fn owned(api: &Api, name: &str, owners: Value) -> Value {
    let maps = api.path("v1", "configmaps");
    api.post(&maps, json!({"metadata": {"name": name, "ownerReferences": owners}})).await.ok()
}

fn reference(owner: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": true})
}

#[tokio::test]
async fn c061_a_second_owner_keeps_what_the_first_would_take() {
    let api = api("two").await;
    let maps = api.path("v1", "configmaps");
    let (going, staying) = (owned(&api, "going", json!([])).await, owned(&api, "staying", json!([])).await);
    owned(&api, "both", json!([reference(&going), reference(&staying)])).await;
    owned(&api, "one", json!([reference(&going)])).await;
    api.delete(&format!("{maps}/going"), json!({"propagationPolicy": "Foreground"})).await.ok();
    api.until_gone(&format!("{maps}/going")).await;
    api.get(&format!("{maps}/one")).await.refused(404);
    let both = api.get(&format!("{maps}/both")).await.ok();
    assert_eq!(both["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1), "{both}");
    assert_eq!(both["metadata"]["ownerReferences"][0]["name"], "staying");
}

#[tokio::test]
async fn c060_a_circle_of_owners_is_collected() {
    let api = api("circle").await;
    let maps = api.path("v1", "configmaps");
    let first = owned(&api, "first", json!([])).await;
    let second = owned(&api, "second", json!([reference(&first)])).await;
    let third = owned(&api, "third", json!([reference(&second)])).await;
    let close = json!({"metadata": {"ownerReferences": [reference(&third)]}});
    api.patch(&format!("{maps}/first"), Patch::Merge, close).await.ok();
    api.delete(&format!("{maps}/first"), json!({"propagationPolicy": "Background"})).await.ok();
    for name in ["first", "second", "third"] {
        api.until_gone(&format!("{maps}/{name}")).await;
    }
}
