//! Who did what: one JSON object a line for each request that the policy wants written down.
//! Kubernetes documentation, "Auditing"; audit.k8s.io/v1.

mod log;
mod policy;

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::authn::User;
use crate::config_file::ConfigFileError;
use crate::route::RequestInfo;
use log::Log;
pub use log::{AuditLogError, Rotation};
use policy::{Level, Policy, Stage};

/// The header by which client and log speak of the same request.
pub(crate) const ID_HEADER: HeaderName = HeaderName::from_static("audit-id");
/// The largest answer that is written down, in bytes; of a larger one the log has all but its object.
const ANSWER_LIMIT: usize = 3 << 20;
/// Characters of a `User-Agent` that are written down.
const USER_AGENT_LIMIT: usize = 1024;

/// What is written down, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// The policy file (audit.k8s.io/v1 Policy).
    pub policy: PathBuf,
    /// The log file; `-` is standard output.
    pub log: PathBuf,
    /// When the log goes on in a new file.
    pub rotation: Rotation,
}

/// Writes requests down.
pub(crate) struct Audit {
    policy: Policy,
    log: Log,
}

/// A request that is written down as it goes on.
pub(crate) struct Record {
    level: Level,
    omitted: Vec<Stage>,
    omits_managed_fields: bool,
    event: Value,
}

/// What of a request is known before it is carried out.
pub(crate) struct Asked<'a> {
    pub(crate) id: &'a str,
    pub(crate) user: Option<&'a User>,
    /// Who the user acts as.
    pub(crate) impersonated: Option<&'a User>,
    pub(crate) info: &'a RequestInfo,
    pub(crate) request: &'a Request<Body>,
}

impl Config {
    pub(crate) fn open(&self) -> Result<Audit, AuditError> {
        Ok(Audit { policy: Policy::read(&self.policy)?, log: Log::open(&self.log, self.rotation)? })
    }
}

/// Why nothing can be written down.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy.
    #[error("the audit policy")]
    Policy(#[from] ConfigFileError),
    /// The log.
    #[error("the audit log")]
    Log(#[from] AuditLogError),
}

impl Audit {
    /// A record of the request, if the policy wants one.
    pub(crate) fn begin(&self, asked: &Asked<'_>) -> Option<Record> {
        let verb = match asked.info {
            RequestInfo::Resource(request) => request.verb.as_str().to_owned(),
            RequestInfo::NonResource(_) => asked.request.method().as_str().to_lowercase(),
        };
        let user = asked.impersonated.or(asked.user);
        let verdict = self.policy.judge(user, &verb, asked.info);
        if verdict.level == Level::None {
            return None;
        }
        let text = |name: &str| {
            let value = asked.request.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).chars().take(USER_AGENT_LIMIT).collect::<String>())
        };
        let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": verdict.level.as_str(),
            "auditID": asked.id, "requestURI": asked.request.uri().path_and_query().map(ToString::to_string),
            "verb": verb, "user": asked.user.map_or_else(|| json!({}), user_info), "requestReceivedTimestamp": now()});
        if let Some(impersonated) = asked.impersonated {
            event["impersonatedUser"] = user_info(impersonated);
        }
        if let Some(agent) = text("user-agent") {
            event["userAgent"] = agent.into();
        }
        if let Some(address) = asked.request.extensions().get::<std::net::SocketAddr>() {
            event["sourceIPs"] = json!([address.ip()]);
        }
        if let RequestInfo::Resource(request) = asked.info {
            let mut about = json!({"resource": request.resource, "apiVersion": request.version});
            for (key, value) in [
                ("namespace", request.namespace.as_deref()),
                ("name", request.name.as_deref()),
                ("subresource", request.subresource.as_deref()),
                ("apiGroup", Some(request.group.as_str()).filter(|group| !group.is_empty())),
            ] {
                if let Some(value) = value {
                    about[key] = value.into();
                }
            }
            event["objectRef"] = about;
        }
        Some(Record {
            level: verdict.level,
            omitted: verdict.omitted,
            omits_managed_fields: verdict.omits_managed_fields,
            event,
        })
    }

    /// Writes down that a request came.
    pub(crate) async fn received(&self, record: &Record) {
        self.write(record, Stage::RequestReceived, &record.event).await;
    }

    async fn write(&self, record: &Record, stage: Stage, event: &Value) {
        if record.omitted.contains(&stage) {
            return;
        }
        let mut event = event.clone();
        event["stage"] = stage.as_str().into();
        event["stageTimestamp"] = now().into();
        self.log.write(&event).await;
    }

    /// Writes the end of a request down; the answer comes back as it was.
    pub(crate) async fn end(&self, mut record: Record, response: Response<Body>) -> Response<Body> {
        let is_stream =
            response.headers().get("content-type").is_some_and(|media| media.as_bytes().ends_with(b";stream=watch"))
                || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let code = response.status();
        record.event["responseStatus"] = json!({"metadata": {}, "code": code.as_u16()});
        if is_stream {
            // Its end is the client's or the server's going; what counts is that it began.
            self.write(&record, Stage::ResponseStarted, &record.event).await;
            return response;
        }
        let response = match record.level == Level::RequestResponse || code.is_client_error() || code.is_server_error()
        {
            true => self.keep(&mut record, response).await,
            false => response,
        };
        self.write(&record, Stage::ResponseComplete, &record.event).await;
        response
    }

    /// Takes an answer into the record.
    async fn keep(&self, record: &mut Record, response: Response<Body>) -> Response<Body> {
        let is_json = response.headers().get("content-type").is_some_and(|media| media == "application/json");
        let is_packed = response.headers().contains_key("content-encoding");
        if !is_json || is_packed {
            return response;
        }
        let (parts, body) = response.into_parts();
        let mut stream = body.into_data_stream();
        let (mut held, mut size, mut is_whole) = (Vec::new(), 0, true);
        while let Some(piece) = stream.next().await {
            size += piece.as_ref().map_or(0, Bytes::len);
            is_whole = piece.is_ok() && size <= ANSWER_LIMIT;
            held.push(piece);
            if !is_whole {
                break;
            }
        }
        if is_whole {
            let whole = held.into_iter().flatten().collect::<Vec<Bytes>>().concat();
            self.answered(record, &whole);
            return Response::from_parts(parts, Body::from(whole));
        }
        Response::from_parts(parts, Body::from_stream(futures::stream::iter(held).chain(stream)))
    }

    fn answered(&self, record: &mut Record, bytes: &[u8]) {
        if let Ok(mut object) = serde_json::from_slice::<Value>(bytes) {
            if object["kind"] == "Status" && object["status"] == "Failure" {
                record.event["responseStatus"] = object.clone();
            }
            if record.level == Level::RequestResponse {
                record.clean(&mut object);
                record.event["responseObject"] = object;
            }
        }
    }
}

impl Record {
    /// Whether the body of the request is to be written down.
    pub(crate) fn wants_body(&self) -> bool {
        self.level >= Level::Request
    }

    /// Takes the body of the request.
    pub(crate) fn body(&mut self, method: &Method, body: &Bytes) {
        if self.wants_body()
            && *method != Method::GET
            && let Ok(mut object) = serde_json::from_slice::<Value>(body)
        {
            self.clean(&mut object);
            self.event["requestObject"] = object;
        }
    }

    /// Takes what authorization says.
    pub(crate) fn decided(&mut self, is_allowed: bool) {
        let decision = if is_allowed { "allow" } else { "forbid" };
        self.event["annotations"]["authorization.k8s.io/decision"] = decision.into();
    }

    /// Takes what admission tells.
    pub(crate) fn annotate(&mut self, annotations: BTreeMap<String, String>) {
        for (key, value) in annotations {
            self.event["annotations"][key] = value.into();
        }
    }

    fn clean(&self, object: &mut Value) {
        if !self.omits_managed_fields {
            return;
        }
        let strip = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        strip(object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
    }
}

/// A new id, or the one that the client gave.
pub(crate) fn id(request: &Request<Body>) -> String {
    let given = request.headers().get(ID_HEADER).and_then(|value| value.to_str().ok());
    let given = given.filter(|text| !text.is_empty() && text.len() <= 64);
    given.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// Tells the client the id.
pub(crate) fn tell(id: &str, response: &mut Response<Body>) {
    response.headers_mut().extend(HeaderValue::from_str(id).ok().map(|value| (ID_HEADER, value)));
}

fn user_info(user: &User) -> Value {
    crate::admit::user_info(user)
}

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}
