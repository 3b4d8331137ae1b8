//! DaemonSets: lines 107 to 113, and what they leave out.

use std::collections::BTreeSet;

use e2e::api::Patch;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::hollow::Hollow;
use crate::scene::{Scene, is_ready, label, name_of, names, template, uids};

const HASH: &str = "controller-revision-hash";

/// A DaemonSet of this name whose spec is changed.
pub(crate) fn set(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name)}});
    change(&mut set["spec"]);
    set
}

fn nodes(pods: &[Value]) -> BTreeSet<&str> {
    pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default()).collect()
}

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

impl Scene {
    /// Another image, as a strategic merge patch, which leaves the rest of the container.
    async fn set_image(&self, name: &str, to: &str) {
        let path = format!("{}/{name}", self.apps("daemonsets"));
        self.api.patch(&path, Patch::Strategic, image(to)).await.ok();
    }
}

#[tokio::test]
async fn c111_every_node_has_a_pod_and_one_that_is_deleted_comes_again() {
    need!(machine::root());
    let scene = Scene::new("ds-simple").await;
    let hollow = Hollow::new(&scene.api, 2).await;
    scene.make("daemonsets", &set("d", |spec| hollow.only(&mut spec["template"], true))).await;
    let before = scene.ready("d", 3).await;
    assert_eq!(nodes(&before).len(), 3);
    assert!(nodes(&before).contains("node-1"));
    for pod in &before {
        let affinity = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let field = &affinity["nodeSelectorTerms"][0]["matchFields"][0];
        assert_eq!((&field["key"], &field["values"][0]), (&json!("metadata.name"), &pod["spec"]["nodeName"]));
    }
    let real = before.iter().find(|pod| pod["spec"]["nodeName"] == "node-1").unwrap();
    scene.api.delete(&scene.pod(name_of(real)), Value::Null).await.ok();
    let other = |pods: &[Value]| {
        pods.len() == 3 && pods.iter().all(is_ready) && !uids(pods).contains(&real["metadata"]["uid"].as_str().unwrap())
    };
    let after = scene.until_pods("d", "another one comes", other).await;
    assert_eq!(nodes(&after), nodes(&before));
    let told = |set: &Value| {
        let counts = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "numberAvailable",
            "updatedNumberScheduled",
        ];
        counts.iter().all(|count| set["status"][count] == 3) && set["status"]["numberMisscheduled"] == 0
    };
    scene.until("daemonsets", "d", "it is told", told).await;
    scene.api.delete(&format!("{}/d", scene.apps("daemonsets")), Value::Null).await.ok();
    scene.until_pods("d", "its pods go with it", <[Value]>::is_empty).await;
    hollow.end().await;
}

#[tokio::test]
async fn c110_labels_of_nodes_bring_pods_and_take_them_away() {
    need!(machine::root());
    let scene = Scene::new("ds-complex").await;
    let key = format!("color-{}", scene.api.namespace);
    let paint = |color: Value| json!({"metadata": {"labels": {key.as_str(): color}}});
    let on = |color: &str| {
        let mut spec =
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}});
        spec["template"]["spec"]["nodeSelector"] = json!({key.as_str(): color});
        spec
    };
    let blue = set("d", |spec| spec["template"]["spec"]["nodeSelector"] = json!({key.as_str(): "blue"}));
    scene.make("daemonsets", &blue).await;
    assert!(scene.still("d").await.is_empty());
    let node = "/api/v1/nodes/node-1";
    scene.api.patch(node, Patch::Merge, paint("blue".into())).await.ok();
    scene.ready("d", 1).await;
    scene.api.patch(node, Patch::Merge, paint("green".into())).await.ok();
    scene.until_pods("d", "it leaves a node of another color", <[Value]>::is_empty).await;
    scene.patch("daemonsets", "d", json!({"spec": on("green")})).await;
    scene.ready("d", 1).await;
    scene.until("daemonsets", "d", "it is told", |set| set["status"]["numberAvailable"] == 1).await;
    scene.api.patch(node, Patch::Merge, paint(Value::Null)).await.ok();
    scene.until_pods("d", "it leaves", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn c108_a_failed_pod_is_replaced() {
    need!(machine::root());
    let scene = Scene::new("ds-failed").await;
    scene.make("daemonsets", &set("d", |_| {})).await;
    let before = scene.ready("d", 1).await;
    let status = json!({"status": {"phase": "Failed"}});
    scene.api.patch(&format!("{}/status", scene.pod(name_of(&before[0]))), Patch::Merge, status).await.ok();
    let other = |pods: &[Value]| pods.len() == 1 && pods.iter().all(is_ready) && uids(pods) != uids(&before);
    scene.until_pods("d", "another one comes", other).await;
    let text = format!("Found failed daemon pod {}/{} on node node-1", scene.api.namespace, name_of(&before[0]));
    scene.api.event("d", "FailedDaemonPod", &text).await;
}

#[tokio::test]
async fn c112_an_update_rolls_over_the_nodes_one_by_one() {
    need!(machine::root());
    let scene = Scene::new("ds-update").await;
    let hollow = Hollow::new(&scene.api, 3).await;
    scene.make("daemonsets", &set("d", |spec| hollow.only(&mut spec["template"], true))).await;
    let before = scene.ready("d", 4).await;
    let first = label(&before[0], HASH).to_owned();
    assert_eq!(label(&before[0], "pod-template-generation"), "1");
    scene.until("daemonsets", "d", "all are told", |set| set["status"]["numberAvailable"] == 4).await;
    let mut events = scene.api.watch(&format!("{}?fieldSelector=metadata.name=d", scene.apps("daemonsets"))).await;
    let touched = json!({"spec": {"template": {"metadata": {"annotations": {"touched": "once"}}}}});
    scene.patch("daemonsets", "d", touched).await;
    loop {
        let (_, set) = events.next("the update goes on").await;
        let status = &set["status"];
        assert!(status["numberUnavailable"].as_i64().unwrap_or(0) <= 1, "one at a time: {status}");
        if status["updatedNumberScheduled"] == 4 && status["numberAvailable"] == 4 && status["observedGeneration"] == 2
        {
            break;
        }
    }
    let after = scene.ready("d", 4).await;
    let hashes: BTreeSet<&str> = after.iter().map(|pod| label(pod, HASH)).collect();
    assert!(hashes.len() == 1 && !hashes.contains(first.as_str()), "{hashes:?}");
    assert_eq!((nodes(&after), label(&after[0], "pod-template-generation")), (nodes(&before), "2"));
    let set = scene.get("daemonsets", "d").await;
    assert_eq!(set["metadata"]["annotations"]["deprecated.daemonset.template.generation"], "2");
    scene.gantry(&["rollout", "status", "daemonset/d", "--timeout=60s"]).ok();
    hollow.end().await;
}

#[tokio::test]
async fn c109_a_rollback_leaves_pods_alone_that_the_update_did_not_reach() {
    need!(machine::root());
    let scene = Scene::new("ds-back").await;
    let hollow = Hollow::new(&scene.api, 3).await;
    scene.make("daemonsets", &set("d", |spec| hollow.only(&mut spec["template"], true))).await;
    let before = scene.ready("d", 4).await;
    let first = label(&before[0], HASH).to_owned();
    scene.until("daemonsets", "d", "all are told", |set| set["status"]["numberAvailable"] == 4).await;
    scene.set_image("d", "broken").await;
    let is_broken = |pod: &Value| pod["spec"]["containers"][0]["image"] == "broken";
    let reached = |pods: &[Value]| pods.len() == 4 && pods.iter().filter(|pod| is_broken(pod)).count() == 1;
    scene.until_pods("d", "the update reaches one node", reached).await;
    let stuck = scene.still("d").await;
    let untouched: Vec<&str> = uids(&stuck).into_iter().filter(|uid| uids(&before).contains(uid)).collect();
    assert_eq!(untouched.len(), 3, "it goes no further: {:?}", names(&stuck));

    scene.gantry(&["rollout", "undo", "daemonset/d"]).ok();
    let after = scene.ready("d", 4).await;
    assert!(untouched.iter().all(|uid| uids(&after).contains(uid)), "what was well is not restarted");
    assert!(after.iter().all(|pod| label(pod, HASH) == first && !is_broken(pod)));
    let told = |set: &Value| set["status"]["updatedNumberScheduled"] == 4 && set["status"]["numberAvailable"] == 4;
    scene.until("daemonsets", "d", "all is as it was", told).await;
    let kept = scene.api.get(&scene.apps("controllerrevisions")).await.ok();
    let mut numbers: Vec<i64> =
        kept["items"].as_array().unwrap().iter().map(|r| r["revision"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the way back is the newest revision, and no other one");
    hollow.end().await;
}

#[tokio::test]
async fn c113_status_subresource() {
    need!(machine::root());
    let scene = Scene::new("ds-status").await;
    scene.make("daemonsets", &set("d", |_| {})).await;
    scene.ready("d", 1).await;
    scene.until("daemonsets", "d", "it is told", |set| set["status"]["numberReady"] == 1).await;
    let path = format!("{}/d/status", scene.apps("daemonsets"));
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "set by a test"});
    let has = |set: &Value, kind: &str| set["status"]["conditions"][0]["type"] == kind;
    let mut read = scene.api.get(&path).await.ok();
    // The controller may write its own part meanwhile.
    read["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    read["status"]["conditions"] = json!([condition("StatusUpdate")]);
    assert!(has(&scene.api.put(&path, read).await.ok(), "StatusUpdate"));
    scene.until("daemonsets", "d", "the update stays", |set| has(set, "StatusUpdate")).await;
    let patch = json!({"status": {"conditions": [condition("StatusPatched")]}});
    assert!(has(&scene.api.patch(&path, Patch::Merge, patch).await.ok(), "StatusPatched"));
    // The controller writes its own part and leaves this one.
    let touched = json!({"spec": {"template": {"metadata": {"annotations": {"touched": "once"}}}}});
    scene.patch("daemonsets", "d", touched).await;
    let both = |set: &Value| has(set, "StatusPatched") && set["status"]["observedGeneration"] == 2;
    scene.until("daemonsets", "d", "the condition stays", both).await;
}

#[tokio::test]
async fn c107_collections() {
    need!(machine::root());
    let scene = Scene::new("ds-all").await;
    let mark = scene.api.namespace.clone();
    let mut first = set("d", |_| {});
    first["metadata"]["labels"]["mark"] = mark.as_str().into();
    scene.make("daemonsets", &first).await;
    scene
        .make("daemonsets", &set("other", |spec| spec["template"]["spec"]["nodeSelector"] = json!({"no": "where"})))
        .await;
    scene.ready("d", 1).await;
    let listed = scene.api.get(&format!("/apis/apps/v1/daemonsets?labelSelector=mark={mark}")).await.ok();
    assert_eq!(names(listed["items"].as_array().unwrap()), ["d"]);
    scene.api.delete(&format!("{}?labelSelector=mark={mark}", scene.apps("daemonsets")), Value::Null).await.ok();
    scene.api.until_gone(&format!("{}/d", scene.apps("daemonsets"))).await;
    scene.until_pods("d", "its pods go too", <[Value]>::is_empty).await;
    let left = scene.api.get(&scene.apps("daemonsets")).await.ok();
    assert_eq!(names(left["items"].as_array().unwrap()), ["other"]);
}

#[tokio::test]
async fn new_pods_come_before_old_ones_go_where_a_surge_is_allowed() {
    need!(machine::root());
    let scene = Scene::new("ds-surge").await;
    let hollow = Hollow::new(&scene.api, 3).await;
    let surging = |spec: &mut Value| {
        hollow.only(&mut spec["template"], false);
        spec["updateStrategy"] =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}});
    };
    scene.make("daemonsets", &set("d", surging)).await;
    scene.ready("d", 3).await;
    scene.until("daemonsets", "d", "all are told", |set| set["status"]["numberAvailable"] == 3).await;
    let mut events = scene.api.watch(&format!("{}?labelSelector=app=d", scene.api.path("v1", "pods"))).await;
    let mut pods = std::collections::BTreeMap::new();
    let mut most = 0;
    let touched = json!({"spec": {"template": {"metadata": {"annotations": {"touched": "once"}}}}});
    scene.patch("daemonsets", "d", touched).await;
    loop {
        let (kind, pod) = events.next("the update goes on").await;
        let name = name_of(&pod).to_owned();
        match kind.as_str() {
            "DELETED" => drop(pods.remove(&name)),
            _ => drop(pods.insert(name, pod)),
        }
        let ready: BTreeSet<&str> =
            pods.values().filter(|pod| is_ready(pod)).filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
        let new = pods.values().filter(|pod| pod["metadata"]["annotations"]["touched"] == "once");
        most = most.max(pods.values().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count());
        if new.count() > 0 {
            assert_eq!(ready.len(), 3, "every node has a ready pod at any time");
        }
        if pods.len() == 3 && pods.values().all(|pod| pod["metadata"]["annotations"]["touched"] == "once") {
            break;
        }
    }
    assert!((4..=5).contains(&most), "{most} pods at most on three nodes");
    hollow.end().await;
}

#[tokio::test]
async fn pods_follow_nodes_that_come_and_go_and_taints() {
    need!(machine::root());
    let scene = Scene::new("ds-nodes").await;
    let mut hollow = Hollow::new(&scene.api, 1).await;
    scene.make("daemonsets", &set("d", |spec| hollow.only(&mut spec["template"], false))).await;
    scene.ready("d", 1).await;
    let second = hollow.add().await;
    let pods = scene.ready("d", 2).await;
    let taints = |more: Value| {
        let mut taints = vec![json!({"key": "hollow", "value": scene.api.namespace, "effect": "NoSchedule"})];
        taints.extend(more.as_array().cloned().unwrap_or_default());
        json!({"spec": {"taints": taints}})
    };
    // A taint that only keeps new pods away leaves the old one, which counts as misplaced from then on.
    hollow.patch(&second, taints(json!([{"key": "own", "effect": "NoSchedule"}]))).await;
    let told = |set: &Value| set["status"]["numberMisscheduled"] == 1 && set["status"]["desiredNumberScheduled"] == 1;
    scene.until("daemonsets", "d", "one is misplaced", told).await;
    assert_eq!(uids(&scene.still("d").await), uids(&pods));
    hollow.patch(&second, taints(json!([{"key": "own", "effect": "NoExecute"}]))).await;
    scene.until_pods("d", "it is driven out", |pods| pods.len() == 1).await;
    hollow.patch(&second, taints(json!([]))).await;
    scene.ready("d", 2).await;
    // A cordoned node keeps its pod and gets a new one.
    hollow.patch(&second, json!({"spec": {"unschedulable": true}})).await;
    let on_second = scene.pods("d").await.into_iter().find(|pod| pod["spec"]["nodeName"] == second).unwrap();
    scene.api.delete(&scene.pod(name_of(&on_second)), Value::Null).await.ok();
    let again = |pods: &[Value]| {
        pods.len() == 2
            && pods.iter().all(is_ready)
            && !uids(pods).contains(&on_second["metadata"]["uid"].as_str().unwrap())
    };
    scene.until_pods("d", "it comes back to the cordoned node", again).await;
    hollow.remove(&second).await;
    // What is left of its pod is cleared away later, and by somebody else.
    let told = |set: &Value| set["status"]["desiredNumberScheduled"] == 1 && set["status"]["numberMisscheduled"] == 0;
    scene.until("daemonsets", "d", "it is not wanted any more", told).await;
    hollow.end().await;
}
