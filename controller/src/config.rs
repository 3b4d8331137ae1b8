//! What a control plane needs to be told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use controller_apiserver::audit;
use controller_apiserver::encryption::Encryption;
use ipnet::Ipv4Net;
use prometheus_client::registry::Registry;

/// Configuration of the control plane.
#[derive(Debug)]
pub struct Config {
    /// The data directory; the control plane lives in `server/` below it.
    pub data_dir: PathBuf,
    /// Address to listen on.
    pub bind_address: IpAddr,
    /// Port to listen on; 0 for any.
    pub port: u16,
    /// Address that agents and clients on other machines use.
    pub advertise_address: IpAddr,
    /// Further names and addresses of the server.
    pub tls_sans: Vec<String>,
    /// Addresses of pods.
    pub cluster_cidr: Ipv4Net,
    /// The length of the prefix of each node's part of them.
    pub node_prefix: u8,
    /// Addresses of services.
    pub service_cidr: Ipv4Net,
    /// The address of the cluster's DNS; lies in `service_cidr`.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// How long Events live.
    pub event_ttl: Duration,
    /// How values are sealed on the disk (`--encryption-provider-config`).
    pub encryption: Option<Encryption>,
    /// How pods are placed (`--scheduler-config`).
    pub scheduler: Option<PathBuf>,
    /// What is written down of requests, and where.
    pub audit: Option<audit::Config>,
    /// Whether the cluster begins with a StorageClass of directories on nodes (off with `--disable local-storage`).
    pub local_storage: bool,
    /// Drivers of storage whose controller service the server calls itself, and their sockets (`--csi-controller`).
    pub csi_controllers: BTreeMap<String, PathBuf>,
    /// The name of the Node that this server runs on; what happens to its disk is told there.
    pub node_name: String,
    /// What others of this process measure; served at `/metrics` with all that is measured here.
    pub metrics: Registry,
}

impl Config {
    /// The address of the `kubernetes` service: the first of the service range.
    pub fn kubernetes_address(&self) -> Ipv4Addr {
        self.service_cidr.hosts().next().unwrap_or(self.service_cidr.network())
    }

    /// Every name and address that the serving certificate answers to.
    pub fn names(&self) -> Vec<String> {
        let domain = &self.cluster_domain;
        let mut names: Vec<String> =
            ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .map(str::to_owned)
                .into();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.push(self.kubernetes_address().to_string());
        names.push(self.advertise_address.to_string());
        if !self.bind_address.is_unspecified() {
            names.push(self.bind_address.to_string());
        }
        names.extend(self.tls_sans.iter().cloned());
        names.sort();
        names.dedup();
        names
    }
}
