//! DELETE: graceful for pods, held up by finalizers, with the propagation policy left as a finalizer.
//! Kubernetes documentation, "Garbage Collection" and "Pod Lifecycle", termination of pods.

use axum::body::Body;
use controller_object::resource::Resource;
use controller_object::status::{About, Status};
use controller_store::model::CommitError;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Context;
use super::filter::Filter;
use super::list;
use super::write::{ATTEMPTS, Commit, is_finished, overtaken};
use crate::admit::Charge;
use crate::registry::{self, Current, names, set_revision};
use crate::reply;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// meta.v1 DeleteOptions.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    propagation_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orphan_dependents: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preconditions: Option<Preconditions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Propagation {
    Orphan,
    Foreground,
    Background,
    /// Not said: finalizers that are there decide.
    Unsaid,
}

impl DeleteOptions {
    fn of(context: &Context, body: &[u8]) -> Result<Self, Status> {
        let mut options = match body.iter().all(u8::is_ascii_whitespace) {
            true => Self::default(),
            false => Self::deserialize(context.parse(body)?)
                .map_err(|error| Status::bad_request(format!("DeleteOptions: {error}")))?,
        };
        if let Some(seconds) = context.query.number("gracePeriodSeconds")? {
            options.grace_period_seconds = Some(seconds);
        }
        if let Some(policy) = context.query.get("propagationPolicy") {
            options.propagation_policy = Some(policy.into());
        }
        if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
            // Upstream reads a negative period as one second.
            options.grace_period_seconds = Some(1);
        }
        Ok(options)
    }

    /// As admission is told.
    fn told(&self, dry_run: bool) -> Result<Value, Status> {
        let dry_run = dry_run.then(|| vec!["All".to_owned()]);
        serde_json::to_value(Self { dry_run, ..self.clone() }).map_err(Status::internal_error)
    }

    fn propagation(&self) -> Result<Propagation, Status> {
        match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some(_), Some(_)) => Err(Status::bad_request(
                "propagationPolicy: Invalid value: orphanDependents and propagationPolicy cannot be both set",
            )),
            (Some("Orphan"), _) | (None, Some(true)) => Ok(Propagation::Orphan),
            (Some("Foreground"), _) => Ok(Propagation::Foreground),
            (Some("Background"), _) | (None, Some(false)) => Ok(Propagation::Background),
            (Some(other), _) => Err(Status::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            ))),
            (None, None) => Ok(Propagation::Unsaid),
        }
    }

    fn check(&self, context: &Context, object: &Value) -> Result<(), Status> {
        let Some(preconditions) = &self.preconditions else { return Ok(()) };
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        for (what, wanted, found) in [
            ("UID", &preconditions.uid, text("/metadata/uid")),
            ("ResourceVersion", &preconditions.resource_version, text("/metadata/resourceVersion")),
        ] {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let detail =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
                return Err(Status::conflict(About::resource(&context.resource, names(object).1), &detail));
            }
        }
        Ok(())
    }
}

/// Who deletes Jobs without a word on their pods may not expect that those stay.
fn warn_of_orphans(context: &Context, options: &DeleteOptions) {
    if context.resource.is("batch", "jobs") && matches!(options.propagation(), Ok(Propagation::Unsaid)) {
        context.warnings.add(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
             them or set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

pub(super) async fn delete(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::of(context, body)?;
    warn_of_orphans(context, &options);
    let (object, gone) = delete_one(context, context.name(), &options).await?;
    // Kubernetes answers with the object where something of it stays, and for pods always.
    if gone && context.resource.plural != "pods" {
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        return Ok(reply::success(names(&object).1, &context.resource.group, &context.resource.plural, uid));
    }
    Ok(context.reply(StatusCode::OK, &object, &[]))
}

pub(super) async fn delete_collection(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::of(context, body)?;
    warn_of_orphans(context, &options);
    if context.resource.is_namespaced() && context.namespace().is_none() {
        return Err(Status::method_not_supported(About::resource(&context.resource, ""), "delete"));
    }
    let selection = list::select(context, &Filter::of(context)?)?;
    let mut deleted = Vec::new();
    for kv in &selection.items {
        let object = registry::to_value(&context.resource, kv, kv.mod_revision)?;
        match delete_one(context, names(&object).1, &options).await {
            Ok((object, _)) => deleted.push(object),
            Err(status) if status.reason == controller_object::status::Reason::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    let list = json!({"kind": context.resource.list_kind, "apiVersion": context.resource.api_version(),
        "metadata": {"resourceVersion": selection.revision.to_string()}, "items": deleted});
    Ok(reply::object(StatusCode::OK, &list, context.negotiated.encoding))
}

/// Deletes one object as far as can be now. Answers the object and whether it is gone.
pub(super) async fn delete_one(
    context: &Context,
    name: &str,
    options: &DeleteOptions,
) -> Result<(Value, bool), Status> {
    delete_saying(context, name, options, |_| {}).await
}

/// The same; `say` may note in the object why it goes.
pub(super) async fn delete_saying(
    context: &Context,
    name: &str,
    options: &DeleteOptions,
    say: impl Fn(&mut Value),
) -> Result<(Value, bool), Status> {
    let resource = &context.resource;
    let registry = &context.state.registry;
    let propagation = options.propagation()?;
    let dry_run = match options.dry_run.as_deref() {
        None | Some([]) => context.query.dry_run()?,
        Some([all]) if all == "All" => true,
        Some(_) => return Err(Status::bad_request("dryRun: Unsupported value: supported values: \"All\"")),
    };
    let told = options.told(dry_run)?;
    for _ in 0..ATTEMPTS {
        let namespace = context.namespace();
        let Current { object, revision } = registry.current(resource, namespace, name)?;
        options.check(context, &object)?;
        // An eviction was admitted as one.
        if context.request.subresource.is_none() {
            context.admit_deletion(&object, &told).await?;
        }
        let mut marked = object.clone();
        say(&mut marked);
        mark(resource, &mut marked, propagation, options.grace_period_seconds);
        let gone = is_finished(resource, &marked);
        if dry_run || (!gone && marked == object) {
            return Ok((marked, gone));
        }
        if !gone {
            match context.commit_update(revision, &mut marked, Charge::default()).await? {
                Commit::Done => return Ok((marked, false)),
                Commit::Overtaken | Commit::QuotaMoved => continue,
            }
        }
        match registry.remove(resource, &marked, revision).await {
            Ok(revision) => {
                set_revision(&mut marked, revision);
                context.log("deleted", &marked);
                return Ok((marked, true));
            }
            Err(CommitError::Conflict { .. }) => registry.store.settle().await,
            Err(CommitError::Unavailable { reason }) => return Err(Status::service_unavailable(&reason)),
        }
    }
    Err(overtaken(resource, name))
}

/// Marks an object as being deleted: time, grace period, finalizers of the propagation policy.
fn mark(resource: &Resource, object: &mut Value, propagation: Propagation, grace: Option<i64>) {
    let grace = grace_seconds(resource, object, grace);
    let already = object.pointer("/metadata/deletionTimestamp").is_some();
    let left = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let mut finalizers: Vec<Value> = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_decided = finalizers.iter().any(|finalizer| finalizer == ORPHAN || finalizer == FOREGROUND);
    // As it has always been with Jobs; who does not say otherwise is warned.
    let propagation = match propagation {
        Propagation::Unsaid if resource.is("batch", "jobs") && !is_decided => Propagation::Orphan,
        said => said,
    };
    let own = match propagation {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background | Propagation::Unsaid => None,
    };
    if propagation != Propagation::Unsaid {
        finalizers.retain(|finalizer| {
            Some(finalizer.as_str().unwrap_or_default()) == own || (finalizer != ORPHAN && finalizer != FOREGROUND)
        });
        if let Some(own) = own.filter(|own| !finalizers.iter().any(|finalizer| finalizer == own)) {
            finalizers.push(own.into());
        }
        match finalizers.is_empty() {
            true => drop(metadata.remove("finalizers")),
            false => drop(metadata.insert("finalizers".into(), finalizers.into())),
        }
    }
    // A second deletion can only shorten the time that is left.
    if !already || grace < left {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        metadata.insert("deletionTimestamp".into(), crate::time::format(at).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if !already && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    // The objects of a definition go before it does.
    if resource.is(crate::custom::GROUP, crate::custom::PLURAL) && !already {
        let held = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !held.iter().any(|finalizer| finalizer == crate::custom::FINALIZER) {
            let all: Vec<Value> = held.into_iter().chain([crate::custom::FINALIZER.into()]).collect();
            object["metadata"]["finalizers"] = all.into();
        }
    }
    if resource.is("", "namespaces") {
        object["status"]["phase"] = "Terminating".into();
    }
}

/// Only pods end gracefully, and only while an agent runs them.
fn grace_seconds(resource: &Resource, object: &Value, wanted: Option<i64>) -> i64 {
    if !resource.is("", "pods") {
        return 0;
    }
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Succeeded" | "Failed") {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    wanted.or(own).unwrap_or(DEFAULT_GRACE_SECONDS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn builtin(group: &str, plural: &str) -> Arc<Resource> {
        Arc::clone(controller_object::resource::Table::builtin().find(group, "v1", plural).unwrap())
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 5}})
    }

    #[test]
    fn grace_comes_from_the_request_then_the_pod_and_only_shrinks() {
        let mut object = pod();
        mark(&builtin("", "pods"), &mut object, Propagation::Unsaid, None);
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 5);
        let first = object["metadata"]["deletionTimestamp"].clone();
        mark(&builtin("", "pods"), &mut object, Propagation::Unsaid, Some(60));
        assert_eq!(object["metadata"]["deletionTimestamp"], first);
        mark(&builtin("", "pods"), &mut object, Propagation::Unsaid, Some(0));
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 0);
        let mut unbound = json!({"metadata": {"name": "p"}, "spec": {}});
        mark(&builtin("", "pods"), &mut unbound, Propagation::Unsaid, Some(60));
        assert_eq!(unbound["metadata"]["deletionGracePeriodSeconds"], 0);
    }

    #[test]
    fn policies_are_finalizers() {
        let mut object = json!({"metadata": {"finalizers": ["a/b", "orphan"]}});
        mark(&builtin("apps", "deployments"), &mut object, Propagation::Foreground, None);
        assert_eq!(object["metadata"]["finalizers"], json!(["a/b", "foregroundDeletion"]));
        mark(&builtin("apps", "deployments"), &mut object, Propagation::Background, None);
        assert_eq!(object["metadata"]["finalizers"], json!(["a/b"]));
    }
}
