//! What StatefulSets do beyond the conformance lines: claims and who they go with, names, ordinals, the other strategies.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::{Scene, is_ready, label, name_of, names, uids};
use crate::statefulset::{set, touched};

/// A claim of 16 MiB for every pod, at `/data`.
fn with_claim(spec: &mut Value) {
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}});
    spec["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": claim}]);
    spec["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
}

impl Scene {
    async fn until_claims(&self, what: &str, wanted: &[&str]) -> Vec<Value> {
        let is_it = |all: &[Value]| {
            let mut found = names(all);
            found.sort_unstable();
            found == wanted && all.iter().all(|claim| claim["metadata"]["deletionTimestamp"].is_null())
        };
        self.api.until_all(&self.api.path("v1", "persistentvolumeclaims"), what, is_it).await
    }

    fn write(&self, pod: &str) {
        self.gantry(&["exec", pod, "--", "sh", "-c", "hostname > /data/who"]).ok();
    }

    fn read(&self, pod: &str) -> String {
        self.gantry(&["exec", pod, "--", "sh", "-c", "cat /data/who 2>/dev/null || echo nobody"]).ok().trim().to_owned()
    }

    async fn replaced(&self, pod: &str) {
        let uid = self.api.get(&self.pod(pod)).await.ok()["metadata"]["uid"].clone();
        self.api.delete(&self.pod(pod), Value::Null).await.ok();
        let again = |pod: &Value| is_ready(pod) && pod["metadata"]["uid"] != uid;
        self.api.until(&self.api.path("v1", "pods"), pod, "it is back", again).await;
    }
}

#[tokio::test]
async fn a_pod_keeps_its_claim_and_claims_stay_behind_by_default() {
    need!(machine::root());
    let scene = Scene::new("sts-claims").await;
    scene.make("statefulsets", &set("web", 2, with_claim)).await;
    scene.ready("web", 2).await;
    let claims = scene.until_claims("every pod has its claim", &["data-web-0", "data-web-1"]).await;
    assert!(claims.iter().all(|claim| label(claim, "app") == "web" && claim["metadata"]["ownerReferences"].is_null()));
    scene.api.event("web", "SuccessfulCreate", "create Claim data-web-1 Pod web-1 in StatefulSet web success").await;
    scene.write("web-0");
    scene.write("web-1");
    scene.replaced("web-0").await;
    assert_eq!(scene.read("web-0"), "web-0");
    scene.patch("statefulsets", "web", json!({"spec": {"replicas": 1}})).await;
    scene.ready("web", 1).await;
    scene.patch("statefulsets", "web", json!({"spec": {"replicas": 2}})).await;
    scene.ready("web", 2).await;
    assert_eq!(scene.read("web-1"), "web-1");
    scene.api.delete(&format!("{}/web", scene.apps("statefulsets")), Value::Null).await.ok();
    scene.until_pods("web", "its pods go", <[Value]>::is_empty).await;
    scene.until_claims("the claims stay", &["data-web-0", "data-web-1"]).await;
}

#[tokio::test]
async fn claims_go_when_the_retention_policy_says_so() {
    need!(machine::root());
    let scene = Scene::new("sts-retention").await;
    let going = |spec: &mut Value| {
        with_claim(spec);
        spec["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    };
    let made = scene.make("statefulsets", &set("web", 2, going)).await;
    scene.ready("web", 2).await;
    let claims = scene.until_claims("every pod has its claim", &["data-web-0", "data-web-1"]).await;
    for claim in &claims {
        let owner = &claim["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("StatefulSet"), &made["metadata"]["uid"]));
    }
    scene.write("web-0");
    scene.write("web-1");
    // A pod that is only replaced keeps its data; one that is scaled away leaves nothing.
    scene.replaced("web-1").await;
    assert_eq!(scene.read("web-1"), "web-1");
    scene.patch("statefulsets", "web", json!({"spec": {"replicas": 1}})).await;
    scene.ready("web", 1).await;
    scene.until_claims("the claim goes with its pod", &["data-web-0"]).await;
    scene.patch("statefulsets", "web", json!({"spec": {"replicas": 2}})).await;
    scene.ready("web", 2).await;
    assert_eq!((scene.read("web-0"), scene.read("web-1")), ("web-0".into(), "nobody".into()));
    scene.api.delete(&format!("{}/web", scene.apps("statefulsets")), Value::Null).await.ok();
    scene.until_claims("all claims go with the set", &[]).await;
}

#[tokio::test]
async fn ordinals_start_where_asked_and_pods_know_who_they_are() {
    need!(machine::root());
    let scene = Scene::new("sts-start").await;
    scene.make("statefulsets", &set("web", 2, |spec| spec["ordinals"] = json!({"start": 5}))).await;
    let pods = scene.ready("web", 2).await;
    assert_eq!(names(&pods), ["web-5", "web-6"]);
    for pod in &pods {
        let name = name_of(pod);
        assert_eq!(label(pod, "statefulset.kubernetes.io/pod-name"), name);
        assert_eq!(label(pod, "apps.kubernetes.io/pod-index"), name.trim_start_matches("web-"));
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!(name), &json!("www")));
        assert_eq!(scene.gantry(&["exec", name, "--", "hostname"]).ok().trim(), name);
    }
    scene.patch("statefulsets", "web", json!({"spec": {"ordinals": {"start": 6}}})).await;
    let moved = scene
        .until_pods("web", "the first ordinal moves", |pods| {
            names_of(pods) == ["web-6", "web-7"] && pods.iter().all(is_ready)
        })
        .await;
    assert!(uids(&moved).contains(&pods[1]["metadata"]["uid"].as_str().unwrap()), "who is in both stays");
    // A label of its identity that somebody takes away comes back.
    let path = scene.pod("web-6");
    let patch = json!({"metadata": {"labels": {"apps.kubernetes.io/pod-index": null}}});
    scene.api.patch(&path, e2e::api::Patch::Merge, patch).await.ok();
    let has = |pod: &Value| label(pod, "apps.kubernetes.io/pod-index") == "6";
    scene.api.until(&scene.api.path("v1", "pods"), "web-6", "the label is back", has).await;
}

fn names_of(pods: &[Value]) -> Vec<&str> {
    let mut found = names(pods);
    found.sort_unstable();
    found
}

#[tokio::test]
async fn on_delete_waits_for_somebody_to_delete() {
    need!(machine::root());
    let scene = Scene::new("sts-ondelete").await;
    scene.make("statefulsets", &set("web", 2, |spec| spec["updateStrategy"] = json!({"type": "OnDelete"}))).await;
    let before = scene.ready("web", 2).await;
    scene.patch("statefulsets", "web", touched("once")).await;
    let told = |set: &Value| {
        set["status"]["updateRevision"] != set["status"]["currentRevision"] && set["status"]["updatedReplicas"] == 0
    };
    scene.until("statefulsets", "web", "there is another revision", told).await;
    assert_eq!(uids(&scene.still("web").await), uids(&before));
    scene.replaced("web-0").await;
    let after = scene.ready("web", 2).await;
    assert_eq!(after[0]["metadata"]["annotations"]["touched"], "once");
    assert_eq!(after[1]["metadata"]["uid"], before[1]["metadata"]["uid"]);
}

#[tokio::test]
async fn several_may_be_unavailable_where_asked_and_one_is_ready_after_a_while() {
    need!(machine::root());
    let scene = Scene::new("sts-most").await;
    let quick = |spec: &mut Value| {
        spec["podManagementPolicy"] = "Parallel".into();
        spec["minReadySeconds"] = 1.into();
        spec["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    };
    scene.make("statefulsets", &set("web", 4, quick)).await;
    scene.until("statefulsets", "web", "all are available", |set| set["status"]["availableReplicas"] == 4).await;
    let mut events = scene.api.watch(&format!("{}?fieldSelector=metadata.name=web", scene.apps("statefulsets"))).await;
    scene.patch("statefulsets", "web", touched("once")).await;
    let mut least = 4;
    loop {
        let (_, set) = events.next("the update goes on").await;
        let status = &set["status"];
        least = least.min(status["availableReplicas"].as_i64().unwrap());
        assert!(least >= 2, "{status}");
        if status["currentRevision"] == status["updateRevision"] && status["updatedReplicas"] == 4 && least < 4 {
            break;
        }
    }
    assert_eq!(least, 2, "two at once");
    assert!(scene.ready("web", 4).await.iter().all(|pod| pod["metadata"]["annotations"]["touched"] == "once"));
}

#[tokio::test]
async fn what_may_not_change_is_refused_by_name() {
    need!(machine::root());
    let scene = Scene::new("sts-fixed").await;
    scene.make("statefulsets", &set("web", 0, |_| {})).await;
    let path = format!("{}/web", scene.apps("statefulsets"));
    for (key, value) in [
        ("serviceName", json!("other")),
        ("podManagementPolicy", json!("Parallel")),
        ("selector", json!({"matchLabels": {"app": "other"}})),
        ("volumeClaimTemplates", json!([{"metadata": {"name": "new"}, "spec": {}}])),
    ] {
        let said = scene.api.patch(&path, e2e::api::Patch::Merge, json!({"spec": {key: value}})).await.refused(422);
        assert!(said.contains("updates to statefulset spec for fields other than"), "{key}: {said}");
    }
    let name = scene.api.post(&scene.apps("statefulsets"), set("a.b", 1, |_| {})).await.refused(422);
    assert!(name.contains("metadata.name"), "{name}");
}
