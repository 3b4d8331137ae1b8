//! Claims and volumes: made on demand, bound to what is there, kept or removed, shared by one node or one pod.

use e2e::api::Patch;
use e2e::{machine, need};
use serde_json::{Value, json};

use crate::scene::{Scene, pod};

const VOLUMES: &str = "/api/v1/persistentvolumes";

fn claim(name: &str, more: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A pod that runs a line with a claim at `/data`.
fn user(name: &str, line: &str, claim: &str) -> Value {
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    pod(name, line, volumes, json!([{"name": "data", "mountPath": "/data"}]))
}

async fn bound(scene: &Scene, claim: &str) -> Value {
    let is_bound = |claim: &Value| claim["status"]["phase"] == "Bound";
    scene.api.until(&scene.path("persistentvolumeclaims"), claim, "the claim is bound", is_bound).await
}

async fn condition(scene: &Scene, pod: &str, part: &str) {
    let says = |pod: &Value| pod["status"]["conditions"].to_string().contains(part);
    scene.api.until(&scene.path("pods"), pod, part, says).await;
}

#[tokio::test]
async fn data_of_a_claim_outlives_its_pods_and_goes_with_it() {
    need!(machine::root());
    let scene = Scene::new("dynamic").await;
    let class = scene.api.get("/apis/storage.k8s.io/v1/storageclasses/local-path").await.ok();
    assert_eq!(class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"], "true");
    scene.make("persistentvolumeclaims", claim("data", Value::Null)).await;
    scene.api.event("data", "WaitForFirstConsumer", "").await;
    assert_eq!(scene.run(user("writes", "id -u; echo kept > /data/file; stat -c %a /data", "data")).await, "0\n777\n");
    let own = bound(&scene, "data").await;
    assert_eq!(own["spec"]["storageClassName"], "local-path");
    assert_eq!(own["status"]["capacity"]["storage"], "16Mi");
    assert_eq!(own["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "node-1");
    scene.api.event("data", "ProvisioningSucceeded", "").await;
    let name = own["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    let path = format!("{VOLUMES}/{name}");
    let is_bound = |volume: &Value| volume["status"]["phase"] == "Bound";
    let volume = scene.api.until(VOLUMES, &name, "the volume is bound too", is_bound).await;
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    let directory = std::path::PathBuf::from(volume["spec"]["local"]["path"].as_str().expect("a directory"));
    assert!(directory.starts_with(scene.storage()), "{}", directory.display());
    scene.end("writes").await;
    let mut reads = user("reads", "cat /data/file; echo no > /data/file", "data");
    reads["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    reads["spec"]["containers"][0]["command"][2] = "cat /data/file; touch /data/other 2>&1 | grep -o Read-only".into();
    assert_eq!(scene.run(reads).await, "kept\nRead-only\n");
    // A claim in use stays until its pods have ended.
    scene.api.delete(&format!("{}/data", scene.path("persistentvolumeclaims")), Value::Null).await.ok();
    scene.end("reads").await;
    scene.api.until_gone(&format!("{}/data", scene.path("persistentvolumeclaims"))).await;
    scene.api.until_gone(&path).await;
    assert!(!directory.exists(), "its directory goes before the object does");
}

#[tokio::test]
async fn a_group_may_write_what_others_left() {
    need!(machine::root());
    let scene = Scene::new("group").await;
    scene.make("persistentvolumeclaims", claim("data", Value::Null)).await;
    scene.run(user("root", "umask 077; mkdir /data/d; echo one > /data/d/f", "data")).await;
    let mut other = user("other", "echo two >> /data/d/f; cat /data/d/f; stat -c '%g %a' /data/d/f; id -G", "data");
    other["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1234});
    let said = scene.run(other).await;
    assert!(said.starts_with("one\ntwo\n1234 660\n") && said.contains("1234"), "{said}");
}

#[tokio::test]
async fn volumes_that_people_make_are_bound_kept_and_never_given_twice() {
    need!(machine::root());
    let scene = Scene::new("static").await;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("f"), "by hand\n").expect("a file");
    let class = format!("{}-class", scene.api.namespace);
    let volume = |name: &str, size: &str| {
        json!({"metadata": {"name": format!("{}-{name}", scene.api.namespace), "labels": {"which": name}},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
                "hostPath": {"path": directory.path()}, "persistentVolumeReclaimPolicy": "Retain"}})
    };
    for (name, size) in [("small", "8Mi"), ("fits", "32Mi"), ("large", "64Mi")] {
        scene.api.post(VOLUMES, volume(name, size)).await.ok();
    }
    let own = json!({"storageClassName": class});
    scene.make("persistentvolumeclaims", claim("a", own.clone())).await;
    let a = bound(&scene, "a").await;
    let fits = format!("{}-fits", scene.api.namespace);
    assert_eq!(a["spec"]["volumeName"], *fits, "the smallest that is large enough");
    assert_eq!(a["status"]["capacity"]["storage"], "32Mi");
    let mut picky = own.clone();
    picky["selector"] = json!({"matchLabels": {"which": "small"}});
    scene.make("persistentvolumeclaims", claim("picky", picky)).await;
    let mut named = own.clone();
    named["volumeName"] = format!("{}-small", scene.api.namespace).into();
    scene.make("persistentvolumeclaims", claim("named", named)).await;
    let told = scene.api.event("named", "VolumeMismatch", "").await;
    assert!(told["message"].as_str().is_some_and(|text| text.contains("requested PV is too small")), "{told}");
    scene.api.event("picky", "ProvisioningFailed", "").await;
    assert_eq!(scene.run(user("reads", "cat /data/f", "a")).await, "by hand\n");
    scene.end("reads").await;
    scene.api.delete(&format!("{}/a", scene.path("persistentvolumeclaims")), Value::Null).await.ok();
    scene.api.until(VOLUMES, &fits, "released", |volume| volume["status"]["phase"] == "Released").await;
    assert!(directory.path().join("f").exists(), "retained");
    scene.make("persistentvolumeclaims", claim("b", own)).await;
    let b = bound(&scene, "b").await;
    assert_eq!(b["spec"]["volumeName"], format!("{}-large", scene.api.namespace), "what was released is nobody's");
    // Whoever looked at the data gives the volume free again.
    let free = json!({"spec": {"claimRef": null}});
    scene.api.patch(&format!("{VOLUMES}/{fits}"), Patch::Merge, free).await.ok();
    scene.api.until(VOLUMES, &fits, "available", |volume| volume["status"]["phase"] == "Available").await;
    scene.api.delete(&format!("{}/b", scene.path("persistentvolumeclaims")), Value::Null).await.ok();
    for name in ["small", "fits", "large"] {
        scene.api.delete(&format!("{VOLUMES}/{}-{name}", scene.api.namespace), Value::Null).await.ok();
    }
}

#[tokio::test]
async fn pods_wait_for_claims_and_go_where_their_volume_is() {
    need!(machine::root());
    let scene = Scene::new("waiting").await;
    scene.make("pods", user("early", "cat /data/f", "later")).await;
    condition(&scene, "early", "0/1 nodes are available: persistentvolumeclaim \\\"later\\\" not found.").await;
    let class = format!("{}-class", scene.api.namespace);
    scene.make("persistentvolumeclaims", claim("later", json!({"storageClassName": class}))).await;
    condition(&scene, "early", "pod has unbound immediate PersistentVolumeClaims").await;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("f"), "late\n").expect("a file");
    let volume = |name: &str, node: &str| {
        let affinity = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
        json!({"metadata": {"name": format!("{}-{name}", scene.api.namespace)},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "local": {"path": directory.path()}, "nodeAffinity": affinity}})
    };
    scene.api.post(VOLUMES, volume("here", "node-1")).await.ok();
    assert_eq!(scene.said("early").await, "late\n", "news of volumes wake pods");
    scene.api.post(VOLUMES, volume("elsewhere", "node-2")).await.ok();
    scene.make("persistentvolumeclaims", claim("far", json!({"storageClassName": class}))).await;
    bound(&scene, "far").await;
    scene.make("pods", user("lost", "true", "far")).await;
    condition(&scene, "lost", "1 node(s) had volume node affinity conflict").await;
}

#[tokio::test]
async fn a_class_without_a_provisioner_reserves_what_the_node_has() {
    need!(machine::root());
    let scene = Scene::new("reserved").await;
    let class = format!("{}-class", scene.api.namespace);
    let object = json!({"metadata": {"name": class}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    scene.api.post("/apis/storage.k8s.io/v1/storageclasses", object).await.ok();
    scene.make("persistentvolumeclaims", claim("data", json!({"storageClassName": class}))).await;
    scene.make("pods", user("p", "echo x > /data/f; cat /data/f", "data")).await;
    condition(&scene, "p", "1 node(s) didn't find available persistent volumes to bind").await;
    let directory = tempfile::tempdir().expect("a directory");
    let volume = json!({"metadata": {"name": class}, "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"}, "local": {"path": directory.path()}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]}}}});
    scene.api.post(VOLUMES, volume).await.ok();
    assert_eq!(scene.said("p").await, "x\n");
    scene.api.delete(&format!("/apis/storage.k8s.io/v1/storageclasses/{class}"), Value::Null).await.ok();
}

#[tokio::test]
async fn what_one_pod_has_no_other_gets() {
    need!(machine::root());
    let scene = Scene::new("single").await;
    scene.make("persistentvolumeclaims", claim("only", json!({"accessModes": ["ReadWriteOncePod"]}))).await;
    scene.make("pods", user("first", "echo up; sleep 600", "only")).await;
    scene.running("first").await;
    scene.make("pods", user("second", "echo mine", "only")).await;
    let why = "1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    condition(&scene, "second", why).await;
    scene.end("first").await;
    assert_eq!(scene.said("second").await, "mine\n");
}

#[tokio::test]
async fn claims_grow_and_what_cannot_be_made_is_told() {
    need!(machine::root());
    let scene = Scene::new("growth").await;
    let path = format!("{}/data", scene.path("persistentvolumeclaims"));
    scene.make("persistentvolumeclaims", claim("data", Value::Null)).await;
    let more = json!({"spec": {"resources": {"requests": {"storage": "32Mi"}}}});
    let refused = scene.api.patch(&path, Patch::Merge, more.clone()).await.refused(403);
    assert!(refused.contains("Only bound persistent volume claims can be expanded"), "{refused}");
    scene.run(user("uses", "true", "data")).await;
    bound(&scene, "data").await;
    scene.api.patch(&path, Patch::Merge, more).await.ok();
    let is_larger = |claim: &Value| claim["status"]["capacity"]["storage"] == "32Mi";
    let grown = scene.api.until(&scene.path("persistentvolumeclaims"), "data", "it grows", is_larger).await;
    let volume =
        scene.api.get(&format!("{VOLUMES}/{}", grown["spec"]["volumeName"].as_str().unwrap_or_default())).await.ok();
    assert_eq!(volume["spec"]["capacity"]["storage"], "32Mi");
    scene.make("persistentvolumeclaims", claim("many", json!({"accessModes": ["ReadWriteMany"]}))).await;
    scene.make("pods", user("p", "true", "many")).await;
    let told = scene.api.event("many", "ProvisioningFailed", "").await;
    assert!(told["message"].as_str().is_some_and(|text| text.contains("spec.accessModes: ReadWriteMany")), "{told}");
}

#[tokio::test]
async fn a_block_device_is_a_file_of_the_node_and_keeps_its_data() {
    need!(machine::root());
    need!(std::path::Path::new("/dev/loop-control").exists().then_some(()).ok_or("the kernel has no loop devices"));
    let scene = Scene::new("block").await;
    scene.make("persistentvolumeclaims", claim("disk", json!({"volumeMode": "Block"}))).await;
    let with_device = |name: &str, line: &str| {
        let mut pod = user(name, line, "disk");
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = Value::Null;
        container["volumeDevices"] = json!([{"name": "data", "devicePath": "/dev/xvda"}]);
        pod
    };
    let writes = "test -b /dev/xvda && echo raw | dd of=/dev/xvda bs=512 conv=sync,fsync 2>/dev/null; \
                  dd if=/dev/xvda bs=1M 2>/dev/null | wc -c";
    assert_eq!(scene.run(with_device("writes", writes)).await, "16777216\n");
    scene.end("writes").await;
    assert_eq!(scene.run(with_device("reads", "dd if=/dev/xvda bs=4 count=1 2>/dev/null")).await, "raw\n");
    scene.make("pods", user("mounts", "true", "disk")).await;
    let told = scene.api.event("mounts", "FailedMount", "").await;
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|text| text.contains("volumeMode Block, but is specified in volumeMounts")),
        "{told}"
    );
    let own = bound(&scene, "disk").await;
    let volume = own["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    for pod in ["mounts", "reads"] {
        scene.end(pod).await;
    }
    let attached = || {
        let all = std::fs::read_dir("/sys/block").expect("block devices").flatten();
        let file = |entry: std::fs::DirEntry| {
            std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default()
        };
        all.map(file).filter(|file| file.contains(&volume)).count()
    };
    assert_eq!(attached(), 0, "who has gone has no device");
    scene.api.delete(&format!("{}/disk", scene.path("persistentvolumeclaims")), Value::Null).await.ok();
    scene.api.until_gone(&format!("{VOLUMES}/{volume}")).await;
}

#[tokio::test]
async fn a_claim_of_a_pod_comes_and_goes_with_it() {
    need!(machine::root());
    let scene = Scene::new("ephemeral").await;
    let template = json!({"metadata": {"labels": {"of": "pod"}}, "spec": claim("", Value::Null)["spec"]});
    let volumes = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
    let pod = pod(
        "p",
        "echo x > /data/f; cat /data/f; sleep 600",
        volumes,
        json!([{"name": "scratch", "mountPath": "/data"}]),
    );
    scene.make("pods", pod).await;
    scene.running("p").await;
    let own = bound(&scene, "p-scratch").await;
    assert_eq!(own["metadata"]["labels"], json!({"of": "pod"}));
    assert_eq!(own["metadata"]["ownerReferences"][0]["name"], "p");
    scene.end("p").await;
    scene.api.until_gone(&format!("{}/p-scratch", scene.path("persistentvolumeclaims"))).await;
    let volume = own["spec"]["volumeName"].as_str().expect("a volume");
    scene.api.until_gone(&format!("{VOLUMES}/{volume}")).await;
}

#[tokio::test]
async fn many_pods_share_a_claim_that_nobody_has_used_yet() {
    need!(machine::root());
    let scene = Scene::new("crowd").await;
    scene.make("persistentvolumeclaims", claim("shared", Value::Null)).await;
    let pods: Vec<String> = (0..6).map(|index| format!("p{index}")).collect();
    for name in &pods {
        scene.make("pods", user(name, &format!("echo {name} >> /data/all"), "shared")).await;
    }
    futures::future::join_all(pods.iter().map(|name| scene.said(name))).await;
    let said = scene.run(user("last", "sort /data/all", "shared")).await;
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), pods);
}
