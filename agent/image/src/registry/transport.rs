//! Connections: names to addresses, trust, and one HTTP client for each way to trust.
//!
//! Names go through a resolver of our own (hosts file, then resolv.conf's servers): the static binary cannot load the C
//! library's name services.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tower::Service;

use super::config::{ConfigError, TlsFiles};
use super::trust::Anybody;

/// A certificate or key file is larger than this by mistake only.
const PEM_MAX: u64 = 4 << 20;

/// What one name server gets; there may be others.
const NAME_SERVER_WITHIN: Duration = Duration::from_secs(3);
/// What all of them get, with every suffix of the search list.
const RESOLVED_WITHIN: Duration = Duration::from_secs(15);

const HOSTS: &str = "/etc/hosts";

pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector<Dns>>, Full<Bytes>>;

/// How long we wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer, from the request on.
    pub answer: Duration,
    /// Between two pieces of an answer.
    pub stall: Duration,
    /// Before the first try again; later ones wait longer.
    pub retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), answer: seconds(30), stall: seconds(30), retry: Duration::from_millis(500) }
    }
}

/// The clients in use.
pub(crate) struct Transport {
    connect_within: Duration,
    clients: Mutex<HashMap<TlsFiles, HttpClient>>,
}

impl Transport {
    pub(crate) fn new(patience: &Patience) -> Self {
        Self { connect_within: patience.connect, clients: Mutex::default() }
    }

    /// The client for a host that is trusted this way. `host` is for error messages.
    pub(crate) fn client(&self, host: &str, tls: &TlsFiles) -> Result<HttpClient, ConfigError> {
        if let Some(client) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(tls) {
            return Ok(client.clone());
        }
        let mut tcp = HttpConnector::new_with_resolver(Dns);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_connect_timeout(Some(self.connect_within));
        let connector = HttpsConnector::from((tcp, Arc::new(client_config(host, tls)?)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(4)
            .build(connector);
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(tls.clone(), client.clone());
        Ok(client)
    }
}

fn client_config(host: &str, tls: &TlsFiles) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fail = |field: &'static str, path: &Path, problem: String| ConfigError::Tls {
        host: host.into(),
        field,
        path: path.into(),
        problem,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| fail("tls", Path::new(""), error.to_string()))?;
    let builder = match tls.insecure_skip_verify {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody::with(provider))),
        false => {
            let mut roots = RootCertStore::empty();
            // A system without authorities trusts nobody; the handshake says so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(path) = &tls.ca_file {
                for certificate in certificates(path).map_err(|problem| fail("ca_file", path, problem))? {
                    roots.add(certificate).map_err(|error| fail("ca_file", path, error.to_string()))?;
                }
            }
            builder.with_root_certificates(roots)
        }
    };
    let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert).map_err(|problem| fail("cert_file", cert, problem))?;
    let private = read(key)
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|_| "holds no private key in PEM".to_owned()))
        .map_err(|problem| fail("key_file", key, problem))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| fail("cert_file", cert, error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("holds no certificate in PEM".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > PEM_MAX {
        return Err(format!("is larger than {PEM_MAX} bytes"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("its name cannot be resolved: {0}")]
pub(crate) struct ResolveError(pub(crate) String);

/// Names to addresses. The system's files are read for each name: they change, and a pull looks up few.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dns;

impl Service<Name> for Dns {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ResolveError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ResolveError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let name = name.as_str();
            // RFC 6761: these names are this machine's.
            if name == "localhost" || name.ends_with(".localhost") {
                return Ok(with_port(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
            }
            // Asked first: a name server that is away must not delay what the machine itself knows.
            let own = hosts(&fs::read_to_string(HOSTS).unwrap_or_default(), name);
            if !own.is_empty() {
                return Ok(with_port(own));
            }
            let fail = |error: &dyn std::fmt::Display| ResolveError(error.to_string());
            let mut builder = TokioResolver::builder_tokio().map_err(|error| fail(&error))?;
            builder.options_mut().timeout = NAME_SERVER_WITHIN;
            let resolver = builder.build().map_err(|error| fail(&error))?;
            match tokio::time::timeout(RESOLVED_WITHIN, resolver.lookup_ip(name)).await {
                Ok(found) => Ok(with_port(found.map_err(|error| fail(&error))?.iter().collect())),
                Err(_) => Err(ResolveError(format!("no name server answered within {}s", RESOLVED_WITHIN.as_secs()))),
            }
        })
    }
}

/// The addresses that a hosts file has for a name; hosts(5).
fn hosts(file: &str, name: &str) -> Vec<IpAddr> {
    let lines = file.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let addresses = lines.filter_map(|mut words| {
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    });
    addresses.collect()
}

/// The connector puts the port in.
fn with_port(addresses: Vec<IpAddr>) -> std::vec::IntoIter<SocketAddr> {
    addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read() {
        let file = "127.0.0.1 localhost # own\n10.0.0.9\tRegistry.local registry\nfd00::9 registry\n# 1.1.1.1 registry\nx registry";
        let addresses = |name| hosts(file, name).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addresses("registry"), ["10.0.0.9", "fd00::9"]);
        assert_eq!(addresses("registry.LOCAL"), ["10.0.0.9"]);
        assert!(addresses("own").is_empty() && addresses("10.0.0.9").is_empty());
    }
}
