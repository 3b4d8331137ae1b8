//! What tests of Jobs and CronJobs look at.

use std::time::Duration;

use e2e::api::{Api, SOON, condition};
use serde_json::{Value, json};

use crate::scene::IMAGES;

/// A client with a namespace of its own on the server of this program.
pub(crate) async fn api(name: &str) -> Api {
    e2e::shared::api(&IMAGES, name).await
}

/// A container that runs a shell script.
pub(crate) fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// Whether a condition is true.
pub(crate) fn is(object: &Value, kind: &str) -> bool {
    condition(object, kind)["status"] == "True"
}

/// Waits until the objects of a path are as many.
pub(crate) async fn until_count(api: &Api, path: &str, what: &str, count: usize) -> Vec<Value> {
    api.until_all(path, what, |items| items.len() == count).await
}

/// A longer wait, for what a back-off or the clock holds up.
pub(crate) const LATER: Duration = Duration::from_secs(SOON.as_secs() * 3);
