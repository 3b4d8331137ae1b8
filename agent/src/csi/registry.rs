//! Which drivers are here, of storage and of devices: their sockets appear in the registry's directory and go from it (kubelet
//! plugin watcher).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_plugin::csi::node::{NodeCapabilities, NodeInfo};
use api_plugin::grpc::{CallError, Plugin};
use api_plugin::registration::RegistrationStatus;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use crate::changes::Changes;
use crate::dra;
use crate::event::COMPONENT;
use crate::execute::{Host, chain};

const KIND: &str = "CSIPlugin";
/// On the Node: each driver's name of it, as JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// What failed is tried again after this, then twice as long, up to a minute.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A driver that volumes can be had from.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    pub(super) plugin: Plugin,
    pub(super) capabilities: NodeCapabilities,
}

/// Whose turn it is with one volume, by driver and handle.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The drivers that are here, and who is at work on which volume.
#[derive(Debug)]
pub(crate) struct Drivers {
    known: watch::Sender<BTreeMap<String, Driver>>,
    turns: Mutex<HashMap<(String, String), Turn>>,
    in_use: watch::Sender<BTreeSet<String>>,
}

impl Default for Drivers {
    fn default() -> Self {
        let (known, in_use) = (watch::Sender::new(BTreeMap::new()), watch::Sender::new(BTreeSet::new()));
        Self { known, turns: Mutex::default(), in_use }
    }
}

impl Drivers {
    /// One driver, waited for a while: after a start of the agent it registers anew.
    pub(super) async fn get(&self, name: &str, patience: Duration) -> Option<Driver> {
        let mut known = self.known.subscribe();
        let found = tokio::time::timeout(patience, known.wait_for(|all| all.contains_key(name))).await;
        found.ok()?.ok()?.get(name).cloned()
    }

    /// Tells when drivers come and go.
    pub(super) fn comings(&self) -> watch::Receiver<BTreeMap<String, Driver>> {
        self.known.subscribe()
    }

    /// Whoever brings or removes a volume holds its turn.
    pub(super) async fn turn(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns: MutexGuard<'_, HashMap<_, _>> = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn: &mut Turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry((driver.to_owned(), handle.to_owned())).or_default())
        };
        turn.lock_owned().await
    }

    /// The volumes that this node uses, as `status.volumesInUse` names them.
    pub(crate) fn in_use(&self) -> watch::Receiver<BTreeSet<String>> {
        self.in_use.subscribe()
    }

    /// Says that a volume is used here, or not any more.
    pub(super) fn uses(&self, driver: &str, handle: &str, is_used: bool) {
        let name = api::volume::in_use_name(driver, handle);
        self.in_use.send_if_modified(|all| if is_used { all.insert(name) } else { all.remove(&name) });
    }
}

/// Knows again which volumes are used here, before the node says anything of itself: what it does not name may be
/// taken from it.
pub(crate) fn recall(host: &Host) {
    for (driver, handle) in super::teardown::volumes_on_disk(host) {
        host.drivers.uses(&driver, &handle, true);
    }
}

/// Registers whoever comes and forgets whoever goes, until dropped.
pub(crate) async fn run(host: Arc<Host>) {
    let dir = host.config.instance.plugins_registry_dir();
    let changes = match Changes::of(&dir) {
        Ok(changes) => changes,
        Err(error) => return tracing::warn!(%error, dir = %dir.display(), "watching for drivers"),
    };
    let mut wait = RETRY;
    while let Err(error) = introduce(&host).await {
        tracing::warn!(%error, "writing the node's CSINode");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
    let mut registered: BTreeMap<PathBuf, Registered> = BTreeMap::new();
    let mut wait = RETRY;
    loop {
        let sockets = sockets(&dir);
        let gone: Vec<PathBuf> = registered.keys().filter(|socket| !sockets.contains(*socket)).cloned().collect();
        for socket in gone {
            match registered.remove(&socket) {
                Some(Registered::Storage(name)) => forget(&host, &name).await,
                Some(Registered::Devices(name)) => dra::forget(&host, &name, &socket),
                Some(Registered::Refused) | None => {}
            }
        }
        let mut has_failed = false;
        for socket in sockets.into_iter().filter(|socket| !registered.contains_key(socket)).collect::<Vec<_>>() {
            match register(&host, &socket).await {
                Ok(outcome) => drop(registered.insert(socket, outcome)),
                Err(error) => {
                    has_failed = true;
                    tracing::warn!(error = chain(&error), socket = %socket.display(), "registering a driver");
                }
            }
        }
        tokio::select! {
            () = changes.next() => {}
            () = tokio::time::sleep(wait), if has_failed => {}
        }
        wait = if has_failed { (wait * 2).min(RETRY_MAX) } else { RETRY };
    }
}

fn sockets(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_socket = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    let is_hidden = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    entries.filter(|entry| is_socket(entry) && !is_hidden(entry)).map(|entry| entry.path()).collect()
}

#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("asking the plugin")]
    Call(#[from] CallError),
    #[error("telling the API server")]
    Api(#[from] kube::Error),
}

/// What a plugin turned out to be.
enum Registered {
    /// A driver of storage, by its name.
    Storage(String),
    /// A driver of devices.
    Devices(String),
    /// One that was told why it is not used.
    Refused,
}

/// Makes a driver known, or tells it why not.
async fn register(host: &Arc<Host>, socket: &Path) -> Result<Registered, RegisterError> {
    let registration = Plugin::connect(socket).await?;
    let info = registration.info().await?;
    let refuse = |error: String| RegistrationStatus { plugin_registered: false, error };
    let registered = RegistrationStatus { plugin_registered: true, error: String::new() };
    if info.kind == dra::KIND {
        return Ok(match dra::register(host, &info, socket).await? {
            Ok(()) => {
                if let Err(error) = registration.notify(registered).await {
                    // Its socket may go before it is tried again.
                    dra::forget(host, &info.name, socket);
                    return Err(error.into());
                }
                Registered::Devices(info.name)
            }
            Err(why) => {
                tracing::warn!(socket = %socket.display(), why, "a plugin is refused");
                registration.notify(refuse(why)).await?;
                Registered::Refused
            }
        });
    }
    if info.kind != KIND {
        let why = format!("plugins of type {:?} are not supported, {KIND} and {} are", info.kind, dra::KIND);
        tracing::warn!(socket = %socket.display(), why, "a plugin is refused");
        registration.notify(refuse(why)).await?;
        return Ok(Registered::Refused);
    }
    if !info.supported_versions.iter().any(|version| version.trim_start_matches('v').starts_with("1.")) {
        let why = format!("versions {:?} are not supported, 1.x is", info.supported_versions);
        registration.notify(refuse(why)).await?;
        return Ok(Registered::Refused);
    }
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let plugin = Plugin::connect(&endpoint).await?;
    let (node, capabilities) = (plugin.node_info().await?, plugin.capabilities().await?);
    publish(host, &info.name, Some(&node)).await?;
    host.drivers.known.send_modify(|known| drop(known.insert(info.name.clone(), Driver { plugin, capabilities })));
    registration.notify(registered).await?;
    tracing::info!(driver = info.name, node = node.node_id, "a driver is registered");
    Ok(Registered::Storage(info.name))
}

async fn forget(host: &Host, name: &str) {
    tracing::info!(driver = name, "a driver is gone");
    host.drivers.known.send_modify(|known| drop(known.remove(name)));
    if let Err(error) = publish(host, name, None).await {
        tracing::warn!(%error, driver = name, "telling that a driver is gone");
    }
}

/// The node's CSINode is there, with whatever drivers it says.
async fn introduce(host: &Host) -> kube::Result<CSINode> {
    let client = &host.client;
    let (nodes, own): (Api<CSINode>, _) = (Api::all(client.clone()), &host.config.node_name);
    if let Some(held) = nodes.get_opt(own).await? {
        return Ok(held);
    }
    let node = Api::<Node>::all(client.clone()).get(own).await?;
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: own.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..Default::default()
    };
    let metadata = ObjectMeta { name: Some(own.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    let made = CSINode { metadata, spec: CSINodeSpec { drivers: vec![] }, ..CSINode::default() };
    match nodes.create(&PostParams::default(), &made).await {
        Err(kube::Error::Api(status)) if status.code == 409 => nodes.get(own).await,
        other => other,
    }
}

/// Says of a driver how it sees this node, or that it is gone.
async fn publish(host: &Host, name: &str, info: Option<&NodeInfo>) -> kube::Result<()> {
    let client = &host.client;
    let own = &host.config.node_name;
    let (csi_nodes, nodes): (Api<CSINode>, Api<Node>) = (Api::all(client.clone()), Api::all(client.clone()));
    let segments: BTreeMap<String, String> = info
        .and_then(|info| info.accessible_topology.clone())
        .map(|own| own.segments.into_iter().collect())
        .unwrap_or_default();
    let params = PatchParams { field_manager: Some(COMPONENT.into()), ..Default::default() };
    // The labels first: whoever sees the driver may look at them.
    let node = nodes.get(own).await?;
    let held = node.metadata.annotations.as_ref().and_then(|all| all.get(NODE_IDS));
    let mut ids: BTreeMap<String, String> = held.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    match info {
        Some(info) => drop(ids.insert(name.to_owned(), info.node_id.clone())),
        None => drop(ids.remove(name)),
    }
    let ids = if ids.is_empty() { json!(null) } else { json!(json!(ids).to_string()) };
    let patch = json!({"metadata": {"annotations": {NODE_IDS: ids}, "labels": segments}});
    nodes.patch(own, &params, &Patch::Merge(patch)).await?;
    loop {
        let mut csi_node = introduce(host).await?;
        csi_node.spec.drivers.retain(|driver| driver.name != name);
        if let Some(info) = info {
            let most = i32::try_from(info.max_volumes_per_node).ok().filter(|most| *most > 0);
            csi_node.spec.drivers.push(CSINodeDriver {
                name: name.to_owned(),
                node_id: info.node_id.clone(),
                topology_keys: Some(segments.keys().cloned().collect()),
                allocatable: most.map(|count| VolumeNodeResources { count: Some(count) }),
            });
        }
        match csi_nodes.replace(own, &PostParams::default(), &csi_node).await {
            // Another driver came at the same time.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map(drop),
        }
    }
}
