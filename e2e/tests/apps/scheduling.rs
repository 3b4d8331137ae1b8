//! Where pods go, and who leaves for whom, on nodes without machines.

use e2e::api::{Api, Patch, condition};
use serde_json::{Value, json};

use crate::hollow::Hollow;
use crate::scene::{Scene, names, uids};

/// A resource that only these nodes have, so that nothing else counts.
pub(crate) const FAKE: &str = "example.com/fakecpu";

/// A pod for the hollow nodes with more in its spec. What it says of affinity comes beside what keeps it on these nodes.
pub(crate) fn pod(hollow: &Hollow, name: &str, more: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox"}]}});
    hollow.only(&mut pod, false);
    for (key, value) in more.as_object().into_iter().flatten() {
        match (key.as_str(), value.as_object()) {
            ("affinity", Some(kinds)) => {
                for (kind, terms) in kinds {
                    pod["spec"]["affinity"][kind] = terms.clone();
                }
            }
            _ => pod["spec"][key] = value.clone(),
        }
    }
    pod
}

/// Containers that ask for so much.
pub(crate) fn asking(resource: &str, amount: &str) -> Value {
    json!([{"name": "c", "image": "busybox",
        "resources": {"requests": {resource: amount}, "limits": {resource: amount}}}])
}

pub(crate) async fn create(scene: &Scene, pod: Value) -> String {
    let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
    scene.api.post(&scene.api.path("v1", "pods"), pod).await.ok();
    name
}

/// Waits until a pod has a node; answers the node.
pub(crate) async fn bound(scene: &Scene, name: &str) -> String {
    let pods = scene.api.path("v1", "pods");
    let pod =
        scene.api.until(&pods, name, &format!("{name} has a node"), |pod| pod["spec"]["nodeName"].is_string()).await;
    pod["spec"]["nodeName"].as_str().expect("a node").to_owned()
}

/// Waits until a pod is told that no node takes it, for this reason.
pub(crate) async fn pending(scene: &Scene, name: &str, why: &str) -> Value {
    scene.api.event(name, "FailedScheduling", why).await;
    let is_told = |pod: &Value| {
        let told = condition(pod, "PodScheduled");
        told["status"] == "False" && told["message"].as_str().is_some_and(|message| message.contains(why))
    };
    let pod = scene.api.until(&scene.api.path("v1", "pods"), name, &format!("{name} waits: {why}"), is_told).await;
    assert!(pod["spec"]["nodeName"].is_null());
    pod
}

/// A priority class of this test; answers its name.
pub(crate) async fn class(scene: &Scene, value: i32) -> String {
    let name = format!("{}-{value}", scene.api.namespace);
    let class = json!({"metadata": {"name": name}, "value": value});
    scene.api.post("/apis/scheduling.k8s.io/v1/priorityclasses", class).await.ok();
    name
}

pub(crate) async fn without_classes(api: &Api, classes: &[&String]) {
    for class in classes {
        api.delete(&format!("/apis/scheduling.k8s.io/v1/priorityclasses/{class}"), Value::Null).await;
    }
}

/// Every node has so much of the fake resource.
pub(crate) async fn offer(hollow: &Hollow, api: &Api, amount: &str) {
    for node in hollow.names() {
        let amounts = json!({"capacity": {FAKE: amount}, "allocatable": {FAKE: amount}});
        api.patch(&format!("/api/v1/nodes/{node}/status"), Patch::Merge, json!({"status": amounts})).await.ok();
    }
}

#[tokio::test]
async fn c363_a_pod_that_asks_for_more_than_is_left_waits() {
    let scene = Scene::new("room").await;
    let hollow = Hollow::new(&scene.api, 1).await;
    let filler = create(&scene, pod(&hollow, "filler", json!({"containers": asking("cpu", "5600m")}))).await;
    bound(&scene, &filler).await;
    let more = create(&scene, pod(&hollow, "additional", json!({"containers": asking("cpu", "4")}))).await;
    let said = pending(&scene, &more, "Insufficient cpu").await;
    let message = condition(&said, "PodScheduled")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("preemption: 0/"), "{message}");
    let why = scene.gantry(&["why", &more]);
    assert!(why.out.contains("Insufficient cpu"), "{}", why.out);
    scene.api.delete(&scene.pod(&filler), Value::Null).await.ok();
    bound(&scene, &more).await;
    hollow.end().await;
}

#[tokio::test]
async fn c364_c365_a_node_selector_is_met_or_waited_for() {
    let scene = Scene::new("selector").await;
    let hollow = Hollow::new(&scene.api, 2).await;
    let label = |value: &str| json!({"nodeSelector": {"example.com/kind": value}});
    let names = hollow.names();
    hollow.patch(&names[1], json!({"metadata": {"labels": {"example.com/kind": "42"}}})).await;
    let lands = create(&scene, pod(&hollow, "with-labels", label("42"))).await;
    assert_eq!(bound(&scene, &lands).await, names[1]);
    let waits = create(&scene, pod(&hollow, "restricted-pod", label("nonempty"))).await;
    pending(&scene, &waits, "node(s) didn't match Pod's node affinity/selector").await;
    hollow.patch(&names[0], json!({"metadata": {"labels": {"example.com/kind": "nonempty"}}})).await;
    assert_eq!(bound(&scene, &waits).await, names[0], "it waits for the label");
    hollow.end().await;
}

#[tokio::test]
async fn c366_a_port_on_all_addresses_conflicts_with_the_port_on_one() {
    let scene = Scene::new("ports").await;
    let hollow = Hollow::new(&scene.api, 1).await;
    let port = |address: &str| {
        json!({"containers": [{"name": "c", "image": "busybox",
            "ports": [{"containerPort": 8080, "hostPort": 54322, "protocol": "TCP", "hostIP": address}]}]})
    };
    let first = create(&scene, pod(&hollow, "pod4", port("0.0.0.0"))).await;
    bound(&scene, &first).await;
    let second = create(&scene, pod(&hollow, "pod5", port("127.0.0.1"))).await;
    pending(&scene, &second, "node(s) didn't have free ports for the requested pod ports").await;
    hollow.end().await;
}

#[tokio::test]
async fn c369_the_lower_priority_leaves() {
    let scene = Scene::new("preempt").await;
    let hollow = Hollow::new(&scene.api, 2).await;
    offer(&hollow, &scene.api, "3").await;
    let (low, medium, high) = (class(&scene, 1).await, class(&scene, 100).await, class(&scene, 1000).await);
    let wants = |class: &str| json!({"priorityClassName": class, "containers": asking(FAKE, "2")});
    let least = create(&scene, pod(&hollow, "least", wants(&low))).await;
    let node = bound(&scene, &least).await;
    let other = create(&scene, pod(&hollow, "other", wants(&medium))).await;
    bound(&scene, &other).await;
    let preemptor = create(&scene, pod(&hollow, "preemptor", wants(&high))).await;
    assert_eq!(bound(&scene, &preemptor).await, node);
    scene.api.until_gone(&scene.pod(&least)).await;
    assert!(scene.api.get(&scene.pod(&other)).await.ok()["metadata"]["deletionTimestamp"].is_null());
    scene.api.event(&least, "Preempted", &format!("on node {node}")).await;
    without_classes(&scene.api, &[&low, &medium, &high]).await;
    hollow.end().await;
}

#[tokio::test]
async fn c370_a_critical_pod_preempts() {
    let scene = Scene::new("critical").await;
    let hollow = Hollow::new(&scene.api, 1).await;
    offer(&hollow, &scene.api, "3").await;
    let low = class(&scene, 1).await;
    let wants = |class: &str| json!({"priorityClassName": class, "containers": asking(FAKE, "2")});
    let victim = create(&scene, pod(&hollow, "victim", wants(&low))).await;
    let node = bound(&scene, &victim).await;
    let critical = format!("{}-critical", scene.api.namespace);
    let pods = "/api/v1/namespaces/kube-system/pods";
    scene.api.post(pods, pod(&hollow, &critical, wants("system-cluster-critical"))).await.ok();
    let landed = scene.api.until(pods, &critical, "it has a node", |pod| pod["spec"]["nodeName"] == *node).await;
    assert_eq!(landed["spec"]["priority"], 2_000_000_000);
    scene.api.until_gone(&scene.pod(&victim)).await;
    scene.api.delete(&format!("{pods}/{critical}"), json!({"gracePeriodSeconds": 0})).await.ok();
    without_classes(&scene.api, &[&low]).await;
    hollow.end().await;
}

#[tokio::test]
async fn c371_a_victim_is_told_why() {
    let scene = Scene::new("told").await;
    let hollow = Hollow::new(&scene.api, 1).await;
    offer(&hollow, &scene.api, "1").await;
    let (low, high) = (class(&scene, 1).await, class(&scene, 1000).await);
    let wants = |class: &str| json!({"priorityClassName": class, "containers": asking(FAKE, "1")});
    let mut victim = pod(&hollow, "victim-pod", wants(&low));
    victim["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
    let victim = create(&scene, victim).await;
    let node = bound(&scene, &victim).await;
    let preemptor = create(&scene, pod(&hollow, "preemptor-pod", wants(&high))).await;
    let pods = scene.api.path("v1", "pods");
    let leaving = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
    let told = scene.api.until(&pods, &victim, "the victim leaves", leaving).await;
    let told = condition(&told, "DisruptionTarget").clone();
    assert_eq!((&told["status"], &told["reason"]), (&json!("True"), &json!("PreemptionByScheduler")));
    assert_eq!(told["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    let waits = |pod: &Value| pod["status"]["nominatedNodeName"] == *node;
    scene.api.until(&pods, &preemptor, "the preemptor waits for the node", waits).await;
    let gone = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    scene.api.patch(&scene.pod(&victim), Patch::Json, gone).await.ok();
    assert_eq!(bound(&scene, &preemptor).await, node);
    without_classes(&scene.api, &[&low, &high]).await;
    hollow.end().await;
}

#[tokio::test]
async fn c367_replica_sets_of_four_priorities_share_a_node() {
    let scene = Scene::new("four").await;
    let hollow = Hollow::new(&scene.api, 1).await;
    offer(&hollow, &scene.api, "1000").await;
    let mut classes = Vec::new();
    let mut before = Vec::new();
    for (priority, amount) in [(1, "200"), (2, "300"), (3, "450"), (4, "500")] {
        let class = class(&scene, priority).await;
        let name = format!("rs-pod{priority}");
        let mut template = pod(&hollow, &name, json!({"priorityClassName": class, "containers": asking(FAKE, amount)}));
        template["metadata"] = json!({"labels": {"app": name}});
        classes.push(class);
        let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template});
        scene.make("replicasets", &json!({"metadata": {"name": name}, "spec": spec})).await;
        let pods = scene.ready(&name, 1).await;
        before.push(uids(&pods).join(""));
    }
    // One that leaves may still be there beside the one that is made for it.
    let staying = |pods: &[Value]| -> Vec<Value> {
        pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect()
    };
    for (n, stays) in [(1, false), (2, false), (3, true), (4, true)] {
        let fits = |pods: &[Value]| {
            let ours = staying(pods);
            ours.len() == 1 && (ours[0]["metadata"]["uid"] == *before[n - 1]) == stays
        };
        let what = format!("the pod of priority {n} {}", if stays { "stays" } else { "is made anew" });
        let pods = scene.until_pods(&format!("rs-pod{n}"), &what, fits).await;
        if !stays {
            pending(&scene, names(&staying(&pods))[0], "Insufficient example.com/fakecpu").await;
        }
    }
    let classes: Vec<&String> = classes.iter().collect();
    without_classes(&scene.api, &classes).await;
    hollow.end().await;
}

/// The node of a pod as soon as it runs.
async fn nodes_of(scene: &Scene, app: &str, count: usize) -> Vec<String> {
    let mut nodes: Vec<String> = Vec::new();
    for pod in scene.ready(app, count).await {
        nodes.push(pod["spec"]["nodeName"].as_str().expect("a node").to_owned());
    }
    nodes.sort();
    nodes
}

/// A ReplicaSet whose pods have this in their spec.
async fn replicas(scene: &Scene, hollow: &Hollow, app: &str, count: usize, more: Value) {
    let mut template = pod(hollow, app, more);
    template["metadata"] = json!({"labels": {"app": app}});
    let spec = json!({"replicas": count, "selector": {"matchLabels": {"app": app}}, "template": template});
    scene.make("replicasets", &json!({"metadata": {"name": app}, "spec": spec})).await;
}

#[tokio::test]
async fn a_pod_with_gates_waits_until_they_are_gone() {
    let scene = Scene::new("gates").await;
    let hollow = Hollow::new(&scene.api, 1).await;
    let gated = create(&scene, pod(&hollow, "gated", json!({"schedulingGates": [{"name": "example.com/wait"}]}))).await;
    let pods = scene.api.path("v1", "pods");
    let is_told = |pod: &Value| condition(pod, "PodScheduled")["reason"] == "SchedulingGated";
    scene.api.until(&pods, &gated, "it is told that it waits for its gates", is_told).await;
    let none = json!([{"op": "remove", "path": "/spec/schedulingGates"}]);
    scene.api.patch(&scene.pod(&gated), Patch::Json, none).await.ok();
    bound(&scene, &gated).await;
    hollow.end().await;
}

fn beside(kind: &str, app: &str, key: &str) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

#[tokio::test]
async fn pods_keep_apart_or_together_and_wait_until_they_can() {
    let scene = Scene::new("apart").await;
    let mut hollow = Hollow::new(&scene.api, 2).await;
    let host = "kubernetes.io/hostname";
    replicas(&scene, &hollow, "apart", 3, beside("podAntiAffinity", "apart", host)).await;
    let is_bound = |pod: &&Value| pod["spec"]["nodeName"].is_string();
    let two_fit = |pods: &[Value]| pods.len() == 3 && pods.iter().filter(is_bound).count() == 2;
    let pods = scene.until_pods("apart", "two of three have nodes", two_fit).await;
    let third = pods.iter().find(|pod| !is_bound(pod)).expect("three pods");
    pending(&scene, names(std::slice::from_ref(third))[0], "2 node(s) didn't match pod anti-affinity rules").await;
    let added = hollow.add().await;
    let mut all = hollow.names().to_vec();
    all.sort();
    assert_eq!(nodes_of(&scene, "apart", 3).await, all, "the third waited for {added}");
    replicas(&scene, &hollow, "follower", 1, beside("podAffinity", "leader", host)).await;
    let followers = scene.until_pods("follower", "the pod is there", |pods| pods.len() == 1).await;
    pending(&scene, names(&followers)[0], "node(s) didn't match pod affinity rules").await;
    replicas(&scene, &hollow, "leader", 1, json!({})).await;
    assert_eq!(nodes_of(&scene, "follower", 1).await, nodes_of(&scene, "leader", 1).await, "it waited for the leader");
    hollow.end().await;
}

#[tokio::test]
async fn pods_spread_over_zones_within_their_skew() {
    let scene = Scene::new("spread").await;
    let hollow = Hollow::new(&scene.api, 3).await;
    let zone = "topology.kubernetes.io/zone";
    for (n, node) in hollow.names().iter().enumerate() {
        hollow.patch(node, json!({"metadata": {"labels": {zone: format!("z{}", n / 2)}}})).await;
    }
    let constraint = json!([{"maxSkew": 1, "topologyKey": zone, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "even"}}}]);
    replicas(&scene, &hollow, "even", 6, json!({"topologySpreadConstraints": constraint})).await;
    let nodes = nodes_of(&scene, "even", 6).await;
    let last = &hollow.names()[2];
    assert_eq!(nodes.iter().filter(|node| *node == last).count(), 3, "half of them in the zone of one node: {nodes:?}");
    hollow.end().await;
}
