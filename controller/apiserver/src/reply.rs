//! Answers: the one place that knows HTTP status codes, and what the client wants to read.

use axum::body::Body;
use bytes::Bytes;
use controller_object::protobuf;
use controller_object::status::{Reason, Status};
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

/// What an object is shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    /// meta.k8s.io/v1 Table.
    Table,
    /// meta.k8s.io/v1 PartialObjectMetadata.
    Metadata,
}

/// The encoding of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What can be read back.
const OFFERED: [&str; 3] = [JSON, YAML, PROTOBUF];

/// What can be sent.
pub(crate) const ACCEPTED_BODIES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What the Accept header came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

/// The first thing on the Accept list that we can do, by weight where weights are given (RFC 9110 section 12.5.1).
/// `has_protobuf`: whether objects of the resource have a protobuf form; their metadata always has.
pub(crate) fn negotiate(headers: &HeaderMap, has_protobuf: bool) -> Result<Negotiated, Status> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let mut clauses: Vec<(f32, Negotiated)> =
        accept.split(',').filter_map(|clause| parse_accept(clause, has_protobuf)).collect();
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.first().map(|clause| clause.1).ok_or_else(|| Status::not_acceptable(&OFFERED))
}

fn parse_accept(clause: &str, has_protobuf: bool) -> Option<(f32, Negotiated)> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        JSON | "*/*" | "application/*" => Encoding::Json,
        YAML => Encoding::Yaml,
        PROTOBUF => Encoding::Protobuf,
        _ => return None,
    };
    let (mut shape, mut weight) = (Shape::Object, 1.0);
    for part in parts {
        match part.split_once('=') {
            Some(("as", "Table")) => shape = Shape::Table,
            Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => shape = Shape::Metadata,
            Some(("as", _)) => return None,
            Some(("v", "v1beta1")) => return None,
            Some(("q", text)) => weight = text.parse().unwrap_or(1.0),
            _ => {}
        }
    }
    let can = match (encoding, shape) {
        (Encoding::Protobuf, Shape::Object) => has_protobuf,
        (Encoding::Protobuf, Shape::Table) => false,
        (Encoding::Protobuf, Shape::Metadata) | (Encoding::Json | Encoding::Yaml, _) => true,
    };
    can.then_some((weight, Negotiated { shape, encoding }))
}

/// Whether the client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let clauses = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default().split(',');
    clauses
        .map(|clause| clause.split(';').map(str::trim))
        .any(|mut parts| parts.next() == Some("gzip") && parts.all(|part| !matches!(part, "q=0" | "q=0.0")))
}

/// The HTTP code of a reason, as apimachinery's errors package has it.
fn code(reason: Reason) -> StatusCode {
    match reason {
        Reason::Unauthorized => StatusCode::UNAUTHORIZED,
        Reason::Forbidden => StatusCode::FORBIDDEN,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Reason::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Reason::AlreadyExists | Reason::Conflict => StatusCode::CONFLICT,
        Reason::Gone | Reason::Expired => StatusCode::GONE,
        Reason::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Reason::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Reason::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Timeout | Reason::ServerTimeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The HTTP code of a failure; webhooks choose that of their refusals themselves.
fn code_of(status: &Status) -> StatusCode {
    let told = status.told.as_ref().and_then(|told| StatusCode::from_u16(told.code).ok());
    told.unwrap_or_else(|| code(status.reason))
}

/// A failure as an answer.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let code = code_of(status);
    let mut response = json_bytes(code, Bytes::from(status.to_value(code.as_u16()).to_string()));
    if let Some(seconds) = status.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.reason == Reason::Unauthorized {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The Status object of a failure, for inside a watch stream.
pub(crate) fn failure_object(status: &Status) -> Value {
    status.to_value(code_of(status).as_u16())
}

/// An object as an answer.
pub(crate) fn object(code: StatusCode, object: &Value, encoding: Encoding) -> Response<Body> {
    match encoding {
        Encoding::Json => match serde_json::to_vec(object) {
            Ok(text) => json_bytes(code, Bytes::from(text)),
            Err(error) => failure(&Status::internal_error(error)),
        },
        Encoding::Yaml => match api::yaml::print(object) {
            Ok(text) => with_type(code, "application/yaml", Body::from(text)),
            Err(error) => failure(&Status::internal_error(error)),
        },
        Encoding::Protobuf => match protobuf::encode(object) {
            Ok(bytes) => with_type(code, PROTOBUF, Body::from(bytes)),
            Err(status) => failure(&status),
        },
    }
}

/// Ready-made JSON as an answer.
pub(crate) fn json_bytes(code: StatusCode, body: Bytes) -> Response<Body> {
    with_type(code, "application/json", Body::from(body))
}

/// Any body with its media type.
pub(crate) fn with_type(code: StatusCode, media_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    if let Ok(value) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(CONTENT_TYPE, value);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// `Status: Success`, the answer to a deletion that leaves nothing behind.
pub(crate) fn success(name: &str, group: &str, plural: &str, uid: Option<&str>) -> Response<Body> {
    let mut details = json!({"name": name, "kind": plural});
    if !group.is_empty() {
        details["group"] = group.into();
    }
    if let Some(uid) = uid {
        details["uid"] = uid.into();
    }
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    json_bytes(StatusCode::OK, Bytes::from(body.to_string()))
}

/// Adds Warning headers (RFC 7234 code 299) as kubectl prints them.
pub(crate) fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acceptable_clause_wins() {
        let of_kind = |accept: &'static str, has_protobuf| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            negotiate(&headers, has_protobuf).ok()
        };
        let of = |accept| of_kind(accept, false);
        let json = |shape| Some(Negotiated { shape, encoding: Encoding::Json });
        assert_eq!(of("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), json(Shape::Table));
        assert_eq!(of("application/vnd.kubernetes.protobuf,application/json"), json(Shape::Object));
        assert_eq!(of("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"), json(Shape::Object));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(of("text/plain, */*").map(|n| n.shape), Some(Shape::Object));
        let protobuf = |shape| Some(Negotiated { shape, encoding: Encoding::Protobuf });
        assert_eq!(of_kind("application/vnd.kubernetes.protobuf,application/json", true), protobuf(Shape::Object));
        let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(of_kind(table, true), json(Shape::Object));
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(of(metadata), protobuf(Shape::Metadata));
        assert_eq!(of_kind("application/vnd.kubernetes.protobuf;q=0.5, application/json", true), json(Shape::Object));
    }
}
