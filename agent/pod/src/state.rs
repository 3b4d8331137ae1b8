//! What the machine remembers of a pod.

use k8s_openapi::jiff::Timestamp;

use crate::backoff::Backoff;
use crate::facts::{PodFacts, Resources, Role};
use crate::probe::{ProbeKind, Probes};
use crate::protocol::{Effective, Exit, Failure, ImageNames};
use crate::resize::Resize;

/// How far the pod as a whole is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was done yet.
    Assigned,
    /// It uses fields that cannot be honoured; it waits for its deletion.
    Refused,
    /// Volumes are set up while namespaces and network are made.
    SettingUp {
        /// The volumes.
        volumes: Part,
        /// The sandbox.
        sandbox: Part,
    },
    /// The sandbox is up: containers go by their own stages.
    Up,
    /// Namespaces and network are being torn down.
    StoppingSandbox,
    /// Volumes are being torn down.
    TearingDownVolumes,
    /// All containers ended for good and nothing but the object is left.
    Finished,
    /// The object was released; the machine is done.
    Gone,
}

/// How far one of the things is that containers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It is being made: an answer is on its way.
    Working,
    /// It is there.
    Ready,
    /// It failed; it is tried again at this time.
    BackingOff(Timestamp, Failure),
}

/// How far one container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStage {
    /// Its turn has not come.
    Waiting,
    /// Its image is being made sure of.
    EnsuringImage,
    /// Its image could not be fetched, which people are told until they are told that it is waited.
    PullFailed {
        /// When they are.
        told_until: Timestamp,
        /// When it is tried again.
        until: Timestamp,
        /// Why it failed.
        message: String,
    },
    /// It is being created and started.
    Starting,
    /// It runs, and so does its postStart hook; people see that it waits.
    Settling {
        /// Since when.
        started_at: Timestamp,
    },
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It will be tried again at this time.
    BackingOff {
        /// When.
        until: Timestamp,
        /// What `kubectl get` shows: `CrashLoopBackOff`, `ImagePullBackOff`, ...
        why: Failure,
    },
    /// It ended for good.
    Ended,
}

/// What was done to end a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing.
    No,
    /// Its preStop hook runs, so long at most.
    Hook { until: Timestamp },
    /// It waits for others to end before it, so long at most.
    Turn { until: Timestamp },
    /// It was asked to end, and is killed then.
    Asked { kill_at: Timestamp },
    /// It was killed.
    Killed,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Where it is.
    pub stage: ContainerStage,
    /// How often it was started before; the next start has this number. Equals the restart count while it runs.
    pub attempt: u32,
    /// Whether attempt 0 was ever started.
    pub was_started: bool,
    /// The image it runs, once known.
    pub image: ImageNames,
    /// How the newest start that ended, ended, and when that one had started.
    pub last: Option<(Exit, Option<Timestamp>)>,
    /// Some start of it was complete: postStart hook and startup probe have succeeded.
    pub came_up: bool,
    /// As what it was started last.
    pub effective: Option<Effective>,
    /// The resources that it has while it runs.
    pub applied: Resources,
    pub(crate) resize: Resize,
    pub(crate) stop: Stop,
    /// It is ended to be started again, whatever its exit code.
    pub(crate) restarts_anyway: bool,
    pub(crate) probes: Probes,
    pub(crate) backoff: Backoff,
}

impl Container {
    pub(crate) fn new() -> Self {
        Self {
            stage: ContainerStage::Waiting,
            attempt: 0,
            was_started: false,
            image: ImageNames::default(),
            last: None,
            came_up: false,
            effective: None,
            applied: Resources::default(),
            resize: Resize::Done,
            stop: Stop::No,
            restarts_anyway: false,
            probes: Probes::default(),
            backoff: Backoff::default(),
        }
    }

    /// Whether a process of it may exist.
    pub fn is_alive(&self) -> bool {
        match self.stage {
            ContainerStage::Starting | ContainerStage::Settling { .. } | ContainerStage::Running { .. } => true,
            ContainerStage::Waiting
            | ContainerStage::EnsuringImage
            | ContainerStage::PullFailed { .. }
            | ContainerStage::BackingOff { .. }
            | ContainerStage::Ended => false,
        }
    }

    /// Whether it runs and its postStart hook is done.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, ContainerStage::Running { .. })
    }

    /// Since when there is a process of it.
    pub(crate) fn runs_since(&self) -> Option<Timestamp> {
        match self.stage {
            ContainerStage::Settling { started_at } | ContainerStage::Running { started_at } => Some(started_at),
            ContainerStage::Waiting
            | ContainerStage::EnsuringImage
            | ContainerStage::PullFailed { .. }
            | ContainerStage::Starting
            | ContainerStage::BackingOff { .. }
            | ContainerStage::Ended => None,
        }
    }

    /// Whether it ended for good, and well.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.stage == ContainerStage::Ended && self.last.as_ref().is_some_and(|(exit, _)| exit.code == 0)
    }
}

/// A deletion that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// When what still runs is killed.
    pub deadline: Timestamp,
}

/// The failed pulls of one image in one pod: containers that share it wait together, as with the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedPull {
    pub(crate) image: String,
    pub(crate) backoff: Backoff,
    /// When it is tried again.
    pub(crate) until: Timestamp,
    pub(crate) message: String,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    /// What its spec says.
    pub facts: PodFacts,
    /// How far it is.
    pub stage: Stage,
    /// In the order of the facts.
    pub containers: Vec<Container>,
    /// Its addresses, while the sandbox is up.
    pub ips: Vec<String>,
    /// When the machine first acted on it.
    pub started_at: Option<Timestamp>,
    /// Whether it is being deleted.
    pub deletion: Option<Deletion>,
    /// Why the pod as a whole has failed, whatever its containers do: `status.reason` and `status.message`.
    pub failed: Option<Failure>,
    /// The node needs what it had, or goes.
    pub(crate) is_disrupted: bool,
    /// When what outlives a pod that is over is killed.
    pub(crate) winding_down: Option<Timestamp>,
    /// The monitor of a sandbox that is being made has died already: the answer, when it comes, is out of date.
    pub(crate) sandbox_died: bool,
    /// Some container is on its way to other resources.
    pub(crate) is_resizing: bool,
    pub(crate) volume_backoff: Backoff,
    pub(crate) sandbox_backoff: Backoff,
    pub(crate) failed_pulls: Vec<FailedPull>,
}

impl PodState {
    /// A pod that nothing was done for yet.
    pub fn new(facts: PodFacts) -> Self {
        let containers = facts.containers.iter().map(|_| Container::new()).collect();
        Self {
            facts,
            stage: Stage::Assigned,
            containers,
            ips: Vec::new(),
            started_at: None,
            deletion: None,
            failed: None,
            is_disrupted: false,
            winding_down: None,
            sandbox_died: false,
            is_resizing: false,
            volume_backoff: Backoff::default(),
            sandbox_backoff: Backoff::default(),
            failed_pulls: Vec::new(),
        }
    }

    pub(crate) fn role(&self, index: usize) -> Role {
        self.facts.containers[index].role
    }

    /// Whether an init container failed for good.
    pub fn init_failed(&self) -> bool {
        self.with_roles().any(|(container, role)| {
            role == Role::Init
                && container.stage == ContainerStage::Ended
                && container.last.as_ref().is_some_and(|(exit, _)| exit.code != 0)
        })
    }

    /// Whether every init container ended well and every sidecar has come up.
    pub fn is_initialized(&self) -> bool {
        self.with_roles().all(|(container, role)| match role {
            Role::Init => container.has_succeeded(),
            Role::Sidecar => container.came_up,
            Role::App | Role::Ephemeral => true,
        })
    }

    /// Whether no container will ever run again of its own.
    pub fn is_terminal(&self) -> bool {
        let has_apps = self.facts.containers.iter().any(|facts| facts.role == Role::App);
        self.failed.is_some()
            || self.init_failed()
            || has_apps
                && self.with_roles().all(|(container, role)| match role {
                    Role::App => container.stage == ContainerStage::Ended,
                    Role::Init | Role::Sidecar | Role::Ephemeral => true,
                })
    }

    /// Whether all that still runs is being ended.
    pub(crate) fn goes_down(&self) -> bool {
        self.deletion.is_some() || self.is_terminal()
    }

    /// Whether a container takes requests.
    pub fn is_ready(&self, index: usize) -> bool {
        let (facts, container) = (&self.facts.containers[index], &self.containers[index]);
        match facts.role {
            Role::Init => container.has_succeeded(),
            // Nobody waits for it.
            Role::Ephemeral => false,
            Role::Sidecar | Role::App => {
                let says_so = facts.probe(ProbeKind::Readiness).is_none() || container.probes.ready;
                self.is_started(index) && says_so
            }
        }
    }

    /// What probes have said of each container: whether it is started, and ready.
    pub fn readiness(&self) -> Vec<(bool, bool)> {
        (0..self.containers.len()).map(|index| (self.is_started(index), self.is_ready(index))).collect()
    }

    /// Whether a container runs and its startup probe has succeeded.
    pub fn is_started(&self, index: usize) -> bool {
        self.containers[index].is_running() && self.containers[index].probes.started
    }

    pub(crate) fn with_roles(&self) -> impl Iterator<Item = (&Container, Role)> {
        self.containers.iter().zip(self.facts.containers.iter().map(|facts| facts.role))
    }

    /// What must hold after every step; tests call it.
    pub fn validate(&self) -> Result<(), String> {
        if self.containers.len() != self.facts.containers.len() {
            return Err("every container of the spec has a state".into());
        }
        for (index, container) in self.containers.iter().enumerate() {
            if container.stop != Stop::No && container.runs_since().is_none() {
                return Err(format!("container {index} does not run and is being ended"));
            }
            if container.probes != Probes::default() && !container.is_running() {
                return Err(format!("container {index} does not run and has been probed"));
            }
        }
        let up = matches!(self.stage, Stage::Up);
        if !up && self.containers.iter().any(|container| container.is_alive()) {
            return Err(format!("a container is alive in stage {:?}", self.stage));
        }
        let app_alive = self.with_roles().any(|(c, role)| role == Role::App && c.is_alive());
        let init_alive = self.with_roles().any(|(c, role)| role == Role::Init && c.is_alive());
        if app_alive && init_alive {
            return Err("containers run while an init container does".into());
        }
        if app_alive && self.deletion.is_none() && !self.is_initialized() {
            return Err("containers run before the pod is initialized".into());
        }
        Ok(())
    }
}
