//! What the controllers do, seen from outside: the Recreate strategy, a rollout that cannot proceed, deletion with its
//! three policies, what a disruption budget tells, the loss of a node.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use e2e::api::condition;
use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// A silent node is given up after 40 s (`node-monitor-grace-period`).
const NODE_LOSS: Duration = Duration::from_secs(120);

fn deployment(name: &str, replicas: u32, image: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "1000000"]}]}}}});
    change(&mut object);
    object
}

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn items(client: &Client, kind: &str, app: &str) -> Vec<Value> {
    let list = client.get(&[kind, "-l", &format!("app={app}")]);
    list["items"].as_array().cloned().unwrap_or_default()
}

fn available(client: &Client, name: &str, count: u32) {
    eventually("the deployment is available", SOON, || {
        (client.get(&["deployment", name])["status"]["availableReplicas"] == count).then_some(())
    });
}

/// A node that nobody reports for, Ready when it was last heard of.
fn silent_node(client: &Client) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lost", "labels": {"place": "here"}}});
    apply(client, &node);
    let status = json!({"status": {"capacity": {"cpu": "8", "memory": "8Gi", "pods": "110"},
        "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    client.run(&["patch", "node", "lost", "--subresource=status", "--type=merge", "-p", &status.to_string()]).ok();
}

#[test]
fn controllers_do_what_their_objects_say() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    let client = cluster.kubectl();

    // The pod that will lose its node: `lost` is the only one that takes pods while it is made.
    client.run(&["label", "node", "node-1", "place=here"]).ok();
    silent_node(&client);
    client.run(&["cordon", "node-1"]).ok();
    let moved = deployment("moved", 1, "busybox", |object| {
        object["spec"]["template"]["spec"]["nodeSelector"] = json!({"place": "here"});
        object["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable",
            "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}]);
    });
    apply(&client, &moved);
    let lost = eventually("the pod is on the node to be lost", SOON, || {
        let pods = items(&client, "pods", "moved");
        pods.iter().find(|pod| pod["spec"]["nodeName"] == "lost").cloned()
    });
    client.run(&["cordon", "lost"]).ok();
    client.run(&["uncordon", "node-1"]).ok();

    recreate(&client);
    stuck_rollout(&client);
    deletion_policies(&client);
    budgets_tell(&client);
    silent_extension(&client);

    // The node is silent: its condition is unknown, it is tainted, its pod is evicted, another runs elsewhere.
    let node = eventually("the node is given up", NODE_LOSS, || {
        let node = client.get(&["node", "lost"]);
        (condition(&node, "Ready")["status"] == "Unknown").then_some(node)
    });
    assert_eq!(condition(&node, "Ready")["reason"], "NodeStatusUnknown");
    eventually("its pod is evicted, and replaced on the other node", NODE_LOSS, || {
        let pods = items(&client, "pods", "moved");
        let evicted = pods.iter().find(|pod| pod["metadata"]["uid"] == lost["metadata"]["uid"])?;
        let successor = pods.iter().find(|pod| pod["spec"]["nodeName"] == "node-1")?;
        let is_told = condition(evicted, "DisruptionTarget")["reason"] == "DeletionByTaintManager";
        let is_going = is_told && evicted["metadata"]["deletionTimestamp"].is_string();
        (is_going && successor["status"]["phase"] == "Running").then_some(())
    });
    let taints = client.get(&["node", "lost"])["spec"]["taints"].to_string();
    assert!(taints.contains("node.kubernetes.io/unreachable") && taints.contains("NoExecute"), "{taints}");
    // With the node's object its pods go too: nobody else could say that they ended.
    client.run(&["delete", "node", "lost"]).ok();
    eventually("the lost pod is gone with its node", NODE_LOSS, || {
        items(&client, "pods", "moved").iter().all(|pod| pod["spec"]["nodeName"] == "node-1").then_some(())
    });
}

/// The old pods have ended before the first new one is made.
fn recreate(client: &Client) {
    let named = |label: &str| {
        deployment("again", 2, "busybox", |object| {
            object["spec"]["strategy"] = json!({"type": "Recreate"});
            object["spec"]["template"]["metadata"]["labels"]["round"] = json!(label);
        })
    };
    apply(client, &named("one"));
    available(client, "again", 2);
    let watch = client.stream(&[
        "get",
        "pods",
        "-l",
        "app=again",
        "-L",
        "round",
        "-w",
        "--output-watch-events",
        "--no-headers",
    ]);
    apply(client, &named("two"));
    let old = RefCell::new(BTreeSet::new());
    // A line is the event, the pod's columns, its round.
    watch.wait("a new pod", SOON, |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [event, name, .., round] = words.as_slice() else { panic!("{line:?}") };
        if *round == "one" && *event == "DELETED" {
            old.borrow_mut().remove(*name);
        } else if *round == "one" {
            old.borrow_mut().insert((*name).to_owned());
        }
        *round == "two"
    });
    assert!(old.borrow().is_empty(), "a new pod was made while there were still {old:?}");
    available(client, "again", 2);
    client.run(&["delete", "deployment", "again"]).ok();
}

/// An image that is nowhere: the rollout says so after its deadline, and what runs goes on.
fn stuck_rollout(client: &Client) {
    let with =
        |image: &str| deployment("stuck", 2, image, |object| object["spec"]["progressDeadlineSeconds"] = json!(2));
    apply(client, &with("busybox"));
    available(client, "stuck", 2);
    apply(client, &with("localhost:1/nowhere:1"));
    eventually("the deadline is passed", SOON, || {
        let object = client.get(&["deployment", "stuck"]);
        let progressing = condition(&object, "Progressing");
        (progressing["reason"] == "ProgressDeadlineExceeded" && progressing["status"] == "False").then_some(())
    });
    let said = client.run(&["rollout", "status", "deployment/stuck", "--timeout=60s"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("exceeded its progress deadline"), "{}", said.err);
    assert_eq!(client.get(&["deployment", "stuck"])["status"]["availableReplicas"], 2);
    client.run(&["rollout", "undo", "deployment/stuck"]).ok();
    // The way back may take longer than the deadline: whoever followed it would be told so.
    eventually("it is as it was", SOON, || {
        let object = client.get(&["deployment", "stuck"]);
        let status = &object["status"];
        let counts = ["replicas", "updatedReplicas", "availableReplicas"].map(|key| &status[key]);
        (status["observedGeneration"] == object["metadata"]["generation"] && counts == [&json!(2); 3]).then_some(())
    });
    client.run(&["rollout", "status", "deployment/stuck", "--timeout=60s"]).ok();
    client.run(&["delete", "deployment", "stuck"]).ok();
}

fn deletion_policies(client: &Client) {
    // Orphan: the ReplicaSet and its pods stay, without an owner, and a new Deployment takes them over.
    apply(client, &deployment("kept", 2, "busybox", |_| {}));
    available(client, "kept", 2);
    let before: Vec<Value> = items(client, "pods", "kept").iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    client.run(&["delete", "deployment", "kept", "--cascade=orphan"]).ok();
    let sets = items(client, "replicasets", "kept");
    assert!(sets.len() == 1 && sets[0]["metadata"]["ownerReferences"].is_null(), "{sets:?}");
    apply(client, &deployment("kept", 2, "busybox", |_| {}));
    available(client, "kept", 2);
    let owner = client.get(&["deployment", "kept"])["metadata"]["uid"].clone();
    let sets = items(client, "replicasets", "kept");
    assert!(sets.len() == 1 && sets[0]["metadata"]["ownerReferences"][0]["uid"] == owner, "{sets:?}");
    let after: Vec<Value> = items(client, "pods", "kept").iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    assert!(before.iter().all(|uid| after.contains(uid)) && after.len() == 2, "{before:?} {after:?}");

    // Foreground: the Deployment is there until its pods are gone, however late that is.
    let pod = items(client, "pods", "kept")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let finalizers = |finalizers: Value| {
        let patch = json!({"metadata": {"finalizers": finalizers}}).to_string();
        client.run(&["patch", "pod", &pod, "--type=merge", "-p", &patch]).ok();
    };
    finalizers(json!(["example.com/hold"]));
    client.run(&["delete", "deployment", "kept", "--cascade=foreground", "--wait=false"]).ok();
    eventually("only the pod that is held is left", SOON, || (items(client, "pods", "kept").len() == 1).then_some(()));
    let held = client.get(&["deployment", "kept"]);
    assert_eq!(held["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    finalizers(Value::Null);
    eventually("the deployment is gone", SOON, || {
        let gone = client.run(&["get", "deployment", "kept"]).code == 1;
        let pods = items(client, "pods", "kept");
        assert!(!gone || pods.is_empty(), "the owner went before its pods: {pods:?}");
        gone.then_some(())
    });

    // Background: the Deployment goes at once, and what it owned follows.
    apply(client, &deployment("follows", 2, "busybox", |_| {}));
    available(client, "follows", 2);
    client.run(&["delete", "deployment", "follows", "--wait=false"]).ok();
    assert_eq!(client.run(&["get", "deployment", "follows"]).code, 1);
    eventually("its pods are gone", SOON, || {
        (items(client, "replicasets", "follows").is_empty() && items(client, "pods", "follows").is_empty())
            .then_some(())
    });
}

/// A budget says how many of its pods may go, and follows its pods and what their controller wants.
fn budgets_tell(client: &Client) {
    apply(client, &deployment("budgeted", 2, "busybox", |_| {}));
    available(client, "budgeted", 2);
    let budget = |bound: Value| {
        let mut spec = json!({"selector": {"matchLabels": {"app": "budgeted"}}});
        spec.as_object_mut().expect("an object").extend(bound.as_object().expect("an object").clone());
        apply(
            client,
            &json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "budgeted"}, "spec": spec}),
        );
    };
    let told = |healthy: u32, desired: u32, allowed: u32, expected: u32| {
        eventually("the budget tells", SOON, || {
            let budget = client.get(&["pdb", "budgeted"]);
            let status = &budget["status"];
            let counts =
                ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"].map(|key| &status[key]);
            let seen = status["observedGeneration"] == budget["metadata"]["generation"];
            (seen && counts == [healthy, desired, allowed, expected].map(|count| json!(count)).each_ref())
                .then(|| condition(&budget, "DisruptionAllowed").clone())
        })
    };
    budget(json!({"minAvailable": 2}));
    let none = told(2, 2, 0, 2);
    assert_eq!((&none["status"], &none["reason"]), (&json!("False"), &json!("InsufficientPods")));
    client.run(&["scale", "deployment", "budgeted", "--replicas=3"]).ok();
    let one = told(3, 2, 1, 3);
    assert_eq!((&one["status"], &one["reason"]), (&json!("True"), &json!("SufficientPods")));
    client.run(&["delete", "pdb", "budgeted"]).ok();
    budget(json!({"maxUnavailable": "50%"}));
    told(3, 1, 2, 3);
    client.run(&["delete", "pdb/budgeted", "deployment/budgeted"]).ok();
}

/// A group whose server does not answer stops no collection; only namespaces wait, and say for whom.
fn silent_extension(client: &Client) {
    apply(
        client,
        &json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.silent.example.com"}, "spec": {"group": "silent.example.com", "version": "v1",
            "groupPriorityMinimum": 1000, "versionPriority": 10, "insecureSkipTLSVerify": true,
            "service": {"namespace": "default", "name": "nobody"}}}),
    );
    apply(
        client,
        &json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "owned.defined.example.com"}, "spec": {"group": "defined.example.com", "scope": "Namespaced",
            "names": {"plural": "owned", "kind": "Owned"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
    );
    eventually("the definition is served", SOON, || (client.run(&["get", "owned"]).code == 0).then_some(()));
    apply(client, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}));
    let owner = client.get(&["configmap", "owner"])["metadata"]["uid"].clone();
    apply(
        client,
        &json!({"apiVersion": "defined.example.com/v1", "kind": "Owned", "metadata": {"name": "o", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner}]}}),
    );
    client.run(&["delete", "configmap", "owner"]).ok();
    eventually("what was defined meanwhile is collected, too", SOON, || {
        client.get(&["owned"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });

    client.run(&["create", "namespace", "waiting"]).ok();
    client.run(&["delete", "namespace", "waiting", "--wait=false"]).ok();
    let told = eventually("the namespace says for whom it waits", SOON, || {
        let namespace = client.get(&["namespace", "waiting"]);
        let told = condition(&namespace, "NamespaceDeletionDiscoveryFailure");
        (told["status"] == "True").then(|| told.clone())
    });
    assert!(told["message"].as_str().is_some_and(|message| message.contains("silent.example.com")), "{told}");
    client.run(&["delete", "apiservice", "v1.silent.example.com"]).ok();
    eventually("the namespace is gone", SOON, || {
        (client.run(&["get", "namespace", "waiting"]).code != 0).then_some(())
    });
    client.run(&["delete", "crd", "owned.defined.example.com"]).ok();
}
