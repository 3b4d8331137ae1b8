//! Lines 272 to 275 and 289 to 294: what is run, what it says, and which files it finds.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, condition, container, pod, status};

/// What a pod says that runs once.
async fn said(pods: &Pods, name: &str, own: Value) -> String {
    let mut all = pod(name, &[own]);
    all["spec"]["restartPolicy"] = json!("Never");
    pods.create(all).await;
    pods.ended(name).await;
    pods.log(name, "c").await
}

/// The image says its entrypoint and its arguments.
async fn echoed(name: &str, fields: Value) -> String {
    let pods = Pods::new(name).await;
    let mut own = json!({"name": "c", "image": "echo", "imagePullPolicy": "IfNotPresent"});
    own.as_object_mut().expect("a container").extend(fields.as_object().expect("fields").clone());
    said(&pods, "p", own).await
}

#[tokio::test]
async fn c272_arguments_go_before_the_images() {
    need!(machine::root());
    assert_eq!(echoed("args", json!({"args": ["own arguments"]})).await, "image entrypoint own arguments\n");
}

#[tokio::test]
async fn c273_a_command_goes_before_the_images() {
    need!(machine::root());
    assert_eq!(echoed("command", json!({"command": ["echo", "own command"]})).await, "own command\n");
}

#[tokio::test]
async fn c274_both_go_before_the_images() {
    need!(machine::root());
    let fields = json!({"command": ["echo", "own command"], "args": ["own arguments"]});
    assert_eq!(echoed("both", fields).await, "own command own arguments\n");
}

#[tokio::test]
async fn c275_without_either_the_image_says() {
    need!(machine::root());
    assert_eq!(echoed("neither", json!({})).await, "image entrypoint image arguments\n");
}

#[tokio::test]
async fn c289_what_is_printed_is_logged() {
    need!(machine::root());
    let pods = Pods::new("printed").await;
    assert_eq!(said(&pods, "p", container("c", "echo out; echo err >&2")).await, "out\nerr\n");
}

#[tokio::test]
async fn c290_c291_a_command_that_always_fails_has_a_reason_and_can_be_deleted() {
    need!(machine::root());
    let pods = Pods::new("failing").await;
    pods.create(pod("p", &[container("c", "exit 7")])).await;
    let pod = pods.until("p", "it failed", |pod| !status(pod, "c")["lastState"]["terminated"].is_null()).await;
    let ended = &status(&pod, "c")["lastState"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("Error"), &json!(7)));
    pods.delete("p").await;
    pods.api.until_gone(&pods.path("p")).await;
}

#[tokio::test]
async fn c292_a_root_that_is_read_only_is_not_written() {
    need!(machine::root());
    let pods = Pods::new("read-only").await;
    let mut own = container("c", "echo x > /file && echo written; true");
    own["securityContext"] = json!({"readOnlyRootFilesystem": true});
    let log = said(&pods, "p", own).await;
    assert!(log.contains("Read-only file system") && !log.contains("written"), "{log}");
}

#[tokio::test]
async fn c293_aliases_are_in_etc_hosts() {
    need!(machine::root());
    let pods = Pods::new("aliases").await;
    let mut all = pod("p", &[container("c", "cat /etc/hosts")]);
    all["spec"]["restartPolicy"] = json!("Never");
    all["spec"]["hostAliases"] = json!([{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]);
    pods.create(all).await;
    pods.ended("p").await;
    let log = pods.log("p", "c").await;
    assert!(log.lines().any(|line| line == "123.45.67.89\tfoo\tbar"), "{log}");
}

/// Managed for who has an address of its own; left alone where something is mounted on it. With the host's network it is
/// the host's.
#[tokio::test]
async fn c294_etc_hosts_is_the_pods_unless_it_is_mounted_or_the_hosts() {
    need!(machine::root());
    let pods = Pods::new("hosts").await;
    let own = container("own", "cat /etc/hosts; exec sleep 600");
    let mut mounted = container("mounted", "cat /etc/hosts; exec sleep 600");
    mounted["volumeMounts"] = json!([{"name": "file", "mountPath": "/etc/hosts", "subPath": "hosts"}]);
    let settings = json!({"metadata": {"name": "file"}, "data": {"hosts": "127.0.0.7 mine\n"}});
    pods.api.post(&pods.api.path("v1", "configmaps"), settings).await.ok();
    let mut all = pod("p", &[own, mounted]);
    all["spec"]["volumes"] = json!([{"name": "file", "configMap": {"name": "file"}}]);
    pods.create(all).await;
    let pod = pods.ready("p").await;
    let line = format!("{}\tp", pod["status"]["podIP"].as_str().expect("an address"));
    let log = pods.log_with("p", "own", "localhost", 1).await;
    assert!(log.lines().any(|own| own == line), "no {line:?} in {log}");
    assert_eq!(pods.log_with("p", "mounted", "mine", 1).await, "127.0.0.7 mine\n");
    let mut host = crate::pod("host", &[container("c", "cat /etc/hosts; exec sleep 600")]);
    host["spec"]["hostNetwork"] = json!(true);
    pods.create(host).await;
    let pod = pods.ready("host").await;
    assert_eq!(condition(&pod, "Ready")["status"], "True");
    let hosts = std::fs::read_to_string("/etc/hosts").expect("the machine has one");
    let first = hosts.lines().next().expect("a line");
    assert!(pods.log_with("host", "c", first, 1).await.starts_with(&hosts));
}
