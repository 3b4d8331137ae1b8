//! The thirteen steps of ARCHITECTURE.md as one test: run with the stock kubectl and again with `gantry`.

use std::path::Path;
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};

const SOON: Duration = Duration::from_secs(60);

fn sample() -> String {
    machine::workspace().join("manifests/sample/hello.yaml").display().to_string()
}

fn cluster(image: &Path) -> Cluster {
    Cluster::start(&[image])
}

#[test]
fn with_kubectl() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = cluster(&image);
    walk(&cluster, &cluster.kubectl());
}

#[test]
fn with_gantry() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = cluster(&image);
    walk(&cluster, &cluster.gantry());
}

fn walk(cluster: &Cluster, client: &Client) {
    // 13 is watched for from the start: every state of every pod comes by.
    let watch = client.stream(&["get", "pods", "-w"]);

    // 1 to 5: apply -> route -> chain -> handle -> store.
    let applied = client.run(&["apply", "-f", &sample()]).ok();
    assert!(applied.contains("deployment.apps/hello"), "{applied}");

    // 6 to 12: reconcilers -> scheduler -> agent -> pod machine -> executor -> exits -> status. 13: Running on the watch.
    let running =
        watch.wait("a pod of hello Running", SOON, |line| line.starts_with("hello-") && line.contains("Running"));
    let first = running.split_whitespace().next().expect("a name").to_owned();
    client.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    drop(watch);

    let wide = client.run(&["get", "pods", "-o", "wide"]).ok();
    assert!(wide.lines().next().is_some_and(|head| head.contains("NODE") && head.contains("IP")), "{wide}");
    assert_eq!(wide.matches("node-1").count(), 2, "{wide}");
    eventually("the events tell of the start", SOON, || {
        client.run(&["describe", "pod", &first]).ok().contains("Started container httpd").then_some(())
    });

    // The page is served by the pod itself, in a network namespace of its own.
    let pods = client.get(&["pods", "-l", "app=hello"]);
    let pod = &pods["items"][0];
    let address = pod["status"]["podIP"].as_str().expect("an address");
    // Without a probe it may run before it listens.
    eventually("the page", SOON, || {
        let page = std::process::Command::new("busybox")
            .args(["wget", "-q", "-O", "-", &format!("http://{address}:8080/")])
            .output();
        (page.expect("busybox runs").stdout == b"hello from gantry\n").then_some(())
    });
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let log = client.stream(&["logs", "-f", name]);
    log.wait("the request in the log", SOON, |line| line.contains("response:200"));
    drop(log);
    containers_are_apart(pod["metadata"]["uid"].as_str().expect("a uid"));

    let echoed = client.run_with(&["exec", "-i", name, "--", "cat"], "through the pod\n");
    assert_eq!(echoed.ok(), "through the pod\n");
    assert_eq!(client.run(&["exec", name, "--", "sh", "-c", "exit 7"]).code, 7);
    // More than all buffers on the way hold, in both directions at once.
    let bulk = "0123456789abcdef".repeat(512 << 10);
    assert!(client.run_with(&["exec", "-i", name, "--", "cat"], &bulk).ok() == bulk, "bulk data comes back whole");

    client.run(&["scale", "deployment/hello", "--replicas=3"]).ok();
    client.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    client.run(&["set", "image", "deployment/hello", "httpd=busybox:latest"]).ok();
    client.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let history = client.run(&["rollout", "history", "deployment/hello"]).ok();
    let revisions =
        |history: &str| history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count();
    assert_eq!(revisions(&history), 2, "{history}");
    client.run(&["rollout", "undo", "deployment/hello"]).ok();
    client.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let image = client.get(&["deployment", "hello"])["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, "busybox", "the undo brought the first image back");

    let explained = client.run(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]).ok();
    assert!(explained.contains("maximum number of pods"), "{explained}");

    every_hop_names_the_uid(cluster, client);

    client.run(&["delete", "-f", &sample()]).ok();
    eventually("all pods are gone", SOON, || {
        let left = client.get(&["pods"]);
        left["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let gone = client.run(&["get", "deployment", "hello"]);
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("Error from server (NotFound): deployments.apps \"hello\" not found"), "{}", gone.err);
}

/// The container runs in namespaces and cgroups that are not this test's.
fn containers_are_apart(uid: &str) {
    let processes = machine::container_processes(uid);
    assert_eq!(processes.keys().collect::<Vec<_>>(), ["httpd.0"]);
    let pid = processes["httpd.0"].first().expect("httpd runs");
    for namespace in ["net", "pid", "mnt", "ipc", "uts"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a namespace");
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
}

/// One grep by uid tells a pod's whole story, a Deployment's included.
fn every_hop_names_the_uid(cluster: &Cluster, client: &Client) {
    let uid_of = |args: &[&str]| {
        let found = client.get(args);
        let object = found["items"].get(0).cloned().unwrap_or(found);
        object["metadata"]["uid"].as_str().expect("a uid").to_owned()
    };
    let log = cluster.log();
    let hops = |uid: &str| -> Vec<&str> { log.lines().filter(|line| line.contains(uid)).collect() };
    let has = |uid: &str, words: &[&str]| {
        let found = hops(uid);
        let hit = found.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(hit, "no hop with {words:?} among\n{}", found.join("\n"));
    };
    let deployment = uid_of(&["deployment", "hello"]);
    has(&deployment, &["hop=\"store\"", "created"]);
    has(&deployment, &["hop=\"reconcile\""]);
    let set = uid_of(&["replicasets", "-l", "app=hello"]);
    has(&set, &["hop=\"store\"", "created"]);
    has(&set, &["hop=\"reconcile\""]);
    let pod = uid_of(&["pods", "-l", "app=hello"]);
    has(&pod, &["hop=\"store\"", "created"]);
    has(&pod, &["hop=\"schedule\""]);
    has(&pod, &["hop=\"agent\"", "assigned"]);
    has(&pod, &["hop=\"agent\"", "StartContainer"]);
    has(&pod, &["hop=\"store\"", "subresource=\"status\""]);
}
