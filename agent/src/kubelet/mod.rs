//! The kubelet API: logs, exec, attach, port forwarding and figures of this node's pods, over TLS, to the API server and to
//! those whom the cluster lets in.

pub(crate) mod access;
mod log;
mod metrics;
mod port_forward;
mod spdy;
mod stream;
pub(crate) mod usage;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware;
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

/// Serves until the agent stops.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) {
    let acceptor = TlsAcceptor::from(Arc::clone(&host.config.kubelet_tls));
    let router = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(log::get))
        .route("/exec/{namespace}/{pod}/{container}", get(stream::exec).post(stream::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(stream::attach).post(stream::attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward::get).post(port_forward::get))
        .route("/metrics", get(metrics::get))
        .route("/stats/summary", get(usage::summary))
        .route("/metrics/resource", get(usage::resource))
        .route("/metrics/cadvisor", get(usage::cadvisor))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&host), access::check))
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

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, router: Router) {
    drop(stream.set_nodelay(true));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = access::Peer::of(certificate.map(|der| der.as_ref()));
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    // A client that goes away ends its connection; there is nobody to tell.
    drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
}

/// The way to the state of a request.
type Shared = State<Arc<Host>>;
