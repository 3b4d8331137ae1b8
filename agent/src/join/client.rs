//! Clients of the API server for a machine that joins and for one that has joined, and the TLS of what it serves.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt as _;
use kube::config::AuthInfo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;

use super::JoinError;
use super::identity::Identity;
use super::live::Live;

/// The largest authority that is read, in bytes.
const AUTHORITY_LIMIT: usize = 64 << 10;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A server that answers no ping for so long is gone, and its watches with it.
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(15);

/// What the server says is its authority. Nobody has vouched for it: the caller compares hashes.
pub(super) async fn told_authority(server: &http::Uri) -> Result<String, JoinError> {
    let unreachable =
        |source: kube::Error| JoinError::Unreachable { server: server.to_string(), source: Box::new(source) };
    let mut config = kube::Config::new(server.clone());
    config.accept_invalid_certs = true;
    config.connect_timeout = Some(CONNECT_WITHIN);
    let client = kube::Client::try_from(config).map_err(unreachable)?;
    let request = http::Request::get("/cacerts").body(kube::client::Body::empty());
    let request = request.map_err(|error| unreachable(kube::Error::HttpError(error)))?;
    let answer = client.send(request).await.map_err(unreachable)?;
    let body = Limited::new(answer.into_body(), AUTHORITY_LIMIT).collect().await;
    let body = body.map_err(|_| JoinError::OtherServer { server: server.to_string() })?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// A client that shows a bootstrap token.
pub(super) fn by_token(server: &http::Uri, authority: &str, bearer: &str) -> Result<kube::Client, JoinError> {
    let mut config = kube::Config::new(server.clone());
    config.root_cert = Some(certificates(authority)?.into_iter().map(|der| der.to_vec()).collect());
    config.auth_info = AuthInfo { token: Some(bearer.to_owned().into()), ..AuthInfo::default() };
    config.connect_timeout = Some(CONNECT_WITHIN);
    kube::Client::try_from(config).map_err(|source| JoinError::Ask { source: Box::new(source) })
}

/// A client that shows a certificate which may be replaced while it works.
pub(super) fn by_certificate(server: &http::Uri, authority: &str, live: Arc<Live>) -> Result<kube::Client, JoinError> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(JoinError::Tls)?
        .with_root_certificates(roots(authority)?)
        .with_client_cert_resolver(live);
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT_WITHIN));
    http.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().wrap_connector(http);
    let client = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_only(true)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PONG_WITHIN)
        .build(connector);
    let config = kube::Config::new(server.clone());
    let service = tower::ServiceBuilder::new().layer(config.base_uri_layer()).service(client);
    Ok(kube::Client::new(service, "default"))
}

/// The TLS of the kubelet API: shows the node's certificate, and knows clients by the cluster's authority.
pub(super) fn serving(live: Arc<Live>, authority: &str) -> Result<Arc<ServerConfig>, JoinError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(JoinError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(JoinError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(live);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// An identity as a kubeconfig.
pub(super) fn kubeconfig(server: &http::Uri, authority: &str, own: &Identity) -> String {
    let url = server.to_string();
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {"server": url.trim_end_matches('/'),
            "certificate-authority-data": STANDARD.encode(authority)}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "users": [{"name": "default", "user": {"client-certificate-data": STANDARD.encode(&own.certificate),
            "client-key-data": STANDARD.encode(&own.key)}}]});
    // JSON is YAML.
    format!("{config:#}\n")
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, JoinError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(JoinError::Pem)
}

fn roots(pem: &str) -> Result<RootCertStore, JoinError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(JoinError::Tls)?;
    }
    Ok(roots)
}
