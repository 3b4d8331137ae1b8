//! What flows between a person and a pod: copies, forwarded ports, attached terminals; and a node that is drained.
//! With the stock kubectl and with gantry.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

fn copies_both_ways(client: &Client, dir: &std::path::Path) {
    let (out, back) = (dir.join("out"), dir.join("back"));
    std::fs::create_dir_all(out.join("deep")).expect("a directory");
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(out.join("deep/large"), &content).expect("a file");
    std::fs::write(out.join("name with space"), "x").expect("a file");
    client.run(&["cp", &out.display().to_string(), "page:/tmp/in"]).ok();
    let listed = client.run(&["exec", "page", "--", "sh", "-c", "cd /tmp/in && find . -type f | sort"]).ok();
    assert_eq!(listed, "./deep/large\n./name with space\n");
    client.run(&["cp", "page:/tmp/in", &back.display().to_string()]).ok();
    assert_eq!(std::fs::read(back.join("deep/large")).expect("it came back"), content);
    client.run(&["exec", "page", "--", "rm", "-r", "/tmp/in"]).ok();
}

fn forwards_a_port(client: &Client) {
    let forward = client.stream(&["port-forward", "pod/page", ":8080"]);
    let line = forward.wait("the local port", SOON, |line| line.contains("127.0.0.1:"));
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|port| port.parse().ok())
        .expect("Forwarding from 127.0.0.1:PORT -> 8080");
    // Several connections, one after the other and beside each other.
    let mut open: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("it listens")).collect();
    for connection in &mut open {
        connection.set_read_timeout(Some(SOON)).expect("a timeout");
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("written");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.") && answer.ends_with("a page\n"), "{answer}");
    }
}

fn attaches(client: &Client) {
    // `cat` ends when its input does, and with it the pod; what was said comes back.
    let image = ["--image=busybox", "--image-pull-policy=IfNotPresent", "--restart=Never"];
    let said =
        client.run_with(&[&["run", "echo", "-i", "--rm", "--quiet"], &image[..], &["--", "cat"]].concat(), "hi\n");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, "hi\n", "{said:?}");
    assert!(client.run(&["get", "pod", "echo"]).err.contains("NotFound"), "--rm deletes it");
    let failed = client.run_with(
        &[&["run", "fails", "-i", "--rm", "--quiet"], &image[..], &["--", "sh", "-c", "exit 7"]].concat(),
        "",
    );
    assert_eq!(failed.code, 7, "{failed:?}");
}

fn says_what_is_used(client: &Client) {
    let top = eventually("usage is known", SOON, || {
        let top = client.run(&["top", "pods", "--no-headers"]);
        (top.code == 0 && top.out.contains("page")).then_some(top.out)
    });
    let fields: Vec<&str> =
        top.lines().find(|line| line.starts_with("page")).expect("a line").split_whitespace().collect();
    assert!(fields[1].ends_with('m') && fields[2].ends_with("Mi"), "{top}");
    eventually("so is the node's", SOON, || {
        let nodes = client.run(&["top", "nodes", "--no-headers"]);
        (nodes.code == 0 && nodes.out.starts_with("node-1 ") && nodes.out.contains('%')).then_some(())
    });
}

fn drains(client: &Client) {
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "all"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
    let guarded = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "guarded"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "guarded"}}, "template": {
            "metadata": {"labels": {"app": "guarded"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000000"]}]}}}});
    for object in [&budget, &guarded] {
        client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
    }
    client.run(&["rollout", "status", "deployment/guarded", "--timeout=60s"]).ok();
    let drain = ["drain", "node-1", "--force", "--ignore-daemonsets", "--pod-selector=app=guarded"];
    let refused = client.run(&[&drain[..], &["--timeout=10s"]].concat());
    assert!(refused.code == 1 && refused.err.contains("disruption budget"), "{refused:?}");
    client.run(&["delete", "pdb", "all"]).ok();
    let drained = client.run(&[&drain[..], &["--timeout=60s"]].concat()).ok();
    assert!(drained.contains("node/node-1 drained"), "{drained}");
    let pods = client.get(&["pods", "-l", "app=guarded"]);
    let waits = pods["items"].as_array().into_iter().flatten().all(|pod| pod["spec"]["nodeName"].is_null());
    assert!(waits, "the node takes no new pods: {pods}");
    client.run(&["uncordon", "node-1"]).ok();
    client.run(&["rollout", "status", "deployment/guarded", "--timeout=60s"]).ok();
    client.run(&["delete", "deployment", "guarded"]).ok();
}

fn scenario(client: &Client) {
    let dir = tempfile::tempdir().expect("a directory");
    let page = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "page"}, "spec": {
        "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox",
            "imagePullPolicy": "IfNotPresent",
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}, "command": ["sh", "-c",
                "mkdir -p /srv/page && echo a page > /srv/page/index.html && exec httpd -f -p 8080 -h /srv/page"]}]}});
    client.run_with(&["apply", "-f", "-"], &page.to_string()).ok();
    client.run(&["wait", "--for=condition=Ready", "pod/page", "--timeout=60s"]).ok();
    copies_both_ways(client, dir.path());
    forwards_a_port(client);
    attaches(client);
    says_what_is_used(client);
    drains(client);
}

#[test]
fn streams_with_gantry() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    scenario(&cluster.gantry());
}

#[test]
fn streams_with_kubectl() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start(&[&image]);
    scenario(&cluster.kubectl());
}
