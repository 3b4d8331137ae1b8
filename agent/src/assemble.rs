//! The whole agent on one screen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent_image::registry::pull::{Patience, Puller};
use agent_image::store::{ImageError, ImageStore};
use agent_network::{Network, NetworkError};
use agent_runtime::seal::{Program, SealError};
use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::cpus::Cpus;
use crate::event::Recorder;
use crate::execute::{Host, chain, subpath};
use crate::instance::Claim;
use crate::node::{self, Capacity, Telling};
use crate::objects::Objects;
use crate::pressure::{Pressures, Sample};
use crate::pulls::Pulls;
use crate::roster::Roster;
use crate::service::Known;
use crate::shutdown::Grace;
use crate::source::Seen;
use crate::{csi, device, dns, dra, eviction, kubelet, peers, preload, service, shutdown, source, storage};

/// CAP_SYS_RESOURCE, capability.h.
const CAP_SYS_RESOURCE: u64 = 24;

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory could not be made.
    #[error("creating {}", path.display())]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another agent, or a reset, works on the same pods.
    #[error("{} is in use: another gantry runs on this data directory", .0.display())]
    InUse(std::path::PathBuf),
    /// The image store.
    #[error("opening the image store")]
    Images(#[from] ImageError),
    /// The pod network.
    #[error("opening the pod network")]
    Network(#[from] NetworkError),
    /// This program cannot be run as pod monitors.
    #[error("preparing to start monitors")]
    Program(#[from] SealError),
    /// The kubelet API's port could not be had.
    #[error("listening on port {port} for the kubelet API")]
    Listen {
        /// Which.
        port: u16,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The processors that were asked for, or how they are to be given out.
    #[error("{0}")]
    Cpus(String),
    /// The node could not be registered.
    #[error("registering node {node}")]
    Register {
        /// Which.
        node: String,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// An agent that runs. Dropping it leaves pods alone.
pub struct Agent {
    host: Arc<Host>,
    tasks: JoinSet<()>,
    _claim: Claim,
}

impl Config {
    /// Registers the node, then runs its pods. Returns once the node is Ready.
    pub async fn start(self, client: kube::Client) -> Result<Agent, StartError> {
        let instance = &self.instance;
        instance.make_dirs().map_err(|(path, source)| StartError::Directory { path, source })?;
        let claiming = |source| StartError::Directory { path: instance.data_dir.join("agent"), source };
        let claim = instance.claim().map_err(claiming)?.ok_or_else(|| StartError::InUse(instance.data_dir.clone()))?;
        let images = ImageStore::open(&instance.image_dir())?;
        preload::import_all(&images, &instance.import_dir(), &instance.preload_record()).await;
        let network = Network::open(agent_network::Config {
            instance: instance.hash.clone(),
            state_dir: instance.run_dir().join("network"),
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
        })
        .await?;
        let capacity = Capacity::of(&instance.data_dir, self.cpus.reserved.len());
        let processors = Cpus::open(&self.cpus, instance.cpus_file()).map_err(StartError::Cpus)?;
        self.topology.check(processors.machine().count() as usize).map_err(StartError::Cpus)?;

        let address = SocketAddr::new([0, 0, 0, 0].into(), self.kubelet_port);
        let listening = |source| StartError::Listen { port: self.kubelet_port, source };
        let listener = TcpListener::bind(address).await.map_err(listening)?;
        let port = listener.local_addr().map_err(listening)?.port();

        // A path that is too long for a socket, as that of a deep data directory, goes without.
        let plugins = device::bind(instance);
        let host = Arc::new(Host {
            client: client.clone(),
            pulls: Pulls::new(Puller::new(images.clone(), self.registries.clone(), Patience::default())),
            images,
            network: network.clone(),
            services: Known::new(&self.node_name),
            memory_capacity: capacity.memory_bytes,
            allocatable: capacity.allocatable(),
            room: capacity.room(self.max_pods),
            program: Program::own()?,
            objects: Objects::new(client.clone()),
            pods: Roster::default(),
            is_going_down: watch::Sender::new(false),
            drivers: Default::default(),
            device_drivers: Default::default(),
            processors,
            protecting: Default::default(),
            devices: Default::default(),
            usage: Default::default(),
            access: Default::default(),
            recursive_read_only: subpath::can_be_recursive(),
            can_lower_oom_score: has_capability(CAP_SYS_RESOURCE),
            recorder: Recorder::new(&self.node_name),
            config: self.clone(),
        });
        self.metrics.node(&self.node_name);
        let mut tasks = JoinSet::new();
        tasks.spawn(kubelet::serve(Arc::clone(&host), listener));
        let registering = |source| StartError::Register { node: self.node_name.clone(), source: Box::new(source) };
        let mut pressures = Pressures::none();
        let sample = Sample::take(&instance.data_dir, &instance.image_dir());
        pressures.take(&self.eviction.met(&sample), Timestamp::now());
        csi::recall(&host);
        let mut telling = Telling::of(&host);
        let node = node::register(&client, &self, &capacity, port, &pressures, &telling.now()).await;
        let node = node.map_err(registering)?;
        let (told, pressures) = watch::channel(pressures);
        let (knows_node, own_node) = watch::channel(node.clone());
        tasks.spawn(node::follow(client.clone(), self.node_name.clone(), knows_node));
        let seen = Seen { node: own_node, pressures: pressures.clone() };
        tasks.spawn(node::keep_alive(Arc::clone(&host), capacity, port, node, pressures, telling));
        tasks.spawn(eviction::run(Arc::clone(&host), told));
        tasks.spawn(service::run(client.clone(), network.clone(), Arc::clone(&host.services)));
        tasks.spawn(dns::supervise::run(Arc::clone(&host)));
        tasks.spawn(peers::run(Arc::clone(&host)));
        tasks.spawn(use_pod_range(client, self.node_name.clone(), network));
        tasks.spawn(storage::run(Arc::clone(&host)));
        tasks.spawn(csi::run(Arc::clone(&host)));
        tasks.spawn(dra::run(Arc::clone(&host)));
        match plugins {
            Ok(plugins) => drop(tasks.spawn(device::run(Arc::clone(&host), plugins))),
            Err(error) => tracing::warn!(%error, "listening for device plugins"),
        }
        tasks.spawn(source::run(Arc::clone(&host), seen));
        Ok(Agent { host, tasks, _claim: claim })
    }
}

impl Agent {
    /// Ends the pods of a machine that goes down, if it does and they are to have time for it.
    pub async fn end_pods_of_a_machine_that_stops(&self, grace: Grace) {
        if !grace.total.is_zero() && shutdown::is_coming().await {
            shutdown::end_pods(&self.host, grace).await;
        }
    }

    /// Stops the agent's own work; pods and their monitors go on.
    pub async fn drain(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Waits for the node's range and uses it; until then pods with a network of their own wait.
async fn use_pod_range(client: kube::Client, node: String, network: Network) {
    let Some(range) = node::pod_range(&client, &node).await else { return };
    let mut wait = Duration::from_millis(200);
    while let Err(error) = network.set_pod_range(range).await {
        tracing::error!(error = chain(&error), %range, "using the node's pod range");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(30));
    }
}

/// Whether this process has a capability in its effective set; proc(5), status.
fn has_capability(number: u64) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> number & 1 == 1)
}
