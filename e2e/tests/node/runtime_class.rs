//! Pods that name a RuntimeClass: who runs them.

use e2e::machine;
use e2e::need;
use serde_json::json;

use crate::{Pods, container, pod};

#[tokio::test]
async fn a_pod_runs_where_its_class_s_runtime_is_and_the_rest_is_refused_by_name() {
    need!(machine::root());
    let pods = Pods::new("classes").await;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    // Classes have no namespace.
    let named = |name: &str| format!("{}-{name}", pods.api.namespace);
    for (name, handler) in [("own", "gantry"), ("foreign", "x")] {
        let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": named(name)},
            "handler": handler, "overhead": {"podFixed": {"cpu": "10m"}}});
        pods.api.post(classes, class).await.ok();
        let mut wanted = pod(name, &[container("c", "true")]);
        wanted["spec"]["runtimeClassName"] = json!(named(name));
        wanted["spec"]["restartPolicy"] = json!("Never");
        pods.create(wanted).await;
    }
    let ended = pods.ended("own").await;
    assert_eq!((&ended["status"]["phase"], &ended["spec"]["overhead"]["cpu"]), (&json!("Succeeded"), &json!("10m")));
    let nodes = pods.api.get("/api/v1/nodes").await.ok();
    let handlers = nodes["items"][0]["status"]["runtimeHandlers"].as_array().expect("a list").clone();
    let can = |handler: &serde_json::Value| handler["features"]["userNamespaces"] == true;
    assert!(handlers.iter().any(|own| own["name"] == "gantry" && can(own)), "{handlers:?}");
    // Runtimes of the machine are there if they are on it.
    for name in ["crun", "runc"] {
        let listed = handlers.iter().find(|own| own["name"] == name);
        assert_eq!(listed.is_some(), machine::program(name).is_ok(), "{handlers:?}");
        assert!(listed.is_none_or(|own| !can(own)), "{handlers:?}");
    }
    pods.api.event("foreign", "FailedCreatePodSandBox", "no runtime for \"x\" is configured").await;
    for name in ["own", "foreign"] {
        pods.api.delete(&format!("{classes}/{}", named(name)), json!(null)).await.ok();
    }
}

#[tokio::test]
async fn crun_runs_pods_of_its_class() {
    need!(machine::root());
    need!(machine::program("crun"));
    runs_pods("crun").await;
}

#[tokio::test]
async fn runc_runs_pods_of_its_class() {
    need!(machine::root());
    need!(machine::program("runc"));
    runs_pods("runc").await;
}

async fn runs_pods(handler: &str) {
    let pods = Pods::new(handler).await;
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = format!("{}-{handler}", pods.api.namespace);
    let overhead = json!({"podFixed": {"cpu": "100m", "memory": "16Mi"}});
    let object = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": class},
        "handler": handler, "overhead": overhead});
    pods.api.post(classes, object).await.ok();
    let mut probed = container("c", "touch /tmp/up; trap 'echo bye; exit 3' TERM; while true; do sleep 0.1; done");
    probed["readinessProbe"] = json!({"exec": {"command": ["test", "-f", "/tmp/up"]}, "periodSeconds": 1});
    probed["resources"] = json!({"limits": {"cpu": "200m", "memory": "48Mi"}});
    let mut wanted = pod(handler, &[probed]);
    wanted["spec"]["runtimeClassName"] = json!(class);
    wanted["spec"]["restartPolicy"] = json!("Never");
    // One of them joins the namespace of processes that the pod shares.
    wanted["spec"]["shareProcessNamespace"] = json!(handler == "crun");
    pods.create(wanted).await;
    let ready = pods.ready(handler).await;
    assert_eq!(ready["status"]["qosClass"], "Guaranteed");
    // The pod's group has room for the runtime, the container's has not.
    let uid = ready["metadata"]["uid"].as_str().expect("a uid");
    let limits = memory_limits(&format!("pod{uid}"));
    assert_eq!(limits, [(48 + 16) << 20, 48 << 20]);
    pods.delete(handler).await;
    pods.api.until_gone(&pods.path(handler)).await;
    pods.api.delete(&format!("{classes}/{class}"), json!(null)).await.ok();
}

/// The limits in bytes of a pod's group and of its container's.
fn memory_limits(pod: &str) -> Vec<u64> {
    let find = |dir: &str, file: &str| {
        let found = std::process::Command::new("find").args([dir, "-path", &format!("*/{pod}/*{file}")]).output();
        let found = String::from_utf8_lossy(&found.expect("find runs").stdout).into_owned();
        let mut files: Vec<String> =
            found.lines().filter(|path| !path.contains("/monitor/")).map(str::to_owned).collect();
        files.sort_by_key(|path| path.matches('/').count());
        files
    };
    let mut files = find("/sys/fs/cgroup/memory", "memory.limit_in_bytes");
    files.extend(find("/sys/fs/cgroup", "memory.max"));
    files.truncate(2);
    files.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok()).collect()
}
