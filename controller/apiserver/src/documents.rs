//! `/openapi`: documents that clients keep. Those of version 3 have their hash in the address: with it they never change,
//! and a client with an old one is sent to the new (KEP-2896). Without a hash an `ETag` tells whether anything changed.

use axum::body::Body;
use bytes::Bytes;
use controller_object::openapi;
use controller_object::resource::Table;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::query::Query;
use crate::reply;

/// Answers a path below `/openapi`, or `None` where nothing lives.
pub(crate) fn answer(table: &Table, path: &[&str], query: &Query, headers: &HeaderMap) -> Option<Response<Body>> {
    match path {
        ["v2"] => {
            let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let wanted = [openapi::v2::PROTOBUF, openapi::v2::PROTOBUF_ASKED];
            let is_protobuf = wanted.iter().any(|asked| accept.contains(asked));
            let hash = format!("{}{}", openapi::hash_of_all(table), if is_protobuf { "-protobuf" } else { "" });
            unless_known(headers, &hash, || {
                let document = openapi::v2::whole(table);
                Some(match is_protobuf {
                    true => {
                        let body = openapi::gnostic::encode(&document);
                        reply::with_type(StatusCode::OK, openapi::v2::PROTOBUF, Body::from(body))
                    }
                    false => reply::json_bytes(StatusCode::OK, Bytes::from(document.to_string())),
                })
            })
        }
        ["v3"] => Some(reply::json_bytes(StatusCode::OK, Bytes::from(openapi::index(table).to_string()))),
        ["v3", rest @ ..] => {
            let path = rest.join("/");
            let hash = openapi::hash_of(table, &path)?;
            if query.get("hash").is_some_and(|given| given != hash) {
                return Some(moved(&format!("/openapi/v3/{path}?hash={hash}")));
            }
            let mut response = unless_known(headers, &hash, || {
                Some(reply::json_bytes(StatusCode::OK, Bytes::from(openapi::document(table, &path)?)))
            })?;
            if query.get("hash").is_some() {
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            }
            Some(response)
        }
        _ => None,
    }
}

fn moved(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().extend(HeaderValue::from_str(to).ok().map(|to| (LOCATION, to)));
    response
}

/// 304 for who has what this hash stands for already (RFC 9110 section 13.1.2).
fn unless_known(
    headers: &HeaderMap,
    hash: &str,
    document: impl FnOnce() -> Option<Response<Body>>,
) -> Option<Response<Body>> {
    let tag = format!("\"{hash}\"");
    let known = headers.get(IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
    let mut response = match known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag) {
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        false => document()?,
    };
    response.headers_mut().extend(HeaderValue::from_str(&tag).ok().map(|tag| (ETAG, tag)));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Some(response)
}
