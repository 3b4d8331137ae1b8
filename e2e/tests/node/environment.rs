//! Lines 257 to 259, 272 to 281, 312, 335 to 337 and 348 to 350: what a container is called with.

use std::collections::BTreeMap;

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, pod};

/// What a container that prints its environment is told, besides its name and image.
async fn environment(pods: &Pods, name: &str, fields: Value) -> BTreeMap<String, String> {
    // A shell would drop names that are none for it.
    let mut own = json!({"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["/bin/env"]});
    own.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
    let lines = output(pods, name, own).await;
    lines.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

/// What a container prints that ends well.
async fn output(pods: &Pods, name: &str, container: Value) -> String {
    let mut all = pod(name, &[container]);
    all["spec"]["restartPolicy"] = json!("Never");
    pods.create(all).await;
    let ended = pods.ended(name).await;
    let log = pods.api.log(name, "c").await;
    assert_eq!(ended["status"]["phase"], "Succeeded", "{log}{:#}", ended["status"]);
    log
}

#[tokio::test]
async fn c257_c258_c259_c335_c336_c337_configmaps_and_secrets_are_variables() {
    need!(machine::root());
    let pods = Pods::new("variables").await;
    let api = &pods.api;
    let map = json!({"metadata": {"name": "m"}, "data": {"one": "1", "two": "2"}});
    api.post(&api.path("v1", "configmaps"), map).await.ok();
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"one": "secret 1", "two": "secret 2"}});
    api.post(&api.path("v1", "secrets"), secret).await.ok();
    let told = environment(
        &pods,
        "p",
        json!({
        "env": [{"name": "OF_MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "one"}}},
            {"name": "OF_SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "one"}}},
            {"name": "OF_NOTHING", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}}],
        "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "p-.!$@", "configMapRef": {"name": "m"}},
            {"prefix": "#%&", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "none", "optional": true}}]}),
    )
    .await;
    for (key, value) in [
        ("OF_MAP", "1"),
        ("OF_SECRET", "secret 1"),
        ("one", "1"),
        ("two", "2"),
        ("p-.!$@two", "2"),
        ("#%&one", "secret 1"),
    ] {
        assert_eq!(told.get(key).map(String::as_str), Some(value), "{key}: {told:?}");
    }
    assert!(!told.contains_key("OF_NOTHING"));
    // A later source wins, and the secret alone is all of it.
    let told =
        environment(&pods, "q", json!({"envFrom": [{"configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}]}))
            .await;
    assert_eq!((told["one"].as_str(), told["two"].as_str()), ("secret 1", "secret 2"));
    let wrong = json!([{"name": "c", "image": "busybox", "envFrom": [{"prefix": "a=b", "secretRef": {"name": "s"}}]}]);
    let said = api
        .post(&api.path("v1", "pods"), json!({"metadata": {"name": "w"}, "spec": {"containers": wrong}}))
        .await
        .refused(422);
    assert!(said.contains("envFrom[0].prefix"), "{said}");
}

#[tokio::test]
async fn c272_c273_c274_c275_an_image_has_defaults_and_a_pod_may_replace_them() {
    need!(machine::root());
    let pods = Pods::new("defaults").await;
    for (name, fields, said) in [
        ("neither", json!({}), "entry and words"),
        ("args", json!({"args": ["other", "words"]}), "entry other words"),
        // A command of one's own leaves the image's words out too.
        ("command", json!({"command": ["/bin/echo", "own"]}), "own"),
        ("both", json!({"command": ["/bin/echo", "own"], "args": ["words"]}), "own words"),
    ] {
        let mut own = json!({"name": "c", "image": "echo", "imagePullPolicy": "IfNotPresent"});
        own.as_object_mut().expect("fields").extend(fields.as_object().expect("fields").clone());
        assert_eq!(output(&pods, name, own).await, format!("{said}\n"), "{name}");
    }
}

#[tokio::test]
async fn c276_c277_resources_are_variables() {
    need!(machine::root());
    let pods = Pods::new("resources").await;
    let of = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    let variables = json!([
        of("CPU_LIMIT", "limits.cpu", "1m"),
        of("MEMORY_LIMIT", "limits.memory", "1Mi"),
        of("CPU_REQUEST", "requests.cpu", "1m"),
        of("MEMORY_REQUEST", "requests.memory", "0")
    ]);
    let resources = json!({"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"cpu": "750m", "memory": "32Mi"}});
    let told = environment(&pods, "set", json!({"env": variables, "resources": resources})).await;
    let named = |key: &str| told[key].as_str();
    assert_eq!(
        [named("CPU_LIMIT"), named("MEMORY_LIMIT"), named("CPU_REQUEST"), named("MEMORY_REQUEST")],
        ["750", "32", "50", "16777216"]
    );
    // Without limits it is what the node has for pods.
    let node = pods.api.get("/api/v1/nodes/node-1").await.ok();
    let allocatable = &node["status"]["allocatable"];
    let variables = json!([of("CPU", "limits.cpu", "1"), of("MEMORY", "limits.memory", "1Ki")]);
    let told = environment(&pods, "unset", json!({"env": variables})).await;
    assert_eq!(told["CPU"], allocatable["cpu"].as_str().expect("a quantity"));
    assert_eq!(format!("{}Ki", told["MEMORY"]), allocatable["memory"].as_str().expect("a quantity"));
}

#[tokio::test]
async fn c278_c279_c280_c281_a_pod_is_told_who_and_where_it_is() {
    need!(machine::root());
    let pods = Pods::new("who").await;
    let of = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let variables = json!([
        of("HOST_IP", "status.hostIP"),
        of("HOST_IPS", "status.hostIPs"),
        of("UID", "metadata.uid"),
        of("IP", "status.podIP"),
        of("NAME", "metadata.name"),
        of("NAMESPACE", "metadata.namespace"),
        of("NODE", "spec.nodeName")
    ]);
    let told = environment(&pods, "p", json!({"env": variables})).await;
    let told_of = pods.get("p").await;
    for (key, pointer) in [
        ("HOST_IP", "/status/hostIP"),
        ("HOST_IPS", "/status/hostIPs/0/ip"),
        ("UID", "/metadata/uid"),
        ("NAME", "/metadata/name"),
        ("NAMESPACE", "/metadata/namespace"),
        ("IP", "/status/podIP"),
        ("NODE", "/spec/nodeName"),
    ] {
        assert_eq!(Some(told[key].as_str()), told_of.pointer(pointer).and_then(Value::as_str), "{key}");
    }
}

#[tokio::test]
async fn c312_services_that_are_there_are_variables() {
    need!(machine::root());
    let pods = Pods::new("links").await;
    let api = &pods.api;
    let service = json!({"metadata": {"name": "my-service"}, "spec": {"ports": [{"port": 8765, "targetPort": 8080}]}});
    let service = api.post(&api.path("v1", "services"), service).await.ok();
    let address = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let told = environment(&pods, "p", json!({})).await;
    for (key, value) in [
        ("MY_SERVICE_SERVICE_HOST", address.clone()),
        ("MY_SERVICE_SERVICE_PORT", "8765".into()),
        ("MY_SERVICE_PORT", format!("tcp://{address}:8765")),
        ("MY_SERVICE_PORT_8765_TCP", format!("tcp://{address}:8765")),
        ("MY_SERVICE_PORT_8765_TCP_PROTO", "tcp".into()),
        ("MY_SERVICE_PORT_8765_TCP_PORT", "8765".into()),
        ("MY_SERVICE_PORT_8765_TCP_ADDR", address),
    ] {
        assert_eq!(told.get(key), Some(&value), "{key}");
    }
    assert!(told.contains_key("KUBERNETES_SERVICE_HOST"));
}

#[tokio::test]
async fn c348_c349_c350_variables_stand_in_variables_arguments_and_commands() {
    need!(machine::root());
    let pods = Pods::new("expansion").await;
    let own = json!({"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "A", "value": "first"}, {"name": "B", "value": "$(A)+$(LATER)+$$(A)"}, {"name": "LATER", "value": "x"}],
        "command": ["/bin/echo", "$(A)"], "args": ["$(B)", "$$(A)", "$(NONE)", "$A"]});
    assert_eq!(output(&pods, "p", own).await, "first first+$(LATER)+$(A) $(A) $(NONE) $A\n");
}
