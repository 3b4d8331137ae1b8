//! What a pod spec says, seen from inside the container and from the API, with the stock kubectl.

use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// A pod of one container that runs a script and ends.
fn script(name: &str, script: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox",
            "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}})
}

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// The pod once it ended.
fn ended(client: &Client, name: &str) -> Value {
    eventually(&format!("pod {name} ended"), SOON, || {
        let pod = client.get(&["pod", name]);
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")).then_some(pod)
    })
}

fn log_of(client: &Client, name: &str) -> String {
    client.run(&["logs", name, "--all-containers"]).ok()
}

#[test]
fn pods_are_what_their_specs_say() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    let client = cluster.kubectl();
    environment_and_volumes(&client);
    confinement(&client);
    endings(&client);
    restarts(&client);
    init_containers(&client);
    tokens(&client);
    refusals(&client);
    logs(&client);
}

fn environment_and_volumes(client: &Client) {
    apply(
        client,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"COLOUR": "green", "file": "in the map"}}),
    );
    apply(
        client,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"word": "xyzzy"}}),
    );
    let mut pod = script(
        "environment",
        "echo colour=$COLOUR word=$WORD both=$BOTH node=$NODE; cat /map/file; echo; cat /secret/word; echo; ls /items; \
         stat -f -c %T /secret; echo kept > /empty/x; cat /empty/x; cat /host/marker; cat /down/labels; echo; touch /secret/y 2>&1; exit 0",
    );
    let marker = tempfile::tempdir().expect("a directory");
    std::fs::write(marker.path().join("marker"), "from the host\n").expect("a file");
    let container = &mut pod["spec"]["containers"][0];
    container["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    container["env"] = json!([
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
        {"name": "BOTH", "value": "$(COLOUR)/$(WORD)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
    container["volumeMounts"] = json!([{"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"},
        {"name": "items", "mountPath": "/items"}, {"name": "empty", "mountPath": "/empty"},
        {"name": "host", "mountPath": "/host", "readOnly": true}, {"name": "down", "mountPath": "/down"}]);
    pod["metadata"]["labels"] = json!({"tier": "test"});
    pod["spec"]["volumes"] = json!([
        {"name": "map", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "hidden"}},
        {"name": "items", "projected": {"sources": [{"configMap": {"name": "settings", "items": [{"key": "file", "path": "deep/er"}]}}]}},
        {"name": "empty", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": marker.path(), "type": "Directory"}},
        {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]);
    apply(client, &pod);
    ended(client, "environment");
    let log = log_of(client, "environment");
    for line in [
        "colour=green word=xyzzy both=green/xyzzy node=node-1",
        "in the map",
        "xyzzy",
        "deep",
        "tmpfs",
        "kept",
        "from the host",
        "tier=\"test\"",
    ] {
        assert!(log.lines().any(|own| own == line), "no line {line:?} in\n{log}");
    }
}

fn confinement(client: &Client) {
    let mut pod = script(
        "confined",
        "id -u; id -g; id -G; grep CapEff /proc/self/status; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; \
         touch /x 2>&1; mount -t tmpfs t /tmp 2>&1; cat /proc/keys 2>&1; hostname; ls /proc | grep -c '^[0-9]'; cat /sys/fs/cgroup/pids/pids.current >/dev/null 2>&1",
    );
    pod["spec"]["securityContext"] =
        json!({"runAsUser": 1000, "runAsGroup": 2000, "supplementalGroups": [3000], "runAsNonRoot": true});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    apply(client, &pod);
    ended(client, "confined");
    let log = log_of(client, "confined");
    for part in [
        "1000\n2000\n",
        "3000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Read-only file system",
        "confined\n",
    ] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
    let mut root = script("nonroot", "true");
    root["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    apply(client, &root);
    eventually("root is refused", SOON, || {
        let pod = client.get(&["pod", "nonroot"]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"];
        waiting.to_string().contains("image will run as root").then_some(())
    });
}

fn endings(client: &Client) {
    apply(client, &script("failing", "echo -n because > /dev/termination-log; exit 3"));
    let pod = ended(client, "failing");
    let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&state["exitCode"], &state["reason"], &state["message"]),
        (&json!(3), &json!("Error"), &json!("because"))
    );
    assert_eq!(pod["status"]["phase"], "Failed");
    let mut greedy = script("greedy", "a=xxxxxxxxxxxxxxxx; while true; do a=$a$a; done");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "16Mi"}});
    apply(client, &greedy);
    let pod = ended(client, "greedy");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled");
    // A program that ignores SIGTERM is killed when its grace period is over, not before.
    apply(client, &script("stubborn", "trap '' TERM; echo up; while true; do sleep 1; done"));
    eventually("stubborn runs", SOON, || {
        (client.get(&["pod", "stubborn"])["status"]["phase"] == "Running").then_some(())
    });
    let started = std::time::Instant::now();
    client.run(&["delete", "pod", "stubborn", "--grace-period=2"]).ok();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(30), "{took:?}");
}

fn restarts(client: &Client) {
    let mut pod = script("crashing", "echo once more; exit 1");
    pod["spec"]["restartPolicy"] = "OnFailure".into();
    apply(client, &pod);
    let pod = eventually("crashing backs off", SOON, || {
        let pod = client.get(&["pod", "crashing"]);
        let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        waiting.then_some(pod)
    });
    let status = &pod["status"]["containerStatuses"][0];
    assert!(status["restartCount"].as_i64() >= Some(1), "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    eventually("an event tells that it backs off", SOON, || {
        let events = client.run(&["get", "events", "--field-selector", "involvedObject.name=crashing"]).ok();
        events.contains("BackOff").then_some(())
    });
}

fn init_containers(client: &Client) {
    let mut pod = script("prepared", "cat /shared/order");
    pod["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    pod["spec"]["containers"][0]["volumeMounts"] = mounts.clone();
    let init = |name: &str| {
        json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", format!("echo {name} >> /shared/order")], "volumeMounts": mounts})
    };
    pod["spec"]["initContainers"] = json!([init("first"), init("second")]);
    apply(client, &pod);
    ended(client, "prepared");
    assert_eq!(client.run(&["logs", "prepared", "-c", "c"]).ok(), "first\nsecond\n");
}

/// A pod's token is mounted, is its account's, and is refused what the account has no role for.
fn tokens(client: &Client) {
    apply(client, &script("bearer", "cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo; sleep 1000"));
    let token = eventually("the token", SOON, || {
        let said = client.run(&["logs", "bearer"]);
        said.out.starts_with("ey").then_some(said.out)
    });
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token.trim()}});
    let said = client.run_with(&["create", "--validate=false", "-o", "json", "-f", "-"], &review.to_string()).ok();
    let reviewed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:default");
    let can =
        |what: &str| client.run(&["auth", "can-i", "get", what, "--as=system:serviceaccount:default:default"]).out;
    assert_eq!(can("secrets").trim(), "no");
    client.run(&["delete", "pod", "bearer", "--now"]).ok();
}

fn refusals(client: &Client) {
    let mut pod = script("old-volume", "true");
    pod["spec"]["volumes"] = json!([{"name": "v", "rbd": {"image": "i", "monitors": ["m"]}}]);
    apply(client, &pod);
    eventually("the field is refused by name", SOON, || {
        let conditions = client.get(&["pod", "old-volume"])["status"]["conditions"].to_string();
        conditions.contains("spec.volumes[0].<source>").then_some(())
    });
    let mut pod = script("large", "true");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "4000"}});
    apply(client, &pod);
    eventually("an event says why it does not fit", SOON, || {
        let events = client.run(&["get", "events", "--field-selector", "involvedObject.name=large"]).ok();
        events.contains("0/1 nodes are available: 1 Insufficient cpu").then_some(())
    });
    let mut pod = script("imageless", "true");
    pod["spec"]["containers"][0]["image"] = "registry.invalid/none:v1".into();
    pod["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    apply(client, &pod);
    eventually("the missing image is told", SOON, || {
        let pod = client.get(&["pod", "imageless"]);
        (pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull").then_some(())
    });
    client.run(&["delete", "pod", "old-volume", "large", "imageless", "--now"]).ok();
}

fn logs(client: &Client) {
    apply(client, &script("talking", "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2"));
    ended(client, "talking");
    assert_eq!(client.run(&["logs", "talking", "--tail=2"]).ok(), "line 5\noops\n");
    assert_eq!(client.run(&["logs", "talking", "--since=1h"]).ok().lines().count(), 6);
    let stamped = client.run(&["logs", "talking", "--timestamps", "--tail=1"]).ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z oops\n"), "{stamped}");
    assert_eq!(client.run(&["logs", "talking", "--limit-bytes=4"]).ok(), "line");
}
