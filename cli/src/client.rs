//! One conversation with an API server: requests in, JSON or a stream out, refusals as `Failure`.

use std::error::Error;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde_json::Value;

use crate::failure::{Failure, chain};
use crate::kubeconfig::{self, ConnectArgs};
use crate::screen;

/// How many bytes of one answer are taken; a list of everything in a large cluster stays below.
const ANSWER_LIMIT: usize = 1 << 30;

/// Plain objects.
pub(crate) const JSON: &str = "application/json";
/// Server-side printing.
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A connection, and what the kubeconfig says about it.
pub(crate) struct Session {
    client: kube::Client,
    /// The namespace to use where an object does not name one.
    pub(crate) namespace: String,
    /// Whether the namespace was asked for by a flag.
    pub(crate) namespace_given: bool,
    server: String,
    address: String,
    source: String,
}

/// A request: path, query and body.
#[derive(Debug, Default, Clone)]
pub(crate) struct Call {
    path: String,
    query: Vec<(String, String)>,
    accept: Option<&'static str>,
    body: Option<(&'static str, Vec<u8>)>,
}

impl Call {
    /// A call to `path`.
    pub(crate) fn to(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// With a query parameter.
    pub(crate) fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.query.push((key.to_owned(), value.into()));
        self
    }

    /// With a query parameter, where there is a value.
    pub(crate) fn with_some(self, key: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Asking for a media type.
    pub(crate) fn accept(mut self, media_type: &'static str) -> Self {
        self.accept = Some(media_type);
        self
    }

    /// With a JSON body.
    pub(crate) fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string().into_bytes())
    }

    /// With a body of a media type.
    pub(crate) fn body(mut self, media_type: &'static str, body: Vec<u8>) -> Self {
        self.body = Some((media_type, body));
        self
    }

    fn uri(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish();
        format!("{}?{query}", self.path)
    }
}

impl Session {
    /// Reads the kubeconfig; nothing is sent yet.
    pub(crate) async fn open(args: &ConnectArgs) -> Result<Self, Failure> {
        // Refused only where another part of the process installed the same provider.
        drop(rustls::crypto::ring::default_provider().install_default());
        let found = kubeconfig::find(args).await?;
        let url = &found.config.cluster_url;
        let server = url.authority().map_or_else(|| url.to_string(), ToString::to_string);
        let address = url.to_string().trim_end_matches('/').to_owned();
        let namespace = args.namespace.clone().unwrap_or_else(|| found.config.default_namespace.clone());
        let client = kube::Client::try_from(found.config)
            .map_err(|error| Failure::error(format!("{}: {}", found.source, chain(&error))))?;
        Ok(Self { client, namespace, namespace_given: args.namespace.is_some(), server, address, source: found.source })
    }

    /// The URL of the server.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a call and reads the whole answer.
    pub(crate) async fn send(&self, method: Method, call: Call) -> Result<(StatusCode, Value), Failure> {
        let (code, bytes) = self.send_raw(method, call).await?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::error(format!("the answer of the server is no JSON: {error}")))?;
        Ok((code, value))
    }

    /// Sends a call and reads the whole answer as it is.
    pub(crate) async fn send_raw(&self, method: Method, call: Call) -> Result<(StatusCode, Vec<u8>), Failure> {
        let response = self.start(method, call).await?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|error| Failure::error(format!("reading the answer of the server: {error}")))?;
        Ok((code, body.to_bytes().to_vec()))
    }

    /// GET, as JSON.
    pub(crate) async fn get(&self, call: Call) -> Result<Value, Failure> {
        Ok(self.send(Method::GET, call).await?.1)
    }

    /// GET, as a body that goes on.
    pub(crate) async fn stream(&self, call: Call) -> Result<Body, Failure> {
        Ok(self.start(Method::GET, call).await?.into_body())
    }

    /// Opens a WebSocket for exec and attach.
    pub(crate) async fn websocket(&self, call: &Call) -> Result<kube::client::Connection, Failure> {
        let request = Request::get(call.uri()).body(Vec::new())?;
        self.client.connect(request).await.map_err(|error| match error {
            kube::Error::Api(status) => {
                Failure::answered(status.code, &serde_json::to_value(&*status).unwrap_or_default())
            }
            other => self.unreachable(&other),
        })
    }

    async fn start(&self, method: Method, call: Call) -> Result<http::Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(call.uri());
        request = request.header(http::header::ACCEPT, call.accept.unwrap_or(JSON));
        let body = match call.body {
            Some((media_type, body)) => {
                request = request.header(http::header::CONTENT_TYPE, media_type);
                Body::from(body)
            }
            None => Body::empty(),
        };
        let response = self.client.send(request.body(body)?).await.map_err(|error| self.unreachable(&error))?;
        for warning in response.headers().get_all(http::header::WARNING) {
            if let Some(text) = warning.to_str().ok().and_then(warning_text) {
                screen::note(format!("Warning: {}", screen::plain(&text)));
            }
        }
        if response.status().is_client_error() || response.status().is_server_error() {
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), 1 << 20).collect().await;
            let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
            let status = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                let text = String::from_utf8_lossy(&bytes);
                match text.trim() {
                    "" => Value::Null,
                    text => serde_json::json!({"message": screen::plain(text)}),
                }
            });
            return Err(Failure::answered(code, &status));
        }
        Ok(response)
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> Failure {
        let mut cause = Some(error);
        while let Some(inner) = cause {
            if inner.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
            {
                return Failure::new(format!(
                    "The connection to the server {} was refused - did you specify the right host or port?\n\
                     (the address comes from {})",
                    self.server, self.source
                ));
            }
            cause = inner.source();
        }
        let text = chain(error);
        Failure::new(format!("Unable to connect to the server {} (from {}): {text}", self.server, self.source))
    }
}

/// The text of a `Warning: 299 - "text"` header (RFC 7234, 5.5).
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 ")?.split_once(" \"")?.1.strip_suffix('"')?;
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_becomes_a_uri() {
        let call = Call::to("/api/v1/pods").with("labelSelector", "a in (b,c)").with_some("x", None::<&str>);
        assert_eq!(call.uri(), "/api/v1/pods?labelSelector=a+in+%28b%2Cc%29");
    }

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning_text(r#"299 - "unknown field \"spec.x\"""#).as_deref(), Some("unknown field \"spec.x\""));
        assert_eq!(warning_text("nonsense"), None);
    }
}
