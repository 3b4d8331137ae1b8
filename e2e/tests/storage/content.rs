//! Files that show ConfigMaps, Secrets and the pod itself: content, owners and modes; plainly and projected.

use e2e::{machine, need};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::scene::{Scene, pod};

/// One way to show a ConfigMap or a Secret.
#[derive(Clone, Copy)]
struct Way {
    kind: &'static str,
    projected: bool,
}

impl Way {
    fn volume(self, name: &str, items: &Value, mode: Option<u32>) -> Value {
        let key = if self.kind == "secret" && !self.projected { "secretName" } else { "name" };
        let mut source = json!({key: "shown"});
        if !items.is_null() {
            source["items"] = items.clone();
        }
        let mut volume = json!({"name": name});
        match self.projected {
            true => volume["projected"] = json!({"sources": [{self.kind: source}]}),
            false => volume[self.kind] = source,
        }
        if let Some(mode) = mode {
            volume[if self.projected { "projected" } else { self.kind }]["defaultMode"] = mode.into();
        }
        volume
    }
}

/// A scene with a ConfigMap and a Secret `shown`, each with a key `data-1`.
async fn scene(name: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene
        .make(
            "configmaps",
            json!({"metadata": {"name": "shown"}, "data": {"data-1": "value-1", "data-2": "value-2"},
        "binaryData": {"bytes": "AAEC/w=="}}),
        )
        .await;
    scene
        .make(
            "secrets",
            json!({"metadata": {"name": "shown"}, "stringData": {"data-1": "value-1", "data-2": "value-2"}}),
        )
        .await;
    scene
}

/// Plain, as a user, with a default mode, with items, with items and their modes, with items as a user, in two volumes: at
/// once, each a pod.
async fn is_shown(way: Way, name: &str) {
    let scene = scene(name).await;
    let at = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let items = json!([{"key": "data-2", "path": "path/to/data-2"}]);
    let with_mode = json!([{"key": "data-2", "path": "path/to/data-2", "mode": 0o400}]);
    let look = |path: &str| format!("cat /v/{path}; echo; stat -L -c '%a %u' /v/{path}");
    let one = |name: &str, path: &str, volume: Value| pod(name, &look(path), json!([volume]), json!([at("v", "/v")]));
    let as_user = |mut pod: Value| {
        pod["spec"]["securityContext"] = json!({"runAsUser": 1000});
        pod
    };
    let mut grouped = as_user(one("grouped", "data-1", way.volume("v", &Value::Null, Some(0o440))));
    grouped["spec"]["securityContext"]["fsGroup"] = 1001.into();
    grouped["spec"]["containers"][0]["command"][2] = "cat /v/data-1; echo; stat -L -c '%a %g' /v/data-1".into();
    let twice = pod(
        "twice",
        "cat /v/data-1 /w/data-1; echo",
        json!([way.volume("v", &Value::Null, None), way.volume("w", &Value::Null, None)]),
        json!([at("v", "/v"), at("w", "/w")]),
    );
    let cases = [
        (one("plain", "data-1", way.volume("v", &Value::Null, None)), "value-1\n644 0\n"),
        (as_user(one("user", "data-1", way.volume("v", &Value::Null, None))), "value-1\n644 0\n"),
        (one("mode", "data-1", way.volume("v", &Value::Null, Some(0o400))), "value-1\n400 0\n"),
        (one("items", "path/to/data-2", way.volume("v", &items, None)), "value-2\n644 0\n"),
        (one("item-mode", "path/to/data-2", way.volume("v", &with_mode, None)), "value-2\n400 0\n"),
        (as_user(one("user-items", "path/to/data-2", way.volume("v", &items, None))), "value-2\n644 0\n"),
        (grouped, "value-1\n440 1001\n"),
        (twice, "value-1value-1\n"),
    ];
    let runs =
        cases.iter().map(|(pod, wanted)| async { (scene.run(pod.clone()).await, *wanted, &pod["metadata"]["name"]) });
    for (said, wanted, name) in join_all(runs).await {
        assert_eq!(said, wanted, "{name}");
    }
}

#[tokio::test]
async fn c378_c379_c380_c381_c382_c383_c384_config_maps_are_files() {
    need!(machine::root());
    is_shown(Way { kind: "configMap", projected: false }, "map").await;
}

#[tokio::test]
async fn c419_c420_c421_c422_c423_c424_c425_projected_config_maps_are_files() {
    need!(machine::root());
    is_shown(Way { kind: "configMap", projected: true }, "pmap").await;
}

#[tokio::test]
async fn c447_c448_c449_c450_c451_c452_secrets_are_files() {
    need!(machine::root());
    is_shown(Way { kind: "secret", projected: false }, "secret").await;
}

#[tokio::test]
async fn c439_c440_c441_c442_c443_c444_projected_secrets_are_files() {
    need!(machine::root());
    is_shown(Way { kind: "secret", projected: true }, "psecret").await;
}

#[tokio::test]
async fn c376_c446_bytes_stay_bytes_and_namespaces_do_not_mix() {
    need!(machine::root());
    let (scene, other) = (scene("bytes").await, Scene::new("other").await);
    other
        .make("secrets", json!({"metadata": {"name": "shown"}, "stringData": {"data-1": "of another namespace"}}))
        .await;
    let volumes =
        json!([{"name": "map", "configMap": {"name": "shown"}}, {"name": "secret", "secret": {"secretName": "shown"}}]);
    let mounts = json!([{"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"}]);
    let line = "hexdump -e '4/1 \"%02x\"' /map/bytes; echo; cat /map/data-1; echo; cat /secret/data-1; echo; stat -f -c %T /secret";
    assert_eq!(scene.run(pod("p", line, volumes, mounts)).await, "000102ff\nvalue-1\nvalue-1\ntmpfs\n");
}

/// What the pod is told of itself, in a volume of its own or a projected one.
async fn tells_of_itself(projected: bool, name: &str) {
    let scene = Scene::new(name).await;
    let volume = |items: Value, mode: Option<u32>| {
        let source = json!({"items": items});
        let (kind, mut body) = match projected {
            true => ("projected", json!({"sources": [{"downwardAPI": source}]})),
            false => ("downwardAPI", source),
        };
        if let Some(mode) = mode {
            body["defaultMode"] = mode.into();
        }
        json!([{"name": "v", kind: body}])
    };
    let resource = |path: &str, resource: &str, divisor: &str| json!({"path": path, "resourceFieldRef": {"containerName": "c", "resource": resource, "divisor": divisor}});
    let items = json!([
        {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "private", "mode": 0o400, "fieldRef": {"fieldPath": "metadata.name"}},
        resource("cpu-limit", "limits.cpu", "1m"), resource("cpu-request", "requests.cpu", "1m"),
        resource("memory-limit", "limits.memory", "1Mi"), resource("memory-request", "requests.memory", "1Mi")]);
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let line = "cd /v; for f in cpu-limit cpu-request memory-limit memory-request; do cat $f; echo; done; cat name; echo; \
                stat -L -c %a name private";
    let mut limited = pod("limited", line, volume(items.clone(), None), mounts.clone());
    limited["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let line = "cd /v; cat cpu-limit; echo; cat memory-limit; echo; stat -L -c %a name";
    let free = pod("free", line, volume(items, Some(0o400)), mounts);
    let (limited, free) = tokio::join!(scene.run(limited), scene.run(free));
    assert_eq!(limited, "1250\n250\n64\n32\nlimited\n644\n400\n");
    let node = scene.api.get("/api/v1/nodes/node-1").await.ok();
    let allocatable = |name: &str| node["status"]["allocatable"][name].as_str().expect("allocatable").to_owned();
    let cpus: u64 = allocatable("cpu").parse().expect("whole processors");
    let kib: u64 = allocatable("memory").trim_end_matches("Ki").parse().expect("KiB");
    assert_eq!(free, format!("{}\n{}\n400\n", cpus * 1000, kib.div_ceil(1024)));
}

#[tokio::test]
async fn c387_c388_c389_c390_c391_c392_c393_c394_c395_pods_read_about_themselves() {
    need!(machine::root());
    tells_of_itself(false, "downward").await;
}

#[tokio::test]
async fn c427_c428_c429_c430_c431_c432_c433_c434_c435_projected_pods_read_about_themselves() {
    need!(machine::root());
    tells_of_itself(true, "pdownward").await;
}

#[tokio::test]
async fn c417_c414_all_kinds_in_one_volume_and_volumes_beside_each_other() {
    need!(machine::root());
    let scene = scene("combined").await;
    let sources = json!([
        {"secret": {"name": "shown", "items": [{"key": "data-1", "path": "secret/data"}]}},
        {"configMap": {"name": "shown", "items": [{"key": "data-1", "path": "map/data"}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]);
    let volumes = json!([{"name": "all", "projected": {"sources": sources}}, {"name": "map", "configMap": {"name": "shown"}},
        {"name": "secret", "secret": {"secretName": "shown"}}]);
    let mounts = json!([{"name": "all", "mountPath": "/all"}, {"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"}]);
    let line = "cat /all/secret/data /all/map/data /all/name /map/data-2 /secret/data-2; echo";
    assert_eq!(scene.run(pod("p", line, volumes, mounts)).await, "value-1value-1pvalue-2value-2\n");
}

#[tokio::test]
async fn c413_fifty_maps_in_five_pods_at_once() {
    need!(machine::root());
    let scene = Scene::new("many").await;
    let names: Vec<String> = (0..50).map(|index| format!("map-{index}")).collect();
    join_all(
        names.iter().map(|name| scene.make("configmaps", json!({"metadata": {"name": name}, "data": {"name": name}}))),
    )
    .await;
    let volumes: Vec<Value> = names.iter().map(|name| json!({"name": name, "configMap": {"name": name}})).collect();
    let mounts: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "mountPath": format!("/v/{name}")})).collect();
    let pods = (0..5).map(|index| pod(&format!("p{index}"), "cat /v/*/name | wc -c", json!(volumes), json!(mounts)));
    let length: usize = names.iter().map(String::len).sum();
    for said in join_all(pods.map(|pod| scene.run(pod))).await {
        assert_eq!(said.trim(), length.to_string());
    }
}

#[tokio::test]
async fn tokens_are_read_by_whom_the_pod_runs_as_and_bundles_are_joined() {
    need!(machine::root());
    let scene = Scene::new("token").await;
    let token = json!({"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}});
    let root = scene.api.get(&format!("{}/kube-root-ca.crt", scene.path("configmaps"))).await.ok();
    let certificate = root["data"]["ca.crt"].as_str().expect("a certificate").to_owned();
    let bundle = format!("{}-bundle", scene.api.namespace);
    let object = json!({"metadata": {"name": bundle}, "spec": {"trustBundle": certificate}});
    scene.api.post("/apis/certificates.k8s.io/v1/clustertrustbundles", object).await.ok();
    let trust = json!({"clusterTrustBundle": {"name": bundle, "path": "ca.pem"}});
    let volumes = json!([{"name": "v", "projected": {"sources": [token, trust]}}]);
    let mut user = pod(
        "p",
        "stat -L -c '%a %u' /v/token; cut -c1-2 /v/token; grep -c BEGIN /v/ca.pem",
        volumes,
        json!([{"name": "v", "mountPath": "/v"}]),
    );
    user["spec"]["securityContext"] = json!({"runAsUser": 1000});
    assert_eq!(scene.run(user).await, "600 1000\ney\n1\n");
    scene.api.delete(&format!("/apis/certificates.k8s.io/v1/clustertrustbundles/{bundle}"), Value::Null).await.ok();
}

#[tokio::test]
async fn c373_inline_csi_volumes_are_part_of_the_api() {
    let scene = Scene::new("csi").await;
    let mut pod = pod(
        "p",
        "true",
        json!([{"name": "v", "csi": {"driver": "none.example"}}]),
        json!([{"name": "v", "mountPath": "/v"}]),
    );
    // No node takes it: this is about the object.
    pod["spec"]["nodeSelector"] = json!({"no": "node"});
    pod["metadata"]["labels"] = json!({"csi": "inline"});
    scene.make("pods", pod).await;
    let path = format!("{}/p", scene.path("pods"));
    assert_eq!(scene.api.get(&path).await.ok()["spec"]["volumes"][0]["csi"]["driver"], "none.example");
    let list = scene.api.get(&format!("{}?labelSelector=csi=inline", scene.path("pods"))).await.ok();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    let patch = json!({"metadata": {"labels": {"patched": "yes"}}});
    let patched = scene.api.patch(&path, e2e::api::Patch::Merge, patch).await.ok();
    assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
    scene.api.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    scene.api.until_gone(&path).await;
}
