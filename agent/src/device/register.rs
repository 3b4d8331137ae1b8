//! Where device plugins register: a socket in their directory, which they watch and register again when it is made anew.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::is_extended;
use super::message::RegisterRequest;
use super::plugin::listen;
use crate::execute::Host;
use crate::instance::Instance;

const VERSION: &str = "v1beta1";
/// A registration is a few names.
const MOST_BYTES: usize = 64 << 10;
/// gRPC over HTTP/2: a byte for "not compressed" and four for the length stand before a message.
const HEAD: usize = 5;

/// The socket, made anew: who is told that the node is ready finds it.
pub(crate) fn bind(instance: &Instance) -> std::io::Result<UnixListener> {
    let path = instance.device_plugins_dir().join("kubelet.sock");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(&path),
    }
}

/// Takes registrations until dropped.
pub(crate) async fn run(host: Arc<Host>, listener: UnixListener) {
    let listening = Arc::new(tokio::sync::Mutex::new(JoinSet::new()));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let (host, listening) = (Arc::clone(&host), Arc::clone(&listening));
        let service = service_fn(move |request| {
            let (host, listening) = (Arc::clone(&host), Arc::clone(&listening));
            async move {
                let answer = match register(&host, request).await {
                    Ok((name, future)) => {
                        tracing::info!(resource = name, "a device plugin registers");
                        let mut listening = listening.lock().await;
                        while listening.try_join_next().is_some() {}
                        listening.spawn(future);
                        None
                    }
                    Err(why) => {
                        tracing::warn!(why, "a device plugin is refused");
                        Some(why)
                    }
                };
                Ok::<_, Infallible>(reply(answer))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        connections.spawn(async move { drop(server.serve_connection(TokioIo::new(stream), service).await) });
    }
}

/// What is registered, and what then listens to it.
async fn register(
    host: &Arc<Host>,
    request: Request<Incoming>,
) -> Result<(String, impl Future<Output = ()> + use<>), String> {
    if request.uri().path() != "/v1beta1.Registration/Register" {
        return Err(format!("unknown method {}", request.uri().path()));
    }
    let body = Limited::new(request.into_body(), MOST_BYTES).collect().await.map_err(|error| error.to_string())?;
    let bytes = body.to_bytes();
    let asked = RegisterRequest::decode(bytes.get(HEAD..).unwrap_or_default()).map_err(|error| error.to_string())?;
    if asked.version != VERSION {
        return Err(format!("version {:?} is not supported, {VERSION} is", asked.version));
    }
    if !is_extended(&asked.resource_name) || !api::name::qualified_name(&asked.resource_name).is_empty() {
        return Err(format!("resource name {:?}: expected DOMAIN/NAME", asked.resource_name));
    }
    let is_name = Path::new(&asked.endpoint).components().count() == 1 && !asked.endpoint.starts_with('.');
    if !is_name {
        return Err(format!("endpoint {:?}: expected the name of a socket in the plugins' directory", asked.endpoint));
    }
    let socket = host.config.instance.device_plugins_dir().join(&asked.endpoint);
    let name = asked.resource_name;
    Ok((name.clone(), listen(Arc::clone(host), name, socket, asked.options.unwrap_or_default())))
}

/// An empty message, or why not (`INVALID_ARGUMENT`).
fn reply(refusal: Option<String>) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(if refusal.is_some() { "3" } else { "0" }));
    if let Some(message) = refusal.and_then(|why| HeaderValue::from_str(&why.replace('%', " ")).ok()) {
        trailers.insert("grpc-message", message);
    }
    let frames = [Ok(Frame::data(Bytes::from_static(&[0; HEAD]))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
