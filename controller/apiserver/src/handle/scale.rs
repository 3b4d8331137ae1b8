//! The `scale` subresource: autoscaling/v1 Scale in, the parent's replicas out.

use axum::body::Body;
use controller_object::apply::Operation;
use controller_object::resource::Subresource;
use controller_object::scale;
use controller_object::status::{About, Status};
use http::{Method, Response, StatusCode};
use serde_json::Value;

use super::Context;
use super::patch::{self, PatchType};
use super::update::replace;
use super::write::wanted_revision;
use crate::route::Verb;

fn scale_of(context: &Context, object: &Value) -> Result<Value, Status> {
    scale::scale_of(&context.resource, object)
        .ok_or_else(|| Status::method_not_supported(About::resource(&context.resource, ""), Method::GET.as_str()))
}

pub(super) fn get(context: &Context) -> Result<Response<Body>, Status> {
    let current = context.state.registry.current(&context.resource, context.namespace(), context.name())?;
    Ok(context.reply(StatusCode::OK, &scale_of(context, &current.object)?, &[]))
}

pub(super) async fn update(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let (patch, revision) = match context.request.verb {
        Verb::Patch => {
            let patch = patch::parse(body)?;
            let revision = wanted_revision(&patch).map(str::to_owned);
            (Some((PatchType::of(context)?, patch)), revision)
        }
        _ => (None, None),
    };
    let given = match context.request.verb {
        Verb::Patch => None,
        _ => Some(context.decode_exchanged(Subresource::Scale, body)?.object),
    };
    let revision = revision.or_else(|| given.as_ref().and_then(wanted_revision).map(str::to_owned));
    // The parent changes as a whole object, so its generation moves and its controller acts.
    let parent = context.on(&context.resource);
    let (object, _) = replace(&parent, revision.as_deref(), |old| {
        let wanted = match &patch {
            Some((PatchType::Json, patch)) => controller_object::patch::json_patch(&scale_of(context, old)?, patch)?,
            Some((_, patch)) => controller_object::patch::merge_patch(&scale_of(context, old)?, patch)?,
            None => given.clone().unwrap_or_default(),
        };
        let mut new = old.clone();
        scale::set_replicas(&context.resource, &mut new, &wanted)?;
        Ok((new, Operation::Update))
    })
    .await?;
    Ok(context.reply(StatusCode::OK, &scale_of(context, &object)?, &[]))
}
