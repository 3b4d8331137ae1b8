//! Running pods see what changes, within seconds.

use std::time::{Duration, Instant};

use e2e::api::Patch;
use e2e::{machine, need};
use serde_json::{Value, json};

use crate::scene::{Scene, pod};

/// What "within seconds" is on a slow machine; the kubelet takes a minute and more.
const SOON: Duration = Duration::from_secs(20);

/// A pod prints a line whenever what it sees of `/v` is new; waits until its last line is this.
async fn sees(scene: &Scene, pod: &str, wanted: &str) {
    let began = Instant::now();
    loop {
        let log = scene.log(pod).await;
        if log.lines().last() == Some(wanted) {
            return;
        }
        assert!(began.elapsed() < SOON, "{wanted:?} is not seen:\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tells the content of some files of `/v`, absent ones as `-`, whenever it changes.
fn watcher(name: &str, files: &[&str], volumes: Value) -> Value {
    let files = files.join(" ");
    let line = format!(
        "while true; do now=; for f in {files}; do now=\"$now $(cat /v/$f 2>/dev/null || echo -)\"; done; \
         [ \"$now\" = \"$last\" ] || echo $now; last=$now; usleep 50000; done"
    );
    pod(name, &line, volumes, json!([{"name": "v", "mountPath": "/v"}]))
}

#[derive(Clone, Copy)]
struct Way {
    /// `configmaps` or `secrets`.
    plural: &'static str,
    projected: bool,
}

impl Way {
    fn volume(self, sources: &[(&str, bool)]) -> Value {
        let kind = if self.plural == "secrets" { "secret" } else { "configMap" };
        let sources: Vec<Value> =
            sources.iter().map(|(name, optional)| json!({kind: {"name": name, "optional": optional}})).collect();
        json!([{"name": "v", "projected": {"sources": sources}}])
    }

    fn plain(self, name: &str, optional: bool) -> Value {
        match self.plural {
            "secrets" => json!([{"name": "v", "secret": {"secretName": name, "optional": optional}}]),
            _ => json!([{"name": "v", "configMap": {"name": name, "optional": optional}}]),
        }
    }

    async fn set(self, scene: &Scene, name: &str, key: &str, value: &str) {
        let data = if self.plural == "secrets" { "stringData" } else { "data" };
        let path = format!("{}/{name}", scene.path(self.plural));
        let object = json!({"apiVersion": "v1", "kind": if self.plural == "secrets" { "Secret" } else { "ConfigMap" },
            "metadata": {"name": name}, data: {key: value}});
        let patched = scene.api.patch(&path, Patch::Merge, json!({data: {key: value}})).await;
        if patched.code == 404 {
            scene.make(self.plural, object).await;
        }
    }
}

/// One object that changes, one that goes, one that comes; the latter two optional.
async fn follows(way: Way, name: &str) {
    let scene = Scene::new(name).await;
    way.set(&scene, "changes", "changes", "one").await;
    way.set(&scene, "goes", "goes", "here").await;
    let pod = match way.projected {
        true => watcher(
            "p",
            &["changes", "goes", "comes"],
            way.volume(&[("changes", false), ("goes", true), ("comes", true)]),
        ),
        false => {
            // Three volumes of one object each.
            let mut pod = watcher("p", &["a/changes", "b/goes", "c/comes"], json!([]));
            let mut volumes = Vec::new();
            for (volume, object) in [("a", "changes"), ("b", "goes"), ("c", "comes")] {
                let mut own = way.plain(object, object != "changes")[0].clone();
                own["name"] = volume.into();
                volumes.push(own);
            }
            pod["spec"]["volumes"] = volumes.into();
            pod["spec"]["containers"][0]["volumeMounts"] = ["a", "b", "c"]
                .map(|volume| json!({"name": volume, "mountPath": format!("/v/{volume}")}))
                .to_vec()
                .into();
            pod
        }
    };
    scene.make("pods", pod).await;
    scene.running("p").await;
    sees(&scene, "p", "one here -").await;
    way.set(&scene, "changes", "changes", "two").await;
    sees(&scene, "p", "two here -").await;
    scene.api.delete(&format!("{}/goes", scene.path(way.plural)), Value::Null).await.ok();
    sees(&scene, "p", "two - -").await;
    way.set(&scene, "comes", "comes", "new").await;
    sees(&scene, "p", "two - new").await;
}

#[tokio::test]
async fn c377_c386_config_maps_change_under_running_pods() {
    need!(machine::root());
    follows(Way { plural: "configmaps", projected: false }, "live-map").await;
}

#[tokio::test]
async fn c418_c426_projected_config_maps_change_under_running_pods() {
    need!(machine::root());
    follows(Way { plural: "configmaps", projected: true }, "live-pmap").await;
}

#[tokio::test]
async fn c445_secrets_change_under_running_pods() {
    need!(machine::root());
    follows(Way { plural: "secrets", projected: false }, "live-secret").await;
}

#[tokio::test]
async fn c438_projected_secrets_change_under_running_pods() {
    need!(machine::root());
    follows(Way { plural: "secrets", projected: true }, "live-psecret").await;
}

async fn labels_change(projected: bool, name: &str) {
    let scene = Scene::new(name).await;
    let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}}]);
    let volumes = match projected {
        true => json!([{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": items}}]}}]),
        false => json!([{"name": "v", "downwardAPI": {"items": items}}]),
    };
    let mut pod = watcher("p", &["labels", "annotations"], volumes);
    pod["metadata"]["labels"] = json!({"a": "one"});
    pod["metadata"]["annotations"] = json!({"b": "one"});
    scene.make("pods", pod).await;
    scene.running("p").await;
    sees(&scene, "p", "a=\"one\" b=\"one\"").await;
    let path = format!("{}/p", scene.path("pods"));
    scene.api.patch(&path, Patch::Merge, json!({"metadata": {"labels": {"a": "two"}}})).await.ok();
    sees(&scene, "p", "a=\"two\" b=\"one\"").await;
    scene.api.patch(&path, Patch::Merge, json!({"metadata": {"annotations": {"b": "two"}}})).await.ok();
    sees(&scene, "p", "a=\"two\" b=\"two\"").await;
}

#[tokio::test]
async fn c396_c397_labels_and_annotations_change_under_running_pods() {
    need!(machine::root());
    labels_change(false, "live-down").await;
}

#[tokio::test]
async fn c436_c437_projected_labels_and_annotations_change_under_running_pods() {
    need!(machine::root());
    labels_change(true, "live-pdown").await;
}
