//! What a node does with pods, line by line of Kubernetes' conformance tests (release 1.37) and beyond them: probes,
//! hooks, order, deadlines, last words. One shared server, a namespace per test; they mostly wait, so they run beside
//! each other. A test's name begins with the numbers of the lines that it covers; `hack/conformance` counts.

mod admission;
mod basics;
mod certificates;
mod environment;
mod ephemeral;
mod generation;
mod hooks;
mod init;
mod messages;
mod probes;
mod resize;
mod restarts;
mod runtime_class;
mod security;
mod users;

use e2e::api::{Api, Events, SOON, condition};
use serde_json::{Value, json};

const IMAGES: [&str; 3] = ["busybox", "echo", "etcd"];

/// A client with a namespace of its own on the server of this program.
async fn api(name: &str) -> Api {
    e2e::shared::api(&IMAGES, name).await
}

/// A container that runs a shell script.
fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// A pod of these containers that does not take long to end.
fn pod(name: &str, containers: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": containers}})
}

/// Pods of one node, as a test uses them.
struct Pods {
    api: Api,
}

impl Pods {
    async fn new(name: &str) -> Self {
        Self { api: api(name).await }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.api.path("v1", "pods"))
    }

    async fn create(&self, pod: Value) {
        self.api.post(&self.api.path("v1", "pods"), pod).await.ok();
    }

    /// Watches a pod from before it is made, so that a state that lasts for seconds only is seen on a slow machine too.
    async fn watch(&self, name: &str) -> Events {
        self.api.watch_one(&self.path(name)).await
    }

    async fn get(&self, name: &str) -> Value {
        self.api.get(&self.path(name)).await.ok()
    }

    /// The pod once it fits.
    async fn until(&self, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.api.until_within(SOON, &self.path(name), what, fits).await
    }

    async fn ended(&self, name: &str) -> Value {
        self.until(name, "it ends", |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).await
    }

    async fn ready(&self, name: &str) -> Value {
        self.until(name, "it is ready", |pod| condition(pod, "Ready")["status"] == "True").await
    }

    async fn delete(&self, name: &str) {
        self.api.delete(&self.path(name), Value::Null).await.ok();
    }
}

/// The status of a container of whatever kind.
fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|own| own["name"] == name).unwrap_or(&Value::Null)
}

/// How often a container was restarted.
fn restarts(pod: &Value, name: &str) -> u64 {
    status(pod, name)["restartCount"].as_u64().unwrap_or(0)
}

/// A time of an object in whole seconds.
fn seconds(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    text.parse::<k8s_openapi::jiff::Timestamp>().expect("RFC 3339").as_second()
}
