//! The API at speed: HTTP/2 over TLS as the administrator, with nothing between a request and its bytes. For measuring.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::config::Kubeconfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;

use crate::cluster::Cluster;

/// What a measurement comes to.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
/// One connection; clones share it.
pub type Sender = SendRequest<Full<Bytes>>;

/// Where the server is, and who asks.
#[derive(Clone)]
pub struct Server {
    address: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Server {
    /// The server of a kubeconfig, with its certificates.
    pub fn of(kubeconfig: &Path) -> Outcome<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let cluster = config.clusters.first().and_then(|named| named.cluster.clone()).ok_or("no cluster")?;
        let user = config.auth_infos.first().and_then(|named| named.auth_info.clone()).ok_or("no user")?;
        let pem = |data: Option<String>| -> Outcome<Vec<u8>> {
            Ok(base64::engine::general_purpose::STANDARD.decode(data.ok_or("no certificate")?)?)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem(cluster.certificate_authority_data)?)?)?;
        let own = CertificateDer::from_pem_slice(&pem(user.client_certificate_data)?)?;
        let key = user.client_key_data.ok_or("no key")?;
        let key = PrivateKeyDer::from_pem_slice(&pem(Some(secrecy::ExposeSecret::expose_secret(&key).to_owned()))?)?;
        let mut tls =
            rustls::ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(vec![own], key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let address = cluster.server.ok_or("no address")?.trim_start_matches("https://").to_owned();
        Ok(Self { address, tls: Arc::new(tls) })
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Outcome<Sender> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Four, so that no measurement waits for one connection alone.
    pub async fn connections(&self) -> Outcome<Vec<Sender>> {
        let mut senders = Vec::new();
        for _ in 0..4 {
            senders.push(self.connect().await?);
        }
        Ok(senders)
    }

    /// A request, for any connection.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Outcome<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.body(Full::new(body))?)
    }
}

/// Sends; answers as soon as there is a status.
pub async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> Outcome<(StatusCode, Incoming)> {
    sender.ready().await?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok((parts.status, body))
}

/// Sends; answers with the body of what succeeded.
pub async fn whole(sender: &mut Sender, request: Request<Full<Bytes>>) -> Outcome<Bytes> {
    let (status, body) = send(sender, request).await?;
    let bytes = body.collect().await?.to_bytes();
    match status.is_success() {
        true => Ok(bytes),
        false => Err(format!("{status}: {}", String::from_utf8_lossy(&bytes)).into()),
    }
}

/// The time below which `share` of them lie, in milliseconds.
pub fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let index = ((times.len() as f64 - 1.0) * share).round() as usize;
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

/// Memory of the server, proportional set size in KiB (proc_pid_smaps_rollup(5)).
pub fn pss(cluster: &Cluster) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", cluster.server_pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or("no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
