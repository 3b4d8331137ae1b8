//! The kubelet API: logs, exec, attach and port forwarding of this node's pods, over TLS, to the API server alone.

mod log;
mod metrics;
mod port_forward;
mod spdy;
mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::execute::Host;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who the TLS layer found at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// A certificate of the cluster's authority in the group of masters.
    ApiServer,
    /// Anybody else.
    Stranger,
}

/// Serves until the agent stops.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(Arc::clone(&host.config.kubelet_tls));
    let router = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(log::get))
        .route("/exec/{namespace}/{pod}/{container}", get(stream::exec).post(stream::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(stream::attach).post(stream::attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward::get).post(port_forward::get))
        .route("/metrics", get(metrics::get))
        .route_layer(middleware::from_fn(only_the_api_server))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(host);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(acceptor.clone(), stream, router.clone()))),
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the kubelet API");
                // Most often there are no descriptors left; asking again at once would only burn time.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn only_the_api_server(request: Request, next: Next) -> Response {
    match request.extensions().get::<Peer>() {
        Some(Peer::ApiServer) => next.run(request).await,
        Some(Peer::Stranger) | None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, router: Router) {
    drop(stream.set_nodelay(true));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = if certificate.is_some_and(|der| is_master(der)) { Peer::ApiServer } else { Peer::Stranger };
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    // A client that goes away ends its connection; there is nobody to tell.
    drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
}

/// Whether a certificate, verified by TLS, is of the group that may do everything.
fn is_master(der: &[u8]) -> bool {
    use x509_parser::prelude::FromDer as _;
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(der) else { return false };
    certificate.subject().iter_organization().any(|group| group.as_str() == Ok("system:masters"))
}

/// The way to the state of a request.
type Shared = State<Arc<Host>>;
