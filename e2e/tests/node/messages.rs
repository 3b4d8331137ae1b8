//! Lines 267 to 270: what a container leaves when it ends.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, status};

/// The message that a container leaves, and its exit code.
async fn left(name: &str, script: &str, fields: Value) -> (String, i64) {
    let pods = Pods::new(name).await;
    let mut own = container("c", script);
    for (key, value) in fields.as_object().expect("fields") {
        own[key] = value.clone();
    }
    let mut all = pod("p", &[own]);
    all["spec"]["restartPolicy"] = json!("Never");
    pods.create(all).await;
    let pod = pods.ended("p").await;
    let ended = &status(&pod, "c")["state"]["terminated"];
    (ended["message"].as_str().unwrap_or_default().to_owned(), ended["exitCode"].as_i64().expect("a code"))
}

const FALLS_BACK: &str = "FallbackToLogsOnError";

#[tokio::test]
async fn c267_nothing_is_left_by_success() {
    need!(machine::root());
    let left = left("left-nothing", "echo DONE", json!({"terminationMessagePolicy": FALLS_BACK})).await;
    assert_eq!(left, (String::new(), 0));
}

#[tokio::test]
async fn c268_the_file_goes_before_the_log() {
    need!(machine::root());
    let script = "echo no; printf OK > /dev/termination-log";
    assert_eq!(left("left-file", script, json!({"terminationMessagePolicy": FALLS_BACK})).await, ("OK".into(), 0));
}

#[tokio::test]
async fn c269_a_failure_leaves_the_end_of_its_log() {
    need!(machine::root());
    let script = "seq 1 200; echo DONE; exit 1";
    let (message, code) = left("left-log", script, json!({"terminationMessagePolicy": FALLS_BACK})).await;
    assert_eq!((message.lines().last(), code), (Some("DONE"), 1));
    assert_eq!(message.lines().count(), 80);
    let (none, _) = left("left-file-only", script, json!({})).await;
    assert_eq!(none, "", "only who asks for it");
}

#[tokio::test]
async fn c270_a_message_at_another_path_by_another_user() {
    need!(machine::root());
    let fields = json!({"terminationMessagePath": "/dev/last-words", "securityContext": {"runAsUser": 10000}});
    assert_eq!(left("left-elsewhere", "printf DONE > /dev/last-words", fields).await, ("DONE".into(), 0));
}
