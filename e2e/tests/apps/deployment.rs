//! Deployments: lines 114 to 121.

use std::collections::BTreeSet;

use e2e::api::{Patch, condition};
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::{Scene, changed, label, name_of, names, template, uids};

const REVISION: &str = "deployment.kubernetes.io/revision";

fn deployment(replicas: u32, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"app": "d"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "d"}}, "template": template("d")}});
    change(&mut object["spec"]);
    object
}

/// A ReplicaSet that a Deployment of the same selector takes for its own.
fn orphan(replicas: u32) -> Value {
    let mut old = template("d");
    old["metadata"]["labels"]["pod"] = "old".into();
    old["metadata"]["annotations"] = json!({"touched": "before"});
    json!({"metadata": {"name": "old", "labels": {"app": "d", "pod": "old"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "d", "pod": "old"}}, "template": old}})
}

fn touched(value: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"touched": value}}}}})
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// Nobody has this image, and nobody looks for it far away.
fn missing_image() -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "missing", "imagePullPolicy": "Never"}]}}}})
}

fn is_done(replicas: u32) -> impl Fn(&Value) -> bool {
    move |object| {
        let status = &object["status"];
        ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|count| status[count] == replicas)
            && status["observedGeneration"] == object["metadata"]["generation"]
    }
}

impl Scene {
    async fn until_done(&self, replicas: u32) -> Value {
        self.until("deployments", "d", "the rollout is complete", is_done(replicas)).await
    }

    async fn strategic(&self, patch: Value) {
        let path = format!("{}/d", self.apps("deployments"));
        self.api.patch(&path, Patch::Strategic, patch).await.ok();
    }

    async fn until_sets(&self, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        self.api.until_all(&format!("{}?labelSelector=app=d", self.apps("replicasets")), what, fits).await
    }
}

#[tokio::test]
async fn c114_scale_subresource() {
    need!(machine::root());
    let scene = Scene::new("deploy-scale").await;
    scene.make("deployments", &deployment(1, |_| {})).await;
    scene.until_done(1).await;
    let path = format!("{}/d/scale", scene.apps("deployments"));
    let mut scale = scene.api.get(&path).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("app=d")));
    scale["spec"]["replicas"] = 2.into();
    // The controller writes the status meanwhile.
    scale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(scene.api.put(&path, scale).await.ok()["spec"]["replicas"], 2);
    scene.until_done(2).await;
    scene.api.patch(&path, Patch::Merge, json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(scene.until_done(4).await["spec"]["replicas"], 4);
}

#[tokio::test]
async fn c115_recreate_never_has_old_and_new_pods_together() {
    need!(machine::root());
    let scene = Scene::new("deploy-recreate").await;
    scene.make("deployments", &deployment(2, |spec| spec["strategy"] = json!({"type": "Recreate"}))).await;
    scene.until_done(2).await;
    let before = scene.ready("d", 2).await;
    let mut events = scene.api.watch(&format!("{}?labelSelector=app=d", scene.api.path("v1", "pods"))).await;
    scene.patch("deployments", "d", touched("once")).await;
    // Who has ended is old no more, though its object may still be there.
    let mut old: BTreeSet<String> = uids(&before).into_iter().map(str::to_owned).collect();
    let mut new = 0;
    while new < 2 {
        let (kind, pod) = events.next("old pods go and new ones come").await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let has_ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if kind == "DELETED" || has_ended {
            old.remove(uid);
        } else if kind == "ADDED" && !uids(&before).contains(&uid) {
            assert!(old.is_empty(), "{} comes while old ones run", name_of(&pod));
            new += 1;
        }
    }
    scene.until_done(2).await;
}

#[tokio::test]
async fn c116_a_rolling_update_replaces_the_pods_of_an_adopted_set() {
    need!(machine::root());
    let scene = Scene::new("deploy-roll").await;
    let old = scene.make("replicasets", &orphan(1)).await;
    let before = scene.ready("d", 1).await;
    let made = scene.make("deployments", &deployment(1, |_| {})).await;
    let done = scene.until_done(1).await;
    let sets = scene.until_sets("the old set is empty", |all| {
        all.len() == 2 && all.iter().any(|set| name_of(set) == "old" && set["status"]["replicas"] == 0)
    });
    let sets = sets.await;
    let adopted = sets.iter().find(|set| name_of(set) == "old").unwrap();
    assert_eq!(adopted["metadata"]["uid"], old["metadata"]["uid"]);
    assert_eq!(adopted["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["uid"]);
    let new = sets.iter().find(|set| name_of(set) != "old").unwrap();
    assert_eq!(new["metadata"]["annotations"][REVISION], done["metadata"]["annotations"][REVISION]);
    assert!(
        label(new, "pod-template-hash").len() > 4 && name_of(new) == format!("d-{}", label(new, "pod-template-hash"))
    );
    let after = scene.ready("d", 1).await;
    assert_ne!(uids(&after), uids(&before));
    assert_eq!(label(&after[0], "pod-template-hash"), label(new, "pod-template-hash"));
    assert_eq!(condition(&done, "Available")["status"], "True");
}

#[tokio::test]
async fn c117_old_sets_are_deleted() {
    need!(machine::root());
    let scene = Scene::new("deploy-history").await;
    scene.make("replicasets", &orphan(1)).await;
    scene.ready("d", 1).await;
    scene.make("deployments", &deployment(1, |spec| spec["revisionHistoryLimit"] = 0.into())).await;
    scene.until_done(1).await;
    let left = scene.until_sets("the old set is gone", |all| all.len() == 1).await;
    assert_ne!(names(&left), ["old"]);
    scene.patch("deployments", "d", touched("once")).await;
    scene.until_done(1).await;
    let next = scene.until_sets("only the newest is kept", |all| all.len() == 1 && names(all) != names(&left)).await;
    assert_eq!(
        next[0]["metadata"]["annotations"][REVISION],
        scene.get("deployments", "d").await["metadata"]["annotations"][REVISION]
    );
}

#[tokio::test]
async fn c118_scaling_in_the_middle_of_a_rollout_is_proportional() {
    need!(machine::root());
    let scene = Scene::new("deploy-share").await;
    scene.make("deployments", &deployment(10, |spec| spec["strategy"] = rolling(json!(3), json!(2)))).await;
    scene.until_done(10).await;
    scene.strategic(missing_image()).await;
    let sizes = |all: &[Value]| {
        let mut sizes: Vec<(i64, i64)> = all
            .iter()
            .map(|set| {
                (set["spec"]["replicas"].as_i64().unwrap(), set["status"]["availableReplicas"].as_i64().unwrap_or(0))
            })
            .collect();
        sizes.sort_unstable();
        sizes
    };
    scene.until_sets("the rollout stands still", |all| sizes(all) == [(5, 0), (8, 8)]).await;
    scene.patch("deployments", "d", json!({"spec": {"replicas": 30}})).await;
    // 33 with the surge, shared as before: 8 of 13 and 5 of 13.
    scene.until_sets("both grow", |all| sizes(all) == [(13, 0), (20, 20)]).await;
}

#[tokio::test]
async fn c119_a_new_template_takes_over_from_one_that_is_on_its_way() {
    need!(machine::root());
    let scene = Scene::new("deploy-over").await;
    scene.make("replicasets", &orphan(1)).await;
    scene.ready("d", 1).await;
    let slow = |spec: &mut Value| {
        spec["minReadySeconds"] = 3.into();
        spec["strategy"] = rolling(json!(1), json!(0));
        let container = &mut spec["template"]["spec"]["containers"][0];
        (container["image"], container["imagePullPolicy"]) = ("missing".into(), "Never".into());
    };
    scene.make("deployments", &deployment(1, slow)).await;
    let stuck = |all: &[Value]| all.len() == 2 && all.iter().all(|set| set["status"]["replicas"] == 1);
    scene.until_sets("the first rollout is on its way", stuck).await;
    scene.until("deployments", "d", "it has the old pod", |object| object["status"]["availableReplicas"] == 1).await;
    let good = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent"}]}}}});
    let mut events = scene.api.watch(&format!("{}?fieldSelector=metadata.name=d", scene.apps("deployments"))).await;
    scene.strategic(good).await;
    let mut least = i64::MAX;
    let done = loop {
        let (_, object) = events.next("the rollout goes on").await;
        if object["status"]["observedGeneration"] == object["metadata"]["generation"] {
            least = least.min(object["status"]["availableReplicas"].as_i64().unwrap_or(0));
        }
        if object["metadata"]["generation"] != 1 && is_done(1)(&object) {
            break object;
        }
    };
    assert_eq!(least, 1, "the old pod stays until the new one is available");
    let sets = scene.until_sets("the others are empty", |all| {
        all.len() == 3 && all.iter().filter(|set| set["status"]["replicas"] == 0).count() == 2
    });
    let sets = sets.await;
    let current = sets.iter().find(|set| set["status"]["replicas"] == 1).unwrap();
    assert_eq!(current["metadata"]["annotations"][REVISION], done["metadata"]["annotations"][REVISION]);
    assert_eq!(current["spec"]["minReadySeconds"], 3);
}

#[tokio::test]
async fn c120_lifecycle() {
    need!(machine::root());
    let scene = Scene::new("deploy-life").await;
    let mut events = scene.api.watch(&format!("{}?labelSelector=life=yes", scene.apps("deployments"))).await;
    let mut object = deployment(1, |_| {});
    object["metadata"]["labels"]["life"] = "yes".into();
    scene.make("deployments", &object).await;
    assert_eq!(events.told().await, ("ADDED".into(), "d".into()));
    let path = format!("{}/d", scene.apps("deployments"));
    changed(&mut events, "it is up", |object| object["status"]["readyReplicas"] == 1).await;
    scene
        .strategic(json!({"metadata": {"labels": {"stage": "patched"}}, "spec": {"replicas": 2, "template": {"spec":
        {"terminationGracePeriodSeconds": 0}}}}))
        .await;
    changed(&mut events, "two are up", |object| {
        object["metadata"]["labels"]["stage"] == "patched" && is_done(2)(object)
    })
    .await;
    let given = json!({"type": "ByHand", "status": "True", "reason": "E2E", "message": ""});
    let mut own = scene.api.get(&format!("{path}/status")).await.ok();
    own["status"]["conditions"].as_array_mut().unwrap().push(given);
    // The controller writes the status meanwhile.
    own["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    scene.api.put(&format!("{path}/status"), own).await.ok();
    changed(&mut events, "the condition", |object| condition(object, "ByHand")["reason"] == "E2E").await;
    let mut whole = scene.api.get(&path).await.ok();
    whole["spec"]["template"]["metadata"]["annotations"] = json!({"touched": "by PUT"});
    whole["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    scene.api.put(&path, whole).await.ok();
    let updated = |object: &Value| {
        object["spec"]["template"]["metadata"]["annotations"]["touched"] == "by PUT" && is_done(2)(object)
    };
    changed(&mut events, "it is updated", updated).await;
    let listed = scene.api.get("/apis/apps/v1/deployments?labelSelector=stage=patched").await.ok();
    assert!(
        listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|other| other["metadata"]["namespace"] == scene.api.namespace.as_str())
    );
    scene.api.delete(&format!("{}?labelSelector=life=yes", scene.apps("deployments")), Value::Null).await.ok();
    while events.next("it is deleted").await.0 != "DELETED" {}
    scene.until_sets("its sets go too", <[Value]>::is_empty).await;
    scene.until_pods("d", "its pods go too", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn c121_status_subresource() {
    need!(machine::root());
    let scene = Scene::new("deploy-status").await;
    scene.make("deployments", &deployment(1, |_| {})).await;
    scene.until_done(1).await;
    let path = format!("{}/d/status", scene.apps("deployments"));
    let given = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "set by a test"});
    let mut read = scene.api.get(&path).await.ok();
    read["status"]["conditions"].as_array_mut().unwrap().push(given("StatusUpdate"));
    read["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(condition(&scene.api.put(&path, read).await.ok(), "StatusUpdate")["reason"], "E2E");
    let patch = json!({"status": {"conditions": [given("StatusPatched")]}});
    assert_eq!(
        condition(&scene.api.patch(&path, Patch::Strategic, patch).await.ok(), "StatusPatched")["reason"],
        "E2E"
    );
    // The controller writes its own part and leaves these.
    scene.patch("deployments", "d", json!({"spec": {"replicas": 2}})).await;
    let done = scene.until_done(2).await;
    for kind in ["StatusUpdate", "StatusPatched"] {
        assert_eq!(condition(&done, kind)["reason"], "E2E", "{}", done["status"]);
    }
    scene.ready("d", 2).await;
}
