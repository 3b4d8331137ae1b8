//! A registry for tests that does whatever a registry should not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use crate::digest::Digest;

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// So many bytes come, then nothing, and the connection stays.
    Stall(usize),
    /// So many bytes come, then the connection ends.
    Cut(usize),
    /// These bytes come instead.
    Instead(Vec<u8>),
    /// A status with words, and maybe `Retry-After`.
    Status(u16, &'static str, Option<&'static str>),
    /// To this base, with the same path.
    Redirect(String),
    /// Endless zeros, without a length.
    Endless,
    /// Another digest in the header than that of the content.
    WrongHeader,
    /// The head of the answer never comes.
    Silent,
}

/// How it lets people in.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Door {
    Open,
    Basic(&'static str),
    /// By tokens that it gives out itself to who knows this `user:password`, or to anybody.
    Token(Option<&'static str>),
}

pub(super) struct Shared {
    pub(super) manifests: Mutex<HashMap<String, Vec<u8>>>,
    pub(super) blobs: Mutex<HashMap<String, Vec<u8>>>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
    door: Mutex<Door>,
    ranges: Mutex<bool>,
    /// `METHOD PATH RANGE AUTHORIZATION` of each request.
    log: Mutex<Vec<String>>,
    valid_token: Mutex<u32>,
    address: Mutex<Option<SocketAddr>>,
}

#[derive(Clone)]
pub(super) struct Hostile {
    pub(super) address: SocketAddr,
    pub(super) shared: Arc<Shared>,
}

impl Hostile {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            faults: Mutex::default(),
            door: Mutex::new(Door::Open),
            ranges: Mutex::new(true),
            log: Mutex::default(),
            valid_token: Mutex::new(0),
            address: Mutex::new(Some(address)),
        });
        let router = Self::router(&shared);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared }
    }

    /// The same registry behind TLS with this certificate. Answers its address.
    pub(super) async fn serve_tls(&self, config: rustls::ServerConfig) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let router = Self::router(&self.shared);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let served = hyper_util::rt::TokioIo::new(tls);
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(served, service).await);
                });
            }
        });
        address
    }

    fn router(shared: &Arc<Shared>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(shared))
    }

    /// The host and port that references name.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The next `times` answers to paths that hold `part` go wrong.
    pub(super) fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.shared.faults.lock().unwrap().push((part.to_owned(), times, fault));
    }

    pub(super) fn heal(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    pub(super) fn door(&self, door: Door) {
        *self.shared.door.lock().unwrap() = door;
    }

    /// Tokens given out so far are good for nothing.
    pub(super) fn forget_tokens(&self) {
        *self.shared.valid_token.lock().unwrap() += 1;
    }

    pub(super) fn without_ranges(&self) {
        *self.shared.ranges.lock().unwrap() = false;
    }

    /// The requests since the last look.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.log.lock().unwrap())
    }

    pub(super) fn blob(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        self.shared.blobs.lock().unwrap().insert(digest.clone(), bytes.to_vec());
        json!({"digest": digest, "size": bytes.len()})
    }

    pub(super) fn manifest(&self, tag: &str, document: &Value) -> Digest {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let mut manifests = self.shared.manifests.lock().unwrap();
        manifests.insert(tag.into(), bytes.clone());
        manifests.insert(digest.to_string(), bytes);
        digest
    }

    /// An image of these layers (packed form, tar). Answers its manifest's digest and the layers' digests.
    pub(super) fn image(&self, tag: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> (Digest, Vec<Digest>) {
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, tar)| Digest::of(tar)).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.blob(config.to_string().as_bytes());
        let described: Vec<Value> = layers.iter().map(|(packed, _)| self.blob(packed)).collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": described});
        let digests = layers.iter().map(|(packed, _)| Digest::of(packed)).collect();
        (self.manifest(tag, &manifest), digests)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let path = request.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let of = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let line = format!("{} {path} {} {}", request.method, of(header::RANGE), of(header::AUTHORIZATION));
    shared.log.lock().unwrap().push(line);
    if path.starts_with("/token") {
        return token(&shared, &path, &of(header::AUTHORIZATION));
    }
    if let Some(refusal) = refusal(&shared, &of(header::AUTHORIZATION)) {
        return refusal;
    }
    let name = path.split(['/', '?']).rfind(|part| !part.starts_with("ns=")).unwrap_or_default();
    let store = if path.contains("/manifests/") { &shared.manifests } else { &shared.blobs };
    let content = store.lock().unwrap().get(name).cloned();
    let fault = {
        let mut faults = shared.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|(part, times, _)| path.contains(part.as_str()) && *times > 0);
        fault.map(|(_, times, fault)| {
            *times -= 1;
            fault.clone()
        })
    };
    let Some(content) = content else { return words(404, "manifest unknown", None) };
    let from = of(header::RANGE).strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
    let from: Option<usize> = from.filter(|_| *shared.ranges.lock().unwrap());
    whole_or_part(&content, from, fault, &path).await
}

async fn whole_or_part(content: &[u8], from: Option<usize>, fault: Option<Fault>, path: &str) -> Response {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: String| headers.insert(name, value.parse().unwrap());
    if path.contains("/manifests/") {
        set("docker-content-digest", Digest::of(content).to_string());
    }
    let rest = &content[from.unwrap_or(0).min(content.len())..];
    let status = match from {
        Some(from) => {
            set("content-range", format!("bytes {from}-{}/{}", content.len() - 1, content.len()));
            StatusCode::PARTIAL_CONTENT
        }
        None => StatusCode::OK,
    };
    set("content-length", rest.len().to_string());
    let first = |count: usize| Bytes::copy_from_slice(&rest[..count.min(rest.len())]);
    let body = match fault {
        None => Body::from(rest.to_vec()),
        Some(Fault::Stall(after)) => {
            let stream = futures::stream::iter([Ok::<_, std::io::Error>(first(after))]);
            Body::from_stream(stream.chain(futures::stream::pending()))
        }
        Some(Fault::Cut(after)) => {
            let cut = futures::stream::once(async {
                // What was sent before is to arrive.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(futures::stream::iter([Ok(first(after))]).chain(cut))
        }
        Some(Fault::Instead(bytes)) => {
            set("content-length", bytes.len().to_string());
            Body::from(bytes)
        }
        Some(Fault::Endless) => {
            headers.remove("content-length");
            Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 65536]))))
        }
        Some(Fault::WrongHeader) => {
            set("docker-content-digest", Digest::of(b"something else").to_string());
            Body::from(rest.to_vec())
        }
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Status(status, text, retry_after)) => return words(status, text, retry_after),
        Some(Fault::Redirect(base)) => {
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, format!("{base}{path}"))]).into_response();
        }
    };
    (status, headers, body).into_response()
}

fn words(status: u16, text: &str, retry_after: Option<&str>) -> Response {
    let body = json!({"errors": [{"code": "X", "message": text}]}).to_string();
    let mut answer = (StatusCode::from_u16(status).unwrap(), body).into_response();
    if let Some(after) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
    }
    answer
}

fn basic(user: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user))
}

fn refusal(shared: &Shared, authorization: &str) -> Option<Response> {
    let (wanted, challenge) = match shared.door.lock().unwrap().clone() {
        Door::Open => return None,
        Door::Basic(user) => (basic(user), "Basic realm=\"here\"".to_owned()),
        Door::Token(_) => {
            let address = shared.address.lock().unwrap().unwrap();
            let token = format!("Bearer token-{}", shared.valid_token.lock().unwrap());
            (token, format!("Bearer realm=\"http://{address}/token\",service=\"here\",scope=\"repository:a/b:pull\""))
        }
    };
    (authorization != wanted).then(|| {
        let mut refusal = words(401, "authentication required", None);
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
        refusal
    })
}

fn token(shared: &Shared, path: &str, authorization: &str) -> Response {
    assert!(path.contains("service=here") && path.contains("scope=repository%3Aa%2Fb%3Apull"), "{path}");
    match shared.door.lock().unwrap().clone() {
        Door::Token(Some(user)) if authorization != basic(user) => words(401, "wrong password", None),
        _ => json!({"token": format!("token-{}", shared.valid_token.lock().unwrap()), "expires_in": 300})
            .to_string()
            .into_response(),
    }
}
