//! The one executor: watches pods, nodes and what else decisions look at (`news`), lets `decide` decide, assumes the pod in
//! its place and binds.
//!
//! Flow: watch -> snapshot and queue -> decide -> assume -> bind (several at once). Guarantees: a decision sees every
//! earlier one. Errors: a refused binding is forgotten and the pod tried again; a broken watch is listed anew.
use crate::decide::{Decider, Decision, FitError};
use crate::hint::{self, Moved};
use crate::metrics::{Ended, Metrics};
use crate::node::NodeFacts;
use crate::pod::{PodFacts, PodKey};
use crate::profile::Profiles;
use crate::queue::Queue;
use crate::record::{Notice, Notices};
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::volumes::Preparation;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

mod devices;
mod eviction;
mod gang;
#[cfg(test)]
mod gang_tests;
mod news;
#[cfg(test)]
mod tests;
mod volume;

use news::Step;

/// Bindings on their way at once.
const MAX_BINDING: usize = 64;
/// Decisions in a row before the watches are looked at again.
const MAX_DECISIONS: usize = 32;

/// What the scheduler needs.
#[derive(Clone)]
pub struct Config {
    /// A client with the identity `system:kube-scheduler`.
    pub client: kube::Client,
    /// What it is measured with.
    pub metrics: Metrics,
    /// How pods are placed.
    pub settings: Settings,
}

struct Bound {
    pod: Arc<PodFacts>,
    node: Box<str>,
    /// When the pod was taken in hand.
    since: Instant,
    result: Result<(), kube::Error>,
    /// What was written for its volumes, where that was all that was done.
    prepared: Vec<Preparation>,
}

struct Driver {
    client: kube::Client,
    profiles: Profiles,
    snapshot: Snapshot,
    decider: Decider,
    queue: Queue,
    binding: JoinSet<Bound>,
    notices: Notices,
    watched: news::Watched,
    /// Nodes that are being emptied.
    emptying: JoinSet<eviction::Emptied>,
    /// Nodes whose turn to be emptied comes.
    to_empty: VecDeque<eviction::ToEmpty>,
    /// Pods that have their place and wait for their volumes.
    preparing: HashMap<PodKey, volume::Waiting>,
    /// Groups whose pods are held for a reason that nobody was told.
    untold: gang::Untold,
    metrics: Metrics,
    /// When each pod that waits was first seen.
    first_seen: HashMap<PodKey, Instant>,
}

/// Schedules until it is dropped.
pub async fn run(config: Config) {
    let all = watcher::Config::default();
    // Pods that have ended take nothing; leaving the selection counts as deletion.
    let live = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = Api::<Pod>::all(config.client.clone());
    let nodes = Api::<Node>::all(config.client.clone());
    let mut pods = Box::pin(watcher(pods, live).default_backoff());
    let mut nodes = Box::pin(watcher(nodes, all).default_backoff());
    let mut others = news::watch(&config.client);
    let mut driver = Driver::new(config);
    loop {
        let more = driver.schedule();
        let (active, backoff, unschedulable) = driver.queue.counts(driver.binding.len() + driver.preparing.len());
        driver.metrics.waiting(active, backoff, unschedulable);
        let untold = driver.untold.values().copied().filter(|_| driver.watched.are_listed());
        let deadlines = driver.preparing.values().map(|waiting| waiting.until).chain(untold);
        let wake = match (more, driver.queue.next_wake().into_iter().chain(deadlines).min()) {
            (true, _) => Some(Duration::ZERO),
            (false, Some(at)) => Some(at.saturating_duration_since(Instant::now())),
            (false, None) => None,
        };
        // Cancel safety: both streams keep what they have not given out, and so does the set of bindings.
        tokio::select! {
            biased;
            Some(bound) = driver.binding.join_next(), if !driver.binding.is_empty() => match bound {
                Ok(bound) => driver.bound(bound),
                Err(error) => tracing::error!(%error, "a binding task ended early"),
            },
            Some(emptied) = driver.emptying.join_next(), if !driver.emptying.is_empty() => {
                match emptied {
                    Ok(emptied) => driver.emptied(emptied),
                    Err(error) => tracing::error!(%error, "a task that empties a node ended early"),
                }
                driver.empty_next();
            }
            Some(event) = nodes.next() => match event {
                Ok(event) => driver.node_event(event),
                Err(error) => tracing::warn!(%error, "the watch of nodes is started again"),
            },
            Some(event) = pods.next() => match event {
                Ok(event) => driver.pod_event(event),
                Err(error) => tracing::warn!(%error, "the watch of pods is started again"),
            },
            Some(news) = others.next() => driver.news(news),
            () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
        }
    }
}

impl Driver {
    /// One that knows nothing yet.
    fn new(config: Config) -> Self {
        Self {
            notices: Notices::start(config.client.clone()),
            client: config.client,
            profiles: config.settings.profiles,
            snapshot: Snapshot::default(),
            decider: Decider::default(),
            queue: Queue::new(config.settings.backoff),
            binding: JoinSet::new(),
            watched: news::Watched::default(),
            emptying: JoinSet::new(),
            to_empty: VecDeque::new(),
            preparing: HashMap::new(),
            untold: gang::Untold::new(),
            metrics: config.metrics,
            first_seen: HashMap::new(),
        }
    }

    /// Decides about active pods; tells whether there are more.
    fn schedule(&mut self) -> bool {
        if !self.watched.are_listed() {
            return false;
        }
        self.give_up_late(Instant::now());
        self.tell_groups(Instant::now());
        self.queue.advance(Instant::now());
        for _ in 0..MAX_DECISIONS {
            if self.binding.len() >= MAX_BINDING {
                return false;
            }
            let Some(pod) = self.queue.pop() else { return false };
            let since = Instant::now();
            if let Some(group) = self.gang_of(&pod).cloned() {
                self.schedule_gang(&pod, &group, since);
                continue;
            }
            self.snapshot.attend(&pod.shape);
            match self.decider.decide(&self.snapshot, &pod) {
                Decision::Bind(node) => {
                    tracing::debug!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %node, "bind");
                    self.assume(&pod, &node);
                    self.spawn_binding(pod, node, since);
                }
                Decision::Prepare(node, work) => {
                    tracing::debug!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %node, ?work, "prepare");
                    self.assume(&pod, &node);
                    self.snapshot.assume(&node, &work);
                    self.spawn_preparation(pod, node, since, work);
                }
                Decision::Preempt(preemption, error) => {
                    let node = &preemption.node;
                    tracing::debug!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %node, victims = ?preemption.victims, "preempt");
                    self.preempt(&pod, preemption);
                    self.unfit(&pod, since, &error);
                }
                Decision::Unfit(error) => {
                    tracing::debug!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %error, "no node fits");
                    if !is_awaited(&self.snapshot, &pod) {
                        self.renounce(&pod.key);
                    }
                    self.give_back(&pod, &error);
                    self.unfit(&pod, since, &error);
                }
            }
        }
        true
    }

    /// The pod counts as placed from now on.
    fn assume(&mut self, pod: &Arc<PodFacts>, node: &str) {
        let nominated = self.snapshot.nomination(&pod.key);
        self.place(pod, node);
        match nominated.is_some() && nominated == self.snapshot.slot(node) {
            // Its node was emptied for it alone: others for whom one is being emptied would be tried in vain.
            true => self.queue.next_without_node(&pod.shape, Instant::now()),
            false => self.queue.next_like(&pod.shape, Instant::now()),
        }
    }

    /// Places the pod and wakes whom that can help: where it came to, what it claimed elsewhere, what it took before.
    fn place(&mut self, pod: &PodFacts, node: &str) {
        let claimed = self.snapshot.nomination(&pod.key);
        let had = self.snapshot.placed(&pod.key).map(|(slot, placed)| (slot, Arc::clone(&placed.shape)));
        if !self.snapshot.place(pod, node) {
            return;
        }
        self.moved(Moved::Came(&pod.shape));
        let here = self.snapshot.slot(node);
        let claimed = claimed.filter(|slot| Some(*slot) != here);
        // One that only begins to end takes as much as before; a try in vain would lengthen the backoff of who waits for it.
        let had = had.filter(|(slot, shape)| Some(*slot) != here || !shape.weighs_like(&pod.shape));
        for slot in claimed.into_iter().chain(had.map(|(slot, _)| slot)) {
            self.moved(Moved::Left(slot));
        }
    }

    fn moved(&mut self, moved: Moved<'_>) {
        let snapshot = &self.snapshot;
        self.queue.move_those(Instant::now(), |shape, causes| hint::helps(snapshot, moved, shape, causes));
    }

    /// The pod waits in its line from now on. What it does itself comes before, so that it does not wake it.
    fn unfit(&mut self, pod: &Arc<PodFacts>, since: Instant, error: &FitError) {
        let is_nominated = self.snapshot.nomination(&pod.key).is_some();
        self.queue.unfit(&pod.key, hint::causes(error), is_nominated, Instant::now());
        self.metrics.attempted(Ended::unschedulable(pod), since.elapsed().as_secs_f64());
        self.notices.send(Notice::Unfit(Arc::clone(pod), error.to_string()));
    }

    fn spawn_binding(&mut self, pod: Arc<PodFacts>, node: Box<str>, since: Instant) {
        let client = self.client.clone();
        self.binding.spawn(async move {
            let result = bind(client, &pod, &node).await;
            Bound { pod, node, since, result, prepared: Vec::new() }
        });
    }

    fn bound(&mut self, bound: Bound) {
        let Bound { pod, node, since, result, prepared } = bound;
        match result {
            Ok(()) if !prepared.is_empty() => {
                self.snapshot.devices.wrote(&prepared);
                self.prepared(pod, node, since);
            }
            Ok(()) => {
                self.metrics.attempted(Ended::scheduled(&pod), since.elapsed().as_secs_f64());
                if self.uid_of(&pod.key) == Some(&pod.uid) {
                    if let Some(seen) = self.first_seen.remove(&pod.key) {
                        self.metrics.bound(seen.elapsed().as_secs_f64());
                    }
                    self.queue.remove(&pod.key);
                }
                self.notices.send(Notice::Bound(pod, node));
            }
            Err(error) => {
                self.snapshot.forget(&prepared);
                self.not_bound(&pod);
                self.metrics.attempted(Ended::error(&pod), since.elapsed().as_secs_f64());
                let gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
                if !gone {
                    tracing::warn!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %node, %error, "binding failed");
                    self.notices.send(Notice::Failed(pod, format!("binding rejected: {error}")));
                }
            }
        }
    }

    /// The pod gives its place back and is tried again.
    fn not_bound(&mut self, pod: &Arc<PodFacts>) {
        if self.waits(pod) {
            if let Some(slot) = self.snapshot.unplace(&pod.key) {
                self.moved(Moved::Left(slot));
            }
        } else if self.snapshot.placed_uid(&pod.key) == Some(&pod.uid) {
            // The watch has told meanwhile that another one bound it: its place is real.
            self.first_seen.remove(&pod.key);
        }
        self.queue.failed(pod, Instant::now());
        self.queue.next_like(&pod.shape, Instant::now());
        self.gather_for(&pod.shape, false);
    }

    /// The uid of the pod that the key stands for now. An answer about an earlier pod of that name is late.
    fn uid_of(&self, key: &str) -> Option<&Arc<str>> {
        self.queue.get(key).map(|pod| &pod.uid).or_else(|| self.snapshot.placed_uid(key))
    }

    /// Whether this very pod, not another one of its name, still waits or is in hand.
    fn waits(&self, pod: &PodFacts) -> bool {
        self.queue.get(&pod.key).is_some_and(|waiting| waiting.uid == pod.uid)
    }

    fn pod_event(&mut self, event: watcher::Event<Pod>) {
        match self.watched.pods.step(event) {
            Step::Keep(pod) => self.pod_applied(PodFacts::read(pod, &self.profiles)),
            Step::Forget(key) => self.pod_gone(&key),
            Step::Retain(seen) => {
                let known = self.queue.keys().chain(self.snapshot.placed_keys());
                let gone: Vec<PodKey> = known.filter(|key| !seen.contains(&***key)).cloned().collect();
                for key in gone {
                    self.pod_gone(&key);
                }
            }
            Step::Begin => {}
        }
    }

    fn pod_applied(&mut self, pod: PodFacts) {
        // A list that is read anew does not tell of the end of an earlier pod of that name.
        if self.uid_of(&pod.key).is_some_and(|uid| *uid != pod.uid) {
            self.pod_gone(&pod.key);
        }
        if pod.is_ended {
            self.pod_gone(&pod.key);
        } else if let Some(node) = &pod.node {
            self.pod_placed(&pod, node);
        } else if self.snapshot.placed_uid(&pod.key).is_some() && self.queue.get(&pod.key).is_none() {
            // Bound already; the watch only lags behind.
        } else if pod.is_ours {
            self.pod_waits(pod);
        } else {
            self.pod_gone(&pod.key);
            if pod.is_gated {
                self.notices.send(Notice::Gated(Arc::new(pod)));
            }
        }
    }

    fn pod_placed(&mut self, pod: &PodFacts, node: &str) {
        // Where the watch is faster than the answer, that answer tells the time.
        if !self.queue.is_in_hand(&pod.key) {
            self.first_seen.remove(&pod.key);
        }
        let is_new = self.snapshot.placed_uid(&pod.key) != Some(&pod.uid);
        self.queue.remove(&pod.key);
        self.preparing.remove(&pod.key);
        self.place(pod, node);
        // What this scheduler bound itself was counted when it was decided; who leaves counts no more.
        if is_new || pod.is_terminating {
            self.gather_for(&pod.shape, is_new);
        }
    }

    fn pod_waits(&mut self, pod: PodFacts) {
        self.first_seen.entry(Arc::clone(&pod.key)).or_insert_with(Instant::now);
        // Told by an earlier run of the scheduler; of this one everything is known.
        if let (Some(node), None) = (&pod.nominated, self.queue.get(&pod.key)) {
            self.snapshot.nominate(&pod.key, &pod.shape, node);
        }
        let earlier = self.queue.get(&pod.key).map(|known| Arc::clone(&known.shape));
        let shape = self.snapshot.share(&pod.shape);
        let is_new = self.queue.get(&pod.key).is_none();
        let pod = PodFacts { shape: Arc::clone(&shape), ..pod };
        if shape.group.is_some() {
            self.queue.hold(pod);
            self.gather_for(&shape, is_new || earlier.as_ref() != Some(&shape));
        } else {
            self.queue.offer(pod);
        }
        // Whoever stood behind it in line is first now.
        if let Some(earlier) = earlier.filter(|earlier| *earlier != shape) {
            self.queue.next_like(&earlier, Instant::now());
        }
    }

    fn pod_gone(&mut self, key: &str) {
        self.first_seen.remove(key);
        let placed = self.snapshot.placed(key).map(|(_, placed)| Arc::clone(&placed.shape));
        let waited = self.queue.remove(key).map(|pod| Arc::clone(&pod.shape));
        // Whatever it was woken for may help the next in line.
        if let Some(shape) = &waited {
            self.queue.next_like(shape, Instant::now());
        }
        self.preparing.remove(key);
        let awaited = self.snapshot.nomination(key);
        self.snapshot.renounce(key);
        let left = self.snapshot.unplace(key);
        for slot in awaited.into_iter().chain(left) {
            self.moved(Moved::Left(slot));
            // Who waits for several to leave is tried once all of them have.
            for key in self.snapshot.waiting_for(slot) {
                self.try_again(&key);
            }
        }
        if let Some(shape) = waited.or(placed) {
            self.gather_for(&shape, false);
        }
    }

    fn node_event(&mut self, event: watcher::Event<Node>) {
        match self.watched.nodes.step(event) {
            Step::Keep(node) => return self.node_applied(NodeFacts::new(node)),
            Step::Forget(name) => self.snapshot.remove_node(&name),
            Step::Retain(seen) => self.snapshot.retain_nodes(&seen),
            Step::Begin => return,
        }
        self.moved(Moved::Places);
    }

    fn node_applied(&mut self, node: NodeFacts) {
        if let Some(slot) = self.snapshot.set_node(node) {
            self.moved(Moved::Node(slot));
        }
    }
}

/// Whether others are still leaving the node that the pod waits for.
fn is_awaited(snapshot: &Snapshot, pod: &PodFacts) -> bool {
    snapshot.nomination(&pod.key).is_some_and(|slot| snapshot.is_emptied(slot, pod.shape.priority))
}

/// POST pods/x/binding; the uid makes sure that it is still the same pod.
async fn bind(client: kube::Client, pod: &PodFacts, node: &str) -> Result<(), kube::Error> {
    let (namespace, name) = pod.names();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let _: serde_json::Value = pods.create_subresource("binding", name, &PostParams::default(), &binding).await?;
    Ok(())
}
