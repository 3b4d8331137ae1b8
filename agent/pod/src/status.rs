//! Step 12: the PodStatus that a state amounts to.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::facts::Role;
use crate::protocol::{Exit, Failure, ImageFault};
use crate::state::{Container, ContainerStage, PodState, Stage};

/// The pod's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Some container never ran yet.
    Pending,
    /// At least one runs, starts or will again.
    Running,
    /// All ended with exit code zero.
    Succeeded,
    /// All ended, one of them badly.
    Failed,
}

impl Phase {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The phase of a state. Kubernetes documentation, "Pod Lifecycle", pod phase.
pub fn phase(pod: &PodState) -> Phase {
    let apps = || pod.with_roles().filter(|(_, role)| *role == Role::App).map(|(container, _)| container);
    let failed = |container: &Container| container.last.as_ref().is_none_or(|(exit, _)| exit.code != 0);
    if pod.init_failed() {
        return Phase::Failed;
    }
    let all_ended = apps().all(|container| container.stage == ContainerStage::Ended);
    if all_ended && !matches!(pod.stage, Stage::Assigned | Stage::Refused) {
        return if apps().any(failed) { Phase::Failed } else { Phase::Succeeded };
    }
    match apps().all(|container| container.was_started) {
        true => Phase::Running,
        false => Phase::Pending,
    }
}

/// What the status says of the machine the pod is on.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The node's addresses.
    pub ips: Vec<String>,
}

/// The status of a pod; `previous` keeps what others wrote and the times of conditions that did not change.
pub fn status(pod: &PodState, object: &Pod, host: &HostFacts, now: Timestamp) -> PodStatus {
    let previous = object.status.clone().unwrap_or_default();
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let of = |index: usize| container_status(pod, &uid, index);
    let (init, apps): (Vec<usize>, Vec<usize>) =
        (0..pod.containers.len()).partition(|index| pod.role(*index) != Role::App);
    let init: Vec<ContainerStatus> = init.into_iter().map(of).collect();
    let apps: Vec<ContainerStatus> = apps.into_iter().map(of).collect();
    let phase = phase(pod);
    let conditions = conditions(pod, object, &previous, phase, now);
    PodStatus {
        phase: Some(phase.as_str().into()),
        conditions: Some(conditions),
        container_statuses: Some(apps),
        init_container_statuses: (!init.is_empty()).then_some(init),
        pod_ip: pod.ips.first().cloned(),
        pod_ips: (!pod.ips.is_empty()).then(|| pod.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        host_ip: host.ips.first().cloned(),
        host_ips: Some(host.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        start_time: previous.start_time.clone().or(pod.started_at.map(|at| Time(whole_seconds(at)))),
        observed_generation: object.metadata.generation,
        ..previous
    }
}

/// metav1.Time has whole seconds.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The id of one start of a container, as `containerID` shows it.
pub fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    format!("gantry://{uid}/{name}/{attempt}")
}

fn container_status(pod: &PodState, uid: &str, index: usize) -> ContainerStatus {
    let (facts, container) = (&pod.facts.containers[index], &pod.containers[index]);
    let ran = container.last.as_ref().map(|(exit, started_at)| {
        let attempt = match container.stage {
            ContainerStage::Ended => container.attempt,
            _ => container.attempt.saturating_sub(1),
        };
        terminated(uid, &facts.name, attempt, exit, *started_at)
    });
    let (state, last) = match (&container.stage, ran) {
        (ContainerStage::Running { started_at }, last) => {
            let running = ContainerStateRunning { started_at: Some(Time(whole_seconds(*started_at))) };
            (ContainerState { running: Some(running), ..Default::default() }, last)
        }
        (ContainerStage::Ended, Some(ended)) => {
            (ContainerState { terminated: Some(ended), ..Default::default() }, None)
        }
        (stage, last) => {
            let why = waiting(pod, index, stage);
            let waiting = ContainerStateWaiting {
                reason: Some(why.reason),
                message: Some(why.message).filter(|m| !m.is_empty()),
            };
            (ContainerState { waiting: Some(waiting), ..Default::default() }, last)
        }
    };
    let ready = match facts.role {
        Role::Init => {
            container.stage == ContainerStage::Ended && container.last.as_ref().is_some_and(|(e, _)| e.code == 0)
        }
        Role::Sidecar | Role::App => container.is_running(),
    };
    let started = container.is_running();
    ContainerStatus {
        name: facts.name.clone(),
        // Its whole name once it is known, as with containerd.
        image: if container.image.image.is_empty() { facts.image.clone() } else { container.image.image.clone() },
        image_id: container.image.id.clone(),
        container_id: container.was_started.then(|| {
            container_id(
                uid,
                &facts.name,
                if started || last.is_none() { container.attempt } else { container.attempt.saturating_sub(1) },
            )
        }),
        ready,
        started: Some(started),
        restart_count: i32::try_from(container.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: last.map(|ended| ContainerState { terminated: Some(ended), ..Default::default() }),
        ..Default::default()
    }
}

fn terminated(
    uid: &str,
    name: &str,
    attempt: u32,
    exit: &Exit,
    started_at: Option<Timestamp>,
) -> ContainerStateTerminated {
    let reason = match (exit.oom_killed, exit.code, started_at) {
        (true, ..) => "OOMKilled",
        (false, 0, _) => "Completed",
        (false, 128, None) => "StartError",
        (false, ..) => "Error",
    };
    ContainerStateTerminated {
        exit_code: exit.code,
        signal: None,
        reason: Some(reason.into()),
        started_at: started_at.map(|at| Time(whole_seconds(at))),
        finished_at: Some(Time(whole_seconds(exit.finished_at))),
        container_id: Some(container_id(uid, name, attempt)),
        message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
    }
}

fn waiting(pod: &PodState, index: usize, stage: &ContainerStage) -> Failure {
    match stage {
        ContainerStage::BackingOff { why, .. } => return why.clone(),
        ContainerStage::PullFailed { message, .. } => {
            return Failure { reason: ImageFault::Pull.reason().into(), message: message.clone() };
        }
        _ => {}
    }
    if pod.stage == Stage::Refused {
        let message = format!("this node cannot honour {}", pod.facts.unsupported.join(", "));
        return Failure { reason: "UnsupportedField".into(), message };
    }
    let initializing = pod.role(index) == Role::App && !pod.is_initialized();
    let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
    Failure { reason: reason.into(), message: String::new() }
}

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<String>,
    message: Option<String>,
}

fn conditions(pod: &PodState, object: &Pod, previous: &PodStatus, phase: Phase, now: Timestamp) -> Vec<PodCondition> {
    let old = previous.conditions.clone().unwrap_or_default();
    let names = |pick: &dyn Fn(&Container, Role) -> bool| {
        let named = pod.with_roles().zip(&pod.facts.containers);
        named.filter(|((c, role), _)| pick(c, *role)).map(|(_, f)| f.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    let unready = names(&|container, role| role != Role::Init && !container.is_running());
    let uninitialized = names(&|container, role| match role {
        Role::Init => {
            container.last.as_ref().is_none_or(|(exit, _)| exit.code != 0) || container.stage != ContainerStage::Ended
        }
        Role::Sidecar => !container.was_started,
        Role::App => false,
    });
    let done = matches!(phase, Phase::Succeeded | Phase::Failed);
    let sandbox_up = pod.stage == Stage::Up;
    let refused = pod.stage == Stage::Refused;
    let initialized = pod.is_initialized() || phase == Phase::Succeeded;
    let ready = sandbox_up && unready.is_empty() && pod.is_initialized() && !done;
    let not_ready = |holds: bool| match (holds, phase) {
        (true, _) => (None, None),
        (false, Phase::Succeeded) => (Some("PodCompleted".to_owned()), None),
        (false, Phase::Failed) => (Some("PodFailed".to_owned()), None),
        (false, _) => {
            (Some("ContainersNotReady".to_owned()), Some(format!("containers with unready status: [{unready}]")))
        }
    };
    let gates = object.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    let gates_hold = gates
        .into_iter()
        .flatten()
        .all(|gate| old.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True"));
    let (reason, message) = not_ready(ready);
    let pod_ready = match ready && !gates_hold {
        true => (Some("ReadinessGatesNotReady".to_owned()), Some("a readiness gate is not true".to_owned())),
        false => (reason.clone(), message.clone()),
    };
    let sandbox_reason = refused.then(|| "UnsupportedField".to_owned());
    let sandbox_message = refused.then(|| format!("this node cannot honour {}", pod.facts.unsupported.join(", ")));
    let verdicts = [
        Verdict {
            kind: "PodReadyToStartContainers",
            holds: sandbox_up,
            reason: sandbox_reason,
            message: sandbox_message,
        },
        Verdict {
            kind: "Initialized",
            holds: initialized,
            reason: (!initialized).then(|| "ContainersNotInitialized".to_owned()),
            message: (!initialized).then(|| format!("containers with incomplete status: [{uninitialized}]")),
        },
        Verdict { kind: "Ready", holds: ready && gates_hold, reason: pod_ready.0, message: pod_ready.1 },
        Verdict { kind: "ContainersReady", holds: ready, reason, message },
    ];
    let mut conditions: Vec<PodCondition> = verdicts
        .into_iter()
        .map(|verdict| {
            let status = if verdict.holds { "True" } else { "False" };
            let before = old.iter().find(|condition| condition.type_ == verdict.kind && condition.status == status);
            let since = before.and_then(|condition| condition.last_transition_time.clone());
            PodCondition {
                type_: verdict.kind.into(),
                status: status.into(),
                reason: verdict.reason,
                message: verdict.message,
                last_transition_time: Some(since.unwrap_or(Time(whole_seconds(now)))),
                last_probe_time: None,
                observed_generation: object.metadata.generation,
            }
        })
        .collect();
    // What others say of the pod stays: PodScheduled, readiness gates, disruptions.
    conditions.extend(old.into_iter().filter(|condition| {
        !matches!(condition.type_.as_str(), "PodReadyToStartContainers" | "Initialized" | "Ready" | "ContainersReady")
    }));
    conditions
}
