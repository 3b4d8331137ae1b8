//! PUT of an object or of a subresource that is the object itself (`status`, `finalize`).

use axum::body::Body;
use controller_object::apply::{self, Operation};
use controller_object::resource::Subresource;
use controller_object::status::{About, Cause, Status};
use controller_object::{defaulting, strategy};
use http::{Response, StatusCode};
use serde_json::Value;

use super::Context;
use super::write::{ATTEMPTS, Commit, overtaken, wanted_revision};
use crate::custom;
use crate::registry::Current;

pub(super) async fn update(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let decoded = context.decode(body)?;
    let mut wanted = decoded.object;
    context.settle_identity(&mut wanted)?;
    let revision = wanted_revision(&wanted).map(str::to_owned);
    // Custom resources and their definitions are not overwritten blindly (`AllowUnconditionalUpdate`).
    let is_blind = revision.is_none() && context.subresource != Some(Subresource::Finalize);
    if is_blind && (context.resource.custom.is_some() || context.resource.is(custom::GROUP, custom::PLURAL)) {
        context.state.registry.current(&context.resource, context.namespace(), context.name())?;
        let mut cause = Cause::invalid("metadata.resourceVersion", &Value::Null, "");
        cause.message = "Invalid value: 0x0: must be specified for an update".into();
        return Err(Status::invalid(&context.resource, context.name(), vec![cause]));
    }
    let (updated, _) = replace(context, revision.as_deref(), |_| Ok((wanted.clone(), Operation::Update))).await?;
    Ok(context.reply_written(StatusCode::OK, &updated, &decoded.warnings))
}

/// Reads, lets `change` make the new object, and writes it, again if somebody was faster and the client
/// named no resourceVersion. Answers the new object and the one before.
pub(super) async fn replace(
    context: &Context,
    wanted_revision: Option<&str>,
    change: impl Fn(&Value) -> Result<(Value, Operation), Status>,
) -> Result<(Value, Value), Status> {
    let (resource, name) = (&context.resource, context.name());
    let now = crate::time::now();
    for _ in 0..ATTEMPTS {
        let Current { object: old, revision } = context.state.registry.current(resource, context.namespace(), name)?;
        if wanted_revision.is_some_and(|wanted| wanted != revision.to_string()) {
            return Err(overtaken(resource, name));
        }
        let (mut new, operation) = change(&old)?;
        let given_uid = new.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        let uid = old.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        if !given_uid.is_empty() && given_uid != uid {
            let detail = format!("Precondition failed: UID in precondition: {given_uid}, UID in object meta: {uid}");
            return Err(Status::conflict(About::resource(resource, name), &detail));
        }
        let prepare = |new: &mut Value| {
            strategy::prepare_for_update(resource, &old, new, context.subresource, &now);
            if context.subresource == Some(Subresource::Finalize) {
                // The one subresource that writes the finalizers of a namespace's spec.
                new["status"] = old["status"].clone();
            }
        };
        // Defaults first: a field that is left out and has its default is no change.
        defaulting::default(resource, &mut new);
        prepare(&mut new);
        let charge = context.admit(Some(&old), &mut new, prepare).await?;
        if operation == Operation::Update {
            apply::track_update(resource, Some(&old), &mut new, &context.manager(operation)?);
        }
        if is_unchanged(&old, &new) {
            return Ok((old.clone(), old));
        }
        match context.commit_update(revision, &mut new, charge).await? {
            Commit::Done => return Ok((new, old)),
            Commit::Overtaken if wanted_revision.is_some() => return Err(overtaken(resource, name)),
            Commit::Overtaken | Commit::QuotaMoved => {}
        }
    }
    Err(overtaken(resource, name))
}

/// Whether a write would change nothing: then there is no new revision and no event.
fn is_unchanged(old: &Value, new: &Value) -> bool {
    same_but("metadata", old, new) && same_but("resourceVersion", &old["metadata"], &new["metadata"])
}

/// Whether two objects say the same, one field aside.
fn same_but(left_out: &str, one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let rest = |fields: &serde_json::Map<String, Value>| fields.len() - usize::from(fields.contains_key(left_out));
    rest(one) == rest(other) && one.iter().all(|(name, value)| name == left_out || other.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_revision_alone_is_no_change_and_anything_else_is_one() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"a": 1}});
        let unchanged = |new: Value| is_unchanged(&old, &new);
        assert!(unchanged(json!({"metadata": {"name": "a"}, "spec": {"a": 1}})));
        assert!(unchanged(json!({"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"a": 1}})));
        assert!(!unchanged(json!({"metadata": {"name": "a"}, "spec": {"a": 2}})));
        assert!(!unchanged(json!({"metadata": {"name": "a"}, "spec": {"a": 1}, "status": {}})));
        assert!(!unchanged(json!({"metadata": {"name": "a"}})));
        assert!(!unchanged(json!({"metadata": {"name": "a", "labels": {}}, "spec": {"a": 1}})));
        assert!(!unchanged(json!({"metadata": null, "spec": {"a": 1}})));
    }
}
