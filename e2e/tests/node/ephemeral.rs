//! Lines 282 and 283: containers that are added to a pod that runs.

use e2e::api::Patch;
use e2e::client::Client;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, restarts, status};

fn debugger(name: &str, script: &str) -> Value {
    let mut own = container(name, script);
    own["targetContainerName"] = json!("c");
    own
}

async fn running(pods: &Pods, name: &str) -> Value {
    pods.until("p", "the debugger runs", |pod| status(pod, name)["state"]["running"].is_object()).await
}

#[tokio::test]
async fn c283_an_ephemeral_container_starts_in_a_pod_that_runs() {
    need!(machine::root());
    let pods = Pods::new("ephemeral").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    pods.ready("p").await;
    let path = format!("{}/ephemeralcontainers", pods.path("p"));
    let add = json!({"spec": {"ephemeralContainers": [debugger("debugger", "ps -o args; exec sleep 500")]}});
    pods.api.patch(&path, Patch::Strategic, add).await.ok();
    let pod = running(&pods, "debugger").await;
    assert_eq!(pod["status"]["ephemeralContainerStatuses"].as_array().map(Vec::len), Some(1));
    let log = pods.api.log_with("p", "debugger", "sleep 600", 1).await;
    assert!(log.contains("sleep 600"), "it sees the processes of its target:\n{log}");
    assert_eq!((restarts(&pod, "c"), &pod["status"]["phase"]), (0, &json!("Running")));
}

#[tokio::test]
async fn c282_a_second_ephemeral_container_comes_by_update() {
    need!(machine::root());
    let pods = Pods::new("ephemeral-more").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    pods.ready("p").await;
    let path = format!("{}/ephemeralcontainers", pods.path("p"));
    let add = json!({"spec": {"ephemeralContainers": [debugger("one", "exit 3")]}});
    pods.api.patch(&path, Patch::Strategic, add).await.ok();
    pods.until("p", "the first ended", |pod| status(pod, "one")["state"]["terminated"]["exitCode"] == 3).await;
    // The agent writes the status meanwhile.
    let more = |pod: &mut Value| {
        let list = pod["spec"]["ephemeralContainers"].as_array_mut().expect("a list");
        list.push(debugger("two", "exec sleep 500"));
    };
    pods.api.edit(&path, more).await;
    let pod = running(&pods, "two").await;
    let names = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|own| own["name"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(&pod["spec"]["ephemeralContainers"]), ["one", "two"]);
    assert_eq!(names(&pod["status"]["ephemeralContainerStatuses"]), ["one", "two"]);
    assert_eq!(status(&pod, "one")["state"]["terminated"]["exitCode"], 3, "it does not run again");
    assert_eq!(restarts(&pod, "one"), 0);
    pods.delete("p").await;
    pods.api.until_gone(&pods.path("p")).await;
}

#[tokio::test]
async fn kubectl_debug_looks_into_a_container() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let pods = Pods::new("debugged").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    pods.ready("p").await;
    let kubectl = machine::program("kubectl").expect("it is modern");
    let client = Client::new(&kubectl, &e2e::shared::kubeconfig(&crate::IMAGES));
    let namespace = format!("--namespace={}", pods.api.namespace);
    let args = ["debug", "p", "--image=busybox", "--image-pull-policy=IfNotPresent", "--target=c", "-c=look", "-i"];
    let shell = ["--", "sh", "-c", "read word; echo heard $word; ps -o args"];
    let all: Vec<&str> = [namespace.as_str()].into_iter().chain(args).chain(shell).collect();
    let said = client.run_with(&all, "something\n");
    assert_eq!(said.code, 0, "{}", said.err);
    let log = pods.api.log_with("p", "look", "sleep 600", 1).await;
    assert!(log.contains("heard something"), "{log}");
}
