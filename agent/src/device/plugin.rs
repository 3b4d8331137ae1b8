//! The plugins that are here and what devices they told of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use api_plugin::grpc::Plugin;
use tokio::sync::watch;

use super::book::Book;
use super::message::{Device, DeviceList, Empty, Options};
use crate::execute::{Host, chain};
use crate::topology::Nodes;

const HEALTHY: &str = "Healthy";

/// How many devices there are, and how many of them can be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) all: usize,
    pub(crate) usable: usize,
}

/// One resource.
#[derive(Debug, Clone, Default)]
pub(super) struct Resource {
    /// `None` while its plugin is away.
    pub(super) plugin: Option<(Plugin, Options)>,
    /// Ids, and whether each is well.
    pub(super) devices: BTreeMap<String, bool>,
    /// The NUMA nodes of those that are near some.
    pub(super) nodes: BTreeMap<String, Nodes>,
    /// Which registration it is of: the end of an earlier one says nothing.
    serial: u64,
}

/// All resources, and who has which device.
#[derive(Debug)]
pub(crate) struct Devices {
    pub(super) resources: watch::Sender<BTreeMap<String, Resource>>,
    pub(super) book: Mutex<Option<Book>>,
    /// Whoever chooses devices holds it.
    pub(super) turn: tokio::sync::Mutex<()>,
    amounts: watch::Sender<BTreeMap<String, Amount>>,
}

impl Default for Devices {
    fn default() -> Self {
        let (resources, amounts) = (watch::Sender::new(BTreeMap::new()), watch::Sender::new(BTreeMap::new()));
        Self { resources, book: Mutex::default(), turn: Default::default(), amounts }
    }
}

impl Devices {
    /// What the Node says of them.
    pub(crate) fn amounts(&self) -> watch::Receiver<BTreeMap<String, Amount>> {
        self.amounts.subscribe()
    }

    pub(super) fn get(&self, name: &str) -> Option<Resource> {
        self.resources.borrow().get(name).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Resource>)) {
        self.resources.send_modify(change);
        let count = |resource: &Resource| Amount {
            all: resource.devices.len(),
            usable: resource.devices.values().filter(|well| **well).count(),
        };
        let now = self.resources.borrow().iter().map(|(name, own)| (name.clone(), count(own))).collect();
        self.amounts.send_if_modified(|amounts: &mut BTreeMap<String, Amount>| {
            let changed = *amounts != now;
            *amounts = now;
            changed
        });
    }
}

/// The NUMA nodes that a device is near. Numbers that no machine has are left out.
fn near(device: &Device) -> Option<(String, Nodes)> {
    let nodes = &device.topology.as_ref()?.nodes;
    Some((device.id.clone(), nodes.iter().filter_map(|node| Nodes::one(node.id)).collect()))
}

/// Hears what a plugin tells until it is gone.
pub(super) async fn listen(host: std::sync::Arc<Host>, name: String, socket: PathBuf, options: Options) {
    let devices = &host.devices;
    let plugin = match Plugin::connect(&socket).await {
        Ok(plugin) => plugin,
        Err(error) => return tracing::warn!(error = chain(&error), name, "connecting to a device plugin"),
    };
    let mut serial = 0;
    devices.change(|all| {
        let own = all.entry(name.clone()).or_insert(Resource::default());
        own.serial += 1;
        serial = own.serial;
        own.plugin = Some((plugin.clone(), options));
    });
    let listening = plugin.stream::<Empty, DeviceList>("/v1beta1.DevicePlugin/ListAndWatch", Empty {}).await;
    match listening {
        Ok(mut lists) => {
            while let Ok(Some(list)) = lists.message().await {
                let well = |device: Device| (device.id, device.health == HEALTHY);
                devices.change(|all| {
                    if let Some(own) = all.get_mut(&name).filter(|own| own.serial == serial) {
                        own.nodes = list.devices.iter().filter_map(near).collect();
                        own.devices = list.devices.into_iter().map(well).collect();
                    }
                });
            }
        }
        Err(error) => tracing::warn!(error = chain(&error), name, "listening to a device plugin"),
    }
    tracing::info!(resource = name, "a device plugin is gone");
    // Its devices are there, but nobody answers for them.
    devices.change(|all| {
        if let Some(own) = all.get_mut(&name).filter(|own| own.serial == serial) {
            own.plugin = None;
            own.devices.values_mut().for_each(|well| *well = false);
        }
    });
}
