//! What each pod of this node used so far: its monitor names the running containers, their cgroups hold the figures.

use std::sync::Arc;

use agent_runtime::cgroup::{self, Stats};
use agent_runtime::monitor::protocol::ContainerState;
use futures::StreamExt as _;

use super::machine::traffic;
use super::{ContainerUsage, PodUsage, Traffic};
use crate::execute::Host;
use crate::execute::sandbox::{Record, read_record, socket_path};
use crate::monitor::Monitor;

/// The link that a pod's namespace has beside loopback.
pub(super) const POD_LINK: &str = "eth0";
/// Monitors that are asked at once.
const AT_ONCE: usize = 32;

/// Every pod with a sandbox, in the order of namespace and name.
pub(super) async fn measure(host: &Arc<Host>) -> Vec<PodUsage> {
    let dir = host.config.instance.run_dir().join("pods");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let records: Vec<Record> = entries.filter_map(|entry| read_record(&entry.path())).collect();
    let measured = futures::stream::iter(records).map(|record| pod(host, record)).buffer_unordered(AT_ONCE);
    let mut pods: Vec<PodUsage> = measured.filter_map(std::future::ready).collect().await;
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    pods
}

/// One pod; `None` for one that ended while we looked.
async fn pod(host: &Arc<Host>, record: Record) -> Option<PodUsage> {
    let socket = socket_path(&host.config.instance.pod_run_dir(&record.uid));
    let (monitor, _) = Monitor::connect(&socket).await.ok()?;
    let states = monitor.list().await.ok()?;
    let root = host.config.instance.cgroup_root();
    let gather = move || gather(&root, record, &states);
    tokio::task::spawn_blocking(gather).await.ok().flatten()
}

fn gather(root: &str, record: Record, states: &[ContainerState]) -> Option<PodUsage> {
    // The record does not tell the class of service; the pod is in one of the three places.
    let (group, stats) = ["", "/burstable", "/besteffort"].into_iter().find_map(|class| {
        let group = format!("/{root}/kubepods{class}/pod{}", record.uid);
        figures(&group).map(|stats| (group, stats))
    })?;
    let running = states.iter().filter(|state| state.exit.is_none() && state.started_at.is_some());
    let containers = running.clone().filter_map(|state| {
        let (name, _) = state.id.rsplit_once('.')?;
        let started_at = state.started_at.as_deref().and_then(|at| at.parse().ok());
        let stats = figures(&format!("{group}/{}", state.id))?;
        Some(ContainerUsage { name: name.into(), id: state.id.clone(), started_at, stats })
    });
    let containers: Vec<ContainerUsage> = containers.collect();
    let network = (!record.host_network).then(|| running.filter_map(|state| state.pid).find_map(network)).flatten();
    Some(PodUsage { uid: record.uid, namespace: record.namespace, name: record.name, stats, network, containers })
}

fn figures(group: &str) -> Option<Stats> {
    cgroup::open(group).and_then(|group| group.stats()).ok()
}

/// The pod's link, as a process of it sees it.
fn network(pid: i32) -> Option<Traffic> {
    traffic(&std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?, POD_LINK)
}
