//! Lines 276 to 281: what a container is told of itself by its environment.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod};

fn field(path: &str) -> Value {
    json!({"name": path.replace(['.', '/'], "_"), "valueFrom": {"fieldRef": {"fieldPath": path}}})
}

fn resource(name: &str) -> Value {
    json!({"name": name.replace('.', "_"), "valueFrom": {"resourceFieldRef": {"resource": name}}})
}

/// The environment of a container that asks for these, and the pod.
async fn told(name: &str, variables: Value, resources: Value) -> (String, Value) {
    let pods = Pods::new(name).await;
    let mut own = container("c", "env; exec sleep 600");
    (own["env"], own["resources"]) = (variables, resources);
    pods.create(pod("p", &[own])).await;
    let pod = pods.ready("p").await;
    (pods.log_with("p", "c", "PATH=", 1).await, pod)
}

#[track_caller]
fn has(environment: &str, name: &str, value: &str) {
    let line = format!("{name}={value}");
    assert!(environment.lines().any(|own| own == line), "no {line} in\n{environment}");
}

#[tokio::test]
async fn c276_requests_and_limits() {
    need!(machine::root());
    let names = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    let resources =
        json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let (environment, _) = told("own-resources", names.map(resource).to_vec().into(), resources).await;
    for (name, value) in
        [("limits_cpu", 2), ("limits_memory", 64 << 20), ("requests_cpu", 1), ("requests_memory", 32 << 20)]
    {
        has(&environment, name, &value.to_string());
    }
}

#[tokio::test]
async fn c277_without_limits_those_of_the_node() {
    need!(machine::root());
    let names = ["limits.cpu", "limits.memory"];
    let (environment, pod) = told("node-resources", names.map(resource).to_vec().into(), json!({})).await;
    let pods = Pods::new("node-resources").await;
    let node = pods.api.get(&format!("/api/v1/nodes/{}", pod["spec"]["nodeName"].as_str().expect("a node"))).await.ok();
    let allocatable = &node["status"]["allocatable"];
    has(&environment, "limits_cpu", allocatable["cpu"].as_str().expect("an amount"));
    let memory = allocatable["memory"].as_str().and_then(|text| text.strip_suffix("Ki")).expect("kibibytes");
    has(&environment, "limits_memory", &(memory.parse::<u64>().expect("a number") << 10).to_string());
}

#[tokio::test]
async fn c278_c279_c280_c281_who_and_where_it_is() {
    need!(machine::root());
    let paths =
        ["metadata.name", "metadata.namespace", "metadata.uid", "status.podIP", "status.hostIP", "status.hostIPs"];
    let (environment, pod) = told("identity", paths.map(field).to_vec().into(), json!({})).await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    for part in ["name", "namespace", "uid"] {
        has(&environment, &format!("metadata_{part}"), &text(&pod["metadata"][part]));
    }
    has(&environment, "status_podIP", &text(&pod["status"]["podIP"]));
    has(&environment, "status_hostIP", &text(&pod["status"]["hostIP"]));
    let all: Vec<String> =
        pod["status"]["hostIPs"].as_array().expect("a list").iter().map(|own| text(&own["ip"])).collect();
    has(&environment, "status_hostIPs", &all.join(","));
}
