//! GET of one object.

use axum::body::Body;
use bytes::BytesMut;
use controller_object::status::{About, Status};
use http::{Response, StatusCode};

use super::Context;
use crate::registry;
use crate::reply::{self, Encoding, Shape};

pub(super) fn get(context: &Context) -> Result<Response<Body>, Status> {
    let (resource, name) = (&context.resource, context.name());
    let registry = &context.state.registry;
    let key = registry.key(resource, context.namespace(), name);
    let kv = registry.store.get(&key).ok_or_else(|| Status::not_found(About::resource(resource, name)))?;
    if context.negotiated.shape == Shape::Object && context.negotiated.encoding == Encoding::Json {
        let mut body = BytesMut::with_capacity(kv.value.len() + 40);
        registry::write_json(resource, &kv, kv.mod_revision, false, &mut body)?;
        return Ok(reply::json_bytes(StatusCode::OK, body.freeze()));
    }
    let object = registry::to_value(resource, &kv, kv.mod_revision)?;
    Ok(context.reply(StatusCode::OK, &object, &[]))
}
