//! A cluster of two machines: joining, what runs and talks across them, leaving.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use e2e::api::condition;
use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::neighbour::Neighbour;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// A Deployment of pods that run a script, on one node where one is named.
fn deployment(name: &str, tier: &str, node: Option<&str>, replicas: u32, script: &str) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name, "tier": tier}}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "talk", "imagePullPolicy": "IfNotPresent",
                "env": [{"name": "PATH", "value": "/usr/bin:/bin"}], "command": ["sh", "-c", script]}]}}}});
    if let Some(node) = node {
        object["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    }
    object
}

#[track_caller]
fn rolled_out(client: &Client, name: &str) {
    let said = client.run(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]);
    let told = || client.run(&["get", "pods,events", "-o", "wide"]).out;
    assert_eq!(said.code, 0, "{}{}{}", said.out, said.err, told());
}

fn service(name: &str, tier: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"tier": tier}, "ports": [{"port": port}]}})
}

/// A server at `port` that answers by a script.
fn answering(port: u16, script: &str) -> String {
    format!(
        "cat >/tmp/answer <<'END'\n#!/bin/sh\n{script}\nEND\nchmod +x /tmp/answer; exec socat TCP4-LISTEN:{port},fork,reuseaddr EXEC:/tmp/answer"
    )
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

#[test]
fn c161_c189_c296_c297_machines_join_and_applications_run_across_them() {
    need!(machine::root());
    need!(machine::program("nsenter"));
    need!(machine::modern_kubectl());
    let image = machine::image("talk").expect("hack/image makes the image");
    let mut other = Neighbour::new();
    let here = IpAddr::from(other.here());
    let cluster = Cluster::start_at(here, &[&image], &["--node-ip", &here.to_string()]);
    let client = cluster.kubectl();
    machine::import(&image, &other.data_dir("node-2"));

    let token =
        cluster.gantry().run(&["token", "create", "--ttl", "1h", "--description", "for a test"]).ok().trim().to_owned();
    let url = cluster.url();
    let listed = cluster.gantry().run(&["token", "list"]).ok();
    assert!(listed.contains("for a test") && !listed.contains(token.rsplit('.').next().unwrap()), "{listed}");
    strangers_are_refused(&other, &url, &token);
    other.start("node-2", &["--server", &url, "--token", &token, "--node-name", "node-2"]);
    two_nodes(&client);
    let said = other.refused("stranger", &["--server", &url, "--token", &token, "--node-name", "node-2"]);
    assert!(said.code == 1 && said.err.contains("node-2 exists already"), "{}", said.err);

    across(&cluster.gantry());
    taints(&client);
    guestbook(&client);

    // Its pods go on without the agent, and the machine comes back without a token.
    let before = running(&client);
    other.kill();
    other.start("node-2", &["--server", &url, "--node-name", "node-2"]);
    assert_eq!(running(&client), before, "nothing was restarted");
    cluster.gantry().run(&["token", "delete", &token]).ok();
    let said = other.refused("late", &["--server", &url, "--token", &token, "--node-name", "node-3"]);
    assert!(said.code == 1 && said.err.contains("Unauthorized"), "{}", said.err);

    for tier in ["leader", "follower", "frontend"] {
        client.run(&["delete", "deployment,service", tier]).ok();
        client.run(&["wait", "pod", "-l", &format!("tier={tier}"), "--for=delete", "--timeout=60s"]).ok();
    }
    // Who leaves is nobody's way any more, and leaves nothing.
    let range = client.get(&["node", "node-2"])["spec"]["podCIDR"].as_str().unwrap().to_owned();
    let routes = || String::from_utf8(std::process::Command::new("ip").arg("route").output().unwrap().stdout).unwrap();
    assert!(routes().contains(&range), "{}", routes());
    other.reset("node-2");
    assert!(!other.routes().contains("metric"), "{}", other.routes());
    client.run(&["delete", "node", "node-2"]).ok();
    eventually("the way to a node that left is gone", SOON, || (!routes().contains(&range)).then_some(()));
}

fn strangers_are_refused(other: &Neighbour, url: &str, token: &str) {
    let told = |flags: &[&str]| {
        let said = other.refused("stranger", &[&["--server", url, "--node-name", "x"], flags].concat());
        assert_eq!(said.code, 1, "{}", said.err);
        said.err
    };
    assert!(told(&[]).contains("--token is needed"));
    assert!(told(&["--token", "abcdef.0123456789abcdef"]).contains("expected K10HASH::ID.SECRET"));
    let (hash, rest) = token.split_once("::").unwrap();
    let forged = format!("K10{}::{rest}", hash[3..].chars().rev().collect::<String>());
    assert!(told(&["--token", &forged]).contains("is not the server that --token is for"));
    let guessed = format!("{hash}::{}.0123456789abcdef", rest.split_once('.').unwrap().0);
    assert!(told(&["--token", &guessed]).contains("Unauthorized"));
    let said = other.refused("stranger", &["--server", url, "--token", token, "--node-name", "node-1"]);
    assert!(said.err.contains("node node-1 exists already"), "{}", said.err);
}

fn two_nodes(client: &Client) {
    let able = |node: &&Value| {
        let is_ready = condition(node, "Ready")["status"] == "True";
        let spec = &node["spec"];
        is_ready && spec["unschedulable"].is_null() && spec["taints"].as_array().is_none_or(Vec::is_empty)
    };
    eventually("both nodes take pods", SOON, || {
        let nodes = client.get(&["nodes"]);
        (nodes["items"].as_array().unwrap().iter().filter(able).count() == 2).then_some(())
    });
}

/// Pods of both nodes reach each other by address, by Service and by name; the server reaches them all.
fn across(client: &Client) {
    for node in ["node-1", "node-2"] {
        let mut own = deployment(&format!("on-{node}"), "names", Some(node), 1, &answering(8080, "echo $HOSTNAME"));
        // It is asked as soon as it is ready.
        own["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
            json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 60});
        apply(client, &own);
    }
    apply(client, &service("names", "names", 8080));
    for node in ["node-1", "node-2"] {
        rolled_out(client, &format!("on-{node}"));
    }
    let pods = client.get(&["pods", "-l", "tier=names"])["items"].as_array().unwrap().clone();
    for from in &pods {
        let name = from["metadata"]["name"].as_str().unwrap();
        for to in &pods {
            let (address, other) = (to["status"]["podIP"].as_str().unwrap(), to["metadata"]["name"].as_str().unwrap());
            // The other machine hears of routes and rules a moment later.
            eventually(&format!("{other} answers {name}"), SOON, || {
                let said = client.run(&["exec", name, "--", "socat", "-T5", "-", &format!("TCP4:{address}:8080")]);
                (said.out.trim() == other).then_some(())
            });
        }
        // Each answer is one of the two; in twenty both are seen.
        let ask = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do socat -T5 - TCP4:names:8080 </dev/null; done";
        eventually(&format!("the Service answers {name} for both"), SOON, || {
            let said = client.run(&["exec", name, "--", "sh", "-c", ask]).out;
            let seen: std::collections::BTreeSet<&str> = said.lines().collect();
            (seen.len() == 2 && said.lines().count() == 20).then_some(())
        });
    }
    client.run(&["delete", "deployment", "on-node-1", "on-node-2"]).ok();
    client.run(&["delete", "service", "names"]).ok();
}

/// Pods leave a node that drives them out when their patience ends, and stay if it thinks better of it before.
fn taints(client: &Client) {
    let pod = |name: &str, tolerations: Value| {
        let spec = json!({"nodeSelector": {"kubernetes.io/hostname": "node-2"}, "terminationGracePeriodSeconds": 0,
            "tolerations": tolerations, "containers": [{"name": "c", "image": "talk", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "600"]}]});
        apply(client, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}));
    };
    let for_seconds = |key: &str, seconds: u32| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let ready =
        |name: &str| client.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
    let gone = |name: &str| client.run(&["wait", "--for=delete", &format!("pod/{name}"), "--timeout=60s"]).ok();
    let stays = |name: &str| assert!(client.get(&["pod", name])["metadata"]["deletionTimestamp"].is_null(), "{name}");
    let taint = |what: &str| client.run(&["taint", "node", "node-2", what]).ok();

    pod("hasty", json!([for_seconds("leave", 1)]));
    pod("patient", json!([for_seconds("leave", 15)]));
    ready("hasty");
    ready("patient");
    taint("leave=now:NoExecute");
    gone("hasty");
    stays("patient");
    gone("patient");
    taint("leave-");

    pod("lucky", json!([for_seconds("leave", 10), {"key": "other", "operator": "Exists"}]));
    ready("lucky");
    taint("leave=now:NoExecute");
    taint("leave-");
    // It would have gone before this one, which comes later and is more patient.
    pod("witness", json!([for_seconds("other", 11)]));
    ready("witness");
    taint("other=now:NoExecute");
    gone("witness");
    stays("lucky");
    taint("other-");
    client.run(&["delete", "pod", "lucky"]).ok();
}

/// What visitors write goes to one leader on one machine; followers on both copy it; any of the front ends shows it.
fn guestbook(client: &Client) {
    let leader =
        answering(6379, "read verb text; case $verb in SET) echo \"$text\" >>/tmp/book;; GET) cat /tmp/book;; esac");
    let copy = "touch /tmp/book; while :; do echo GET | socat -T2 - TCP4:leader:6379 >/tmp/new && mv /tmp/new /tmp/book; sleep 0.2; done & ";
    let follower = format!("{copy}{}", answering(6379, "cat /tmp/book"));
    let frontend = answering(
        80,
        r#"read method path version
        case $path in
        /set/*) echo "SET ${path#/set/}" | socat - TCP4:leader:6379; body=written ;;
        *) body=$(socat -T2 - TCP4:follower:6379 </dev/null) ;;
        esac
        printf 'HTTP/1.0 200 OK\r\n\r\n%s' "$body""#,
    );
    apply(client, &deployment("leader", "leader", Some("node-1"), 1, &leader));
    apply(client, &deployment("follower", "follower", None, 2, &follower));
    apply(client, &deployment("frontend", "frontend", Some("node-2"), 3, &frontend));
    for (name, port) in [("leader", 6379), ("follower", 6379), ("frontend", 80)] {
        apply(client, &service(name, name, port));
    }
    for name in ["leader", "follower", "frontend"] {
        rolled_out(client, name);
    }
    let address: IpAddr = client.get(&["service", "frontend"])["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    // Each of the three may be asked before it listens.
    for word in ["first", "second"] {
        eventually("the front end answers", SOON, || {
            get((address, 80).into(), &format!("/set/{word}")).filter(|said| said == "written")
        });
    }
    eventually("what was written is read", SOON, || {
        get((address, 80).into(), "/").filter(|book| book.contains("first") && book.ends_with("second"))
    });
}

/// Each container with its id and how often it was restarted.
fn running(client: &Client) -> Vec<String> {
    let pods = client.get(&["pods"]);
    let mut all: Vec<String> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            format!("{} {} {}", pod["metadata"]["name"], status["containerID"], status["restartCount"])
        })
        .collect();
    all.sort();
    all
}
