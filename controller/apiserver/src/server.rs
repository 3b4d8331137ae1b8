//! The assembled server: its state, its TLS listener, and clients that need no socket.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use controller_store::model::CommitError;
use controller_store::store::Store;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;

use crate::admit::{Hooks, Policies, Turns};
use crate::aggregation::{self, Aggregation};
use crate::audit::{self, Audit};
use crate::authn::{FRONT_PROXY_NAME, FrontProxy, MASTERS, NODES, User};
use crate::authz::{Authorizer, node::NodeAuthorizer, rbac::Rbac};
use crate::bootstrap;
use crate::chain;
use crate::custom::{self, Definitions};
use crate::default_class;
use crate::flow::FlowControl;
use crate::handle::shared::Shared;
use crate::metrics::Metrics;
use crate::pki::{self, Authority, Issued, Leaf, PkiError};
use crate::profile;
use crate::registry::Registry;
use crate::renewal::Renewals;
use crate::service::{self, Ranges};
use crate::tls::{self, LiveCertificate, TlsError};
use crate::token::TokenKey;

/// How often certificates are looked at while serving.
const RENEWAL_EVERY: Duration = Duration::from_secs(6 * 3600);
/// A client that does not finish its TLS handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that sends no request for so long is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the server waits when the machine gives it no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 8192;
/// How often the default Services are looked at, as Kubernetes does.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);
/// Who the name servers are; what they may read is one of the default roles.
const DNS_USER: &str = "system:gantry-dns";
const DNS_GROUP: &str = "system:gantry-dns";

/// What a server needs to be told.
#[derive(Debug)]
pub struct Config {
    /// The control plane's directory: certificates and keys live in `tls` below it.
    pub dir: PathBuf,
    /// Names and addresses clients reach the server by.
    pub names: Vec<String>,
    /// How long Events live.
    pub event_ttl: Duration,
    /// Where Services get their addresses from.
    pub services: Ranges,
    /// What others of this process measure; served with the server's own.
    pub metrics: MetricsRegistry,
    /// What is written down of requests, and where.
    pub audit: Option<audit::Config>,
    /// Whether the cluster begins with a StorageClass of directories on nodes.
    pub local_storage: bool,
}

/// Why a server could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Keys or certificates.
    #[error("preparing certificates")]
    Pki(#[from] PkiError),
    /// TLS configuration.
    #[error("preparing TLS")]
    Tls(#[from] TlsError),
    /// Nothing could be written down of requests.
    #[error("preparing the audit")]
    Audit(#[from] audit::AuditError),
    /// The default objects could not be written.
    #[error("writing the default objects")]
    Bootstrap(#[from] CommitError),
}

/// What every request shares.
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) authorizer: Authorizer,
    pub(crate) tokens: TokenKey,
    pub(crate) authority: Arc<Authority>,
    /// Signs for those who bring their own users along, and for us towards extension servers.
    pub(crate) front_proxy: Arc<Authority>,
    pub(crate) aggregation: Aggregation,
    pub(crate) flow: FlowControl,
    /// What watchers make of values, made once.
    pub(crate) shared: Shared,
    pub(crate) audit: Option<Audit>,
    /// How the server shows itself to agents.
    pub(crate) agent_tls: Arc<rustls::ClientConfig>,
    pub(crate) metrics: Arc<Metrics>,
    /// Who takes CPU profiles, where somebody does.
    pub(crate) profiler: OnceLock<Box<profile::Start>>,
    pub(crate) hooks: Hooks,
    pub(crate) policies: Policies,
    pub(crate) quota_turns: Turns,
    /// The control plane's directory.
    pub(crate) dir: PathBuf,
    /// Ends long-running requests when the server stops.
    pub(crate) shutdown: CancellationToken,
}

/// A service that speaks HTTP without a socket; what `kube::Client::new` takes.
pub type InProcess<B> = BoxCloneSyncService<Request<B>, Response<Body>, Infallible>;

/// The API server.
pub struct ApiServer {
    state: Arc<State>,
    renewals: Renewals,
    /// Of what the front proxy's authority signed.
    front_renewals: Renewals,
    tls: Arc<rustls::ServerConfig>,
}

impl Config {
    /// Assembles the server over a store and writes the default objects.
    pub async fn build(self, store: Arc<Store>) -> Result<ApiServer, BuildError> {
        let tls_dir = self.dir.join("tls");
        let authority = Arc::new(Authority::open(&tls_dir)?);
        let metrics = Arc::new(Metrics::new(self.metrics));
        if let Some(expires) = Authority::expiry(authority.certificate()) {
            metrics.certificate("ca", expires);
        }
        let renewals = Renewals::new(Arc::clone(&authority), Arc::clone(&metrics));
        let leaf = Leaf { common_name: "kube-apiserver".into(), organizations: vec![], names: self.names };
        let serving = live(&authority, &renewals, "apiserver", leaf)?;
        let agent_client = Leaf::client("kube-apiserver-kubelet-client", MASTERS);
        let agent_client = live(&authority, &renewals, "apiserver-agent-client", agent_client)?;
        let front_proxy = Arc::new(Authority::open(&tls_dir.join("front-proxy"))?);
        let front_renewals = Renewals::new(Arc::clone(&front_proxy), Arc::clone(&metrics));
        let registry = Registry::new(Arc::clone(&store), self.event_ttl, self.services);
        let trusted = bootstrap::Trusted { clients: authority.certificate(), front_proxy: front_proxy.certificate() };
        bootstrap::ensure(&registry, &trusted).await?;
        default_class::ensure(&registry, self.local_storage).await?;
        service::repair(&registry).await?;
        let definitions = Definitions::open(&registry);
        let (hooks, policies) = (Hooks::new(&store), Policies::new(&store));
        let client_authorities = format!("{}\n{}", authority.certificate(), front_proxy.certificate());
        let agent_tls = tls::client_config(authority.certificate(), agent_client)?;
        let aggregator = Leaf { organizations: vec![], ..Leaf::client(FRONT_PROXY_NAME, "") };
        let aggregator = live(&front_proxy, &front_renewals, "aggregator", aggregator)?;
        let aggregation = Aggregation::new(Arc::clone(&store), aggregator);
        let state = State {
            registry,
            aggregation,
            flow: FlowControl::new(Arc::clone(&store)),
            shared: Shared::default(),
            audit: self.audit.as_ref().map(audit::Config::open).transpose()?,
            authorizer: Authorizer { rbac: Rbac::new(Arc::clone(&store)), node: NodeAuthorizer::new(store) },
            tokens: TokenKey::open(&tls_dir.join("service.key"))?,
            authority,
            front_proxy,
            agent_tls,
            metrics,
            profiler: OnceLock::new(),
            hooks,
            policies,
            quota_turns: Turns::default(),
            dir: self.dir,
            shutdown: CancellationToken::new(),
        };
        let tls = tls::server_config(serving, &client_authorities)?;
        let state = Arc::new(state);
        custom::spawn(definitions, &state);
        Ok(ApiServer { state, renewals, front_renewals, tls })
    }
}

/// A certificate for connections of this process, kept good.
fn live(
    authority: &Authority,
    renewals: &Renewals,
    file: &'static str,
    leaf: Leaf,
) -> Result<Arc<LiveCertificate>, BuildError> {
    let certificate = LiveCertificate::new(&authority.ensure(file, &leaf)?)?;
    let shown = Arc::clone(&certificate);
    renewals.keep(file, leaf, move |issued| Ok(shown.replace(issued)?))?;
    Ok(certificate)
}

impl ApiServer {
    /// Serves what others of this process measure too.
    pub fn add_metrics(&self, register: impl FnOnce(&mut MetricsRegistry)) {
        self.state.metrics.add(register);
    }

    /// Serves CPU profiles of this process at `/debug/pprof/profile`; the first who is named takes them.
    pub fn profile_by(&self, start: Box<profile::Start>) {
        self.state.profiler.get_or_init(|| start);
    }

    /// The certificate authority of the cluster, PEM.
    pub fn ca(&self) -> &str {
        self.state.authority.certificate()
    }

    /// A client of this server in the same process, with an identity of its own.
    pub fn client<B>(&self, user: User) -> InProcess<B>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let state = Arc::clone(&self.state);
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<B>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(user.clone());
            request.extensions_mut().insert(chain::OmitsManaged);
            let state = Arc::clone(&state);
            async move { Ok(chain::answer(state, request).await) }
        }))
    }

    /// The certificate that an agent serves its kubelet API with.
    pub fn agent_serving(&self, node: &str, addresses: &[IpAddr]) -> Result<Arc<LiveCertificate>, BuildError> {
        let mut names = vec![node.to_owned()];
        names.extend(addresses.iter().map(IpAddr::to_string));
        let leaf = Leaf { common_name: format!("system:node:{node}"), organizations: vec![NODES.into()], names };
        live(&self.state.authority, &self.renewals, "agent-serving", leaf)
    }

    /// Writes the Services that lead to this server, at `address` and `port`, and to the cluster's DNS.
    pub async fn announce(&self, address: IpAddr, port: u16) -> Result<(), BuildError> {
        Ok(service::write_builtin(&self.state.registry, address, port).await?)
    }

    /// Announces from time to time, for somebody may have deleted or changed what was written.
    pub async fn keep_announced(&self, address: IpAddr, port: u16) {
        loop {
            tokio::time::sleep(ANNOUNCE_EVERY).await;
            if let Err(error) = self.announce(address, port).await {
                tracing::warn!(error = api::causes::chain(&error), "writing the default Services");
            }
        }
    }

    /// Writes the kubeconfig of the node's name server, again whenever its certificate was renewed.
    pub fn write_dns_kubeconfig(&self, file: &Path, url: &str) -> Result<(), BuildError> {
        self.keep_kubeconfig("dns", Leaf::client(DNS_USER, DNS_GROUP), file, url)
    }

    /// Says of extension servers whether they answer, until the server stops.
    pub async fn keep_availability_told(&self) {
        aggregation::keep_told(Arc::clone(&self.state)).await;
    }

    /// Writes the administrator's kubeconfig, again whenever its certificate was renewed.
    pub fn write_kubeconfig(&self, file: &Path, url: &str) -> Result<(), BuildError> {
        self.keep_kubeconfig("admin", Leaf::client("system:admin", MASTERS), file, url)
    }

    fn keep_kubeconfig(&self, name: &'static str, leaf: Leaf, file: &Path, url: &str) -> Result<(), BuildError> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).map_err(|source| PkiError::File { path: dir.into(), source })?;
        }
        let (file, url, ca) = (file.to_owned(), url.to_owned(), self.ca().to_owned());
        self.renewals
            .keep(name, leaf, move |issued| Ok(pki::write_private(&file, kubeconfig(&url, &ca, issued).as_bytes())?))
    }

    /// Serves until the server is shut down. Errors of single connections end those connections.
    pub async fn serve(&self, listener: TcpListener) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        let connections = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        let mut renewal = tokio::time::interval(RENEWAL_EVERY);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let (state, acceptor) = (Arc::clone(&self.state), acceptor.clone());
                        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
                        tokio::spawn(async move {
                            serve_connection(state, acceptor, stream, peer).await;
                            drop(permit);
                        });
                    }
                    // Out of descriptors, mostly: others will free some.
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = renewal.tick() => {
                    self.renewals.renew();
                    self.front_renewals.renew();
                }
                () = self.state.shutdown.cancelled() => return,
            }
        }
    }

    /// Stops accepting and ends watches.
    pub fn shutdown(&self) {
        self.state.shutdown.cancel();
    }
}

/// How long a certificate (DER) is still good, in seconds.
fn seconds_left(der: &[u8]) -> Option<f64> {
    use x509_parser::prelude::FromDer as _;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    Some((certificate.validity().not_after.timestamp() - crate::time::epoch()) as f64)
}

/// Who a client certificate stands for.
enum Connection {
    User(User),
    /// Somebody who tells the user of each request.
    FrontProxy,
}

impl Connection {
    fn of(state: &State, der: &rustls::pki_types::CertificateDer<'_>) -> Option<Self> {
        let user = User::from_certificate(der)?;
        match state.front_proxy.signed(der) {
            false => Some(Self::User(user)),
            true if user.name == FRONT_PROXY_NAME => Some(Self::FrontProxy),
            // Its authority signs for nothing else.
            true => None,
        }
    }
}

async fn serve_connection(state: Arc<State>, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    // Latency matters more than packets; a socket that refuses the option still works.
    drop(stream.set_nodelay(true));
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    if let Some(left) = certificate.and_then(|der| seconds_left(der)) {
        state.metrics.client_certificate(left);
    }
    let identity = certificate.and_then(|der| Connection::of(&state, der));
    let shutdown = state.shutdown.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        match &identity {
            Some(Connection::User(user)) => drop(request.extensions_mut().insert(user.clone())),
            Some(Connection::FrontProxy) => drop(request.extensions_mut().insert(FrontProxy)),
            None => {}
        }
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(chain::answer(state, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEADER_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // The client went away or broke the protocol; its requests are gone with it.
        result = connection.as_mut() => drop(result),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

fn kubeconfig(url: &str, ca: &str, admin: &Issued) -> String {
    use base64::Engine as _;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    server: {url}\n    certificate-authority-data: {}\ncontexts:\n- name: default\n  context:\n    cluster: default\n    user: default\ncurrent-context: default\nusers:\n- name: default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        encode(ca),
        encode(&admin.certificate),
        encode(&admin.key)
    )
}
