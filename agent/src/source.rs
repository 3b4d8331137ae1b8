//! Pods bound to this node, from one watch, each to the worker of its uid.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_pod::facts::{self, Pending};
use agent_pod::protocol::{Event, Eviction, Exit, Failure, Found, Notice};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::resize::Resized;
use crate::admission::{Admission, Surroundings, Verdict};
use crate::allocation;
use crate::execute::memory::machine;
use crate::execute::{Executor, Host, effective, sandbox};
use crate::memory::Swap;
use crate::pressure::Pressures;
use crate::static_pods::{self, local_uid, mirror};
use crate::topology;
use crate::worker::{Input, Worker};

const KILLED: i32 = 137;
/// Before a pod is refused the API server is asked for the node anew; if it takes longer, what is known counts.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The word for pods that are ended for one that matters more, in their status and in events.
const PREEMPTING: &str = "Preempting";
/// A pod that others left for waits so long for them at most.
const LEFT_WITHIN: Duration = Duration::from_secs(3600);

/// What the admission of pods looks at besides them.
pub(crate) struct Seen {
    /// This node's object.
    pub(crate) node: watch::Receiver<Node>,
    /// What the machine is short of.
    pub(crate) pressures: watch::Receiver<Pressures>,
}

/// Runs until the process ends.
pub(crate) async fn run(host: Arc<Host>, seen: Seen) {
    let api: Api<Pod> = Api::all(host.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", host.config.node_name));
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let (told, mut files) = watch::channel(static_pods::Pods::new());
    // What stands in files runs before the API server has answered.
    let statics = static_pods::read(&host, &mut BTreeMap::new()).await;
    told.send_replace(statics.clone());
    let following = tokio::spawn(static_pods::follow(Arc::clone(&host), told));
    let _following = AbortOnDrop(following);
    let book = allocation::Book::read(host.config.instance.resources_file());
    let mut source = Source {
        host,
        workers: HashMap::new(),
        listed: None,
        statics: static_pods::Pods::new(),
        admission: Admission::remember(book.pods()),
        book,
        waiting: HashMap::new(),
        seen,
        is_settled: false,
    };
    source.files_are(statics).await;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Ok(()) = files.changed() => {
                let now = files.borrow_and_update().clone();
                source.files_are(now).await;
                continue;
            }
        };
        let Some(event) = event else { return };
        match event {
            Ok(watcher::Event::Init) => {
                source.listed = Some(HashSet::new());
                source.waiting.clear();
            }
            Ok(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod)) => source.apply(pod).await,
            Ok(watcher::Event::InitDone) => source.listed_all().await,
            Ok(watcher::Event::Delete(pod)) if mirror::is_mirror(&pod) => source.unmirrored(&pod),
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
    admission: Admission,
    /// What pods were given, for the next agent.
    book: allocation::Book,
    /// New pods of a list that is under way, by uid: what is left for them is known when all are.
    waiting: HashMap<String, Arc<Pod>>,
    seen: Seen,
    /// Those that files make.
    statics: static_pods::Pods,
    /// Containers that ran before this agent began have their processors.
    is_settled: bool,
}

/// A task that ends with the value.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Source {
    /// What the files of this machine say now: who is gone ends in its time, who is new begins. One of the same name
    /// begins when the other has ended, and so does one that comes back.
    async fn files_are(&mut self, now: static_pods::Pods) {
        let name = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let mut ending = HashMap::new();
        for (uid, pod) in self.statics.iter().filter(|(uid, _)| !now.contains_key(*uid)) {
            if let Some(worker) = self.workers.get_mut(uid) {
                let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                worker.end(own.unwrap_or(facts::DEFAULT_GRACE_SECONDS));
                ending.insert(name(pod), worker.ended());
            }
            release(&mut self.admission, &self.host, uid);
            self.host.pods.remove(uid);
        }
        let before = std::mem::replace(&mut self.statics, now.clone());
        for (uid, pod) in now.into_iter().filter(|(uid, _)| !before.contains_key(uid)) {
            let after = ending.remove(&name(&pod)).or_else(|| self.workers.get(&uid).map(Worker::ended));
            self.begin(uid, pod, after).await;
        }
        drop(self.resize());
    }

    /// A mirror is there: of a pod that runs here, or of one that was here once.
    fn mirrored(&self, pod: Pod) {
        match self.workers.contains_key(&local_uid(&pod)) {
            true if pod.metadata.deletion_timestamp.is_some() => self.unmirrored(&pod),
            true => {}
            false => {
                let client = self.host.client.clone();
                tokio::spawn(async move {
                    if let Err(error) = mirror::remove_stray(client, &pod).await {
                        tracing::warn!(%error, "removing the mirror of a static pod that is gone");
                    }
                });
            }
        }
    }

    /// A mirror is gone, or is to go.
    fn unmirrored(&self, mirror: &Pod) {
        if let Some(worker) = self.workers.get(&local_uid(mirror)) {
            drop(worker.inputs.send(Input::Unmirrored));
        }
    }

    async fn apply(&mut self, mut pod: Pod) {
        if mirror::is_mirror(&pod) {
            return self.mirrored(pod);
        }
        static_pods::is_of_api(&mut pod);
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        let host = &self.host;
        self.workers.retain(|uid, worker| {
            let is_over = worker.is_over();
            if is_over {
                host.pods.remove(uid);
            }
            !is_over
        });
        let is_room = api::pod::is_terminal(&pod) && release(&mut self.admission, &self.host, &uid);
        let pod = Arc::new(pod);
        // A pod that was released may stay for its finalizers: its worker ended, and nothing is started again.
        if self.workers.contains_key(&uid) {
            self.admission.want(&uid, &pod, Timestamp::now());
            // Told at once with what it is given: who sees that a change was seen sees what came of it.
            if !self.resize().contains(&uid) {
                self.change(&uid, &pod);
            }
            return;
        }
        if is_room {
            drop(self.resize());
        }
        if self.listed.is_some() && !self.is_known(&uid, &pod) {
            self.waiting.insert(uid, pod);
            return;
        }
        self.begin(uid, pod, None).await;
    }

    /// Starts a pod's worker, which begins when another has ended.
    async fn begin(&mut self, uid: String, pod: Arc<Pod>, after: Option<watch::Receiver<()>>) {
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
        let mut after: Vec<watch::Receiver<()>> = after.into_iter().collect();
        let is_known = self.is_known(&uid, &pod);
        let mut verdict = self.consider(&uid, &pod, is_known).await;
        let is_new = !is_known && !api::pod::is_terminal(&pod);
        if is_new && !matches!(verdict, Verdict::Refused(_)) {
            match topology::place(&self.host, &uid, &pod).await {
                Ok(true) => self.host.processors.spread(&self.host),
                Ok(false) => {}
                Err(failure) => verdict = Verdict::Refused(failure),
            }
        }
        self.admission.conclude(&uid, &pod, is_known, &verdict);
        let refused = match verdict {
            Verdict::Admitted => None,
            Verdict::AdmittedAfter(leaving) => {
                for uid in &leaving {
                    release(&mut self.admission, &self.host, uid);
                }
                after.push(self.send_away(leaving));
                None
            }
            Verdict::Refused(failure) => Some(failure),
        };
        self.admission.want(&uid, &pod, Timestamp::now());
        let given = self.admission.given(&uid, &pod);
        let told = (Arc::clone(&given), self.admission.pending(&uid));
        let worker = Worker::spawn(Arc::clone(&self.host), told, uid.clone(), after, refused);
        self.host.pods.put(&uid, given, worker.inputs.clone());
        self.workers.insert(uid, worker);
        drop(self.resize());
    }

    /// Gives pods that ask for other resources what there is now. While a list is under way, not all who have some are known.
    /// Answers who was told.
    fn resize(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        if self.listed.is_none() && self.is_settled {
            for Resized { uid, pod, pending } in self.look(Admission::retry) {
                tell_resize(&self.host, &pod, pending.as_ref());
                self.change(&uid, &pod);
                told.push(uid);
            }
        }
        self.book.write(self.admission.allocations());
        told
    }

    /// Lets the worker of a pod see it, as far as it was given what it asks for.
    fn change(&self, uid: &str, pod: &Arc<Pod>) {
        let Some(worker) = self.workers.get(uid) else { return };
        let (pod, pending) = (self.admission.given(uid, pod), self.admission.pending(uid));
        self.host.pods.put(uid, Arc::clone(&pod), worker.inputs.clone());
        drop(worker.inputs.send(Input::Object { pod, pending }));
    }

    /// Whether a pod was here before this agent began.
    fn is_known(&self, uid: &str, pod: &Pod) -> bool {
        let has_started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        // Its status may not have been written yet; what a file makes has none of its own.
        let has_sandbox = || sandbox::read_record(&self.host.config.instance.pod_run_dir(uid)).is_some();
        has_started || self.host.processors.has(uid) || has_sandbox()
    }

    /// Lets the admission look at the node as it is now.
    fn look<T>(&mut self, ask: impl FnOnce(&mut Admission, Surroundings<'_>) -> T) -> T {
        let devices = self.host.devices.amounts();
        let here = Surroundings {
            node: &self.seen.node.borrow(),
            room: &self.host.room,
            devices: &devices.borrow(),
            free_cpus: self.host.processors.free(),
            pressures: &self.seen.pressures.borrow(),
            is_going_down: *self.host.is_going_down.borrow(),
            swap: (self.host.config.memory.swap == Swap::Limited).then(|| machine(&self.host)),
        };
        ask(&mut self.admission, here)
    }

    /// Whether the node takes a pod. News of the node may be on their way still: before it says no, it asks.
    async fn consider(&mut self, uid: &str, pod: &Pod, is_known: bool) -> Verdict {
        let verdict = self.look(|admission, here| admission.consider(uid, pod, is_known, here));
        if !matches!(verdict, Verdict::Refused(_)) {
            return verdict;
        }
        let api: Api<Node> = Api::all(self.host.client.clone());
        let Ok(Ok(node)) = tokio::time::timeout(ASK_TIMEOUT, api.get(&self.host.config.node_name)).await else {
            return verdict;
        };
        self.look(|admission, here| admission.consider(uid, pod, is_known, Surroundings { node: &node, ..here }))
    }

    /// Ends pods for one that matters more. Closed when nothing of them runs any more.
    fn send_away(&self, leaving: Vec<String>) -> watch::Receiver<()> {
        let members = self.host.pods.members();
        for member in leaving.iter().filter_map(|uid| members.get(uid)) {
            let message = "Preempted in order to admit critical pod".to_owned();
            let failure = Failure { reason: PREEMPTING.into(), message };
            member.tell(Event::Evicted(Eviction {
                failure,
                grace_seconds: None,
                is_disruption: true,
                event: PREEMPTING,
            }));
        }
        let (waits, gone) = watch::channel(());
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            let is_down = |uid: &String| sandbox::read_record(&host.config.instance.pod_run_dir(uid)).is_none();
            host.pods.until(Instant::now() + LEFT_WITHIN, || leaving.iter().all(is_down)).await;
            drop(waits);
        });
        gone
    }

    fn vanish(&mut self, uid: &str) {
        release(&mut self.admission, &self.host, uid);
        self.waiting.remove(uid);
        self.host.pods.remove(uid);
        if let Some(worker) = self.workers.get_mut(uid) {
            worker.vanish();
        }
        drop(self.resize());
    }

    /// After a full list: what was not in it is gone, also what only the disk remembers.
    async fn listed_all(&mut self) {
        let Some(mut listed) = self.listed.take() else { return };
        // What files make no list of the API server tells, nor its end.
        listed.extend(self.statics.keys().cloned());
        listed.extend(self.workers.iter().filter(|(_, worker)| worker.is_going()).map(|(uid, _)| uid.clone()));
        self.host.pods.complete();
        for (uid, worker) in &mut self.workers {
            if !listed.contains(uid) {
                release(&mut self.admission, &self.host, uid);
                self.host.pods.remove(uid);
                worker.vanish();
            }
        }
        // Who came first gets what is left.
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        waiting.sort_by_key(|(uid, pod)| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), uid.clone()));
        for (uid, pod) in waiting {
            self.begin(uid, pod, None).await;
        }
        let is_more_left = self.host.processors.retain(|uid| listed.contains(uid));
        if !std::mem::replace(&mut self.is_settled, true) {
            self.host.processors.settle(&self.host);
        } else if is_more_left {
            self.host.processors.spread(&self.host);
        }
        for uid in uids_on_disk(&self.host) {
            if !listed.contains(&uid) && !self.workers.contains_key(&uid) {
                clear_orphan(&self.host, &uid).await;
            }
        }
        self.admission.retain(|uid| listed.contains(uid));
        drop(self.resize());
        if let Err(error) = self.host.network.retain(&listed).await {
            tracing::warn!(error = crate::execute::chain(&error), "freeing addresses of pods that are gone");
        }
    }
}

/// A pod has ended, or is gone: what it had is others'. Whether it had something.
fn release(admission: &mut Admission, host: &Arc<Host>, uid: &str) -> bool {
    let was_here = admission.release(uid);
    if host.processors.release(uid) {
        host.processors.spread(host);
    }
    was_here
}

/// Tells people what became of a pod's wish for other resources.
fn tell_resize(host: &Arc<Host>, pod: &Arc<Pod>, pending: Option<&Pending>) {
    let (warning, reason, message) = match pending {
        None => (false, "ResizeStarted", allocation::started(pod)),
        Some(own @ Pending::Deferred(_)) => (true, "ResizeDeferred", allocation::pending(pod, own)),
        Some(own @ Pending::Infeasible(_)) => (true, "ResizeInfeasible", allocation::pending(pod, own)),
    };
    let (host, pod) = (Arc::clone(host), Arc::clone(pod));
    tokio::spawn(async move {
        let notice = Notice { warning, reason, message, container: None };
        host.recorder.pod(&host.client, &pod, &notice).await;
    });
}

/// Uids that have a run directory or volumes of ours here.
fn uids_on_disk(host: &Host) -> HashSet<String> {
    let instance = &host.config.instance;
    let list = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let volumes = list(instance.pods_dir()).filter(|entry| instance.owns(&entry.path()));
    let all = list(instance.run_dir().join("pods")).chain(volumes);
    all.filter_map(|entry| entry.file_name().into_string().ok()).collect()
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
        // Nobody listens: there is nothing to decide any more.
        let (inputs, _) = tokio::sync::mpsc::unbounded_channel();
        let executor = Executor::new(Arc::clone(host), uid.to_owned(), Arc::new(pod.clone()), inputs);
        sandbox::stop(&executor).await;
        crate::execute::volume::tear_down(&executor, false).await;
        executor.remove_logs().await;
    }
}

/// How a pod's life here begins: with a living monitor, with what its status says, or with nothing.
pub(crate) async fn adopt(executor: &Executor) -> Event {
    let (pod, uid) = (&executor.pod, &executor.uid);
    let remembered = remembered(pod);
    if let Some(record) = sandbox::read_record(&executor.run_dir()) {
        let states = match sandbox::connect(executor).await {
            Ok(monitor) => monitor.list().await,
            Err(error) => Err(error),
        };
        match states {
            Ok(states) => {
                tracing::info!(uid, containers = states.len(), "adopted a running pod");
                let mut containers = merge(sandbox::found(&states, pod), remembered);
                containers.iter_mut().for_each(|found| effective::find(executor, found));
                executor.host.services.pod_has(uid, pod, &record.ips);
                return Event::Adopted { ips: record.ips, containers };
            }
            Err(error) => {
                executor.set_monitor(None);
                tracing::warn!(error = crate::execute::chain(&error), uid, "adopting a pod: it is started again");
            }
        }
    }
    if remembered.is_empty() { Event::Assigned } else { Event::Resumed { containers: remembered } }
}

/// What the monitor knows wins over what the status says, which may lag behind; of what the monitor never knew or knows
/// no more, the status tells.
fn merge(mut found: Vec<Found>, remembered: Vec<Found>) -> Vec<Found> {
    for old in remembered {
        match found.iter_mut().find(|own| own.name == old.name) {
            None => found.push(old),
            Some(own) => {
                if let (Some(exit), Some(told)) = (&mut own.exit, old.exit)
                    && own.attempt == old.attempt
                    && exit.message.is_empty()
                {
                    exit.message = told.message;
                }
            }
        }
    }
    found
}

/// Containers that the pod's status says were started; with no monitor left, none of them is alive.
fn remembered(pod: &Pod) -> Vec<Found> {
    sandbox::statuses(pod).filter_map(remember).collect()
}

fn remember(status: &ContainerStatus) -> Option<Found> {
    let was_started = status.container_id.as_ref().is_some_and(|id| !id.is_empty());
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().and_then(|last| last.terminated);
    let count = u32::try_from(status.restart_count).unwrap_or(0);
    let killed = |started_at: Option<Time>| {
        let finished_at = Timestamp::now();
        let exit = Exit { code: KILLED, signal: None, oom_killed: false, finished_at, message: String::new() };
        (exit, started_at)
    };
    let ended = |ended: ContainerStateTerminated| {
        let exit = Exit {
            code: ended.exit_code,
            signal: ended.signal,
            oom_killed: ended.reason.as_deref() == Some("OOMKilled"),
            finished_at: ended.finished_at.map_or_else(Timestamp::now, |time| time.0),
            message: ended.message.unwrap_or_default(),
        };
        (exit, ended.started_at)
    };
    let (attempt, (exit, started_at)) = match (state.running, state.terminated, last) {
        (Some(running), _, _) => (count, killed(running.started_at)),
        (None, Some(terminated), _) => (count, ended(terminated)),
        // While it waits, the count is that of the start to come.
        (None, None, Some(last)) => (count.saturating_sub(1), ended(last)),
        (None, None, None) if was_started => (count, killed(None)),
        (None, None, None) => return None,
    };
    let started_at = started_at.map(|time| time.0).or_else(|| was_started.then_some(exit.finished_at));
    Some(Found {
        name: status.name.clone(),
        attempt,
        image: sandbox::image_of(status),
        started_at,
        exit: Some(exit),
        // It is not alive.
        is_settled: false,
        is_started: false,
        is_ready: false,
        effective: effective::told(status),
        resources: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn pod() -> Pod {
        let ended = json!({"exitCode": 3, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z"});
        from_value(json!({"status": {"initContainerStatuses": [
            {"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0, "containerID": "gantry://u/i/0",
             "state": {"terminated": {"exitCode": 0, "message": "done"}}}], "containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 2, "containerID": "gantry://u/a/1",
             "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}},
            {"name": "b", "image": "", "imageID": "", "ready": true, "restartCount": 4, "containerID": "gantry://u/b/4",
             "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"waiting": {"reason": "ContainerCreating"}}}]}}))
        .unwrap()
    }

    #[test]
    fn a_status_tells_the_starts_that_were() {
        let found = remembered(&pod());
        let short: Vec<_> =
            found.iter().map(|one| (one.name.as_str(), one.attempt, one.exit.as_ref().unwrap().code)).collect();
        assert_eq!(short, [("i", 0, 0), ("a", 1, 3), ("b", 4, KILLED)]);
    }

    #[test]
    fn the_monitor_knows_better_than_the_status() {
        let running = |name: &str, attempt| Found {
            name: name.into(),
            attempt,
            image: agent_pod::protocol::ImageNames::default(),
            started_at: Some(Timestamp::now()),
            exit: None,
            is_settled: true,
            is_started: true,
            is_ready: true,
            effective: None,
            resources: None,
        };
        let merged = merge(vec![running("a", 2), running("c", 0)], remembered(&pod()));
        let of = |name: &str| merged.iter().find(|one| one.name == name).unwrap();
        assert_eq!((of("a").attempt, of("a").exit.clone()), (2, None));
        assert_eq!(of("c").exit, None);
        assert_eq!(of("i").exit.as_ref().unwrap().message, "done");
        assert_eq!(merged.len(), 4);
    }
}
