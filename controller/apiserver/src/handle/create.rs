//! POST of a new object.

use axum::body::Body;
use controller_object::apply::{self, Operation};
use controller_object::status::{About, Status};
use controller_object::{defaulting, strategy};
use controller_store::model::CommitError;
use http::{Response, StatusCode};
use serde_json::Value;

use super::Context;
use crate::admit::{first_status, is_quota};
use crate::registry::{names, set_revision};
use crate::service::is_claim;

const NAME_ATTEMPTS: usize = 8;
/// Names are at most 63 characters long where they become labels; five are the suffix.
const GENERATED_BASE: usize = 58;

pub(super) async fn create(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let decoded = context.decode(body)?;
    let mut object = decoded.object;
    context.settle_identity(&mut object)?;
    if object.pointer("/metadata/resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let created = insert(context, object, Operation::Update).await?;
    Ok(context.reply_written(StatusCode::CREATED, &created, &decoded.warnings))
}

/// Stores a new object whose identity is settled. Also the end of an apply that finds nothing.
pub(super) async fn insert(context: &Context, mut object: Value, operation: Operation) -> Result<Value, Status> {
    let resource = &context.resource;
    let stamp = strategy::Stamp { now: crate::time::now(), uid: uuid::Uuid::new_v4().to_string() };
    defaulting::default(resource, &mut object);
    let base = generate_base(&object);
    for attempt in 0..NAME_ATTEMPTS {
        let mut object = object.clone();
        if let Some(base) = &base {
            object["metadata"]["name"] = format!("{base}{}", crate::admit::random_suffix()).into();
        }
        // Jobs make their selector of the final name and uid.
        strategy::prepare_for_create(resource, &mut object, &stamp);
        let prepare = |object: &mut Value| strategy::prepare_for_create(resource, object, &stamp);
        let charge = context.admit(None, &mut object, prepare).await?;
        // An apply has already said whose fields these are.
        if operation == Operation::Update {
            apply::track_update(resource, None, &mut object, &context.manager(operation)?);
        }
        // Observed, and so nobody's.
        if resource.is("", "resourcequotas") {
            object["status"] = first_status(&context.state.registry, &object)?;
        }
        let name = names(&object).1.to_owned();
        if context.query.dry_run()? {
            let (namespace, registry) = (context.namespace(), &context.state.registry);
            return match registry.store.get(&registry.key(resource, namespace, &name)) {
                Some(_) => Err(Status::already_exists(About::resource(resource, &name))),
                None => Ok(object),
            };
        }
        match context.state.registry.put(resource, &object, None, charge).await {
            Ok(revision) => {
                set_revision(&mut object, revision);
                context.log("created", &object);
                return Ok(object);
            }
            // Another Service was faster by a moment, or a quota was counted anew; the next try sees what is left.
            Err(CommitError::Conflict { key, .. })
                if (is_claim(&key) || is_quota(&key)) && attempt + 1 < NAME_ATTEMPTS =>
            {
                context.state.registry.store.settle().await;
            }
            Err(CommitError::Conflict { key, .. }) if is_quota(&key) => {
                let quota = String::from_utf8_lossy(&key).rsplit('/').next().unwrap_or_default().to_owned();
                return Err(Status::modified(About { group: "", kind: "resourcequotas", name: &quota }));
            }
            Err(CommitError::Conflict { .. }) if base.is_some() && attempt + 1 < NAME_ATTEMPTS => {}
            Err(CommitError::Conflict { .. }) if base.is_some() => {
                return Err(Status::generate_name_conflict(About::resource(resource, &name)));
            }
            Err(CommitError::Conflict { .. }) => return Err(Status::already_exists(About::resource(resource, &name))),
            Err(CommitError::Unavailable { reason }) => return Err(Status::service_unavailable(&reason)),
        }
    }
    Err(Status::internal_error("no name was tried"))
}

fn generate_base(object: &Value) -> Option<String> {
    let base = object.pointer("/metadata/generateName").and_then(Value::as_str).filter(|base| !base.is_empty())?;
    names(object).1.is_empty().then(|| base.chars().take(GENERATED_BASE).collect())
}
