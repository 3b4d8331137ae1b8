//! Pods bound to this node, from one watch, each to the worker of its uid.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agent_pod::protocol::{Event, Exit, Found};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::watcher;

use crate::execute::{Executor, Host, sandbox};
use crate::monitor::Monitor;
use crate::worker::{Channel, Input, Worker};

const KILLED: i32 = 137;

/// Runs until the process ends. `ready` is told once the first list was taken in.
pub(crate) async fn run(host: Arc<Host>) {
    let api: Api<Pod> = Api::all(host.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", host.config.node_name));
    let mut events = std::pin::pin!(watcher::watcher(api, config));
    let mut source = Source { host, workers: HashMap::new(), listed: None };
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => source.listed = Some(HashSet::new()),
            Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => source.apply(pod).await,
            Ok(watcher::Event::InitDone) => source.listed_all().await,
            Ok(watcher::Event::Delete(pod)) => source.vanish(pod.metadata.uid.as_deref().unwrap_or_default()),
            Err(error) => tracing::warn!(%error, "watching pods"),
        }
    }
}

struct Source {
    host: Arc<Host>,
    workers: HashMap<String, Worker>,
    /// The uids seen in a list that is under way.
    listed: Option<HashSet<String>>,
}

impl Source {
    async fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        self.workers.retain(|_, worker| !worker.is_finished());
        let pod = Arc::new(pod);
        if let Some(worker) = self.workers.get(&uid) {
            drop(worker.inputs.send(Input::Object(pod)));
            return;
        }
        tracing::info!(
            hop = "agent",
            kind = "Pod",
            object = format!(
                "{}/{}",
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default()
            ),
            uid,
            rev = pod.metadata.resource_version,
            "assigned"
        );
        let worker = adopt(&self.host, pod, uid.clone()).await;
        self.workers.insert(uid, worker);
    }

    fn vanish(&mut self, uid: &str) {
        if let Some(worker) = self.workers.get(uid) {
            drop(worker.inputs.send(Input::Vanished));
        }
    }

    /// After a full list: what was not in it is gone, also what only the disk remembers.
    async fn listed_all(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        for (uid, worker) in &self.workers {
            if !listed.contains(uid) {
                drop(worker.inputs.send(Input::Vanished));
            }
        }
        for uid in uids_on_disk(&self.host) {
            if !listed.contains(&uid) && !self.workers.contains_key(&uid) {
                clear_orphan(&self.host, &uid).await;
            }
        }
        if let Err(error) = self.host.network.retain(&listed).await {
            tracing::warn!(error = crate::execute::chain(&error), "freeing addresses of pods that are gone");
        }
    }
}

/// Uids that have a run directory or volumes here.
fn uids_on_disk(host: &Host) -> HashSet<String> {
    let instance = &host.config.instance;
    [instance.run_dir().join("pods"), instance.pods_dir()]
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// An executor for a pod whose object may be gone.
fn executor(host: &Arc<Host>, pod: Arc<Pod>, uid: String, channel: &Channel) -> Executor {
    Executor {
        host: Arc::clone(host),
        uid,
        pod,
        pod_ips: Vec::new(),
        monitor: Arc::default(),
        inputs: channel.inputs.clone(),
    }
}

async fn clear_orphan(host: &Arc<Host>, uid: &str) {
    tracing::info!(uid, "removing what is left of a pod that is gone");
    let mut pod = Pod::default();
    if let Some(record) = sandbox::read_record(&host.config.instance.pod_run_dir(uid)) {
        pod.metadata.name = Some(record.name);
        pod.metadata.namespace = Some(record.namespace);
    }
    // Its QoS class is not known any more: the sweep must find its cgroup wherever it is.
    for class in ["Guaranteed", "Burstable", "BestEffort"] {
        pod.status =
            Some(k8s_openapi::api::core::v1::PodStatus { qos_class: Some(class.into()), ..Default::default() });
        let executor = executor(host, Arc::new(pod.clone()), uid.to_owned(), &Channel::new());
        sandbox::stop(&executor).await;
        crate::execute::volume::tear_down(&executor).await;
        if let Err(error) = tokio::fs::remove_dir_all(executor.log_dir()).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, uid, "removing logs");
        }
    }
}

/// Starts a worker for a pod: from a living monitor, from what its status says, or from nothing.
async fn adopt(host: &Arc<Host>, pod: Arc<Pod>, uid: String) -> Worker {
    let channel = Channel::new();
    let executor = executor(host, Arc::clone(&pod), uid.clone(), &channel);
    let record = sandbox::read_record(&executor.run_dir());
    if let Some(record) = record
        && let Ok(monitor) = sandbox::connect(&executor).await
        && let Ok(states) = monitor.list().await
    {
        tracing::info!(uid, containers = states.len(), "adopted a running pod");
        let first = Event::Adopted { ips: record.ips, containers: sandbox::found(&states, &pod) };
        return spawn(host, pod, uid, first, Some(monitor), channel);
    }
    let containers = remembered(&pod);
    let first = if containers.is_empty() { Event::Assigned } else { Event::Resumed { containers } };
    spawn(host, pod, uid, first, None, channel)
}

fn spawn(
    host: &Arc<Host>,
    pod: Arc<Pod>,
    uid: String,
    first: Event,
    monitor: Option<Monitor>,
    channel: Channel,
) -> Worker {
    Worker::spawn(Arc::clone(host), pod, uid, first, monitor, channel)
}

/// Containers that the pod's status says were started; with no monitor left, none of them is alive.
fn remembered(pod: &Pod) -> Vec<Found> {
    let Some(status) = &pod.status else { return vec![] };
    let statuses = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    statuses.filter(|status| status.container_id.as_ref().is_some_and(|id| !id.is_empty())).map(remember).collect()
}

fn remember(status: &ContainerStatus) -> Found {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().unwrap_or_default();
    let (code, finished, started) = match (state.terminated.or(last.terminated), state.running) {
        (_, Some(running)) => (KILLED, None, running.started_at),
        (Some(ended), None) => (ended.exit_code, ended.finished_at, ended.started_at),
        (None, None) => (KILLED, None, None),
    };
    let finished_at = finished.map_or_else(Timestamp::now, |time| time.0);
    Found {
        name: status.name.clone(),
        attempt: u32::try_from(status.restart_count).unwrap_or(0),
        image_id: status.image_id.clone(),
        started_at: Some(started.map_or(finished_at, |time| time.0)),
        exit: Some(Exit { code, signal: None, oom_killed: false, finished_at, message: String::new() }),
    }
}
