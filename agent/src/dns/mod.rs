//! The cluster's DNS on this node: a process of its own of this program (design D14).
//!
//! The agent opens the sockets and gives them to the process as its standard input (UDP) and output (TCP). Whoever
//! replaces it, after a crash or with another program, takes the same sockets: queries wait in them meanwhile.

mod answer;
mod feed;
mod metrics;
mod serve;
pub(crate) mod supervise;
mod upstream;
mod zone;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use crate::execute::chain;

/// Where each node serves the cluster's names; the Service kube-dns leads there.
pub(crate) const PORT: u16 = 10_053;
/// Where metrics of it are read; the Service kube-dns leads there.
const METRICS_PORT: u16 = 9153;
/// What the process says once it answers from complete data.
const READY: &str = "ready";

/// What the process is told, as a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    version: u32,
    /// How to reach the API server.
    kubeconfig: PathBuf,
    /// The cluster's domain.
    domain: String,
    /// The cluster's DNS: never asked for what is not known here, that would be ourselves.
    address: Ipv4Addr,
    /// The cgroup to live in.
    cgroup: String,
}

const VERSION: u32 = 1;

/// How often the process looks for a renewed certificate.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
enum DnsError {
    #[error("reading {}", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not of version {VERSION}", path.display())]
    Version { path: PathBuf },
    #[error("entering the cgroup")]
    Cgroup(#[from] agent_runtime::cgroup::CgroupError),
    #[error("taking the sockets")]
    Sockets(#[source] std::io::Error),
    #[error("reading the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("making a client of the API server")]
    Client(#[from] kube::Error),
    #[error("the cluster's domain {0:?} is no name")]
    Domain(String),
}

/// The process: `gantry dns CONFIG`. Answers its exit code.
///
/// `registry` holds what else is measured of this process.
pub fn main(config: &Path, registry: Registry) -> i32 {
    match run(config, registry) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("gantry dns: {}", chain(&error));
            1
        }
    }
}

fn run(path: &Path, registry: Registry) -> Result<(), DnsError> {
    let reading = |source| DnsError::Config { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(reading)?;
    let config: Config = serde_json::from_slice(&bytes).map_err(|error| reading(error.into()))?;
    if config.version != VERSION {
        return Err(DnsError::Version { path: path.to_owned() });
    }
    // Before anything starts a thread.
    agent_runtime::cgroup::enter(&config.cgroup)?;
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DnsError::Sockets)?;
    runtime.block_on(serve_all(config, registry))
}

async fn serve_all(config: Config, mut registry: Registry) -> Result<(), DnsError> {
    let sockets = serve::Sockets::inherited().map_err(DnsError::Sockets)?;
    let mut client = client(&config.kubeconfig).await?;
    let zone = zone::Zone::new(&config.domain).ok_or(DnsError::Domain(config.domain))?;
    let zone = Arc::new(RwLock::new(zone));
    let host = crate::resolver::ResolvConf::of_host();
    let upstream = upstream::Upstream::new(&host.servers, config.address);
    let ready = || eprintln!("{READY}");
    let metrics = metrics::Metrics::default();
    metrics.register(&mut registry);
    let scraped = SocketAddr::new(sockets.udp.local_addr().map_err(DnsError::Sockets)?.ip(), METRICS_PORT);
    let feed = async {
        let mut read = modified(&config.kubeconfig);
        loop {
            tokio::select! {
                () = feed::run(client.clone(), Arc::clone(&zone), ready) => {}
                () = renewed(&config.kubeconfig, read) => {}
            }
            // What is known stays known while a client with the new certificate lists again.
            read = modified(&config.kubeconfig);
            match self::client(&config.kubeconfig).await {
                Ok(renewed) => client = renewed,
                Err(error) => eprintln!("gantry dns: {}", chain(&error)),
            }
        }
    };
    tokio::join!(
        feed,
        serve::run(sockets, Arc::clone(&zone), Arc::new(upstream), metrics),
        metrics::serve(scraped, registry)
    );
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<kube::Client, DnsError> {
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

/// Returns once the server has written the kubeconfig again, as it does months before the certificate in it ends.
async fn renewed(kubeconfig: &Path, read: Option<SystemTime>) {
    while modified(kubeconfig) == read {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
