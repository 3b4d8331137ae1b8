//! PATCH: JSON, merge, strategic merge, and apply.

use axum::body::Body;
use controller_object::apply::{self, Operation};
use controller_object::decode::{self, FieldValidation};
use controller_object::media::MediaType;
use controller_object::patch as patches;
use controller_object::resource::Subresource;
use controller_object::status::{About, Cause, Reason, Status};
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use serde_json::Value;
use std::sync::Mutex;

use super::update::replace;
use super::write::wanted_revision;
use super::{Context, create};

/// The four ways a patch can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// How custom resources can be patched: their types have no patch keys.
const CUSTOM_PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

impl PatchType {
    pub(super) fn of(context: &Context) -> Result<Self, Status> {
        let given = context.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match given.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+json" => Ok(Self::Apply),
            _ => Err(Status::unsupported_media_type(&crate::reply::ACCEPTED_BODIES)),
        }
    }
}

pub(super) async fn patch(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    match PatchType::of(context)? {
        PatchType::Strategic if context.resource.custom.is_some() => {
            Err(Status::unsupported_media_type(&CUSTOM_PATCHES))
        }
        PatchType::Apply => apply_patch(context, body).await,
        kind => {
            let (patch, doubled) = decode::parse(MediaType::MergePatch, body)
                .map_err(|status| Status::bad_request(format!("error decoding patch: {}", status.message)))?;
            let validation = context.query.field_validation()?;
            let doubled = if validation == FieldValidation::Ignore { Vec::new() } else { doubled };
            let warnings = Mutex::new(Vec::new());
            // A patch that names a resourceVersion wants exactly that one.
            let revision = match kind {
                PatchType::Json => None,
                _ => wanted_revision(&patch),
            };
            let (object, _) = replace(context, revision, |old| {
                let mut new = change(context, kind, old, &patch)?;
                let mut found = doubled.clone();
                let refused = match decode::conform(&context.resource, &mut new, validation) {
                    Ok(more) => {
                        found.extend(more);
                        (validation == FieldValidation::Strict && !doubled.is_empty())
                            .then(|| format!("strict decoding error: {}", found.join(", ")))
                    }
                    Err(status) => Some(reason(&status).to_owned()),
                };
                if let Some(problem) = refused {
                    // It is shown as the patch made it, which is made again: most patches fit.
                    return Err(unfit(&change(context, kind, old, &patch)?.to_string(), &problem));
                }
                *warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
                context.settle_identity(&mut new)?;
                Ok((new, Operation::Update))
            })
            .await?;
            let warnings = warnings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            Ok(context.reply_written(StatusCode::OK, &object, &warnings))
        }
    }
}

/// What an apply to `status` can set, and so own.
fn only_status(applied: &mut Value) {
    let Some(fields) = applied.as_object_mut() else { return };
    fields.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !matches!(key.as_str(), "ownerReferences" | "finalizers"));
    }
}

/// What a patch made does not fit the kind; the words of Kubernetes, which shows the object.
fn unfit(object: &str, problem: &str) -> Status {
    let about = About { group: "", kind: "", name: "" };
    Status::invalid_about(about, vec![Cause::invalid("patch", &object.into(), problem)])
}

/// Why an object was not taken, without what it was taken for.
fn reason(status: &Status) -> &str {
    let rest = status.message.split_once(" cannot be handled as a ").map_or("", |(_, rest)| rest);
    rest.split_once(": ").map_or(status.message.as_str(), |(_, reason)| reason)
}

/// The body of a patch.
pub(super) fn parse(body: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

/// One of the three patches that need no field managers.
pub(super) fn change(context: &Context, kind: PatchType, old: &Value, patch: &Value) -> Result<Value, Status> {
    match kind {
        PatchType::Json => patches::json_patch(old, patch),
        PatchType::Merge => patches::merge_patch(old, patch),
        PatchType::Strategic | PatchType::Apply => patches::strategic_merge_patch(&context.resource, old, patch),
    }
}

async fn apply_patch(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    if context.query.get("fieldManager").is_none() {
        return Err(Status::bad_request("fieldManager: Required value: is required for apply patch"));
    }
    let text = std::str::from_utf8(body).map_err(|_| Status::bad_request("the patch is not UTF-8"))?;
    let mut applied =
        api::yaml::document(text).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if applied.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|fields| !fields.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let validation = context.query.field_validation()?;
    let doubled = if validation == FieldValidation::Ignore { None } else { api::yaml::doubled_key(text) };
    if let (FieldValidation::Strict, Some(doubled)) = (validation, &doubled) {
        let message = format!("error strict decoding YAML: error converting YAML to JSON: {doubled}");
        return Err(Status::bad_request(message));
    }
    let mut warnings = decode::conform(&context.resource, &mut applied, validation)?;
    warnings.extend(doubled);
    context.settle_identity(&mut applied)?;
    // Applying the object itself neither owns nor changes a status that has a path of its own.
    if context.subresource.is_none()
        && context.resource.has(Subresource::Status)
        && let Some(map) = applied.as_object_mut()
    {
        map.remove("status");
    }
    if context.subresource == Some(Subresource::Status) {
        only_status(&mut applied);
    }
    let force = context.query.flag("force");
    let manager = context.manager(Operation::Apply)?;
    let revision = wanted_revision(&applied).map(str::to_owned);
    // Creation can lose a race against another creation; then there is an object to apply to.
    for _ in 0..2 {
        let replaced = replace(context, revision.as_deref(), |live| {
            Ok((apply::apply(&context.resource, Some(live), &applied, &manager, force)?, Operation::Apply))
        })
        .await;
        let missing = match replaced {
            Ok((object, _)) => return Ok(context.reply_written(StatusCode::OK, &object, &warnings)),
            Err(status) if status.reason == Reason::NotFound => status,
            Err(status) => return Err(status),
        };
        if context.subresource.is_some() || revision.is_some() {
            return Err(missing);
        }
        context.authorize_creation()?;
        let fresh = apply::apply(&context.resource, None, &applied, &manager, force)?;
        match create::insert(context, fresh, Operation::Apply).await {
            Ok(object) => return Ok(context.reply_written(StatusCode::CREATED, &object, &warnings)),
            Err(status) if status.reason == Reason::AlreadyExists => {}
            Err(status) => return Err(status),
        }
    }
    Err(super::write::overtaken(&context.resource, context.name()))
}
