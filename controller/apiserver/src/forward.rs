//! One request passed on to another server, body and upgrades included: what `/proxy` and extension servers need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use controller_object::status::Status;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A server that takes no connection by then is not there.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What holds for one connection only (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] = [TE, TRAILER, TRANSFER_ENCODING, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION];

/// Where a request goes.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// For HTTPS: whom to trust, and the name the server must have.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The value of `Host`.
    pub(crate) host: String,
}

/// A request as it came.
pub(crate) struct Incoming {
    pub(crate) method: Method,
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) upgrade: Option<OnUpgrade>,
    pub(crate) body: Body,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Passes a request on and its answer back. `more` is added; credentials of the client never go along.
pub(crate) async fn forward(target: &Target, incoming: Incoming, more: HeaderMap) -> Result<Response<Body>, Status> {
    let unreachable = |problem: &dyn std::fmt::Display| {
        Status::service_unavailable(format!("error trying to reach service: {}: {problem}", target.address))
    };
    let stream = tokio::time::timeout(DIAL_TIMEOUT, connect(target)).await;
    let stream = stream.map_err(|_| unreachable(&"i/o timeout"))?.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    tokio::spawn(connection.with_upgrades());

    let mut request = Request::new(incoming.body);
    *request.method_mut() = incoming.method;
    let path = incoming.path_and_query.parse();
    *request.uri_mut() = path.map_err(|_| Status::bad_request("the path cannot be passed on"))?;
    *request.headers_mut() = passed_on(incoming.headers, incoming.upgrade.is_some());
    let host = HeaderValue::from_str(&target.host).map_err(|_| Status::bad_request("the host cannot be passed on"))?;
    request.headers_mut().insert(HOST, host);
    for (name, value) in &more {
        request.headers_mut().append(name.clone(), value.clone());
    }
    let mut response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    match incoming.upgrade {
        Some(client) if is_upgrade => {
            let server = hyper::upgrade::on(&mut response);
            tokio::spawn(join(client, server));
            let (mut parts, _) = response.into_parts();
            parts.extensions = Default::default();
            Ok(Response::from_parts(parts, Body::empty()))
        }
        _ => {
            let (mut parts, body) = response.into_parts();
            parts.extensions = Default::default();
            parts.headers = passed_on(parts.headers, false);
            Ok(Response::from_parts(parts, Body::new(body)))
        }
    }
}

async fn connect(target: &Target) -> std::io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(target.address).await?;
    tcp.set_nodelay(true)?;
    match &target.tls {
        None => Ok(Box::new(tcp)),
        Some((config, name)) => {
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
            Ok(Box::new(connector.connect(name.clone(), tcp).await?))
        }
    }
}

/// The headers that go on. An upgrade is the one thing between neighbours that is passed through.
fn passed_on(mut headers: HeaderMap, upgrades: bool) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| *name != UPGRADE)
        .collect();
    // Who acts as somebody else does so here: another server would let them act once more.
    let impersonation = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned();
    let ours: Vec<HeaderName> = impersonation.collect();
    for name in named.iter().chain(&ours).chain(&HOP_BY_HOP).chain([&AUTHORIZATION]) {
        headers.remove(name);
    }
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    } else {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    headers
}

/// Passes bytes both ways until the server's side has ended.
pub(crate) async fn join(client: OnUpgrade, server: OnUpgrade) {
    let (Ok(client), Ok(server)) = (client.await, server.await) else { return };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_server, mut to_server) = tokio::io::split(TokioIo::new(server));
    let up = async {
        // However a side ends, the other is told after all that was read has been passed on.
        drop(tokio::io::copy(&mut from_client, &mut to_server).await);
        drop(to_server.shutdown().await);
        std::future::pending::<()>().await;
    };
    let down = async {
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
        drop(to_client.shutdown().await);
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_what_is_between_neighbours_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("impersonate-user", "jane"),
            ("impersonate-extra-scopes", "all"),
            ("connection", "keep-alive, x-own, Upgrade"),
            ("upgrade", "websocket"),
            ("x-own", "1"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let names = |headers: &HeaderMap| headers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&passed_on(headers.clone(), false)), ["accept"]);
        let upgraded = passed_on(headers, true);
        assert_eq!(
            (upgraded["connection"].to_str().ok(), upgraded["upgrade"].to_str().ok()),
            (Some("Upgrade"), Some("websocket"))
        );
        assert!(!upgraded.contains_key("authorization") && !upgraded.contains_key("x-own"));
    }
}
