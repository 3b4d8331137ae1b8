//! `gantry server`: the control plane and the agent in one process.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent::assemble::Agent;
use agent::instance::Instance;
use agent::resolver::ClusterDns;
use controller::assemble::ControlPlane;
use controller_apiserver::audit::{self, Rotation};
use controller_apiserver::authn::{NODES, User};
use controller_apiserver::encryption::Encryption;
use controller_apiserver::tls;
use ipnet::Ipv4Net;
use prometheus_client::registry::Registry;

use super::DataDir;
use crate::config_file::ConfigFile;
use crate::failure::Failure;
use crate::node_flags::{NodeArgs, Settings};
use crate::process;
use crate::service::{self, LogArgs};
use crate::state_version;

/// Flags of `gantry server`; names as k3s has them where the thing is the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    data: DataDir,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    https_listen_port: u16,
    /// Address that agents and clients on other machines use; by default the node's.
    #[arg(long, value_name = "ADDRESS")]
    advertise_address: Option<IpAddr>,
    /// Further name or address of the server's certificate; may be repeated.
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Where the administrator's kubeconfig is written.
    #[arg(long, default_value = "/etc/gantry/kubeconfig.yaml", value_name = "FILE")]
    write_kubeconfig: PathBuf,
    /// Do not run pods on this machine.
    #[arg(long)]
    disable_agent: bool,
    #[command(flatten)]
    node: NodeArgs,
    /// Addresses of pods.
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR")]
    cluster_cidr: Ipv4Net,
    /// Length of the prefix of each node's part of them: 24 is room for 254 pods.
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    node_cidr_mask_size: u8,
    /// Addresses of services.
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR")]
    service_cidr: Ipv4Net,
    /// Address of the cluster's DNS, one of the services'; by default the tenth.
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Option<Ipv4Addr>,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// How long Events live, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    event_ttl: u64,
    /// Policy of what is written down of requests (audit.k8s.io/v1).
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// Where it is written; - for standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Size at which the audit log goes on in a new file, in megabytes.
    #[arg(long, default_value_t = 100, value_name = "MEGABYTES")]
    audit_log_maxsize: u64,
    /// How many older files of the audit log are kept.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    audit_log_maxbackup: usize,
    /// Keys by which Secrets and other resources are encrypted on the disk (apiserver.config.k8s.io/v1
    /// EncryptionConfiguration; aesgcm and identity).
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// How pods are placed: profiles by schedulerName (kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration).
    #[arg(long, value_name = "FILE")]
    scheduler_config: Option<PathBuf>,
    /// Driver of storage whose controller service the server calls itself, without sidecars, and its socket on this
    /// machine; may be repeated.
    #[arg(long, value_name = "DRIVER=SOCKET", value_parser = csi_controller)]
    csi_controller: Vec<(String, PathBuf)>,
    /// What the cluster goes without, though it begins with it; may be repeated.
    #[arg(long, value_enum, value_name = "COMPONENT", value_delimiter = ',')]
    disable: Vec<Component>,
    #[command(flatten)]
    log: LogArgs,
}

/// What a cluster begins with; names as k3s has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Component {
    /// The StorageClass `local-path`, the default one.
    LocalStorage,
}

impl Args {
    /// Where everything is kept.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data.data_dir
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    args.log.start();
    service::run(serve(args))
}

async fn serve(args: Args) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.data.data_dir)?;
    state_version::claim(&args.data.data_dir)?;
    // A file that cannot be used is told before anything runs.
    let settings = args.node.settings()?;
    let grace = args.node.shutdown_grace()?;
    let mut stop = service::Stop::listen()?;
    let node_ip = args.node.address();
    let node_name = args.node.name()?;
    let mut metrics = Registry::default();
    process::register(&mut metrics);
    let config = controller::config::Config {
        node_name: node_name.clone(),
        metrics,
        data_dir: args.data.data_dir.clone(),
        bind_address: args.bind_address,
        port: args.https_listen_port,
        advertise_address: args.advertise_address.unwrap_or(node_ip),
        tls_sans: args.tls_san.clone(),
        cluster_cidr: args.cluster_cidr,
        node_prefix: node_prefix(&args)?,
        service_cidr: args.service_cidr.trunc(),
        cluster_dns: cluster_dns(&args)?,
        cluster_domain: args.cluster_domain.clone(),
        event_ttl: Duration::from_secs(args.event_ttl),
        local_storage: !args.disable.contains(&Component::LocalStorage),
        encryption: args.encryption_provider_config.as_deref().map(Encryption::read).transpose()?,
        scheduler: args.scheduler_config.clone(),
        csi_controllers: csi_controllers(&args)?,
        audit: args.audit_policy_file.clone().zip(args.audit_log_path.clone()).map(|(policy, log)| {
            let rotation = Rotation { bytes: args.audit_log_maxsize << 20, kept: args.audit_log_maxbackup };
            audit::Config { policy, log, rotation }
        }),
    };
    let plane = config.start().await?;
    plane.api.profile_by(Box::new(|length| {
        let running = agent::profile::Running::start(length)?;
        Ok(Box::new(move || running.finish()))
    }));
    let host = if args.bind_address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { args.bind_address };
    let url = format!("https://{}:{}", bracketed(host), plane.address.port());
    plane.api.write_kubeconfig(&args.write_kubeconfig, &url)?;
    let agent = match args.disable_agent {
        true => None,
        false => Some(start_agent(&args, settings, &plane, node_name, node_ip, &url).await?),
    };
    eprintln!("ready {url} {}", args.write_kubeconfig.display());
    service::tell_ready();
    stop.asked_for().await;
    if let Some(agent) = agent {
        agent.end_pods_of_a_machine_that_stops(grace).await;
        agent.drain().await;
    }
    plane.drain().await;
    Ok(())
}

/// Reads `DRIVER=SOCKET`; names of drivers are as the Container Storage Interface has them (csi.proto, `GetPluginInfo`).
fn csi_controller(text: &str) -> Result<(String, PathBuf), String> {
    let expected =
        || "expected DRIVER=SOCKET, such as disk.example.com=/var/lib/kubelet/plugins/disk.example.com/csi.sock";
    let (driver, socket) = text.split_once('=').ok_or_else(expected)?;
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_fit = driver.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if driver.len() > 63 || !is_fit || !is_edge(driver.chars().next()) || !is_edge(driver.chars().last()) {
        return Err(format!(
            "{driver:?} is no name of a driver: at most 63 letters, digits, '-', '_' and '.', first and last a letter or digit"
        ));
    }
    let socket = socket.strip_prefix("unix://").unwrap_or(socket);
    match socket.starts_with('/') {
        true => Ok((driver.to_owned(), socket.into())),
        false => Err(format!("{socket:?} is no absolute path: {}", expected())),
    }
}

fn csi_controllers(args: &Args) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut all = BTreeMap::new();
    for (driver, socket) in &args.csi_controller {
        if all.insert(driver.clone(), socket.clone()).is_some() {
            return Err(Failure::new(format!("error: --csi-controller {driver}: expected each driver once")));
        }
    }
    Ok(all)
}

/// The smallest range of services: room for the API server, the DNS and a few more.
const LONGEST_SERVICE_PREFIX: u8 = 28;

/// A smaller part has no room for pods to speak of.
const LONGEST_NODE_PREFIX: u8 = 28;

/// The length of the prefix of each node's addresses.
fn node_prefix(args: &Args) -> Result<u8, Failure> {
    let (given, shortest) = (args.node_cidr_mask_size, args.cluster_cidr.prefix_len());
    match (shortest..=LONGEST_NODE_PREFIX).contains(&given) {
        true => Ok(given),
        false => Err(Failure::new(format!(
            "error: --node-cidr-mask-size {given}: expected {shortest} (the prefix of --cluster-cidr {}) to {LONGEST_NODE_PREFIX}",
            args.cluster_cidr
        ))),
    }
}

fn cluster_dns(args: &Args) -> Result<Ipv4Addr, Failure> {
    let cidr = args.service_cidr.trunc();
    if cidr.prefix_len() > LONGEST_SERVICE_PREFIX {
        return Err(Failure::new(format!(
            "error: --service-cidr {cidr}: expected a prefix of at most {LONGEST_SERVICE_PREFIX} bits"
        )));
    }
    if cidr.contains(&args.cluster_cidr.network()) || args.cluster_cidr.contains(&cidr.network()) {
        return Err(Failure::new(format!(
            "error: --service-cidr {cidr}: overlaps --cluster-cidr {}",
            args.cluster_cidr
        )));
    }
    let address = args.cluster_dns.unwrap_or_else(|| Ipv4Addr::from(u32::from(cidr.network()) + 10));
    let is_usable = cidr.contains(&address) && address != cidr.network() && address != cidr.broadcast();
    if !is_usable || Some(address) == cidr.hosts().next() {
        return Err(Failure::new(format!(
            "error: --cluster-dns {address}: expected an address of --service-cidr {cidr} other than its first"
        )));
    }
    Ok(address)
}

async fn start_agent(
    args: &Args,
    settings: Settings,
    plane: &ControlPlane,
    node_name: String,
    node_ip: IpAddr,
    url: &str,
) -> Result<Agent, Failure> {
    // All that is measured in this process is served by the API server; the agent's own part by the kubelet API too.
    let (metrics, mut registry) = (agent::metrics::Metrics::default(), Registry::default());
    process::register(&mut registry);
    metrics.register(&mut registry);
    plane.api.add_metrics(|all| metrics.register(all));
    let certificate = plane.api.agent_serving(&node_name, &[node_ip, Ipv4Addr::LOCALHOST.into()])?;
    let instance = Instance::of(&args.data.data_dir)?;
    let dns_kubeconfig = instance.data_dir.join("agent/dns.kubeconfig");
    plane.api.write_dns_kubeconfig(&dns_kubeconfig, url)?;
    let config = agent::config::Config {
        instance,
        node_ip,
        labels: args.node.labels(),
        taints: args.node.taints(),
        kubelet_port: args.node.kubelet_port(),
        kubelet_tls: tls::server_config(certificate, plane.api.ca())?,
        cluster_cidr: args.cluster_cidr,
        registries: settings.registries,
        service_cidr: args.service_cidr.trunc(),
        cluster_dns: ClusterDns { address: cluster_dns(args)?, domain: args.cluster_domain.clone() },
        dns_kubeconfig,
        cdi_dirs: args.node.cdi_dirs(),
        eviction: settings.eviction,
        max_pods: args.node.max_pods(),
        pod_max_pids: args.node.pod_max_pids(),
        runtimes: settings.runtimes,
        cpus: settings.cpus,
        topology: settings.topology,
        memory: settings.memory,
        node_name: node_name.clone(),
        metrics,
        registry: Arc::new(registry),
    };
    let user = User::new(&format!("system:node:{node_name}"), &[NODES]);
    Ok(config.start(kube::Client::new(plane.api.client(user), "default")).await?)
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_named_with_its_socket() {
        let fits = |text: &str| csi_controller(text).unwrap();
        assert_eq!(fits("disk.example.com=/run/csi.sock"), ("disk.example.com".into(), "/run/csi.sock".into()));
        assert_eq!(fits("d=unix:///run/csi.sock"), ("d".into(), "/run/csi.sock".into()));
        for (text, part) in [
            ("disk.example.com", "expected DRIVER=SOCKET"),
            ("-d=/run/csi.sock", "no name of a driver"),
            ("a/b=/run/csi.sock", "no name of a driver"),
            ("d=csi.sock", "no absolute path"),
        ] {
            let why = csi_controller(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
