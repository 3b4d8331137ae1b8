//! What tests of Jobs and CronJobs look at.

use std::time::Duration;

use e2e::api::{Api, SOON};
use serde_json::{Value, json};

pub(crate) const IMAGES: [&str; 3] = ["busybox", "echo", "etcd"];

/// A client with a namespace of its own on the server of this program.
pub(crate) async fn api(name: &str) -> Api {
    let api = e2e::shared::api(&IMAGES, name).await;
    // No pod is admitted before its account is there.
    let accounts = api.path("v1", "serviceaccounts");
    api.until_all(&accounts, "the default account", |accounts| !accounts.is_empty()).await;
    api
}

/// A container that runs a shell script.
pub(crate) fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// A condition of an object; `Null` if it has none of that type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// Whether a condition is true.
pub(crate) fn is(object: &Value, kind: &str) -> bool {
    condition(object, kind)["status"] == "True"
}

/// One object once it fits, as it is told by a watch.
pub(crate) async fn until(api: &Api, path: &str, time: Duration, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let (collection, name) = path.rsplit_once('/').expect("an object's path");
    let mut events = api.watch(&format!("{collection}?fieldSelector=metadata.name={name}")).await;
    let mut last = Value::Null;
    loop {
        let Some((kind, object)) = events.within(time).await else {
            panic!("{what}: nothing new of {path} within {time:?}; last: {last:#}");
        };
        assert_ne!(kind, "DELETED", "{what}: {path} is gone; last: {last:#}");
        if fits(&object) {
            return object;
        }
        last = object;
    }
}

/// The first event about an object with this reason whose message holds the text.
pub(crate) async fn event(api: &Api, name: &str, reason: &str, text: &str) -> Value {
    let path = format!("{}?fieldSelector=involvedObject.name={name}", api.path("v1", "events"));
    let is_wanted = |event: &&Value| {
        event["reason"] == reason && event["message"].as_str().is_some_and(|message| message.contains(text))
    };
    let what = format!("{reason} {text:?} of {name}");
    let events = api.until_all(&path, &what, |events| events.iter().any(|event| is_wanted(&event))).await;
    events.iter().find(is_wanted).expect("it was there").clone()
}

/// Waits until the objects of a path are as many.
pub(crate) async fn until_count(api: &Api, path: &str, what: &str, count: usize) -> Vec<Value> {
    api.until_all(path, what, |items| items.len() == count).await
}

/// The name of an object.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("an object has a name")
}

/// A longer wait, for what a back-off or the clock holds up.
pub(crate) const LATER: Duration = Duration::from_secs(SOON.as_secs() * 5);
