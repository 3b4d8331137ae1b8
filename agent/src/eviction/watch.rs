//! Looks at the machine, and acts: conditions, freed images, evicted pods.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_pod::protocol::{EVICTED, Event, Eviction, Failure};
use api::event::Severity;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::rank::{self, Candidate};
use super::threshold::{Met, Signal, Since};
use crate::execute::{Host, chain, sandbox};
use crate::kubelet::usage;
use crate::local_storage;
use crate::pressure::{Kind, Pressures, Sample};
use crate::roster::Member;

/// As often as the kubelet looks.
const CALM: Duration = Duration::from_secs(10);
/// The same while something is short.
const PRESSED: Duration = Duration::from_secs(1);
/// While the disk is short, images that came meanwhile are pruned every minute.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// A file system that takes longer to say how full it is hangs.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// Nobody else is evicted until an evicted pod is gone, or so long.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Looks until dropped, and tells `told` what changes.
pub(crate) async fn run(host: Arc<Host>, told: watch::Sender<Pressures>) {
    let mut looking = Looking { host, told, look: None, since: Since::default(), pruned: None, victim: None };
    loop {
        let began = Instant::now();
        let pressed = looking.turn().await;
        tokio::time::sleep_until(began + if pressed { PRESSED } else { CALM }).await;
    }
}

struct Looking {
    host: Arc<Host>,
    told: watch::Sender<Pressures>,
    /// A look that has not come back: the file system hangs, and another look would too.
    look: Option<JoinHandle<Sample>>,
    since: Since,
    /// When images were last pruned.
    pruned: Option<Instant>,
    /// The run directory of the pod that was evicted last, until it is gone.
    victim: Option<(PathBuf, Instant)>,
}

impl Looking {
    /// One look and what follows from it; whether something is short.
    async fn turn(&mut self) -> bool {
        let Some(sample) = self.sample().await else { return false };
        let now = Timestamp::now();
        let met = self.host.config.eviction.met(&sample);
        let mut changed = Vec::new();
        self.told.send_if_modified(|pressures| {
            changed = pressures.take(&met, now);
            !changed.is_empty()
        });
        for kind in changed {
            self.say(kind).await;
        }
        if let Some(due) = self.since.due(&met, now) {
            self.relieve(due).await;
        }
        !met.is_empty()
    }

    async fn sample(&mut self) -> Option<Sample> {
        let instance = &self.host.config.instance;
        let (nodefs, imagefs) = (instance.data_dir.clone(), instance.image_dir());
        let look =
            self.look.get_or_insert_with(|| tokio::task::spawn_blocking(move || Sample::take(&nodefs, &imagefs)));
        let Ok(sample) = tokio::time::timeout(LOOK_TIMEOUT, &mut *look).await else {
            tracing::warn!("the file systems of the data directory do not answer");
            return None;
        };
        self.look = None;
        sample.ok()
    }

    async fn say(&self, kind: Kind) {
        let (host, pressures) = (&self.host, self.told.borrow().clone());
        let own = pressures.of(kind);
        let message = format!("Node {} status is now: {}", host.config.node_name, kind.event(own.is_pressed));
        tracing::warn!(condition = kind.condition(), status = own.is_pressed, why = own.message, "node");
        host.recorder.node(&host.client, Severity::Normal, kind.event(own.is_pressed), &message).await;
    }

    /// Frees what nobody needs; if that is not enough, evicts one pod.
    async fn relieve(&mut self, due: Met) {
        if let Some((dir, since)) = &self.victim
            && dir.exists()
            && since.elapsed() < GONE_WITHIN
        {
            return;
        }
        self.victim = None;
        let signal = due.threshold.signal;
        let host = Arc::clone(&self.host);
        let message = format!("Attempting to reclaim {}", signal.resource());
        host.recorder.node(&host.client, Severity::Warning, "EvictionThresholdMet", &message).await;
        let mut due = due;
        if signal.kind() == Kind::Disk && self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
            self.pruned = Some(Instant::now());
            prune(&host).await;
            let Some(sample) = self.sample().await else { return };
            let met = host.config.eviction.met(&sample);
            let Some(still) = met.into_iter().find(|one| one.threshold == due.threshold) else { return };
            due = still;
        }
        let Some(victim) = rank::first(signal, candidates(&host, signal).await) else {
            tracing::warn!(threshold = %due.threshold, "nothing is left to evict");
            return;
        };
        let Some(member) = host.pods.members().remove(&victim.uid) else { return };
        let message = rank::message(&due, &victim);
        tracing::warn!(uid = victim.uid, threshold = %due.threshold, message, "evicting a pod");
        let grace_seconds = if due.is_soft() { host.config.eviction.max_pod_grace_seconds } else { 0 };
        let failure = Failure { reason: EVICTED.into(), message };
        let (grace_seconds, is_disruption) = (Some(grace_seconds), true);
        member.tell(Event::Evicted(Eviction { failure, grace_seconds, is_disruption, event: EVICTED }));
        self.victim = Some((host.config.instance.pod_run_dir(&victim.uid), Instant::now()));
    }
}

/// Removes images that no container stands on, never pinned ones.
async fn prune(host: &Arc<Host>) {
    let images = host.images.clone();
    match tokio::task::spawn_blocking(move || images.prune()).await {
        Ok(Ok((names, freed))) => tracing::info!(?names, bytes = freed, "pruned images: the disk is short"),
        Ok(Err(error)) => {
            let message = format!("pruning images failed: {}", chain(&error));
            host.recorder.node(&host.client, Severity::Warning, "FreeDiskSpaceFailed", &message).await;
        }
        Err(error) => tracing::error!(%error, "pruning images"),
    }
}

/// Pods that run here and what they use of what is short.
async fn candidates(host: &Arc<Host>, signal: Signal) -> Vec<Candidate> {
    let members = host.pods.members();
    let running = members.into_iter().filter(|(uid, member)| !member.is_over() && has_sandbox(host, uid));
    match signal {
        Signal::Memory | Signal::Pid => {
            let used = usage::of_pods(host).await;
            let with = |(uid, member): (String, Member)| {
                let own = used.get(&uid)?;
                let of = |stats: &agent_runtime::cgroup::Stats| match signal {
                    Signal::Pid => stats.pids,
                    _ => stats.memory_working_set_bytes,
                };
                let containers = own.containers.iter().map(|(name, stats)| (name.clone(), of(stats))).collect();
                Some(candidate(uid, &member.pod, signal, of(&own.stats), containers))
            };
            running.filter_map(with).collect()
        }
        Signal::Nodefs | Signal::NodefsInodes | Signal::Imagefs | Signal::ImagefsInodes => {
            let host = Arc::clone(host);
            let running: Vec<(String, Member)> = running.collect();
            let measured = tokio::task::spawn_blocking(move || {
                let with = |(uid, member): (String, Member)| {
                    let written = local_storage::measure(&member.executor(&host, &uid));
                    let of = |used: agent_volume::measure::Used| match signal {
                        Signal::NodefsInodes | Signal::ImagefsInodes => used.inodes,
                        _ => used.bytes,
                    };
                    let containers = written.containers.iter().map(|(name, used)| (name.clone(), of(*used))).collect();
                    candidate(uid, &member.pod, signal, of(written.total()), containers)
                };
                running.into_iter().map(with).collect()
            });
            measured.await.unwrap_or_default()
        }
    }
}

fn has_sandbox(host: &Host, uid: &str) -> bool {
    sandbox::read_record(&host.config.instance.pod_run_dir(uid)).is_some()
}

fn candidate(uid: String, pod: &Pod, signal: Signal, used: u64, containers: Vec<(String, u64)>) -> Candidate {
    // Nobody asks for inodes or process ids.
    let resource = match signal {
        Signal::Memory => "memory",
        Signal::Nodefs | Signal::Imagefs => "ephemeral-storage",
        Signal::NodefsInodes | Signal::ImagefsInodes | Signal::Pid => "",
    };
    let spec = pod.spec.as_ref();
    let whole = |quantity: Option<Quantity>| quantity.and_then(|own| u64::try_from(own.value()).ok()).unwrap_or(0);
    let of_container = |name: &str| {
        let all = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
        let own = all.into_iter().find(|container| container.name == name);
        let request = |resources: &ResourceRequirements| resources.requests.as_ref()?.get(resource).cloned();
        let text = own.and_then(|container| container.resources.as_ref()).and_then(request);
        whole(text.and_then(|text| Quantity::parse(&text.0).ok()))
    };
    Candidate {
        priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
        is_static: crate::static_pods::is_static(pod),
        used,
        requested: whole(spec.and_then(|spec| api::pod::requests(spec).get(resource).copied())),
        containers: containers
            .into_iter()
            .map(|(name, used)| (of_container(&name), name, used))
            .map(|(requested, name, used)| (name, used, requested))
            .collect(),
        uid,
    }
}
