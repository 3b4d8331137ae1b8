//! Conversion webhooks: `ConversionReview` of apiextensions.k8s.io/v1.
//! Kubernetes documentation, "Versions in CustomResourceDefinitions", webhook conversion.

use std::time::Duration;

use controller_object::custom::{Conversion, Custom};
use controller_object::resource::{Resource, join_version};
use controller_object::status::Status;
use controller_store::model::KeyValue;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::GROUP;
use crate::registry;
use crate::webhook::{Client, ClientConfig};

/// How long one call may take; what kube-apiserver gives.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a read begins again because a webhook had to be asked first.
pub(crate) const ATTEMPTS: usize = 8;
/// Objects of one call.
const BATCH: usize = 500;

/// Whether objects of this resource may need a webhook to be read.
pub(crate) fn has_webhook(resource: &Resource) -> bool {
    resource.custom.as_ref().is_some_and(|custom| matches!(custom.conversion, Conversion::Webhook(_)))
}

/// Fails, having said so, if one of these cannot be read before a webhook has been asked.
pub(crate) fn ready<'a>(resource: &Resource, items: impl Iterator<Item = &'a KeyValue>) -> Result<(), Status> {
    if !has_webhook(resource) {
        return Ok(());
    }
    let mut missing = Ok(());
    for kv in items {
        if let Err(status) = registry::to_value(resource, kv, kv.mod_revision) {
            missing = Err(status);
        }
    }
    missing
}

/// Reads objects of a resource, having a webhook convert what it has not yet.
pub(crate) async fn reading<T>(
    client: &Client,
    resource: &Resource,
    read: impl Fn() -> Result<T, Status>,
) -> Result<T, Status> {
    for _ in 1..ATTEMPTS {
        match read() {
            // Another request may have taken what this one waits for to the webhook; then it is asked once more.
            Err(status) if registry::is_unconverted(&status) => waiting(client, resource).await?,
            answer => return answer,
        }
    }
    read()
}

/// Asks the webhook about all that waits for it.
pub(crate) async fn waiting(client: &Client, resource: &Resource) -> Result<(), Status> {
    let Some(custom) = &resource.custom else { return Ok(()) };
    let waiting = custom.converted.take_waiting();
    for batch in waiting.chunks(BATCH) {
        let objects: Vec<&Value> = batch.iter().map(|(_, object)| object).collect();
        let answered = call(client, custom, &resource.kind, &resource.api_version(), &objects).await?;
        let size = answered.iter().map(|object| object.to_string().len()).sum();
        let stored = batch.iter().map(|(stored, _)| stored.clone());
        custom.converted.keep(stored.zip(answered).collect(), size);
    }
    Ok(())
}

/// An object in the version that it is stored in.
pub(crate) async fn to_storage(client: &Client, resource: &Resource, object: &Value) -> Result<Value, Status> {
    let Some(custom) = &resource.custom else { return Ok(object.clone()) };
    let wanted = join_version(&resource.storage_group, &resource.storage_version);
    let mut answered = call(client, custom, &resource.kind, &wanted, &[object]).await?;
    answered.pop().ok_or_else(|| Status::internal_error("the conversion webhook answered nothing"))
}

/// An object in the version of `to`.
pub(crate) async fn between(client: &Client, to: &Resource, object: &Value) -> Result<Value, Status> {
    let Some(custom) = &to.custom else { return Ok(object.clone()) };
    let mut answered = call(client, custom, &to.kind, &to.api_version(), &[object]).await?;
    answered.pop().ok_or_else(|| Status::internal_error("the conversion webhook answered nothing"))
}

async fn call(
    client: &Client,
    custom: &Custom,
    kind: &str,
    wanted: &str,
    objects: &[&Value],
) -> Result<Vec<Value>, Status> {
    let Conversion::Webhook(webhook) = &custom.conversion else {
        return Err(Status::internal_error(format!("{} converts without a webhook", custom.definition)));
    };
    let from = objects.first().and_then(|object| object["apiVersion"].as_str()).unwrap_or_default();
    let failed = |problem: String| {
        Status::internal_error(format!("conversion webhook for {from}, Kind={kind} failed: {problem}"))
    };
    let config = ClientConfig::deserialize(&webhook["clientConfig"])
        .map_err(|error| failed(format!("clientConfig: {error}")))?;
    let accepted = webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    // The two versions have the same fields; a webhook says which it reads, the first that is known counts.
    let version = accepted.into_iter().find(|version| matches!(*version, "v1" | "v1beta1")).unwrap_or("v1");
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({"apiVersion": format!("{GROUP}/{version}"), "kind": "ConversionReview",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
    let mut answer = client.call(&config, &review, TIMEOUT).await.map_err(|error| failed(error.to_string()))?;
    if answer["kind"] != "ConversionReview" {
        return Err(failed(format!("expected a ConversionReview, got {}", answer["kind"])));
    }
    let response = answer["response"].take();
    if response["uid"] != uid.as_str() {
        return Err(failed(format!("expected response.uid={uid:?}, got {}", response["uid"])));
    }
    if response["result"]["status"] != "Success" {
        let message = response["result"]["message"].as_str().filter(|message| !message.is_empty());
        return Err(failed(message.unwrap_or("conversion request failed").into()));
    }
    let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
    if converted.len() != objects.len() {
        return Err(failed(format!("returned {} objects, expected {}", converted.len(), objects.len())));
    }
    let checked = converted.into_iter().zip(objects).enumerate().map(|(index, (object, original))| {
        checked(object, original, wanted)
            .map_err(|problem| failed(format!("invalid converted object at index {index}: {problem}")))
    });
    checked.collect()
}

/// A webhook changes labels and annotations of metadata, and nothing of what an object is.
fn checked(mut object: Value, original: &Value, wanted: &str) -> Result<Value, String> {
    if object["apiVersion"] != wanted {
        return Err(format!("apiVersion: expected {wanted:?}, got {}", object["apiVersion"]));
    }
    if object["kind"] != original["kind"] {
        return Err(format!("kind: expected {}, got {}", original["kind"], object["kind"]));
    }
    for key in ["name", "namespace", "uid"] {
        let (before, after) = (&original["metadata"][key], &object["metadata"][key]);
        if before != after {
            return Err(format!("metadata.{key}: expected {before}, got {after}"));
        }
    }
    let mut metadata = original["metadata"].clone();
    if let Some(metadata) = metadata.as_object_mut() {
        for key in ["labels", "annotations"] {
            match object["metadata"].get(key).filter(|value| !value.is_null()) {
                Some(value) => drop(metadata.insert(key.into(), value.clone())),
                None => drop(metadata.remove(key)),
            }
        }
    }
    object["metadata"] = metadata;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_may_not_change_what_an_object_is() {
        let object = |version: &str, name: &str| json!({"apiVersion": version, "kind": "Foo", "metadata": {"name": name, "uid": "u", "labels": {"new": version}}});
        let original = json!({"apiVersion": "a/v1", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "finalizers": ["x/y"], "labels": {"old": "1"}}});
        let good = checked(object("a/v2", "a"), &original, "a/v2").unwrap();
        assert_eq!(
            good["metadata"],
            json!({"name": "a", "uid": "u", "finalizers": ["x/y"], "labels": {"new": "a/v2"}})
        );
        assert!(checked(object("a/v1", "a"), &original, "a/v2").unwrap_err().starts_with("apiVersion: expected"));
        assert!(checked(object("a/v2", "b"), &original, "a/v2").unwrap_err().starts_with("metadata.name: expected"));
    }
}
