//! What a node does with pods, line by line of Kubernetes' conformance tests (release 1.37) and beyond them: probes,
//! hooks, order, deadlines, last words. One shared server, a namespace per test; they mostly wait, so they run beside
//! each other. A test's name begins with the numbers of the lines that it covers; `hack/conformance` counts.

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

use std::time::Duration;

use e2e::api::{Api, SOON};
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
        let pods = Self { api: api(name).await };
        // No pod is admitted before its account is there.
        let accounts = pods.api.path("v1", "serviceaccounts");
        pods.api.until_all(&accounts, "the default account", |accounts| !accounts.is_empty()).await;
        pods
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.api.path("v1", "pods"))
    }

    async fn create(&self, pod: Value) {
        self.api.post(&self.api.path("v1", "pods"), pod).await.ok();
    }

    async fn get(&self, name: &str) -> Value {
        self.api.get(&self.path(name)).await.ok()
    }

    /// The pod once it fits.
    async fn until(&self, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.until_within(SOON, name, what, fits).await
    }

    /// The same where it may take longer until something changes.
    async fn until_within(&self, time: Duration, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let selector = format!("{}?fieldSelector=metadata.name={name}", self.api.path("v1", "pods"));
        let mut events = self.api.watch(&selector).await;
        let mut last = Value::Null;
        loop {
            let Some((kind, object)) = events.within(time).await else {
                panic!("{what}: nothing new of {name} within {time:?}; last: {:#}", last["status"]);
            };
            assert_ne!(kind, "DELETED", "{what}: {name} is gone");
            if fits(&object) {
                return object;
            }
            last = object;
        }
    }

    async fn ended(&self, name: &str) -> Value {
        self.until(name, "it ends", |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).await
    }

    async fn ready(&self, name: &str) -> Value {
        self.until(name, "it is ready", |pod| condition(pod, "Ready")["status"] == "True").await
    }

    /// The first event about a pod with this reason whose message holds the text.
    async fn event(&self, pod: &str, reason: &str, text: &str) -> Value {
        self.event_counted(pod, reason, text, 1).await
    }

    /// The same once it has happened so often.
    async fn event_counted(&self, pod: &str, reason: &str, text: &str, count: u64) -> Value {
        let path = format!("{}?fieldSelector=involvedObject.name={pod}", self.api.path("v1", "events"));
        let is_wanted = |event: &&Value| {
            event["reason"] == reason
                && event["message"].as_str().is_some_and(|message| message.contains(text))
                && event["count"].as_u64().unwrap_or(1) >= count
        };
        let what = format!("{reason} {text:?} of {pod}");
        let events = self.api.until_all(&path, &what, |events| events.iter().any(|event| is_wanted(&event))).await;
        events.iter().find(is_wanted).expect("it was there").clone()
    }

    async fn log(&self, pod: &str, container: &str) -> String {
        let answer = self.api.get(&format!("{}/log?container={container}", self.path(pod))).await;
        String::from_utf8_lossy(&answer.bytes).into_owned()
    }

    /// The log once it holds so many lines with this text. A log has no watch: it is followed.
    async fn log_with(&self, pod: &str, container: &str, text: &str, count: usize) -> String {
        let look = async {
            loop {
                let log = self.log(pod, container).await;
                if log.lines().filter(|line| line.contains(text)).count() >= count {
                    return log;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match tokio::time::timeout(SOON, look).await {
            Ok(log) => log,
            Err(_) => panic!("{count} times {text:?} in the log of {pod}: not within {SOON:?}"),
        }
    }

    async fn delete(&self, name: &str) {
        self.api.delete(&self.path(name), Value::Null).await.ok();
    }
}

/// A condition of a pod; `Null` if it has none of that type.
fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
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
