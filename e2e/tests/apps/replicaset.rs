//! ReplicaSets and ReplicationControllers: lines 141 to 152. Both keep a number of pods, so most is asked of both.

use e2e::api::{Patch, condition};
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::{Scene, changed, is_ready, name_of, names, template, uids};

/// One of the two.
#[derive(Clone, Copy, PartialEq)]
enum Flavor {
    Set,
    Controller,
}

impl Flavor {
    fn version(self) -> &'static str {
        match self {
            Self::Set => "apps/v1",
            Self::Controller => "v1",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Set => "replicasets",
            Self::Controller => "replicationcontrollers",
        }
    }

    fn collection(self, scene: &Scene) -> String {
        scene.api.path(self.version(), self.plural())
    }

    fn path(self, scene: &Scene, name: &str) -> String {
        format!("{}/{name}", self.collection(scene))
    }

    fn object(self, name: &str, replicas: u32) -> Value {
        let labels = json!({"app": name});
        let selector = match self {
            Self::Set => json!({"matchLabels": labels}),
            Self::Controller => labels.clone(),
        };
        json!({"metadata": {"name": name, "labels": labels},
            "spec": {"replicas": replicas, "selector": selector, "template": template(name)}})
    }

    async fn make(self, scene: &Scene, name: &str, replicas: u32) -> Value {
        scene.api.post(&self.collection(scene), self.object(name, replicas)).await.ok()
    }
}

async fn scales(flavor: Flavor) {
    let scene = Scene::new("scale").await;
    flavor.make(&scene, "r", 1).await;
    scene.ready("r", 1).await;
    let path = format!("{}/scale", flavor.path(&scene, "r"));
    let mut scale = scene.api.get(&path).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(1), &json!("app=r")));
    scale["spec"]["replicas"] = 2.into();
    // The controller writes the status meanwhile.
    scale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(scene.api.put(&path, scale).await.ok()["spec"]["replicas"], 2);
    scene.ready("r", 2).await;
    let patched = scene.api.patch(&path, Patch::Merge, json!({"spec": {"replicas": 4}})).await.ok();
    assert_eq!(patched["spec"]["replicas"], 4);
    scene.ready("r", 4).await;
    assert_eq!(scene.api.get(&flavor.path(&scene, "r")).await.ok()["spec"]["replicas"], 4);
    scene.api.patch(&path, Patch::Merge, json!({"spec": {"replicas": 0}})).await.ok();
    scene.until_pods("r", "all go", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn c142_scale_subresource_of_a_set() {
    need!(machine::root());
    scales(Flavor::Set).await;
}

#[tokio::test]
async fn c148_scale_subresource_of_a_controller() {
    need!(machine::root());
    scales(Flavor::Controller).await;
}

fn owner(pod: &Value) -> &Value {
    &pod["metadata"]["ownerReferences"][0]["uid"]
}

/// A pod that nobody owns is taken where it matches, and let go where it does not any more.
async fn adopts_and_releases(flavor: Flavor) {
    let scene = Scene::new("adopt").await;
    let mut orphan = template("r");
    orphan["metadata"]["name"] = "orphan".into();
    let orphan = scene.api.post(&scene.api.path("v1", "pods"), orphan).await.ok();
    scene.until_ready("orphan", true).await;
    let set = flavor.make(&scene, "r", 1).await;
    let taken = |pods: &[Value]| pods.iter().any(|pod| owner(pod) == &set["metadata"]["uid"]);
    let pods = scene.until_pods("r", "it is adopted", taken).await;
    assert_eq!(uids(&pods), [orphan["metadata"]["uid"].as_str().unwrap()], "no other one is made");
    assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["controller"], true);

    let other = json!({"metadata": {"labels": {"app": "other"}}});
    scene.api.patch(&scene.pod("orphan"), Patch::Merge, other).await.ok();
    let free = |pod: &Value| pod["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty);
    scene.api.until(&scene.api.path("v1", "pods"), "orphan", "it is released", free).await;
    let next = scene.ready("r", 1).await;
    assert_ne!(next[0]["metadata"]["uid"], orphan["metadata"]["uid"]);
    assert!(is_ready(&scene.api.get(&scene.pod("orphan")).await.ok()), "who is released lives on");
}

#[tokio::test]
async fn c143_a_set_adopts_and_releases() {
    need!(machine::root());
    adopts_and_releases(Flavor::Set).await;
}

#[tokio::test]
async fn c147_c149_a_controller_adopts_and_releases() {
    need!(machine::root());
    adopts_and_releases(Flavor::Controller).await;
}

async fn serves(flavor: Flavor) {
    let scene = Scene::new("serve").await;
    let mut object = flavor.object("r", 2);
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    let run =
        "mkdir -p /tmp/www && hostname >/tmp/www/index.html && touch /tmp/ready && exec httpd -f -p 8080 -h /tmp/www";
    container["command"] = json!(["sh", "-c", run]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    scene.api.post(&flavor.collection(&scene), object).await.ok();
    for pod in scene.ready("r", 2).await {
        let path = format!("{}:8080/proxy/", scene.pod(name_of(&pod)));
        let answer = scene.api.get(&path).await;
        assert_eq!((answer.code, String::from_utf8_lossy(&answer.bytes).trim()), (200, name_of(&pod)));
    }
}

#[tokio::test]
async fn c145_each_replica_of_a_set_serves() {
    need!(machine::root());
    serves(Flavor::Set).await;
}

#[tokio::test]
async fn c150_each_replica_of_a_controller_serves() {
    need!(machine::root());
    serves(Flavor::Controller).await;
}

#[tokio::test]
async fn c141_replace_and_patch_a_set() {
    need!(machine::root());
    let scene = Scene::new("rs-replace").await;
    let flavor = Flavor::Set;
    flavor.make(&scene, "r", 1).await;
    scene.ready("r", 1).await;
    let path = flavor.path(&scene, "r");
    let mut set = scene.api.get(&path).await.ok();
    set["spec"]["replicas"] = 2.into();
    // The controller writes the status meanwhile.
    set["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    scene.api.put(&path, set).await.ok();
    scene.ready("r", 2).await;
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}, "spec": {"replicas": 4, "template": {"spec":
        {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}}});
    let patched = scene.api.patch(&path, Patch::Strategic, patch).await.ok();
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
    let pods = scene.ready("r", 4).await;
    let new = pods.iter().filter(|pod| pod["spec"]["containers"][0]["env"][0]["value"] == "1");
    assert_eq!(new.count(), 2, "the template is for those that are made from then on");
    let told = |set: &Value| set["status"]["readyReplicas"] == 4 && set["status"]["availableReplicas"] == 4;
    scene.until("replicasets", "r", "it is told", told).await;
}

#[tokio::test]
async fn c144_collections_of_sets() {
    need!(machine::root());
    let scene = Scene::new("rs-all").await;
    let flavor = Flavor::Set;
    let mark = scene.api.namespace.clone();
    let mut first = flavor.object("r", 2);
    first["metadata"]["labels"]["mark"] = mark.as_str().into();
    scene.api.post(&flavor.collection(&scene), first).await.ok();
    flavor.make(&scene, "other", 0).await;
    scene.ready("r", 2).await;
    let listed = scene.api.get(&format!("/apis/apps/v1/replicasets?labelSelector=mark={mark}")).await.ok();
    assert_eq!(names(listed["items"].as_array().unwrap()), ["r"]);
    scene.api.delete(&format!("{}?labelSelector=mark={mark}", flavor.collection(&scene)), Value::Null).await.ok();
    scene.api.until_gone(&flavor.path(&scene, "r")).await;
    scene.until_pods("r", "its pods go too", <[Value]>::is_empty).await;
    let left = scene.api.get(&flavor.collection(&scene)).await.ok();
    assert_eq!(names(left["items"].as_array().unwrap()), ["other"]);
}

#[tokio::test]
async fn c146_status_subresource_of_a_set() {
    need!(machine::root());
    let scene = Scene::new("rs-status").await;
    let flavor = Flavor::Set;
    flavor.make(&scene, "r", 1).await;
    scene.until("replicasets", "r", "it is told", |set| set["status"]["availableReplicas"] == 1).await;
    let path = format!("{}/status", flavor.path(&scene, "r"));
    let given = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "set by a test"});
    let mut read = scene.api.get(&path).await.ok();
    // The controller may write its own part meanwhile.
    read["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    read["status"]["conditions"] = json!([given("StatusUpdate")]);
    assert_eq!(condition(&scene.api.put(&path, read).await.ok(), "StatusUpdate")["reason"], "E2E");
    let patch = json!({"status": {"conditions": [given("StatusPatched")]}});
    assert_eq!(condition(&scene.api.patch(&path, Patch::Merge, patch).await.ok(), "StatusPatched")["reason"], "E2E");
    // The controller writes its own part and leaves this one.
    scene.patch("replicasets", "r", json!({"spec": {"replicas": 2}})).await;
    let both =
        |set: &Value| condition(set, "StatusPatched")["reason"] == "E2E" && set["status"]["availableReplicas"] == 2;
    scene.until("replicasets", "r", "the condition stays", both).await;
}

#[tokio::test]
async fn c151_what_a_quota_refuses_is_a_condition() {
    need!(machine::root());
    let scene = Scene::new("rc-quota").await;
    let flavor = Flavor::Controller;
    let quotas = scene.api.path("v1", "resourcequotas");
    let quota = json!({"metadata": {"name": "two"}, "spec": {"hard": {"pods": "2"}}});
    scene.api.post(&quotas, quota).await.ok();
    scene.api.until(&quotas, "two", "the quota counts", |quota| quota["status"]["hard"]["pods"] == "2").await;
    flavor.make(&scene, "r", 3).await;
    let failed = |set: &Value| {
        let found = condition(set, "ReplicaFailure");
        found["status"] == "True" && found["reason"] == "FailedCreate"
    };
    let told = scene.api.until(&flavor.collection(&scene), "r", "the quota is in the way", failed).await;
    assert!(condition(&told, "ReplicaFailure")["message"].as_str().unwrap().contains("exceeded quota: two"), "{told}");
    let patch = json!({"spec": {"replicas": 2}});
    scene.api.patch(&flavor.path(&scene, "r"), Patch::Merge, patch).await.ok();
    let well = |set: &Value| condition(set, "ReplicaFailure").is_null() && set["status"]["replicas"] == 2;
    scene.api.until(&flavor.collection(&scene), "r", "it is well", well).await;
}

#[tokio::test]
async fn c152_lifecycle_of_a_controller() {
    need!(machine::root());
    let scene = Scene::new("rc-life").await;
    let flavor = Flavor::Controller;
    let mut events = scene.api.watch(&format!("{}?fieldSelector=metadata.name=r", flavor.collection(&scene))).await;
    let path = flavor.path(&scene, "r");
    flavor.make(&scene, "r", 1).await;
    assert_eq!(events.told().await, ("ADDED".into(), "r".into()));
    changed(&mut events, "it is ready", |set| set["status"]["readyReplicas"] == 1).await;
    scene.api.patch(&path, Patch::Merge, json!({"metadata": {"labels": {"stage": "patched"}}})).await.ok();
    changed(&mut events, "the label", |set| set["metadata"]["labels"]["stage"] == "patched").await;
    let given = json!({"type": "ByHand", "status": "True", "reason": "E2E", "message": ""});
    let status = json!({"status": {"conditions": [given]}});
    scene.api.patch(&format!("{path}/status"), Patch::Merge, status).await.ok();
    changed(&mut events, "the status", |set| condition(set, "ByHand")["reason"] == "E2E").await;
    assert_eq!(condition(&scene.api.get(&format!("{path}/status")).await.ok(), "ByHand")["reason"], "E2E");
    scene.api.patch(&format!("{path}/scale"), Patch::Merge, json!({"spec": {"replicas": 2}})).await.ok();
    changed(&mut events, "two are ready", |set| set["status"]["readyReplicas"] == 2).await;
    let listed = scene.api.get("/api/v1/replicationcontrollers?labelSelector=stage=patched").await.ok();
    assert!(names(listed["items"].as_array().unwrap()).contains(&"r"));
    let mut set = scene.api.get(&path).await.ok();
    set["metadata"]["labels"]["stage"] = "replaced".into();
    set["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    scene.api.put(&path, set).await.ok();
    changed(&mut events, "the new label", |set| set["metadata"]["labels"]["stage"] == "replaced").await;
    scene.api.delete(&format!("{}?labelSelector=stage=replaced", flavor.collection(&scene)), Value::Null).await.ok();
    while events.next("it is deleted").await.0 != "DELETED" {}
    scene.until_pods("r", "its pods go too", <[Value]>::is_empty).await;
}
