//! One POST of JSON over HTTPS, with the trust of its configuration. Connections are kept and used again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use controller_store::store::Store;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig as TlsConfig, RootCertStore};
use serde::Deserialize;
use serde_json::Value;

use super::dial::Dialer;
use crate::tls;

/// The largest answer that is read.
const ANSWER_LIMIT: usize = 32 << 20;
/// How much of a failure's text is told.
const TOLD: usize = 512;
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_PER_HOST: usize = 8;
/// Different authorities that are remembered; more than that start again.
const CLIENTS: usize = 256;

type Https = hyper_util::client::legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// How a webhook is reached: `clientConfig` of admission webhooks and of CustomResourceDefinitions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientConfig {
    pub(crate) url: Option<String>,
    pub(crate) service: Option<ServiceReference>,
    /// PEM in base64; empty: the authorities of this machine.
    pub(crate) ca_bundle: String,
}

/// A Service that a webhook listens behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceReference {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    pub(crate) port: Option<u16>,
}

/// Why a webhook gave no answer, in the words of Kubernetes' own client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// No connection, no trust, or the connection broke.
    #[error("Post {url:?}: {problem}")]
    Transport { url: String, problem: String },
    /// No answer in time.
    #[error("Post {url:?}: context deadline exceeded")]
    Timeout { url: String },
    /// An answer that is no success.
    #[error("{}", refusal(*code, text))]
    Refused { code: StatusCode, text: String },
    /// An answer that is no JSON.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Malformed(#[source] serde_json::Error),
    /// An answer that is too large.
    #[error("the answer is larger than {ANSWER_LIMIT} bytes")]
    TooLarge,
}

fn refusal(code: StatusCode, text: &str) -> String {
    match code {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".into(),
        code if code.is_server_error() => {
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        code => format!("the server rejected our request with {code}: {text:?}"),
    }
}

impl ClientConfig {
    /// The URL that is posted to.
    fn url(&self) -> Result<String, CallError> {
        match (&self.url, &self.service) {
            (Some(url), None) => Ok(url.clone()),
            (None, Some(service)) => {
                let ServiceReference { namespace, name, path, port } = service;
                let path = path.as_deref().unwrap_or_default().trim_start_matches('/');
                Ok(format!("https://{name}.{namespace}.svc:{}/{path}", port.unwrap_or(443)))
            }
            _ => Err(CallError::Config("webhook configuration must have either service or URL".into())),
        }
    }
}

/// Calls webhooks.
pub(crate) struct Client {
    store: Arc<Store>,
    /// By whether Services are meant, and by authorities.
    clients: Mutex<HashMap<(bool, String), Https>>,
}

impl Client {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store, clients: Mutex::default() }
    }

    /// Posts `body` and answers the JSON that came back. There is one attempt, and it ends after `timeout`.
    pub(crate) async fn call(
        &self,
        config: &ClientConfig,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        let url = config.url()?;
        // The server is told how long somebody waits for it.
        let separator = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{separator}timeout={}s", timeout.as_secs_f64().ceil());
        let malformed = |problem: String| CallError::Config(format!("{url:?}: {problem}"));
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| malformed(error.to_string()))?;
        if uri.scheme_str() != Some("https") {
            return Err(malformed("the scheme must be https".into()));
        }
        let client = self.client(config)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| malformed(error.to_string()))?;
        match tokio::time::timeout(timeout, exchange(&client, &url, request)).await {
            Ok(answer) => serde_json::from_slice(&answer?).map_err(CallError::Malformed),
            Err(_) => Err(CallError::Timeout { url }),
        }
    }

    /// The client that trusts what a configuration trusts.
    fn client(&self, config: &ClientConfig) -> Result<Https, CallError> {
        let key = (config.service.is_some(), config.ca_bundle.clone());
        let clients = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients().get(&key) {
            return Ok(client.clone());
        }
        // Reading authorities takes a while; others may call meanwhile.
        let dialer = Dialer { store: Arc::clone(&self.store), services: key.0 };
        let connector = HttpsConnector::from((dialer, Arc::new(tls_config(&config.ca_bundle)?)));
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build(connector);
        let mut clients = clients();
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

async fn exchange(client: &Https, url: &str, request: Request<Full<Bytes>>) -> Result<Bytes, CallError> {
    let transport = |error: &(dyn std::error::Error + 'static)| CallError::Transport {
        url: url.into(),
        // hyper's own words for this say less than the cause.
        problem: innermost(error).to_string(),
    };
    let (parts, body) = client.request(request).await.map_err(|error| transport(&error))?.into_parts();
    let body = match Limited::new(body, ANSWER_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(CallError::TooLarge),
        Err(error) => return Err(transport(&*error)),
    };
    if !parts.status.is_success() {
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(TOLD).collect();
        return Err(CallError::Refused { code: parts.status, text });
    }
    Ok(body)
}

fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    // A wrapper of an error that says the same is followed as well.
    while let Some(source) = error.source() {
        // What was dialled says more than the bare error of the system below it.
        if error.is::<super::dial::DialError>() {
            break;
        }
        error = source;
    }
    error
}

/// Trusts the authorities of a bundle, or those of this machine.
fn tls_config(bundle: &str) -> Result<TlsConfig, CallError> {
    let unusable = |problem: String| CallError::Config(format!("unable to load root certificates: {problem}"));
    let mut roots = RootCertStore::empty();
    if bundle.is_empty() {
        // A machine without authorities trusts nobody; the handshake says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        let pem = base64::engine::general_purpose::STANDARD.decode(bundle);
        let pem = pem.map_err(|error| unusable(error.to_string()))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    let builder = TlsConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
