//! Which drivers of devices are here. They register as those of storage do, with a type of their own.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_plugin::grpc::{CallError, Plugin};
use api_plugin::registration::PluginInfo;
use tokio::sync::watch;

use super::message::{Claims, PreparedClaims, UnpreparedClaims};
use super::record::Device;
use crate::execute::Host;

/// The type by which drivers register.
pub(crate) const KIND: &str = "DRAPlugin";

/// The services that are understood, the newest first, as drivers name them.
const SERVICES: [(&str, Service); 2] = [("v1.DRAPlugin", Service::V1), ("v1beta1.DRAPlugin", Service::V1Beta1)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    V1,
    V1Beta1,
}

/// One instance of a driver; while one is replaced there are two.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    socket: PathBuf,
    plugin: Plugin,
    service: Service,
}

impl Driver {
    pub(super) async fn prepare(&self, request: Claims) -> Result<PreparedClaims, CallError> {
        let call = match self.service {
            Service::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            Service::V1Beta1 => "/v1beta1.DRAPlugin/NodePrepareResources",
        };
        self.plugin.call(call, request).await
    }

    pub(super) async fn unprepare(&self, request: Claims) -> Result<UnpreparedClaims, CallError> {
        let call = match self.service {
            Service::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            Service::V1Beta1 => "/v1beta1.DRAPlugin/NodeUnprepareResources",
        };
        self.plugin.call(call, request).await
    }
}

/// Whose turn it is with one claim, by its uid.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// The drivers that are here, and what they have prepared since this agent began.
#[derive(Debug)]
pub(crate) struct DeviceDrivers {
    known: watch::Sender<BTreeMap<String, Vec<Driver>>>,
    turns: Mutex<HashMap<String, Turn>>,
    /// By the uids of claims.
    prepared: Mutex<HashMap<String, Vec<Device>>>,
}

impl Default for DeviceDrivers {
    fn default() -> Self {
        Self { known: watch::Sender::new(BTreeMap::new()), turns: Mutex::default(), prepared: Mutex::default() }
    }
}

impl DeviceDrivers {
    /// The newest instance of a driver, waited for a while: after a start of the agent it registers anew.
    pub(super) async fn get(&self, name: &str, patience: Duration) -> Option<Driver> {
        let mut known = self.known.subscribe();
        let found = tokio::time::timeout(patience, known.wait_for(|all| all.contains_key(name))).await;
        found.ok()?.ok()?.get(name)?.last().cloned()
    }

    /// Whether a driver is here, or comes before that time is over.
    pub(super) async fn comes(&self, name: &str, patience: Duration) -> bool {
        self.get(name, patience).await.is_some()
    }

    /// Whether any instance of a driver is here.
    pub(super) fn has(&self, name: &str) -> bool {
        self.known.borrow().contains_key(name)
    }

    /// Tells when drivers come and go.
    pub(super) fn comings(&self) -> watch::Receiver<BTreeMap<String, Vec<Driver>>> {
        self.known.subscribe()
    }

    /// Whoever has a claim prepared, or taken back, holds its turn.
    pub(super) async fn turn(&self, claim: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn: &mut Turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(claim.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    pub(super) fn prepared(&self, claim: &str) -> Option<Vec<Device>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(claim).cloned()
    }

    /// Remembers what a claim has, or that it has nothing any more.
    pub(super) fn remember(&self, claim: &str, devices: Option<Vec<Device>>) {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        match devices {
            Some(devices) => drop(prepared.insert(claim.to_owned(), devices)),
            None => drop(prepared.remove(claim)),
        }
    }
}

/// Makes a driver known; `Err` says what it cannot be used for.
pub(crate) async fn register(host: &Host, info: &PluginInfo, socket: &Path) -> Result<Result<(), String>, CallError> {
    let is_spoken = |service: &&(&str, Service)| info.supported_versions.iter().any(|own| own == service.0);
    let Some((_, service)) = SERVICES.iter().find(is_spoken) else {
        let known = SERVICES.map(|(name, _)| name).join(" and ");
        return Ok(Err(format!("services {:?} are not supported, {known} are", info.supported_versions)));
    };
    if !api::name::rfc1123_subdomain(&info.name).is_empty() {
        return Ok(Err(format!("driver name {:?}: expected a DNS subdomain", info.name)));
    }
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let plugin = Plugin::connect(&endpoint).await?;
    let driver = Driver { socket: socket.to_owned(), plugin, service: *service };
    host.device_drivers.known.send_modify(|known| {
        let instances = known.entry(info.name.clone()).or_default();
        // It may have been told before, and not have heard that it is registered.
        instances.retain(|own| own.socket != driver.socket);
        instances.push(driver);
    });
    tracing::info!(driver = info.name, ?service, "a driver of devices is registered");
    Ok(Ok(()))
}

/// An instance of a driver is gone. If it was the last, what it told of the node's devices goes too, unless it comes back.
pub(crate) fn forget(host: &Arc<Host>, name: &str, socket: &Path) {
    let mut is_gone = false;
    host.device_drivers.known.send_modify(|known| {
        if let Some(instances) = known.get_mut(name) {
            instances.retain(|own| own.socket != socket);
            is_gone = instances.is_empty();
        }
        if is_gone {
            known.remove(name);
        }
    });
    if is_gone {
        tracing::info!(driver = name, "a driver of devices is gone");
        tokio::spawn(super::wipe::later(Arc::clone(host), name.to_owned()));
    }
}
