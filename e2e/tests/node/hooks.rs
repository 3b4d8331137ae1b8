//! Lines 263 to 266 and 319, and what they leave out.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, restarts, status};

/// A pod that tells of each request in its log; answers its address.
async fn listener(pods: &Pods) -> String {
    let mut own = container("c", "exec httpd -fvv -p 8080 -h /www 2>&1");
    // A hook asks once.
    own["readinessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    pods.create(pod("listener", &[own])).await;
    let pod = pods.ready("listener").await;
    pod["status"]["podIP"].as_str().expect("an address").to_owned()
}

fn call(ip: &str, word: &str) -> Value {
    json!({"exec": {"command": ["wget", "-q", "-O", "-", format!("http://{ip}:8080/{word}")]}})
}

fn get(ip: &str, word: &str) -> Value {
    json!({"httpGet": {"host": ip, "port": 8080, "path": format!("/{word}")}})
}

async fn post_start(name: &str, hook: fn(&str, &str) -> Value) {
    let pods = Pods::new(name).await;
    let ip = listener(&pods).await;
    let mut own = container("c", "exec sleep 600");
    // The listener has no such page: `wget` fails at it, so a page that exists is asked for.
    own["lifecycle"] = json!({"postStart": hook(&ip, "index.html?from=post-start")});
    pods.create(pod("p", &[own])).await;
    pods.ready("p").await;
    pods.api.log_with("listener", "c", "/index.html", 1).await;
}

async fn pre_stop(name: &str, hook: fn(&str, &str) -> Value) {
    let pods = Pods::new(name).await;
    let ip = listener(&pods).await;
    let mut own = container("c", "exec sleep 600");
    own["lifecycle"] = json!({"preStop": hook(&ip, "index.html?from=pre-stop")});
    pods.create(pod("p", &[own])).await;
    pods.ready("p").await;
    assert!(!pods.api.log("listener", "c").await.contains("/index.html"));
    pods.delete("p").await;
    pods.api.log_with("listener", "c", "/index.html", 1).await;
    pods.api.until_gone(&pods.path("p")).await;
}

#[tokio::test]
async fn c263_post_start_runs_a_program() {
    need!(machine::root());
    post_start("post-exec", call).await;
}

#[tokio::test]
async fn c264_post_start_asks_over_http() {
    need!(machine::root());
    post_start("post-http", get).await;
}

#[tokio::test]
async fn c265_c319_pre_stop_runs_a_program() {
    need!(machine::root());
    pre_stop("pre-exec", call).await;
}

#[tokio::test]
async fn c266_pre_stop_asks_over_http() {
    need!(machine::root());
    pre_stop("pre-http", get).await;
}

#[tokio::test]
async fn a_post_start_that_fails_restarts_the_container() {
    need!(machine::root());
    let pods = Pods::new("post-fails").await;
    let mut own = container("c", "exec sleep 600");
    own["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "echo secret; exit 3"]}}});
    pods.create(pod("p", &[own])).await;
    pods.until("p", "it is restarted", |pod| restarts(pod, "c") >= 1).await;
    let event = pods.api.event("p", "FailedPostStartHook", "PostStartHook failed").await;
    assert!(!event["message"].as_str().is_some_and(|message| message.contains("secret")));
}

/// The program ignores SIGTERM for its pod's grace period; the hook asks it to end, and then waits for it.
#[tokio::test]
async fn a_program_ends_by_its_hook_and_by_its_own_signal() {
    need!(machine::root());
    let pods = Pods::new("stop-signal").await;
    let script = "trap 'echo term >> /logs/l' TERM; trap 'echo usr1 >> /logs/l; exit 0' USR1; echo up; \
                  while :; do sleep 0.1; done";
    let mut own = container("c", script);
    own["lifecycle"] = json!({"stopSignal": "SIGUSR1",
        "preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo hook >> /logs/l"]}}});
    own["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
    let dir = tempfile::tempdir().expect("a directory");
    let mut all = pod("p", &[own]);
    all["spec"]["os"] = json!({"name": "linux"});
    all["spec"]["terminationGracePeriodSeconds"] = json!(20);
    all["spec"]["volumes"] = json!([{"name": "logs", "hostPath": {"path": dir.path()}}]);
    pods.create(all).await;
    pods.ready("p").await;
    // A signal that comes before the traps is lost.
    pods.api.log_with("p", "c", "up", 1).await;
    pods.delete("p").await;
    pods.api.until_gone(&pods.path("p")).await;
    let told = std::fs::read_to_string(dir.path().join("l")).expect("it wrote");
    assert_eq!(told, "hook\nusr1\n");
}

#[tokio::test]
async fn a_sidecar_ends_after_whom_it_serves() {
    need!(machine::root());
    let pods = Pods::new("sidecar-end").await;
    let dir = tempfile::tempdir().expect("a directory");
    let script = |name: &str, seconds: u32| {
        format!("trap 'sleep {seconds}; echo {name} >> /logs/l; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    };
    let mut containers: Vec<Value> = [("first", 0), ("second", 0), ("app", 2)]
        .iter()
        .map(|(name, wait)| container(name, &script(name, *wait)))
        .collect();
    for container in &mut containers {
        container["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
    }
    let app = containers.pop().expect("three");
    for sidecar in &mut containers {
        sidecar["restartPolicy"] = json!("Always");
    }
    let mut all = pod("p", &[app]);
    all["spec"]["terminationGracePeriodSeconds"] = json!(20);
    all["spec"]["initContainers"] = json!(containers);
    all["spec"]["volumes"] = json!([{"name": "logs", "hostPath": {"path": dir.path()}}]);
    pods.create(all).await;
    let pod = pods.ready("p").await;
    assert!(status(&pod, "first")["ready"] == true);
    for name in ["first", "second", "app"] {
        pods.api.log_with("p", name, "up", 1).await;
    }
    pods.delete("p").await;
    pods.api.until_gone(&pods.path("p")).await;
    assert_eq!(std::fs::read_to_string(dir.path().join("l")).expect("they wrote"), "app\nsecond\nfirst\n");
}
