//! What the machine needs to know of a pod's spec.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::SignedDuration;

use crate::probe::{ProbeFacts, ProbeKind};

/// `terminationGracePeriodSeconds` of a pod that gives none.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    #[default]
    Always,
    /// When its exit code is not zero.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    fn parse(word: &str) -> Self {
        match word {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// A container's own `restartPolicy`, which goes before the pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRestart {
    /// `restartPolicy`.
    pub policy: RestartPolicy,
    /// `restartPolicyRules`: the exit codes that restart it whatever the policy.
    pub rules: Vec<ExitCodes>,
}

/// `exitCodes` of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitCodes {
    /// `operator` is `NotIn`.
    pub is_negated: bool,
    /// `values`.
    pub values: Vec<i32>,
}

impl OwnRestart {
    fn restarts(&self, code: i32) -> bool {
        self.rules.iter().any(|rule| rule.values.contains(&code) != rule.is_negated) || self.policy.restarts(code)
    }
}

/// When an image is asked for at its registry. `imagePullPolicy`; the API server fills it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every start: what the name means may have changed.
    Always,
    /// When it is not on the node.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others until they ended.
    Sidecar,
    /// A container of `spec.containers`.
    App,
    /// A container of `spec.ephemeralContainers`: added to a pod that is up, run once, and counted for nothing.
    Ephemeral,
}

/// What of a container's `resources` may change while it runs: processor time in thousandths, memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`.
    pub cpu_request: Option<i64>,
    /// `limits.cpu`.
    pub cpu_limit: Option<i64>,
    /// `requests.memory`.
    pub memory_request: Option<i64>,
    /// `limits.memory`.
    pub memory_limit: Option<i64>,
}

impl Resources {
    /// What a container's `resources` say, in its spec or in its status.
    pub fn of(resources: Option<&ResourceRequirements>) -> Self {
        let amounts =
            |pick: fn(&ResourceRequirements) -> Option<&RawAmounts>| api::pod::amounts(resources.and_then(pick));
        let (requests, limits) = (amounts(|own| own.requests.as_ref()), amounts(|own| own.limits.as_ref()));
        Self {
            cpu_request: requests.get("cpu").map(|amount| amount.milli()),
            cpu_limit: limits.get("cpu").map(|amount| amount.milli()),
            memory_request: requests.get("memory").map(|amount| amount.value()),
            memory_limit: limits.get("memory").map(|amount| amount.value()),
        }
    }

    fn cpu(&self) -> [Option<i64>; 2] {
        [self.cpu_request, self.cpu_limit]
    }

    fn memory(&self) -> [Option<i64>; 2] {
        [self.memory_request, self.memory_limit]
    }
}

type RawAmounts = std::collections::BTreeMap<String, Quantity>;

/// Why the node has not given a pod what its spec asks for since it was changed. `PodResizePending`; both hold a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// Others have it now: it is given when they leave.
    Deferred(String),
    /// The node never can.
    Infeasible(String),
}

impl Pending {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deferred(_) => "Deferred",
            Self::Infeasible(_) => "Infeasible",
        }
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        match self {
            Self::Deferred(message) | Self::Infeasible(message) => message,
        }
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// `name`.
    pub name: String,
    /// `image`.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull: PullPolicy,
    /// Its part.
    pub role: Role,
    /// Its own restart policy.
    pub restart: Option<OwnRestart>,
    /// `startupProbe`, `livenessProbe`, `readinessProbe`, by [`ProbeKind`].
    pub probes: [Option<ProbeFacts>; 3],
    /// It has a `lifecycle.postStart`.
    pub has_post_start: bool,
    /// It has a `lifecycle.preStop`.
    pub has_pre_stop: bool,
    /// `resources`.
    pub resources: Resources,
    /// Its `resizePolicy` wants a restart for another amount of processor time.
    pub restarts_for_cpu: bool,
    /// The same for memory.
    pub restarts_for_memory: bool,
    /// Fields of an ephemeral container that this agent cannot honour.
    pub unsupported: Vec<String>,
}

impl ContainerFacts {
    /// A container that says nothing more of itself.
    pub fn new(name: &str, image: &str, pull: PullPolicy, role: Role) -> Self {
        let (restart, probes) = (None, [None, None, None]);
        let (name, image) = (name.to_owned(), image.to_owned());
        Self {
            name,
            image,
            pull,
            role,
            restart,
            probes,
            has_post_start: false,
            has_pre_stop: false,
            resources: Resources::default(),
            restarts_for_cpu: false,
            restarts_for_memory: false,
            unsupported: vec![],
        }
    }

    /// Whether going from these resources to its own takes a restart.
    pub(crate) fn restarts_from(&self, before: &Resources) -> bool {
        self.restarts_for_cpu && before.cpu() != self.resources.cpu()
            || self.restarts_for_memory && before.memory() != self.resources.memory()
    }

    /// How it is probed.
    pub fn probe(&self, kind: ProbeKind) -> Option<&ProbeFacts> {
        self.probes[kind as usize].as_ref()
    }

    fn of(container: &Container, role: Role) -> Self {
        let pull = match container.image_pull_policy.as_deref() {
            Some("Always") => PullPolicy::Always,
            Some("Never") => PullPolicy::Never,
            _ => PullPolicy::IfNotPresent,
        };
        let lifecycle = container.lifecycle.as_ref();
        let restarts_for = |resource: &str| {
            let mut policies = container.resize_policy.iter().flatten();
            policies.any(|own| own.resource_name == resource && own.restart_policy == "RestartContainer")
        };
        let rule = |rule: &ContainerRestartRule| {
            let codes = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart")?;
            let values = codes.values.clone().unwrap_or_default();
            Some(ExitCodes { is_negated: codes.operator == "NotIn", values })
        };
        Self {
            restart: container.restart_policy.as_deref().map(|policy| OwnRestart {
                policy: RestartPolicy::parse(policy),
                rules: container.restart_policy_rules.iter().flatten().filter_map(rule).collect(),
            }),
            probes: [&container.startup_probe, &container.liveness_probe, &container.readiness_probe]
                .map(|probe| probe.as_ref().map(ProbeFacts::of)),
            has_post_start: lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()),
            has_pre_stop: lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some()),
            resources: Resources::of(container.resources.as_ref()),
            restarts_for_cpu: restarts_for("cpu"),
            restarts_for_memory: restarts_for("memory"),
            unsupported: match role {
                Role::Ephemeral => crate::support::unsupported_ephemeral(container),
                // These are the pod's.
                Role::Init | Role::Sidecar | Role::App => vec![],
            },
            ..Self::new(&container.name, container.image.as_deref().unwrap_or_default(), pull, role)
        }
    }
}

/// One pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace_seconds: i64,
    /// `spec.activeDeadlineSeconds`, counted from the pod's start time.
    pub active_deadline: Option<SignedDuration>,
    /// Init containers in order, then the others, then ephemeral ones.
    pub containers: Vec<ContainerFacts>,
    /// Fields that this agent cannot honour, by path; empty for a pod that can run.
    pub unsupported: Vec<String>,
    /// It has claims to devices, which others may have once it has ended.
    pub has_device_claims: bool,
    /// Why its containers' resources are not what its spec asks for. The facts of containers hold what they are to have.
    pub pending: Option<Pending>,
    /// Made of the uid: which part of a period, in 65536ths, this pod's probes wait after an agent came back, so that
    /// the pods of a node are not all probed at once.
    pub spread: u16,
}

/// The containers of a pod in the order in which the machine counts them.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (Container, Role)> + '_ {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten().cloned().map(|container| {
        let role = if api::pod::is_sidecar(&container) { Role::Sidecar } else { Role::Init };
        (container, role)
    });
    let apps = spec.into_iter().flat_map(|spec| &spec.containers).cloned().map(|container| (container, Role::App));
    let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_ref()).into_iter().flatten();
    init.chain(apps).chain(ephemeral.map(|container| (of_ephemeral(container), Role::Ephemeral)))
}

/// An ephemeral container as a container. Its probes, hooks, ports and resources are refused by the API server.
fn of_ephemeral(ephemeral: &EphemeralContainer) -> Container {
    let own = ephemeral.clone();
    Container {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        name: own.name,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
        ..Container::default()
    }
}

impl PodFacts {
    /// The facts of a pod as the API server gives it.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            let unsupported = vec!["spec".to_owned()];
            return Self { restart_policy: RestartPolicy::Never, unsupported, ..Self::default() };
        };
        // FNV-1a: any hash would do that is the same in every process.
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let hash = uid.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self {
            pending: None,
            restart_policy: RestartPolicy::parse(spec.restart_policy.as_deref().unwrap_or_default()),
            grace_seconds: spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS),
            active_deadline: spec.active_deadline_seconds.map(SignedDuration::from_secs),
            containers: containers(pod).map(|(container, role)| ContainerFacts::of(&container, role)).collect(),
            unsupported: crate::support::unsupported(spec),
            has_device_claims: spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()),
            spread: (hash >> 16) as u16,
        }
    }

    /// Whether a container that ended with `code` runs again.
    pub fn restarts(&self, index: usize, code: i32) -> bool {
        let container = &self.containers[index];
        let by_policy = || match &container.restart {
            Some(own) => own.restarts(code),
            None => self.restart_policy.restarts(code),
        };
        match container.role {
            Role::Sidecar => true,
            Role::App => by_policy(),
            // An init container that succeeded is done whatever the policy.
            Role::Init => code != 0 && by_policy(),
            Role::Ephemeral => false,
        }
    }

    /// Whether a container that was ended because of a probe runs again, whatever its exit code. Rules by exit code do
    /// not count: it was not the container that chose the code.
    pub fn restarts_after_probe(&self, index: usize) -> bool {
        let container = &self.containers[index];
        let policy = container.restart.as_ref().map_or(self.restart_policy, |own| own.policy);
        container.role == Role::Sidecar || policy != RestartPolicy::Never
    }
}
