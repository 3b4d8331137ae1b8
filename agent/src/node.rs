//! The Node object of this machine: registration, status and the Lease that says it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::pod::Amounts;
use api::well_known::ANNOTATION_STORAGE_DIRECTORY;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};

use tokio::sync::watch;

use crate::config::Config;
use crate::device::Amount;
use crate::environment::Allocatable;
use crate::event::COMPONENT;
use crate::execute::{Host, subpath, users};
use crate::pressure::Pressures;
use crate::runtimes::{OWN, Runtimes};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Upstream's: a lease of 40 s, renewed every 10 s; status every 5 min.
const LEASE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const STATUS_EVERY_RENEWALS: u32 = 30;
/// Kept for the machine itself, as the kubelet keeps it for hard eviction.
const RESERVED_MEMORY_BYTES: i64 = 100 << 20;

/// What the machine has.
#[derive(Debug, Clone)]
pub(crate) struct Capacity {
    pub(crate) cpus: usize,
    /// How many of them pods cannot ask for.
    pub(crate) reserved_cpus: usize,
    pub(crate) memory_bytes: i64,
    pub(crate) disk_bytes: u64,
}

/// What is not told of what there is.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    /// What the machine keeps for itself.
    ForTheMachine,
}

impl Capacity {
    pub(crate) fn of(data_dir: &Path, reserved_cpus: usize) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
        let memory_bytes = total.and_then(|kb| kb.trim().parse::<i64>().ok()).map_or(0, |kb| kb * 1024);
        let disk_bytes = rustix::fs::statvfs(data_dir).map_or(0, |stat| stat.f_blocks * stat.f_frsize);
        Self { cpus, reserved_cpus: reserved_cpus.min(cpus), memory_bytes, disk_bytes }
    }

    /// What is there for pods.
    pub(crate) fn allocatable(&self) -> Allocatable {
        Allocatable {
            milli_cpu: i64::try_from(self.cpus - self.reserved_cpus).unwrap_or(i64::MAX).saturating_mul(1000),
            // As the Node tells it, in whole KiB.
            memory: (self.memory_bytes - RESERVED_MEMORY_BYTES).max(0) / 1024 * 1024,
            ephemeral_storage: i64::try_from(self.disk_bytes / 1024 * 1024).unwrap_or(i64::MAX),
        }
    }

    /// The same with the number of pods, by the names of resources.
    pub(crate) fn room(&self, max_pods: u32) -> Amounts {
        let Allocatable { milli_cpu, memory, ephemeral_storage } = self.allocatable();
        let units = |units| api::quantity::Quantity::from_units(units, api::quantity::Format::BinarySi);
        BTreeMap::from([
            ("cpu".to_owned(), api::quantity::Quantity::from_milli(milli_cpu)),
            ("memory".to_owned(), units(memory)),
            ("ephemeral-storage".to_owned(), units(ephemeral_storage)),
            ("pods".to_owned(), units(i64::from(max_pods))),
        ])
    }

    fn quantities(&self, kept: Kept, max_pods: u32) -> BTreeMap<String, Quantity> {
        let (cpus, memory_bytes) = match kept {
            Kept::Nothing => (0, 0),
            Kept::ForTheMachine => (self.reserved_cpus, RESERVED_MEMORY_BYTES),
        };
        BTreeMap::from([
            ("cpu".to_owned(), Quantity((self.cpus - cpus).to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", (self.memory_bytes - memory_bytes).max(0) / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", self.disk_bytes / 1024))),
            ("pods".to_owned(), Quantity(max_pods.to_string())),
        ])
    }
}

fn now() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The node as this agent knows it. `port` is where the kubelet API answers.
struct Machine<'a> {
    config: &'a Config,
    capacity: &'a Capacity,
    port: u16,
}

/// What else the node's status tells.
#[derive(Clone, Default)]
pub(crate) struct Told {
    /// Volumes of drivers that it uses.
    in_use: BTreeSet<String>,
    /// Devices of plugins.
    devices: BTreeMap<String, Amount>,
    /// The machine goes down: nobody is to be sent here.
    is_going_down: bool,
}

/// Where what is told comes from. It is there before the node is registered, so that nothing falls between.
pub(crate) struct Telling {
    in_use: watch::Receiver<BTreeSet<String>>,
    devices: watch::Receiver<BTreeMap<String, Amount>>,
    is_going_down: watch::Receiver<bool>,
}

impl Telling {
    /// Of a node.
    pub(crate) fn of(host: &Host) -> Self {
        Self {
            in_use: host.drivers.in_use(),
            devices: host.devices.amounts(),
            is_going_down: host.is_going_down.subscribe(),
        }
    }

    /// What is to be told now.
    pub(crate) fn now(&mut self) -> Told {
        Told {
            in_use: self.in_use.borrow_and_update().clone(),
            devices: self.devices.borrow_and_update().clone(),
            is_going_down: *self.is_going_down.borrow_and_update(),
        }
    }

    /// Until there is something new. Cancel-safe.
    async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.in_use.changed() => {}
            Ok(()) = self.devices.changed() => {}
            Ok(()) = self.is_going_down.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl Machine<'_> {
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.config.labels.clone();
        labels.insert("kubernetes.io/hostname".into(), self.config.node_name.clone());
        labels.insert(api::well_known::LABEL_OS.into(), "linux".into());
        labels.insert("kubernetes.io/arch".into(), go_arch().into());
        labels
    }

    /// Where the control plane's provisioner is to put volumes of this node.
    fn annotations(&self) -> BTreeMap<String, String> {
        let directory = self.config.instance.storage_dir().display().to_string();
        BTreeMap::from([(ANNOTATION_STORAGE_DIRECTORY.to_owned(), directory)])
    }

    fn status(&self, previous: &NodeStatus, pressures: &Pressures, told: &Told) -> NodeStatus {
        let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
        let uname = rustix::system::uname();
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let os_name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.config.node_ip.to_string()),
                address("Hostname", self.config.node_name.clone()),
            ]),
            capacity: Some(with(self.capacity.quantities(Kept::Nothing, self.config.max_pods), told, |amount| {
                amount.all
            })),
            allocatable: Some(with(
                self.capacity.quantities(Kept::ForTheMachine, self.config.max_pods),
                told,
                |amount| amount.usable,
            )),
            conditions: Some(conditions(previous, pressures, told.is_going_down)),
            runtime_handlers: Some(runtime_handlers(&self.config.runtimes)),
            volumes_in_use: Some(told.in_use.iter().cloned().collect()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: go_arch().into(),
                boot_id: read_line("/proc/sys/kernel/random/boot_id"),
                container_runtime_version: format!("gantry://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: uname.release().to_string_lossy().into_owned(),
                kubelet_version: format!("v1.37.0+gantry{}", env!("CARGO_PKG_VERSION")),
                kube_proxy_version: String::new(),
                machine_id: read_line("/etc/machine-id"),
                operating_system: "linux".into(),
                os_image: os_name.trim_matches('"').to_owned(),
                system_uuid: read_line("/sys/class/dmi/id/product_uuid"),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// What the runtime can do, by the handlers of its RuntimeClasses; the nameless is that of pods without a class.
fn runtime_handlers(others: &Runtimes) -> Vec<NodeRuntimeHandler> {
    let handler = |name: &str, user_namespaces| {
        let features = NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(subpath::can_be_recursive()),
            user_namespaces: Some(user_namespaces),
        };
        NodeRuntimeHandler { name: Some(name.to_owned()), features: Some(features) }
    };
    let own = ["", OWN].map(|name| handler(name, users::can_be_had()));
    own.into_iter().chain(others.keys().map(|name| handler(name, false))).collect()
}

/// Quantities of the machine and of its devices.
fn with(
    mut all: BTreeMap<String, Quantity>,
    told: &Told,
    count: impl Fn(&Amount) -> usize,
) -> BTreeMap<String, Quantity> {
    all.extend(told.devices.iter().map(|(name, amount)| (name.clone(), Quantity(count(amount).to_string()))));
    all
}

fn conditions(previous: &NodeStatus, pressures: &Pressures, is_going_down: bool) -> Vec<NodeCondition> {
    let old = previous.conditions.clone().unwrap_or_default();
    let word = |is_true: bool| if is_true { "True" } else { "False" };
    let pressures = pressures.0.iter().map(|own| {
        let (is_pressed, message) = (own.is_pressed, own.message.as_str());
        (own.kind.condition(), word(is_pressed), own.kind.reason(is_pressed), message)
    });
    let ready = match is_going_down {
        true => ("Ready", "False", "GantryNotReady", "node is shutting down"),
        false => ("Ready", "True", "GantryReady", "the agent runs pods"),
    };
    pressures
        .chain([ready])
        .map(|(kind, status, reason, message)| {
            let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
            NodeCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: Some(now()),
                last_transition_time: Some(before.and_then(|c| c.last_transition_time.clone()).unwrap_or_else(now)),
            }
        })
        .collect()
}

/// Registers the node, or takes over the one of that name. Answers the node as the server has it.
pub(crate) async fn register(
    client: &kube::Client,
    config: &Config,
    capacity: &Capacity,
    port: u16,
    pressures: &Pressures,
    told: &Told,
) -> kube::Result<Node> {
    let api: Api<Node> = Api::all(client.clone());
    let this = Machine { config, capacity, port };
    let node = match api.get_opt(&config.node_name).await? {
        Some(node) => {
            let patch = serde_json::json!({"metadata": {"labels": this.labels(), "annotations": this.annotations()}});
            drop(api.patch(&config.node_name, &params(), &Patch::Strategic(patch)).await?);
            node
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(this.labels()),
                annotations: Some(this.annotations()),
                ..Default::default()
            };
            let taints = Some(config.taints.clone()).filter(|taints| !taints.is_empty());
            let spec = Some(NodeSpec { taints, ..Default::default() });
            api.create(&PostParams::default(), &Node { metadata, spec, ..Default::default() }).await?
        }
    };
    write_status(&api, &this, &node, pressures, told).await
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(COMPONENT.into()), ..Default::default() }
}

async fn write_status(
    api: &Api<Node>,
    this: &Machine<'_>,
    node: &Node,
    pressures: &Pressures,
    told: &Told,
) -> kube::Result<Node> {
    let status = this.status(&node.status.clone().unwrap_or_default(), pressures, told);
    let mut patch = serde_json::json!({"status": status});
    // A list that is empty in the patch would stay as it was.
    if told.in_use.is_empty() {
        patch["status"]["volumesInUse"] = serde_json::Value::Null;
    }
    api.patch_status(&this.config.node_name, &params(), &Patch::Strategic(patch)).await
}

/// Renews the lease and, less often, the status, for as long as the agent runs. What the machine has left is told at once
/// when that changes.
pub(crate) async fn keep_alive(
    host: Arc<Host>,
    capacity: Capacity,
    port: u16,
    node: Node,
    mut pressures: watch::Receiver<Pressures>,
    mut telling: Telling,
) {
    let (client, config) = (host.client.clone(), &host.config);
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let this = Machine { config, capacity: &capacity, port };
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut renewals, mut is_told) = (0u32, true);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if let Err(error) = renew(&leases, &config.node_name, &node).await {
                    tracing::warn!(%error, "renewing the node's lease");
                }
                renewals += 1;
            }
            Ok(()) = pressures.changed() => is_told = false,
            () = telling.changed() => is_told = false,
        }
        if !is_told || renewals.is_multiple_of(STATUS_EVERY_RENEWALS) {
            let pressures = pressures.borrow_and_update().clone();
            let told = telling.now();
            let written = match nodes.get(&config.node_name).await {
                Ok(node) => write_status(&nodes, &this, &node, &pressures, &told).await.map(drop),
                Err(error) => Err(error),
            };
            is_told = written.is_ok();
            if let Err(error) = written {
                tracing::warn!(%error, "writing the node's status");
            }
        }
    }
}

async fn renew(leases: &Api<Lease>, name: &str, node: &Node) -> kube::Result<()> {
    let time = MicroTime(Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or_default());
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(time),
        ..Default::default()
    };
    let patch = serde_json::json!({"spec": spec});
    match leases.patch(name, &params(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                ..Default::default()
            };
            let metadata =
                ObjectMeta { name: Some(name.to_owned()), owner_references: Some(vec![owner]), ..Default::default() };
            leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// Tells what the API server says of this node, for as long as the agent runs.
pub(crate) async fn follow(client: kube::Client, name: String, told: watch::Sender<Node>) {
    let mut nodes = std::pin::pin!(own(&client, &name));
    while let Some(node) = nodes.next().await {
        match node {
            Ok(node) => drop(told.send_replace(node)),
            Err(error) => tracing::warn!(%error, "watching the node"),
        }
    }
}

/// This node's object, each time that it changes.
fn own(client: &kube::Client, name: &str) -> impl Stream<Item = Result<Node, watcher::Error>> + use<> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher::watcher(Api::all(client.clone()), config).default_backoff().applied_objects()
}

/// The range of pod addresses that the control plane gave this node, waiting until it does.
pub(crate) async fn pod_range(client: &kube::Client, name: &str) -> Option<ipnet::Ipv4Net> {
    let mut nodes = std::pin::pin!(own(client, name));
    while let Some(node) = nodes.next().await {
        let range = node.ok().and_then(|node| node.spec?.pod_cidr);
        if let Some(range) = range.and_then(|range| range.parse().ok()) {
            return Some(range);
        }
    }
    None
}
