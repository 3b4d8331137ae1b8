//! Flags about this machine as a node, and what stands in for those that are not given.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use agent::config::CDI_DIRS;
use agent::cpus::{self, Options, Policy};
use agent::eviction::{self, Soft};
use agent::memory::{self, Reservation, Swap};
use agent::runtimes::{self, Runtimes};
use agent::shutdown::Grace;
use agent::topology;
use agent_image::registry::config::Registries;
use k8s_openapi::api::core::v1::Taint;

use crate::failure::Failure;
use crate::verb::image::RegistriesFile;

/// Flags about this machine as a node.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Name of the node; by default the host name.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address of the node; by default that of the default route's link.
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<IpAddr>,
    /// Label to register the node with; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    node_label: Vec<(String, String)>,
    /// Taint to register the node with; may be repeated.
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_parser = parse_taint)]
    node_taint: Vec<Taint>,
    /// Port of the kubelet API.
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
    /// When pods are evicted at once, such as memory.available<100Mi,nodefs.available<10%; given ones stand for all of the
    /// kubelet's defaults.
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_hard: Option<String>,
    /// When pods are evicted after a grace period.
    #[arg(long, default_value = "", value_name = "THRESHOLDS")]
    eviction_soft: String,
    /// The grace period of each soft threshold, such as memory.available=1m30s.
    #[arg(long, default_value = "", value_name = "PERIODS")]
    eviction_soft_grace_period: String,
    /// How many seconds pods have at most to end when a soft threshold is met.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    eviction_max_pod_grace_period: i64,
    /// How many pods the node takes; each needs an address of the node's range.
    #[arg(long, default_value_t = 110, value_name = "COUNT")]
    max_pods: u32,
    /// How many processes and threads a pod may have; by default as many as the machine.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i64).range(1..))]
    pod_max_pids: Option<i64>,
    /// Program of another OCI runtime, for pods of RuntimeClasses with that handler: crun or runc; may be repeated. Those that
    /// are not given are looked for in PATH.
    #[arg(long, value_name = "HANDLER=FILE", value_parser = parse_runtime)]
    oci_runtime: Vec<(String, PathBuf)>,
    /// Directory with files of the Container Device Interface; may be repeated, and of two with the same device the later counts.
    #[arg(long, value_name = "DIR", default_values = CDI_DIRS)]
    cdi_spec_dir: Vec<PathBuf>,
    /// Whether containers that ask for whole processors, of Guaranteed pods, have them for themselves: none or static.
    #[arg(long, default_value = "none", value_name = "POLICY", value_parser = ["none", "static"])]
    cpu_manager_policy: String,
    /// Processors that pods cannot ask for and no container has for itself, such as 0-1,4; needed with the policy static.
    #[arg(long, default_value = "", value_name = "CPUS")]
    reserved_cpus: String,
    /// How the policy static gives processors out, such as full-pcpus-only=true; may be repeated, or have commas between.
    #[arg(long, value_name = "OPTION=BOOLEAN")]
    cpu_manager_policy_options: Vec<String>,
    /// Whether processors and devices of plugins come from the same NUMA nodes: none, best-effort, restricted or
    /// single-numa-node.
    #[arg(long, default_value = "none", value_name = "POLICY",
        value_parser = ["none", "best-effort", "restricted", "single-numa-node"])]
    topology_manager_policy: String,
    /// Whether those of each container do, or those of all containers of a pod: container or pod.
    #[arg(long, default_value = "container", value_name = "SCOPE", value_parser = ["container", "pod"])]
    topology_manager_scope: String,
    /// Slow containers down that near their memory limits (cgroup v2).
    #[arg(long)]
    memory_qos: bool,
    /// At which part of the way from request to limit that begins.
    #[arg(long, default_value_t = memory::THROTTLING_FACTOR, value_name = "FACTOR")]
    memory_throttling_factor: f64,
    /// Whether the kernel protects the memory that pods ask for (cgroup v2): None or TieredReservation.
    #[arg(long, default_value = "None", value_name = "POLICY", value_parser = ["None", "TieredReservation"])]
    memory_reservation_policy: String,
    /// Whether Burstable pods may use the machine's swap (cgroup v2): NoSwap or LimitedSwap.
    #[arg(long, default_value = "NoSwap", value_name = "BEHAVIOR", value_parser = ["NoSwap", "LimitedSwap"])]
    swap_behavior: String,
    /// How many seconds pods have to end when the machine goes down; 0: it ends them as it likes. The unit's TimeoutStopSec
    /// is to be longer.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    shutdown_grace_period: u64,
    /// How many of these are for critical pods, which end last.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    shutdown_grace_period_critical_pods: u64,
    #[command(flatten)]
    registries: RegistriesFile,
}

/// What the flags say of how pods are run.
pub(crate) struct Settings {
    pub(crate) registries: Registries,
    pub(crate) eviction: eviction::Limits,
    pub(crate) runtimes: Runtimes,
    pub(crate) cpus: cpus::Settings,
    pub(crate) topology: topology::Settings,
    pub(crate) memory: memory::Settings,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    match api::name::qualified_name(key).into_iter().chain(api::name::label_value(value)).next() {
        Some(problem) => Err(problem),
        None => Ok((key.to_owned(), value.to_owned())),
    }
}

fn parse_runtime(text: &str) -> Result<(String, PathBuf), String> {
    let (handler, program) = text.split_once('=').ok_or("expected HANDLER=FILE")?;
    Ok((handler.to_owned(), program.into()))
}

fn parse_taint(text: &str) -> Result<Taint, String> {
    let (pair, effect) = text.rsplit_once(':').ok_or("expected KEY=VALUE:EFFECT or KEY:EFFECT")?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("effect {effect:?}: expected NoSchedule, PreferNoSchedule or NoExecute"));
    }
    let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value.to_owned())));
    match api::name::qualified_name(key).into_iter().next() {
        Some(problem) => Err(problem),
        None => Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None }),
    }
}

impl NodeArgs {
    /// The node's name.
    pub(crate) fn name(&self) -> Result<String, Failure> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        match api::name::rfc1123_subdomain(&name).into_iter().next() {
            Some(problem) => Err(Failure::new(format!("error: --node-name {name:?}: {problem}"))),
            None => Ok(name),
        }
    }

    /// The node's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.node_ip.unwrap_or_else(default_address)
    }

    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.node_label.iter().cloned().collect()
    }

    pub(crate) fn taints(&self) -> Vec<Taint> {
        self.node_taint.clone()
    }

    pub(crate) fn kubelet_port(&self) -> u16 {
        self.kubelet_port
    }

    /// How long pods have when the machine goes down.
    pub(crate) fn shutdown_grace(&self) -> Result<Grace, Failure> {
        let (total, critical) = (self.shutdown_grace_period, self.shutdown_grace_period_critical_pods);
        if critical > total {
            return Err(Failure::new(format!(
                "error: --shutdown-grace-period-critical-pods {critical}: expected at most --shutdown-grace-period {total}"
            )));
        }
        Ok(Grace { total: Duration::from_secs(total), critical: Duration::from_secs(critical) })
    }

    /// Where files of devices are.
    pub(crate) fn cdi_dirs(&self) -> Vec<PathBuf> {
        self.cdi_spec_dir.clone()
    }

    pub(crate) fn max_pods(&self) -> u32 {
        self.max_pods
    }

    pub(crate) fn pod_max_pids(&self) -> Option<i64> {
        self.pod_max_pids
    }

    /// Other runtimes of this machine. A named one that cannot be used is told.
    fn runtimes(&self) -> Result<Runtimes, Failure> {
        runtimes::find(&self.oci_runtime, std::env::var_os("PATH").as_deref())
            .map_err(|error| Failure::new(format!("error: --oci-runtime {error}")))
    }

    /// What pods have of memory beyond their limits. What the machine cannot do is told.
    fn memory(&self) -> Result<memory::Settings, Failure> {
        let factor = self.memory_throttling_factor;
        if !(factor > 0.0 && factor <= 1.0) {
            return Err(Failure::new(format!(
                "error: --memory-throttling-factor {factor}: expected more than 0 and at most 1"
            )));
        }
        let settings = memory::Settings {
            throttling_factor: self.memory_qos.then_some(factor),
            reservation: match self.memory_reservation_policy.as_str() {
                "TieredReservation" => Reservation::Tiered,
                _ => Reservation::None,
            },
            swap: if self.swap_behavior == "LimitedSwap" { Swap::Limited } else { Swap::None },
        };
        let checked = settings.check(agent_runtime::cgroup::is_v2());
        checked.map_err(|error| Failure::new(format!("error: {error}")))?;
        Ok(settings)
    }

    /// Who has processors for itself. What cannot be is told.
    fn cpus(&self) -> Result<cpus::Settings, Failure> {
        let reserved = cpus::set::parse(&self.reserved_cpus)
            .map_err(|error| Failure::new(format!("error: --reserved-cpus: {error}")))?;
        let policy = match self.cpu_manager_policy.as_str() {
            "static" => Policy::Static,
            _ => Policy::None,
        };
        if policy == Policy::Static && reserved.is_empty() {
            return Err(Failure::new(
                "error: --cpu-manager-policy static: --reserved-cpus is needed, for all that shares",
            ));
        }
        let failed = |error: String| Failure::new(format!("error: --cpu-manager-policy-options: {error}"));
        let options = Options::parse(self.cpu_manager_policy_options.iter().map(String::as_str)).map_err(failed)?;
        if policy == Policy::None && options != Options::default() {
            return Err(failed("the policy none has no options; --cpu-manager-policy static does".into()));
        }
        if options.align_by_socket && self.topology().policy == topology::Policy::SingleNumaNode {
            return Err(failed(
                "align-by-socket and --topology-manager-policy single-numa-node exclude each other".into(),
            ));
        }
        Ok(cpus::Settings { policy, reserved, options })
    }

    /// What is to come from the same NUMA nodes.
    fn topology(&self) -> topology::Settings {
        topology::Settings {
            policy: match self.topology_manager_policy.as_str() {
                "best-effort" => topology::Policy::BestEffort,
                "restricted" => topology::Policy::Restricted,
                "single-numa-node" => topology::Policy::SingleNumaNode,
                _ => topology::Policy::None,
            },
            scope: match self.topology_manager_scope.as_str() {
                "pod" => topology::Scope::Pod,
                _ => topology::Scope::Container,
            },
        }
    }

    /// What is looked at before anything runs, so that what cannot be used is told then.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        Ok(Settings {
            registries: self.registries()?,
            eviction: self.eviction()?,
            runtimes: self.runtimes()?,
            cpus: self.cpus()?,
            topology: self.topology(),
            memory: self.memory()?,
        })
    }

    /// When pods are evicted. What cannot be read is told.
    fn eviction(&self) -> Result<eviction::Limits, Failure> {
        let soft = Soft {
            thresholds: &self.eviction_soft,
            grace_periods: &self.eviction_soft_grace_period,
            max_pod_grace_seconds: self.eviction_max_pod_grace_period,
        };
        eviction::Limits::new(self.eviction_hard.as_deref(), &soft)
            .map_err(|error| Failure::new(format!("error: --{error}")))
    }

    /// Mirrors, credentials and trust of registries. A file that cannot be used is told.
    fn registries(&self) -> Result<Registries, Failure> {
        Ok(self.registries.load()?)
    }
}

fn host_name() -> Result<String, Failure> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().to_lowercase())
}

/// The first IPv4 address of the default route's link, of any link that is up, or loopback.
fn default_address() -> IpAddr {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let link = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (link, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| link.to_owned())
    });
    // Host ends of pods' links carry an address of the pod range; the node's is not among them.
    let of_a_pod =
        |name: &str| name.len() == 15 && name[1..].bytes().all(|b| b.is_ascii_hexdigit()) && name.starts_with('g');
    let addresses: Vec<(String, Ipv4Addr)> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter(|entry| !of_a_pod(&entry.interface_name) && !entry.interface_name.starts_with("lo:"))
        .filter_map(|entry| Some((entry.interface_name.clone(), entry.address?.as_sockaddr_in()?.ip())))
        .collect();
    let of_default = addresses.iter().find(|(name, _)| Some(name) == link.as_ref());
    let any = addresses.iter().find(|(_, address)| !address.is_loopback());
    of_default.or(any).map_or(Ipv4Addr::LOCALHOST, |(_, address)| *address).into()
}
