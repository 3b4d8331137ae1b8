//! What an agent needs to be told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use agent_image::registry::config::Registries;
use ipnet::Ipv4Net;

use prometheus_client::registry::Registry;

use crate::cpus;
use crate::eviction::Limits;
use crate::instance::Instance;
use crate::memory;
use crate::metrics::Metrics;
use crate::resolver::ClusterDns;
use crate::runtimes::Runtimes;
use crate::topology;

/// Where files of the Container Device Interface are, if nobody says otherwise: of the machine's administrator, and of drivers
/// that run (its SPEC.md).
pub const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Configuration of an agent.
#[derive(Clone)]
pub struct Config {
    /// Where it lives.
    pub instance: Instance,
    /// The Node's name.
    pub node_name: String,
    /// The address that other nodes and the server reach it by.
    pub node_ip: IpAddr,
    /// Labels to register with.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with, `key=value:Effect` parsed.
    pub taints: Vec<k8s_openapi::api::core::v1::Taint>,
    /// Port of the kubelet API; 0 for any.
    pub kubelet_port: u16,
    /// TLS of the kubelet API.
    pub kubelet_tls: Arc<rustls::ServerConfig>,
    /// All pods' addresses; traffic between them is not masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// Mirrors, credentials and trust of registries.
    pub registries: Registries,
    /// All Services' addresses.
    pub service_cidr: Ipv4Net,
    /// Where pods find names.
    pub cluster_dns: ClusterDns,
    /// How the node's name server reaches the API server; a file with an identity of its own.
    pub dns_kubeconfig: PathBuf,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// How many processes and threads a pod may have; `None`: as many as the machine.
    pub pod_max_pids: Option<i64>,
    /// Other runtimes of this machine, for pods whose class asks for one.
    pub runtimes: Runtimes,
    /// What pods have of memory beyond their limits.
    pub memory: memory::Settings,
    /// Who has processors for itself.
    pub cpus: cpus::Settings,
    /// What is to come from the same NUMA nodes.
    pub topology: topology::Settings,
    /// Where files of the Container Device Interface are; of two with the same device the later counts.
    pub cdi_dirs: Vec<PathBuf>,
    /// When pods are evicted for what the machine runs out of.
    pub eviction: Limits,
    /// What it is measured with.
    pub metrics: Metrics,
    /// What the kubelet API serves at `/metrics`.
    pub registry: Arc<Registry>,
}
