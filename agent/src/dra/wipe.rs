//! Devices that nobody can prepare here are offered to nobody: what a driver told of them goes when it has been away for a
//! while. The kubelet takes all back at its start too; here a new agent waits for who was here before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, DeleteParams, ListParams};

use super::record::has_any;
use crate::execute::undo::pause;
use crate::execute::{Executor, Host, sandbox, volume};

/// As long as the kubelet waits for a driver that is being replaced.
const AWAY: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Takes back what drivers told that do not come again after a start of the agent, and then what is left of pods that went before
/// it.
pub(crate) async fn run(host: Arc<Host>) {
    tokio::time::sleep(AWAY).await;
    let slices: Api<ResourceSlice> = Api::all(host.client.clone());
    let own = ListParams::default().fields(&format!("spec.nodeName={}", host.config.node_name));
    let mut wait = RETRY;
    let told: BTreeSet<String> = loop {
        match slices.list(&own).await {
            Ok(all) => break all.into_iter().map(|slice| slice.spec.driver).collect(),
            Err(error) => tracing::warn!(%error, "listing the node's devices"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    };
    for driver in told {
        take_back(&host, &driver).await;
    }
    let (mut wait, mut comings) = (RETRY, host.device_drivers.comings());
    loop {
        comings.mark_unchanged();
        let left = orphans(&host);
        if left.is_empty() {
            return;
        }
        for uid in left {
            // Nobody listens: there is nothing to decide any more.
            let (inputs, _) = tokio::sync::mpsc::unbounded_channel();
            let executor = Executor::new(Arc::clone(&host), uid, Arc::default(), inputs);
            volume::tear_down(&executor, false).await;
        }
        pause(&mut wait, &mut comings).await;
    }
}

/// Pods that went while no agent was here, and whose drivers were not here either when one came.
fn orphans(host: &Host) -> Vec<String> {
    let instance = &host.config.instance;
    let dirs = std::fs::read_dir(instance.pods_dir()).into_iter().flatten().flatten();
    let is_left = |entry: &std::fs::DirEntry| instance.owns(&entry.path()) && has_any(&entry.path());
    let uids = dirs.filter(is_left).filter_map(|entry| entry.file_name().into_string().ok());
    // While something of it runs, its worker looks after it.
    let runs = |uid: &String| sandbox::read_record(&instance.pod_run_dir(uid)).is_some();
    uids.filter(|uid| host.pods.is_over(uid) && !runs(uid)).collect()
}

/// Takes back what a driver told, if it does not come again.
pub(super) async fn later(host: Arc<Host>, driver: String) {
    if !host.device_drivers.comes(&driver, AWAY).await {
        take_back(&host, &driver).await;
    }
}

async fn take_back(host: &Host, driver: &str) {
    let slices: Api<ResourceSlice> = Api::all(host.client.clone());
    let own = format!("spec.nodeName={},spec.driver={driver}", host.config.node_name);
    let mut wait = RETRY;
    while !host.device_drivers.has(driver) {
        match slices.delete_collection(&DeleteParams::default(), &ListParams::default().fields(&own)).await {
            Ok(_) => return tracing::info!(driver, "what an absent driver told of its devices is taken back"),
            Err(error) => tracing::warn!(%error, driver, "taking back what an absent driver told"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
