//! A webhook: an HTTPS server with an authority of its own, which remembers what it was asked.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What a webhook answers to `request` of a review asked at a path.
type Answers = dyn Fn(&str, &Value) -> Reply + Send + Sync;

/// An answer.
pub(crate) enum Reply {
    /// A review with this response.
    Review(Value),
    /// Nothing, for ever.
    Silence,
    /// Anything else.
    Raw(http::StatusCode, Bytes),
}

pub(crate) struct Hook {
    pub(crate) port: u16,
    /// The authority, PEM in base64.
    pub(crate) bundle: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    connections: Arc<Mutex<usize>>,
}

impl Hook {
    /// Serves for `localhost`, 127.0.0.1 and `hook.default.svc`.
    pub(crate) async fn start(answers: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        Self::replying(move |path, request| answers(path, request).map_or(Reply::Silence, Reply::Review)).await
    }

    /// The same with answers of any kind.
    pub(crate) async fn replying(answers: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let names = ["localhost", "127.0.0.1", "hook.default.svc"].map(str::to_owned);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<usize>>::default());
        let (log, count, answers): (_, _, Arc<Answers>) =
            (Arc::clone(&asked), Arc::clone(&connections), Arc::new(answers));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log, answers) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&answers));
                *count.lock().unwrap() += 1;
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        answer(request, Arc::clone(&log), Arc::clone(&answers))
                    });
                    drop(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(authority.pem());
        Self { port, bundle, asked, connections }
    }

    /// The `request` of every review so far, with the path it came to.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// A webhook of a configuration that asks at `path` about `resources` of every group.
    pub(crate) fn entry(&self, name: &str, path: &str, operations: Value, resources: Value) -> Value {
        json!({"name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", self.port), "caBundle": self.bundle},
            "rules": [{"operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}]})
    }
}

async fn answer(
    request: Request<Incoming>,
    log: Arc<Mutex<Vec<(String, Value)>>>,
    answers: Arc<Answers>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    let asked = review["request"].clone();
    log.lock().unwrap().push((path.clone(), asked.clone()));
    let mut response = match answers(&path, &asked) {
        Reply::Review(response) => response,
        Reply::Silence => return std::future::pending().await,
        Reply::Raw(code, body) => {
            let response = Response::builder().status(code).header("location", "https://127.0.0.1:1/");
            return Ok(response.body(Full::new(body)).unwrap());
        }
    };
    response["uid"] = asked["uid"].clone();
    let answer = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
    Ok(Response::new(Full::new(Bytes::from(answer.to_string()))))
}

/// A verdict with a JSON Patch.
pub(crate) fn patch(operations: Value) -> Option<Value> {
    let patch = base64::engine::general_purpose::STANDARD.encode(operations.to_string());
    Some(json!({"allowed": true, "patchType": "JSONPatch", "patch": patch}))
}

pub(crate) fn allow() -> Option<Value> {
    Some(json!({"allowed": true}))
}

pub(crate) fn deny(message: &str) -> Option<Value> {
    Some(json!({"allowed": false, "status": {"message": message}}))
}
