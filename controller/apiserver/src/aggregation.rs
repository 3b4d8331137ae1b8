//! Extension servers: whole groups of the API that others serve, registered by APIService objects. Requests go on with
//! the user's name in headers; discovery tells what they serve; a task says whether they answer.
//! Kubernetes documentation, "Kubernetes API Aggregation Layer".

mod availability;
mod discovery;

pub(crate) use availability::keep_told;
pub(crate) use discovery::{complete_aggregated, complete_groups};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use controller_object::status::Status;
use controller_store::model::KeyValue;
use controller_store::store::Store;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use rustls::pki_types::ServerName;
use serde::Deserialize;

use crate::authn::User;
use crate::followed::{Followed, objects};
use crate::forward::{Incoming, Target, forward};
use crate::server::State;
use crate::tls::{self, LiveCertificate};
use crate::webhook;

pub(crate) const PREFIX: &str = "/registry/apiregistration.k8s.io/apiservices/";

/// An extension server that has not begun its answer by then gives none: requests hold a seat until it begins.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// Who serves a version of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    /// The APIService: `VERSION.GROUP`.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    namespace: String,
    service: String,
    port: u16,
    ca_bundle: String,
    trusts_anybody: bool,
    /// Which version of a group is preferred: the highest.
    version_priority: i64,
}

/// All extension servers by group and version.
type Extensions = BTreeMap<(String, String), Arc<Extension>>;

/// Knows the extension servers and calls them.
pub(crate) struct Aggregation {
    store: Arc<Store>,
    extensions: Followed<Extensions>,
    /// How the server shows itself to them.
    identity: Arc<LiveCertificate>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    group: String,
    version: String,
    service: Option<ServiceReference>,
    ca_bundle: String,
    #[serde(rename = "insecureSkipTLSVerify")]
    insecure_skip_tls_verify: bool,
    version_priority: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceReference {
    namespace: String,
    name: String,
    port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Object {
    spec: Spec,
}

fn read(items: &[KeyValue]) -> Extensions {
    let extension = |Object { spec }: Object| {
        let service = spec.service?;
        let extension = Extension {
            name: format!("{}.{}", spec.version, spec.group),
            namespace: service.namespace,
            service: service.name,
            port: service.port.unwrap_or(443),
            ca_bundle: spec.ca_bundle,
            trusts_anybody: spec.insecure_skip_tls_verify,
            version_priority: spec.version_priority,
            group: spec.group.clone(),
            version: spec.version.clone(),
        };
        Some(((spec.group, spec.version), Arc::new(extension)))
    };
    objects(items).filter_map(extension).collect()
}

impl Aggregation {
    pub(crate) fn new(store: Arc<Store>, identity: Arc<LiveCertificate>) -> Self {
        Self { extensions: Followed::new(Arc::clone(&store), PREFIX, read), store, identity }
    }

    /// Who serves this version, if it is somebody else.
    pub(crate) fn serving(&self, group: &str, version: &str) -> Option<Arc<Extension>> {
        let extensions = self.extensions.now();
        if extensions.is_empty() {
            return None;
        }
        extensions.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// Who serves what a path below `/apis/GROUP/VERSION` names.
    pub(crate) fn serving_path(&self, path: &str) -> Option<Arc<Extension>> {
        match path.split('/').collect::<Vec<_>>()[..] {
            ["", "apis", group, version, ..] => self.serving(group, version),
            _ => None,
        }
    }

    fn target(&self, extension: &Extension) -> Result<Target, Status> {
        let unusable = |problem: String| Status::service_unavailable(format!("{}: {problem}", extension.name));
        let Extension { namespace, service, port, .. } = extension;
        let address = webhook::endpoint(&self.store, namespace, service, *port, rand::random())
            .map_err(|error| unusable(error.to_string()))?;
        let host = format!("{service}.{namespace}.svc");
        let name = ServerName::try_from(host.clone()).map_err(|error| unusable(error.to_string()))?;
        let config = match extension.trusts_anybody {
            true => tls::trusting_anybody_as(Arc::clone(&self.identity)),
            false => {
                let pem = base64::engine::general_purpose::STANDARD.decode(&extension.ca_bundle);
                let pem = pem.ok().and_then(|pem| String::from_utf8(pem).ok());
                let pem = pem.ok_or_else(|| unusable("spec.caBundle: must be PEM in base64".into()))?;
                tls::client_config(&pem, Arc::clone(&self.identity))
            }
        };
        let config = config.map_err(|error| unusable(api::causes::chain(&error)))?;
        Ok(Target { address, tls: Some((config, name)), host })
    }

    /// Passes a request of a user on.
    pub(crate) async fn answer(
        &self,
        extension: &Extension,
        user: &User,
        mut incoming: Incoming,
    ) -> Result<Response<Body>, Status> {
        // Only we say who asks.
        let told: Vec<HeaderName> =
            incoming.headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
        for name in told {
            incoming.headers.remove(name);
        }
        let target = self.target(extension)?;
        let answer = tokio::time::timeout(ANSWERS_WITHIN, forward(&target, incoming, user_headers(user)?)).await;
        answer.unwrap_or_else(|_| Err(Status::timeout(&format!("{} does not answer", extension.name))))
    }
}

/// A user in headers, as extension servers read them.
fn user_headers(user: &User) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.to_lowercase().as_bytes()).ok();
        let value = HeaderValue::from_bytes(value.as_bytes()).ok();
        let (name, value) = name.zip(value).ok_or_else(|| Status::bad_request("the user cannot be told in headers"))?;
        headers.append(name, value);
        Ok(())
    };
    add("x-remote-user", &user.name)?;
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid)?;
    }
    for group in &user.groups {
        add("x-remote-group", group)?;
    }
    for (key, values) in &user.extra {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        for value in values {
            add(&format!("x-remote-extra-{key}"), value)?;
        }
    }
    Ok(headers)
}

/// The user as whom the server itself asks.
fn own_user() -> User {
    User::new("system:kube-aggregator", &[crate::authn::MASTERS])
}

/// The discovery document of an extension server, or why there is none.
async fn resources(state: &State, extension: &Extension) -> Result<serde_json::Value, String> {
    let incoming = Incoming {
        method: http::Method::GET,
        path_and_query: format!("/apis/{}/{}", extension.group, extension.version),
        headers: HeaderMap::new(),
        upgrade: None,
        body: Body::empty(),
    };
    let ask = async {
        let response = state.aggregation.answer(extension, &own_user(), incoming).await.map_err(|s| s.message)?;
        let code = response.status();
        let body = http_body_util::Limited::new(response.into_body(), 8 << 20);
        let body = http_body_util::BodyExt::collect(body).await.map_err(|error| error.to_string())?.to_bytes();
        match code.is_success() {
            true => serde_json::from_slice(&body).map_err(|error| error.to_string()),
            false => Err(format!(
                "bad status from https://{}/apis/{}/{}: {}",
                extension.service,
                extension.group,
                extension.version,
                code.as_u16()
            )),
        }
    };
    tokio::time::timeout(availability::PATIENCE, ask).await.unwrap_or_else(|_| Err("context deadline exceeded".into()))
}
