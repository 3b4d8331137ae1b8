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
    pods.api.event("foreign", "FailedCreatePodSandBox", "no runtime for \"x\" is configured").await;
    for name in ["own", "foreign"] {
        pods.api.delete(&format!("{classes}/{}", named(name)), json!(null)).await.ok();
    }
}
