//! GET /metrics: what is measured of this agent and its process.

use api::exposition::Format;
use axum::extract;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use prometheus_client::encoding::text::encode;

use super::Shared;

pub(super) async fn get(extract::State(host): Shared, headers: HeaderMap) -> Response {
    let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let mut text = String::new();
    // Writing to a string does not fail.
    let written = encode(&mut text, &host.config.registry);
    debug_assert!(written.is_ok());
    ([(CONTENT_TYPE, format.content_type())], format.render(text)).into_response()
}
