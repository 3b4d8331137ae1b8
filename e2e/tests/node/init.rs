//! Lines 285 to 288: init containers.

use e2e::api::condition;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, restarts, status};

fn with_init(policy: &str, init: [&str; 2], app: &str) -> Value {
    let mut pod = pod("p", &[container("app", app)]);
    pod["spec"]["restartPolicy"] = json!(policy);
    pod["spec"]["initContainers"] = json!([container("one", init[0]), container("two", init[1])]);
    pod
}

fn is_done(pod: &Value, name: &str) -> bool {
    let own = status(pod, name);
    own["ready"] == true && own["state"]["terminated"]["exitCode"] == 0
}

/// The second, which is in this state, started when the first had ended.
fn in_turn(pod: &Value, first: &str, second: &str, state: &str) {
    let ended = crate::seconds(&status(pod, first)["state"]["terminated"]["finishedAt"]);
    assert!(ended <= crate::seconds(&status(pod, second)["state"][state]["startedAt"]), "{first} before {second}");
}

#[tokio::test]
async fn c285_init_containers_run_before_a_pod_that_restarts() {
    need!(machine::root());
    let pods = Pods::new("init-always").await;
    // Times are whole seconds: what takes longer tells whether one was waited for.
    pods.create(with_init("Always", ["sleep 2", "sleep 2"], "exec sleep 600")).await;
    let pod = pods.ready("p").await;
    assert_eq!(condition(&pod, "Initialized")["status"], "True");
    assert!(is_done(&pod, "one") && is_done(&pod, "two"));
    in_turn(&pod, "one", "two", "terminated");
    in_turn(&pod, "two", "app", "running");
}

#[tokio::test]
async fn c286_init_containers_run_before_a_pod_that_ends() {
    need!(machine::root());
    let pods = Pods::new("init-never").await;
    pods.create(with_init("Never", ["sleep 2", "sleep 2"], "sleep 1")).await;
    let pod = pods.ended("p").await;
    assert_eq!(pod["status"]["phase"], "Succeeded");
    assert_eq!(condition(&pod, "Initialized")["status"], "True");
    assert!(is_done(&pod, "one") && is_done(&pod, "two"));
    in_turn(&pod, "one", "two", "terminated");
    in_turn(&pod, "two", "app", "terminated");
    assert_eq!(condition(&pod, "Ready")["reason"], "PodCompleted");
}

#[tokio::test]
async fn c287_an_init_container_that_fails_ends_a_pod_that_never_restarts() {
    need!(machine::root());
    let pods = Pods::new("init-fails").await;
    pods.create(with_init("Never", ["true", "false"], "exec sleep 600")).await;
    let pod = pods.ended("p").await;
    assert_eq!(pod["status"]["phase"], "Failed");
    assert!(is_done(&pod, "one"));
    assert_eq!(status(&pod, "two")["state"]["terminated"]["exitCode"], 1);
    assert_eq!(condition(&pod, "Initialized")["message"], "containers with incomplete status: [two]");
    assert!(status(&pod, "app")["state"]["waiting"].is_object());
}

#[tokio::test]
async fn c288_an_init_container_that_fails_is_tried_again() {
    need!(machine::root());
    let pods = Pods::new("init-again").await;
    pods.create(with_init("Always", ["false", "true"], "exec sleep 600")).await;
    let pod = pods.until("p", "it is tried a third time", |pod| restarts(pod, "one") >= 2).await;
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(condition(&pod, "Initialized")["message"], "containers with incomplete status: [one two]");
    for name in ["two", "app"] {
        assert!(status(&pod, name)["state"]["waiting"].is_object(), "{name} is not started");
    }
}
