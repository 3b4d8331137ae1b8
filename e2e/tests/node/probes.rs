//! Lines 320 to 329, and what they leave out.

use std::time::Duration;

use e2e::api::{condition, eventually};
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, restarts, seconds, status};

/// Asked each second; one bad answer counts, one that takes long does not: the machine may be slow.
fn probe(action: Value) -> Value {
    let mut probe = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60});
    for (key, value) in action.as_object().expect("an action") {
        probe[key] = value.clone();
    }
    probe
}

fn with(mut container: Value, kind: &str, probe: Value) -> Value {
    container[kind] = probe;
    container
}

/// A container whose other probes are held back until its port is open: with a threshold of one, a probe that comes
/// before the server listens would count.
fn listening(container: Value, port: Value) -> Value {
    let ask = json!({"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 60});
    with(container, "startupProbe", ask)
}

/// Serves files of /www on port 8080 and tells of each request.
fn web(script: &str) -> Value {
    let mut container = container("c", &format!("{script} exec httpd -fvv -p 8080 -h /www 2>&1"));
    container["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    container
}

const ETCD: [&str; 2] = ["/bin/sh", "-c"];

fn etcd() -> Value {
    let run = "exec /usr/bin/etcd --data-dir /tmp/e --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://127.0.0.1:2379";
    json!({"name": "c", "image": "etcd", "imagePullPolicy": "IfNotPresent", "command": [ETCD[0], ETCD[1], run]})
}

#[tokio::test]
async fn c320_http_liveness_that_passes_restarts_nothing() {
    need!(machine::root());
    let pods = Pods::new("live-http").await;
    let ask = probe(json!({"httpGet": {"path": "/healthz", "port": "web"}}));
    let own = listening(web("touch /www/healthz;"), json!("web"));
    pods.create(pod("p", &[with(own, "livenessProbe", ask)])).await;
    pods.api.log_with("p", "c", "url:/healthz", 3).await;
    assert_eq!(restarts(&pods.get("p").await, "c"), 0);
}

#[tokio::test]
async fn c324_http_liveness_that_fails_restarts_the_container() {
    need!(machine::root());
    let pods = Pods::new("dead-http").await;
    let ask = probe(json!({"httpGet": {"path": "/healthz", "port": 8080}}));
    let own = listening(web("touch /www/healthz; (sleep 3; rm /www/healthz) &"), json!(8080));
    pods.create(pod("p", &[with(own, "livenessProbe", ask)])).await;
    pods.until("p", "it is restarted", |pod| restarts(pod, "c") >= 1).await;
    pods.api.event("p", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 404").await;
    pods.api.event("p", "Killing", "Container c failed liveness probe, will be restarted").await;
}

#[tokio::test]
async fn c321_grpc_liveness_that_passes_restarts_nothing() {
    need!(machine::root());
    let pods = Pods::new("live-grpc").await;
    // Readiness tells that it was asked, and answered.
    let own = with(etcd(), "startupProbe", json!({"periodSeconds": 1, "failureThreshold": 60, "grpc": {"port": 2379}}));
    let own = with(own, "livenessProbe", probe(json!({"grpc": {"port": 2379}})));
    let own = with(own, "readinessProbe", probe(json!({"grpc": {"port": 2379}, "successThreshold": 4})));
    pods.create(pod("p", &[own])).await;
    let pod = pods.ready("p").await;
    assert_eq!(restarts(&pod, "c"), 0);
}

#[tokio::test]
async fn c325_grpc_liveness_that_fails_restarts_the_container() {
    need!(machine::root());
    let pods = Pods::new("dead-grpc").await;
    let own = with(etcd(), "startupProbe", json!({"periodSeconds": 1, "failureThreshold": 60, "grpc": {"port": 2379}}));
    // The same server, asked for a service that it does not have.
    let own = with(own, "livenessProbe", probe(json!({"grpc": {"port": 2379, "service": "other"}})));
    pods.create(pod("p", &[own])).await;
    pods.until("p", "it is restarted", |pod| restarts(pod, "c") >= 1).await;
    pods.api.event("p", "Unhealthy", "Liveness probe failed: ").await;
}

#[tokio::test]
async fn c322_exec_liveness_that_passes_restarts_nothing() {
    need!(machine::root());
    let pods = Pods::new("live-exec").await;
    let ask = probe(json!({"exec": {"command": ["sh", "-c", "echo asked >> /tmp/asked; cat /tmp/health"]}}));
    let own = container("c", "touch /tmp/health /tmp/asked; exec tail -f /tmp/asked");
    // Nor does it count that it is asked before it has made its file.
    let up = json!({"exec": {"command": ["cat", "/tmp/health"]}, "periodSeconds": 1, "failureThreshold": 60});
    let own = with(own, "startupProbe", up);
    pods.create(pod("p", &[with(own, "livenessProbe", ask)])).await;
    pods.api.log_with("p", "c", "asked", 3).await;
    assert_eq!(restarts(&pods.get("p").await, "c"), 0);
}

#[tokio::test]
async fn c326_exec_liveness_that_fails_restarts_the_container() {
    need!(machine::root());
    let pods = Pods::new("dead-exec").await;
    let ask = probe(json!({"exec": {"command": ["cat", "/tmp/health"]}, "initialDelaySeconds": 1}));
    let own = container("c", "touch /tmp/health; sleep 3; rm /tmp/health; exec sleep 600");
    pods.create(pod("p", &[with(own, "livenessProbe", ask)])).await;
    let pod = pods.until("p", "it is restarted", |pod| restarts(pod, "c") >= 1).await;
    assert_eq!(pod["status"]["phase"], "Running");
    pods.api
        .event("p", "Unhealthy", "Liveness probe failed: cat: can't open '/tmp/health': No such file or directory")
        .await;
}

#[tokio::test]
async fn c323_tcp_liveness_that_passes_restarts_nothing() {
    need!(machine::root());
    let pods = Pods::new("live-tcp").await;
    let own = listening(web(""), json!(8080));
    let own = with(own, "livenessProbe", probe(json!({"tcpSocket": {"port": 8080}})));
    let own = with(own, "readinessProbe", probe(json!({"tcpSocket": {"port": "web"}, "successThreshold": 3})));
    pods.create(pod("p", &[own])).await;
    let pod = pods.ready("p").await;
    assert_eq!(restarts(&pod, "c"), 0);
}

#[tokio::test]
async fn c327_restart_counts_only_grow() {
    need!(machine::root());
    let pods = Pods::new("counted").await;
    let ask = probe(json!({"exec": {"command": ["false"]}}));
    let mut pod = pod("p", &[with(container("c", "exec sleep 600"), "livenessProbe", ask)]);
    pod["spec"]["containers"][0]["livenessProbe"]["terminationGracePeriodSeconds"] = json!(1);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    let mut events = pods.watch("p").await;
    pods.create(pod).await;
    // The waits between them are 0, 10, 20 and 40 seconds, and one to kill each.
    let wait = Duration::from_secs(120);
    for count in 1..=5 {
        let pod = events.until_within(wait, "the next restart", |pod| restarts(pod, "c") != count - 1).await;
        assert_eq!(restarts(&pod, "c"), count);
    }
}

#[tokio::test]
async fn c328_readiness_waits_for_its_initial_delay() {
    need!(machine::root());
    let pods = Pods::new("delayed").await;
    let ask = probe(json!({"exec": {"command": ["true"]}, "initialDelaySeconds": 5}));
    let mut events = pods.watch("p").await;
    pods.create(pod("p", &[with(container("c", "exec sleep 600"), "readinessProbe", ask)])).await;
    let pod = events.until("it runs", |pod| status(pod, "c")["state"]["running"].is_object()).await;
    assert_eq!(condition(&pod, "Ready")["status"], "False");
    assert_eq!(condition(&pod, "ContainersReady")["message"], "containers with unready status: [c]");
    let pod = pods.ready("p").await;
    let waited = seconds(&condition(&pod, "Ready")["lastTransitionTime"])
        - seconds(&status(&pod, "c")["state"]["running"]["startedAt"]);
    assert!(waited >= 5, "{waited} seconds");
    assert_eq!(restarts(&pod, "c"), 0);
}

#[tokio::test]
async fn c329_readiness_that_fails_never_is_ready_and_restarts_nothing() {
    need!(machine::root());
    let pods = Pods::new("unready").await;
    let ask = probe(json!({"exec": {"command": ["sh", "-c", "echo not today; false"]}}));
    pods.create(pod("p", &[with(container("c", "exec sleep 600"), "readinessProbe", ask)])).await;
    pods.api.event_counted("p", "Unhealthy", "Readiness probe failed: not today", 3).await;
    let pod = pods.get("p").await;
    assert_eq!((condition(&pod, "Ready")["reason"].as_str(), restarts(&pod, "c")), (Some("ContainersNotReady"), 0));
    let own = status(&pod, "c");
    assert_eq!((&own["ready"], &own["started"]), (&json!(false), &json!(true)));
}

#[tokio::test]
async fn startup_holds_the_other_probes_back() {
    need!(machine::root());
    let pods = Pods::new("startup").await;
    let own = container("c", "sleep 3; touch /tmp/up; exec sleep 600");
    let up = || probe(json!({"exec": {"command": ["cat", "/tmp/up"]}}));
    let mut first = up();
    first["failureThreshold"] = json!(60);
    let own = with(own, "startupProbe", first);
    // Either would restart or hide the container if it were asked before.
    let own = with(with(own, "livenessProbe", up()), "readinessProbe", up());
    let mut events = pods.watch("p").await;
    pods.create(pod("p", &[own])).await;
    let pod = events.until("it runs", |pod| status(pod, "c")["state"]["running"].is_object()).await;
    assert_eq!(status(&pod, "c")["started"], false);
    let pod = pods.ready("p").await;
    assert_eq!((restarts(&pod, "c"), &status(&pod, "c")["started"]), (0, &json!(true)));
    pods.api.event("p", "Unhealthy", "Startup probe failed: cat: can't open").await;
}

#[tokio::test]
async fn a_sidecar_that_is_up_lets_the_next_container_start() {
    need!(machine::root());
    let pods = Pods::new("sidecar-up").await;
    let mut sidecar = container("s", "sleep 3; touch /shared/up; exec sleep 600");
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["cat", "/shared/up"]}, "periodSeconds": 1, "failureThreshold": 60});
    let mut own = container("c", "ls /shared; exec sleep 600");
    for container in [&mut sidecar, &mut own] {
        container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    }
    let mut pod = pod("p", &[own]);
    pod["spec"]["initContainers"] = json!([sidecar]);
    pod["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    let mut events = pods.watch("p").await;
    pods.create(pod).await;
    let early = events.until("the sidecar runs", |pod| status(pod, "s")["state"]["running"].is_object()).await;
    assert_eq!(condition(&early, "Initialized")["message"], "containers with incomplete status: [s]");
    assert_eq!(status(&early, "c")["state"]["waiting"]["reason"], "PodInitializing");
    pods.ready("p").await;
    assert_eq!(pods.api.log_with("p", "c", "up", 1).await, "up\n", "it came after the sidecar was up");
}

#[tokio::test]
async fn a_probe_that_takes_too_long_is_killed_with_all_it_started() {
    need!(machine::root());
    let pods = Pods::new("slow-probe").await;
    let ask =
        json!({"exec": {"command": ["sh", "-c", "sleep 7777 & sleep 7778"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    pods.create(pod("p", &[with(container("c", "exec sleep 600"), "readinessProbe", ask)])).await;
    // If each left one process only, these would be too many.
    pods.api.event_counted("p", "Unhealthy", "timed out after 1s", 4).await;
    let pod = pods.get("p").await;
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    // Whoever is killed may take a moment to go.
    eventually("there are the container's own process and at most one probe's", async || {
        let count: usize = machine::container_processes(uid).values().map(|pids| pids.len()).sum();
        (count <= 4).then_some(())
    })
    .await;
    assert_eq!(restarts(&pod, "c"), 0);
}

#[tokio::test]
async fn a_gate_that_is_shut_keeps_a_pod_from_being_ready() {
    need!(machine::root());
    let pods = Pods::new("gated").await;
    let mut own = pod("p", &[container("c", "exec sleep 600")]);
    own["spec"]["readinessGates"] = json!([{"conditionType": "example.com/open"}]);
    pods.create(own).await;
    let pod =
        pods.until("p", "its containers are ready", |pod| condition(pod, "ContainersReady")["status"] == "True").await;
    assert_eq!(condition(&pod, "Ready")["reason"], "ReadinessGatesNotReady");
    let open = json!({"status": {"conditions": [{"type": "example.com/open", "status": "True"}]}});
    pods.api.patch(&format!("{}/status", pods.path("p")), e2e::api::Patch::Strategic, open).await.ok();
    pods.ready("p").await;
}
