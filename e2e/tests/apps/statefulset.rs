//! StatefulSets: lines 153 to 160, and what they leave out.

use e2e::api::{Events, Patch};
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::{Scene, is_ready, label, name_of, names, template, uids};

const REVISION: &str = "controller-revision-hash";

/// A StatefulSet of this name whose spec is changed.
pub(crate) fn set(name: &str, replicas: u32, change: impl FnOnce(&mut Value)) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "serviceName": "www", "selector": {"matchLabels": {"app": name}},
            "template": template(name)}});
    change(&mut set["spec"]);
    set
}

/// The next pods that come, or go, by name.
async fn next(events: &mut Events, kind: &str, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let (told, object) = events.next(&format!("{count} pods {kind}, after {seen:?}")).await;
        if told == kind {
            seen.push(name_of(&object).to_owned());
        }
    }
    seen
}

impl Scene {
    async fn scale(&self, name: &str, replicas: u32) {
        self.patch("statefulsets", name, json!({"spec": {"replicas": replicas}})).await;
    }

    async fn watch_pods(&self, app: &str) -> Events {
        self.api.watch(&format!("{}?labelSelector=app={app}", self.api.path("v1", "pods"))).await
    }
}

#[tokio::test]
async fn c154_pods_come_and_go_in_order_and_wait_for_one_that_is_not_ready() {
    need!(machine::root());
    let scene = Scene::new("sts-order").await;
    let mut events = scene.watch_pods("web").await;
    scene.make("statefulsets", &set("web", 1, |_| {})).await;
    scene.ready("web", 1).await;
    scene.fail("web-0");
    scene.until_ready("web-0", false).await;
    scene.scale("web", 3).await;
    assert_eq!(names(&scene.still("web").await), ["web-0"]);
    scene.mend("web-0");
    scene.ready("web", 3).await;
    assert_eq!(next(&mut events, "ADDED", 3).await, ["web-0", "web-1", "web-2"]);

    for pod in ["web-0", "web-1", "web-2"] {
        scene.fail(pod);
        scene.until_ready(pod, false).await;
    }
    scene.scale("web", 0).await;
    assert_eq!(scene.still("web").await.len(), 3);
    for pod in ["web-0", "web-1", "web-2"] {
        scene.mend(pod);
    }
    assert_eq!(next(&mut events, "DELETED", 3).await, ["web-2", "web-1", "web-0"]);
    scene.api.event("web", "SuccessfulDelete", "delete Pod web-0 in StatefulSet web successful").await;
}

#[tokio::test]
async fn c153_pods_come_and_go_together_whether_or_not_others_are_ready() {
    need!(machine::root());
    let scene = Scene::new("sts-burst").await;
    scene.make("statefulsets", &set("web", 1, |spec| spec["podManagementPolicy"] = "Parallel".into())).await;
    scene.ready("web", 1).await;
    scene.fail("web-0");
    scene.until_ready("web-0", false).await;
    scene.scale("web", 3).await;
    let others_ready = |pods: &[Value]| pods.len() == 3 && pods.iter().filter(|pod| is_ready(pod)).count() == 2;
    let pods = scene.until_pods("web", "the others are ready", others_ready).await;
    assert!(!is_ready(&pods[0]), "the first one did not recover by itself");
    scene.mend("web-0");
    scene.ready("web", 3).await;
    for pod in ["web-0", "web-1", "web-2"] {
        scene.fail(pod);
        scene.until_ready(pod, false).await;
    }
    scene.scale("web", 0).await;
    scene.until_pods("web", "all are gone though none is ready", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn c155_a_pod_that_its_node_refuses_is_made_again() {
    need!(machine::root());
    let scene = Scene::new("sts-evicted").await;
    let port = json!([{"containerPort": 21017, "hostPort": 21017}]);
    let with_port = |mut template: Value| {
        template["spec"]["nodeName"] = "node-1".into();
        template["spec"]["containers"][0]["ports"] = port.clone();
        template
    };
    let mut pod = with_port(template("first"));
    pod["metadata"]["name"] = "first".into();
    scene.api.post(&scene.api.path("v1", "pods"), pod).await.ok();
    scene.until_ready("first", true).await;
    let pods = scene.api.path("v1", "pods");
    let mut events = scene.api.watch(&format!("{pods}?labelSelector=app=web")).await;
    scene.make("statefulsets", &set("web", 1, |spec| spec["template"] = with_port(template("web")))).await;
    // It is refused, and goes, and comes again.
    let refused = loop {
        let (kind, pod) = events.next("the node refuses the pod").await;
        if kind != "DELETED" && pod["status"]["phase"] == "Failed" {
            break pod;
        }
    };
    assert_eq!(refused["status"]["reason"], "NodePorts", "{}", refused["status"]);
    while events.next("the refused pod goes").await.0 != "DELETED" {}
    scene.api.event("web", "RecreatingFailedPod", "is recreating failed Pod web-0").await;
    scene.api.delete(&scene.pod("first"), Value::Null).await.ok();
    let pod = scene.ready("web", 1).await.remove(0);
    assert!(name_of(&pod) == "web-0" && pod["metadata"]["uid"] != refused["metadata"]["uid"]);
}

#[tokio::test]
async fn c156_scale_subresource() {
    need!(machine::root());
    let scene = Scene::new("sts-scale").await;
    scene.make("statefulsets", &set("web", 1, |_| {})).await;
    scene.ready("web", 1).await;
    let path = format!("{}/web/scale", scene.apps("statefulsets"));
    let mut scale = scene.api.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = 2.into();
    // The controller writes the status meanwhile.
    scale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(scene.api.put(&path, scale).await.ok()["spec"]["replicas"], 2);
    assert_eq!(scene.get("statefulsets", "web").await["spec"]["replicas"], 2);
    scene.ready("web", 2).await;
    let patched = scene.api.patch(&path, Patch::Merge, json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 4);
    assert_eq!(scene.get("statefulsets", "web").await["spec"]["replicas"], 4);
    scene.ready("web", 4).await;
    scene.gantry(&["scale", "statefulset/web", "--replicas=1"]).ok();
    scene.ready("web", 1).await;
}

#[tokio::test]
async fn c157_collections() {
    need!(machine::root());
    let scene = Scene::new("sts-all").await;
    let mut first = set("web", 1, |_| {});
    let mark = scene.api.namespace.clone();
    first["metadata"]["labels"]["mark"] = mark.as_str().into();
    scene.make("statefulsets", &first).await;
    scene.ready("web", 1).await;
    let other = set("other", 0, |_| {});
    scene.make("statefulsets", &other).await;
    let all = scene.api.get(&format!("/apis/apps/v1/statefulsets?labelSelector=mark={mark}")).await.ok();
    assert_eq!(names(all["items"].as_array().unwrap()), ["web"]);
    let strategic = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"replicas": 2, "template": {"spec":
        {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}}});
    let path = format!("{}/web", scene.apps("statefulsets"));
    let patched = scene.api.patch(&path, Patch::Strategic, strategic).await.ok();
    let container = &patched["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["env"][0]["value"]), (&json!("busybox"), &json!("1")));
    let pods = scene.ready("web", 2).await;
    assert!(pods.iter().any(|pod| pod["spec"]["containers"][0]["env"][0]["value"] == "1"));
    let selector = format!("{}?labelSelector=patched=yes", scene.apps("statefulsets"));
    scene.api.delete(&selector, json!({"gracePeriodSeconds": 0})).await.ok();
    scene.api.until_gone(&path).await;
    scene.until_pods("web", "its pods go too", <[Value]>::is_empty).await;
    assert_eq!(name_of(&scene.get("statefulsets", "other").await), "other");
}

/// Another template.
pub(crate) fn touched(value: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"touched": value}}}}})
}

fn partition(value: u32) -> Value {
    json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": value}}}})
}

fn revisions(pods: &[Value]) -> Vec<&str> {
    pods.iter().map(|pod| label(pod, REVISION)).collect()
}

#[tokio::test]
async fn c158_a_partition_holds_an_update_back() {
    need!(machine::root());
    let scene = Scene::new("sts-canary").await;
    let held = |spec: &mut Value| spec["updateStrategy"] = partition(3)["spec"]["updateStrategy"].clone();
    scene.make("statefulsets", &set("web", 3, held)).await;
    let before = scene.ready("web", 3).await;
    scene.patch("statefulsets", "web", touched("once")).await;
    let told = scene
        .until("statefulsets", "web", "there are two revisions", |set| {
            set["status"]["updateRevision"] != set["status"]["currentRevision"]
        })
        .await;
    let (old, new) = (
        told["status"]["currentRevision"].as_str().unwrap().to_owned(),
        told["status"]["updateRevision"].as_str().unwrap().to_owned(),
    );
    assert_eq!(uids(&scene.still("web").await), uids(&before));

    // The canary.
    scene.patch("statefulsets", "web", partition(2)).await;
    let is_canary = |pods: &[Value]| {
        pods.iter().any(|pod| label(pod, REVISION) == new) && pods.iter().all(is_ready) && pods.len() == 3
    };
    let pods = scene.until_pods("web", "the canary", is_canary).await;
    assert_eq!(revisions(&pods), [&*old, &*old, &*new]);
    assert_eq!(uids(&pods)[..2], uids(&before)[..2]);

    // What is deleted comes back as it was.
    for pod in ["web-0", "web-2"] {
        let uid = pods.iter().find(|other| name_of(other) == pod).unwrap()["metadata"]["uid"].clone();
        scene.api.delete(&scene.pod(pod), Value::Null).await.ok();
        let is_back = |pods: &[Value]| {
            pods.len() == 3 && pods.iter().all(is_ready) && pods.iter().all(|pod| pod["metadata"]["uid"] != uid)
        };
        let pods = scene.until_pods("web", "it is back", is_back).await;
        assert_eq!(revisions(&pods), [&*old, &*old, &*new], "after {pod}");
    }

    // Phase by phase.
    let mut events = scene.watch_pods("web").await;
    for (phase, last) in [(1, "web-1"), (0, "web-0")] {
        scene.patch("statefulsets", "web", partition(phase)).await;
        assert_eq!(next(&mut events, "DELETED", 1).await, [last]);
        scene.ready("web", 3).await;
    }
    assert_eq!(revisions(&scene.pods("web").await), [&*new; 3]);
    let is_done = |set: &Value| set["status"]["currentRevision"] == *new && set["status"]["currentReplicas"] == 3;
    scene.until("statefulsets", "web", "the update is complete", is_done).await;
}

#[tokio::test]
async fn c159_updates_roll_in_reverse_order_and_back_to_the_same_revision() {
    need!(machine::root());
    let scene = Scene::new("sts-roll").await;
    scene.make("statefulsets", &set("web", 3, |_| {})).await;
    scene.ready("web", 3).await;
    let settled = |set: &Value| {
        let status = &set["status"];
        status["currentRevision"] == status["updateRevision"]
            && ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"]
                .iter()
                .all(|n| status[n] == 3)
            && status["observedGeneration"] == set["metadata"]["generation"]
    };
    let first = scene.until("statefulsets", "web", "it is up", settled).await["status"]["updateRevision"].clone();
    let mut events = scene.watch_pods("web").await;
    scene.patch("statefulsets", "web", touched("once")).await;
    assert_eq!(next(&mut events, "DELETED", 3).await, ["web-2", "web-1", "web-0"]);
    let updated = |set: &Value| settled(set) && set["status"]["updateRevision"] != first;
    let second = scene.until("statefulsets", "web", "it is updated", updated).await["status"]["updateRevision"].clone();
    assert!(scene.ready("web", 3).await.iter().all(|pod| label(pod, REVISION) == second));

    let said = scene.gantry(&["rollout", "history", "statefulset/web"]).ok();
    assert!(said.contains("1         <none>") && said.contains("2         <none>"), "{said}");
    assert_eq!(scene.gantry(&["rollout", "undo", "statefulset/web"]).ok(), "statefulset.apps/web rolled back\n");
    assert_eq!(next(&mut events, "DELETED", 3).await, ["web-2", "web-1", "web-0"]);
    scene.gantry(&["rollout", "status", "statefulset/web", "--timeout=60s"]).ok();
    let back = scene
        .until("statefulsets", "web", "it is as it was", |set| settled(set) && set["status"]["updateRevision"] == first)
        .await;
    assert_eq!(back["status"]["currentRevision"], first);
    let kept = scene.api.get(&scene.apps("controllerrevisions")).await.ok();
    let mut numbers: Vec<i64> =
        kept["items"].as_array().unwrap().iter().map(|r| r["revision"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the way back is the newest revision, and no other one");
    assert!(scene.ready("web", 3).await.iter().all(|pod| label(pod, REVISION) == first));
}

#[tokio::test]
async fn c160_status_subresource() {
    need!(machine::root());
    let scene = Scene::new("sts-status").await;
    scene.make("statefulsets", &set("web", 1, |_| {})).await;
    scene.ready("web", 1).await;
    let path = format!("{}/web/status", scene.apps("statefulsets"));
    scene.until("statefulsets", "web", "it is told", |set| set["status"]["readyReplicas"] == 1).await;
    let mut read = scene.api.get(&path).await.ok();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "set by a test"});
    // The controller may write its own part meanwhile.
    read["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    read["status"]["conditions"] = json!([condition("StatusUpdate")]);
    let has = |set: &Value, kind: &str| set["status"]["conditions"][0]["type"] == kind;
    assert!(has(&scene.api.put(&path, read).await.ok(), "StatusUpdate"));
    scene.until("statefulsets", "web", "the update stays", |set| has(set, "StatusUpdate")).await;
    let patch = json!({"status": {"conditions": [condition("StatusPatched")]}});
    assert!(has(&scene.api.patch(&path, Patch::Merge, patch).await.ok(), "StatusPatched"));
    // The controller writes its own part and leaves this one.
    scene.scale("web", 2).await;
    let both = |set: &Value| has(set, "StatusPatched") && set["status"]["readyReplicas"] == 2;
    scene.until("statefulsets", "web", "the condition stays", both).await;
}
