//! Step 8: one task per pod uid. It feeds the pure machine and hands its commands to the executor.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_pod::facts::{Pending, PodFacts, Role};
use agent_pod::machine::step;
use agent_pod::protocol::{Command, Event, Exit, Failure};
use agent_pod::state::{Deletion, PodState, Stage};
use agent_pod::status::{HostFacts, Phase, status};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admission::REJECTED;
use crate::csi;
use crate::event::COMPONENT;
use crate::execute::{Executor, Host, sandbox, termination, volume};
use crate::metrics::PodFigures;
use crate::static_pods::{is_static, mirror};
use crate::status_patch;
use crate::timer::{Clock, moment, sleep_until_moment};

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// The pod's object, new or changed, with the resources that the node has given it.
    Object {
        /// It.
        pod: Arc<Pod>,
        /// Why these are not what it asks for.
        pending: Option<Pending>,
    },
    /// The pod's object is gone: it was deleted by force, or while the agent was away.
    Vanished,
    /// The mirror of this static pod went, or changed: it is to be shown again.
    Unmirrored,
    /// A container ended that has this name with its monitor.
    Exited {
        /// The name.
        id: String,
        /// How, without its last words.
        exit: Exit,
    },
    /// Something happened here.
    Machine(Event),
}

/// The handle of a worker.
pub(crate) struct Worker {
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    task: tokio::task::JoinHandle<()>,
    /// The pod was released: its worker ended as it should.
    released: Arc<AtomicBool>,
    /// The pod's object is gone.
    vanished: bool,
    /// Closed when the worker has ended.
    ended: watch::Receiver<()>,
}

/// So long a pod that could go waits for its last status to be written.
const LAST_WORDS: Duration = Duration::from_secs(30);

impl Worker {
    /// Starts a worker, which waits until all of these are closed. It first finds out how far the pod is. One that was
    /// refused fails at once.
    pub(crate) fn spawn(
        host: Arc<Host>,
        (pod, pending): (Arc<Pod>, Option<Pending>),
        uid: String,
        after: Vec<watch::Receiver<()>>,
        refused: Option<Failure>,
    ) -> Self {
        let (inputs, received) = mpsc::unbounded_channel();
        let state = PodState::new(facts(&pod, pending.clone()));
        let executor = Executor::new(host, uid, pod, inputs.clone());
        let (statuses, published) = watch::channel(None);
        let publisher = tokio::spawn(publish(executor.clone(), published));
        let released = Arc::<AtomicBool>::default();
        let figures = PodFigures::new(executor.host.config.metrics.clone());
        let (alive, ended) = watch::channel(());
        let run = Run {
            executor,
            pending,
            figures,
            state,
            statuses,
            publisher: Some(publisher),
            wake: None,
            clock: Clock::new(),
            deletion_seen: None,
            released: Arc::clone(&released),
            refused,
        };
        let task = tokio::spawn(async move {
            for mut other in after {
                while other.changed().await.is_ok() {}
            }
            run.run(received).await;
            drop(alive);
        });
        Self { inputs, task, released, vanished: false, ended }
    }

    /// The file that made the pod is gone: it ends in its time, and no object is to be waited for.
    pub(crate) fn end(&mut self, grace_seconds: i64) {
        self.vanished = true;
        drop(self.inputs.send(Input::Machine(Event::DeletionRequested { grace_seconds })));
    }

    /// Whether it was told that the pod is gone, and is still at it.
    pub(crate) fn is_going(&self) -> bool {
        self.vanished && !self.task.is_finished()
    }

    /// Closed when the worker has ended.
    pub(crate) fn ended(&self) -> watch::Receiver<()> {
        self.ended.clone()
    }

    /// The pod's object is gone.
    pub(crate) fn vanish(&mut self) {
        self.vanished = true;
        drop(self.inputs.send(Input::Vanished));
    }

    /// Whether nothing is to be known of the pod any more; or the worker failed, and another is to take over.
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished() && (self.vanished || !self.released.load(Ordering::Relaxed))
    }
}

struct Run {
    executor: Executor,
    /// Why the pod was not given what it asks for.
    pending: Option<Pending>,
    state: PodState,
    statuses: watch::Sender<Option<PodStatus>>,
    /// Writes them; `None` once the last one is written.
    publisher: Option<tokio::task::JoinHandle<()>>,
    wake: Option<tokio::time::Instant>,
    clock: Clock,
    /// The grace period last told to the machine.
    deletion_seen: Option<i64>,
    released: Arc<AtomicBool>,
    figures: PodFigures,
    /// Why the node does not take the pod.
    refused: Option<Failure>,
}

impl Run {
    async fn run(mut self, mut received: mpsc::UnboundedReceiver<Input>) {
        let first = crate::source::adopt(&self.executor).await;
        // What was said of the object meanwhile counts before anything is started; what happened to containers, after.
        let mut happened = Vec::new();
        let mut vanished = false;
        while let Ok(input) = received.try_recv() {
            match input {
                Input::Object { pod, pending } => {
                    self.executor.take(pod);
                    self.pending = pending;
                }
                Input::Vanished => vanished = true,
                Input::Unmirrored => {}
                Input::Exited { id, exit } => happened.extend(self.exited(&id, exit)),
                Input::Machine(event) => happened.push(event),
            }
        }
        self.find_deletion(vanished);
        self.remember();
        self.refuse(&first).await;
        if matches!(first, Event::Adopted { .. }) {
            self.figures.is_old();
            self.executor.live.is_adopted();
        }
        self.take(first).await;
        for event in happened {
            self.take(event).await;
        }
        let mut following = tokio::task::JoinSet::new();
        following.spawn(volume::live::follow(self.executor.clone()));
        following.spawn(volume::limit::watch(self.executor.clone()));
        following.spawn(csi::follow(self.executor.clone()));
        while self.state.stage != Stage::Gone {
            tokio::select! {
                input = received.recv() => match input {
                    Some(Input::Object { pod, pending }) => {
                        self.executor.take(pod);
                        self.pending = pending;
                        self.see_change().await;
                    }
                    Some(Input::Exited { id, exit }) => {
                        if let Some(event) = self.exited(&id, exit) {
                            self.take(event).await;
                        }
                    }
                    Some(Input::Vanished) => self.take(Event::DeletionRequested { grace_seconds: 0 }).await,
                    Some(Input::Machine(event)) => self.take(event).await,
                    Some(Input::Unmirrored) => self.publish_again(),
                    None => return,
                },
                () = sleep_until_moment(self.wake) => {
                    self.wake = None;
                    self.take(Event::Tick).await;
                }
            }
        }
        self.released.store(true, Ordering::Relaxed);
    }

    /// A deletion that was asked for before this worker began: what is left of its grace is told by its time.
    fn find_deletion(&mut self, vanished: bool) {
        let (metadata, now) = (&self.executor.pod.metadata, Timestamp::now());
        let asked = metadata.deletion_timestamp.as_ref().map(|time| {
            let grace = metadata.deletion_grace_period_seconds.unwrap_or(0).clamp(0, i64::from(i32::MAX));
            self.deletion_seen = Some(grace);
            let whole = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
            time.0.min(whole)
        });
        let deadline = if vanished { Some(now) } else { asked };
        self.state.deletion = deadline.map(|deadline| Deletion { deadline });
    }

    /// What the status says of the pod as a whole, and no container does: since when it is here, and that it has failed.
    fn remember(&mut self) {
        let Some(status) = &self.executor.pod.status else { return };
        self.state.started_at = status.start_time.as_ref().map(|time| time.0);
        if status.phase.as_deref() == Some(Phase::Failed.as_str()) {
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            self.state.failed = Some(Failure { reason: text(&status.reason), message: text(&status.message) });
        }
    }

    /// Nothing of a refused pod is started. One that is here already is not refused.
    async fn refuse(&mut self, first: &Event) {
        let Some(failure) = self.refused.take().filter(|_| matches!(first, Event::Assigned)) else { return };
        let host = Arc::clone(&self.executor.host);
        let message = failure.message.strip_prefix(REJECTED).unwrap_or(&failure.message);
        host.recorder.refused(&host.client, &self.executor.pod, &failure.reason, message).await;
        self.state.failed.get_or_insert(failure);
    }

    /// The end of a container, with what it left for people.
    fn exited(&self, id: &str, mut exit: Exit) -> Option<Event> {
        let (container, attempt) = sandbox::parse_id(&self.executor.pod, id)?;
        exit.message = termination::message(&self.executor, container, attempt, exit.code);
        Some(Event::ContainerExited { container, attempt, exit })
    }

    async fn see_change(&mut self) {
        self.see_deletion().await;
        let facts = facts(&self.executor.pod, self.pending.clone());
        if facts != self.state.facts {
            self.take(Event::SpecChanged(facts)).await;
        } else {
            // The generation that was seen, and conditions that others wrote, are part of the status.
            self.publish(Timestamp::now());
        }
    }

    async fn see_deletion(&mut self) {
        let metadata = &self.executor.pod.metadata;
        if metadata.deletion_timestamp.is_none() {
            return;
        }
        let grace_seconds = metadata.deletion_grace_period_seconds.unwrap_or(0);
        if self.deletion_seen.is_none_or(|seen| grace_seconds < seen) {
            self.deletion_seen = Some(grace_seconds);
            self.take(Event::DeletionRequested { grace_seconds }).await;
        }
    }

    async fn take(&mut self, event: Event) {
        let began = Instant::now();
        // Most of what happens to a pod that is up: a probe is asked, and its answer changes nothing.
        let is_routine = matches!(event, Event::Tick | Event::Probed { .. });
        let readiness = is_routine.then(|| self.state.readiness());
        let placeholder = PodState::new(PodFacts::default());
        let mut state = std::mem::replace(&mut self.state, placeholder);
        let (now, leap) = self.clock.look();
        if let Some(by) = leap {
            tracing::info!(uid = self.executor.uid, %by, "the clock was set");
            state.clock_was_set(by);
        }
        let (state, commands) = step(state, now, event);
        debug_assert_eq!(state.validate(), Ok(()));
        self.state = state;
        self.executor.pod_ips.clone_from(&self.state.ips);
        let roles = self.state.facts.containers.iter().map(|facts| facts.role);
        let all = self.state.containers.iter().zip(roles).all(|(own, role)| role != Role::App || own.is_running());
        let running = self.state.containers.iter().filter(|container| container.is_running()).count();
        self.figures.show(running, all && running > 0);
        self.wake = None;
        let is_routine = readiness.is_some_and(|before| before == self.state.readiness())
            && commands.iter().all(|command| matches!(command, Command::Probe { .. } | Command::WakeAt(_)));
        for command in commands {
            match command {
                Command::WakeAt(at) => self.wake = Some(moment(at, now)),
                // The last command: nothing may run beside or after it.
                Command::Release => {
                    self.say_last_words().await;
                    drop(self.executor.clone().run(Command::Release).await);
                }
                command => {
                    let executor = self.executor.clone();
                    tokio::spawn(async move {
                        let inputs = executor.inputs.clone();
                        if let Some(event) = executor.run(command).await {
                            // The worker is gone only when the pod is.
                            drop(inputs.send(Input::Machine(event)));
                        }
                    });
                }
            }
        }
        if !is_routine {
            self.publish(now);
        }
        self.executor.host.config.metrics.worked(began.elapsed());
    }

    /// Who looks at a pod that is gone but for a finalizer, or at its last event, sees how it has ended.
    async fn say_last_words(&mut self) {
        if is_static(&self.executor.pod) {
            return;
        }
        self.statuses = watch::channel(None).0;
        let Some(publisher) = self.publisher.take() else { return };
        match tokio::time::timeout(LAST_WORDS, publisher).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, uid = self.executor.uid, "writing the pod's status"),
            Err(_) => tracing::warn!(uid = self.executor.uid, "the pod goes before its last status is written"),
        }
    }

    /// Says how the pod does, news or not.
    fn publish_again(&self) {
        self.publish(Timestamp::now());
        self.statuses.send_modify(|_| ());
    }

    /// Says how the pod does, if that is news.
    fn publish(&self, now: Timestamp) {
        if self.state.stage == Stage::Gone {
            return;
        }
        let own = &self.executor.host;
        let host =
            HostFacts { ips: vec![own.config.node_ip.to_string()], recursive_read_only: own.recursive_read_only };
        let status = status(&self.state, &self.executor.pod, &host, now);
        self.statuses.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&status);
            *current = Some(status);
            changed
        });
    }
}

/// What the machine is to know of a pod here.
fn facts(pod: &Pod, pending: Option<Pending>) -> PodFacts {
    PodFacts { pending, ..PodFacts::of(pod) }
}

/// Step 12: writes the newest status, one write at a time; states that were overtaken are never written.
async fn publish(executor: Executor, mut statuses: watch::Receiver<Option<PodStatus>>) {
    let api: Api<Pod> = Api::namespaced(executor.host.client.clone(), executor.namespace());
    let params = PatchParams { field_manager: Some(COMPONENT.into()), ..Default::default() };
    while statuses.changed().await.is_ok() {
        let Some(status) = statuses.borrow_and_update().clone() else { continue };
        let (mut wait, mut is_last) = (Duration::from_millis(100), false);
        loop {
            let uid = match is_static(&executor.pod) {
                true => mirror::ensure(&executor).await,
                false => Ok(Some(executor.uid.clone())),
            };
            let written = match uid {
                // Its name is somebody else's: there is no mirror.
                Ok(None) => break,
                Ok(Some(uid)) => {
                    let patch = status_patch::of(&uid, &status);
                    api.patch_status(executor.name(), &params, &Patch::Strategic(patch)).await.map(drop)
                }
                Err(error) => Err(error),
            };
            match written {
                Ok(()) => break,
                // A mirror that went meanwhile is made anew.
                Err(kube::Error::Api(answer)) if is_static(&executor.pod) && matches!(answer.code, 404 | 409) => {}
                // Gone, or not this node's any more.
                Err(kube::Error::Api(answer)) if matches!(answer.code, 403 | 404 | 422) => break,
                // Replaced by another of its name; or somebody else wrote at the same time.
                Err(kube::Error::Api(answer)) if answer.code == 409 => match api.get_opt(executor.name()).await {
                    Ok(Some(pod)) if pod.metadata.uid.as_ref() == Some(&executor.uid) => {}
                    Ok(_) => break,
                    Err(error) => tracing::warn!(%error, uid = executor.uid, "looking for the pod"),
                },
                Err(error) => tracing::warn!(%error, uid = executor.uid, "writing the pod's status"),
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(10)),
                changed = statuses.changed(), if !is_last => match changed {
                    Ok(()) => {
                        statuses.mark_changed();
                        break;
                    }
                    // What a mirror shows goes with it.
                    Err(_) if is_static(&executor.pod) => return,
                    // Nothing newer will come: this one is tried on.
                    Err(_) => is_last = true,
                },
            }
        }
    }
}

/// Waits for a child of this process so that it leaves no zombie.
pub(crate) fn reap(pid: i32, pidfd: OwnedFd) {
    let wait = async move {
        #[expect(
            deprecated,
            reason = "its successor is unsafe; here the AsyncFd alone owns the descriptor, so it stays open"
        )]
        let Ok(ready) = tokio::io::unix::AsyncFd::new(pidfd) else { return };
        if ready.readable().await.is_ok() {
            let flags = rustix::process::WaitIdOptions::EXITED;
            // The exit status is nobody's business: the worker saw the socket close.
            if let Err(error) = rustix::process::waitid(rustix::process::WaitId::PidFd(ready.get_ref().as_fd()), flags)
            {
                tracing::debug!(%error, pid, "waiting for a monitor");
            }
            tracing::debug!(pid, "a monitor ended");
        }
    };
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(wait)),
        Err(error) => tracing::error!(%error, pid, "no runtime to wait for a monitor"),
    }
}
