//! Step 12: the PodStatus that a state amounts to.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, ResourceRequirements, VolumeMount,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::condition::conditions;
use crate::facts::{self, Role};
use crate::protocol::{Exit, Failure, ImageFault};
use crate::resize;
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
    // A pod that was given up has failed once nothing of it runs any more, as with the kubelet.
    if pod.init_failed() || pod.failed.is_some() && !pod.containers.iter().any(Container::is_alive) {
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

/// The phase that people are told. Whoever hears that a pod has ended may give its devices to another one, so that is told when
/// drivers have taken them back.
fn told_phase(pod: &PodState) -> Phase {
    let phase = phase(pod);
    let is_taken_back = match pod.stage {
        Stage::Assigned | Stage::Refused | Stage::Finished | Stage::Gone => true,
        Stage::SettingUp { .. } | Stage::Up | Stage::StoppingSandbox | Stage::TearingDownVolumes => false,
    };
    if !pod.facts.has_device_claims || is_taken_back || !matches!(phase, Phase::Succeeded | Phase::Failed) {
        return phase;
    }
    match pod.with_roles().filter(|(_, role)| *role == Role::App).all(|(container, _)| container.was_started) {
        true => Phase::Running,
        false => Phase::Pending,
    }
}

/// What the status says of the machine the pod is on.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The node's addresses.
    pub ips: Vec<String>,
    /// Whether mounts below a mount can be made read-only with it.
    pub recursive_read_only: bool,
}

/// The status of a pod whose object says what the node has given its containers; `previous` keeps what others wrote and the times of conditions that did not change.
pub fn status(pod: &PodState, object: &Pod, host: &HostFacts, now: Timestamp) -> PodStatus {
    let previous = object.status.clone().unwrap_or_default();
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let spec: Vec<_> = facts::containers(object).map(|(own, _)| (own.resources, own.volume_mounts)).collect();
    let of = |index: usize| {
        let status = container_status(pod, &uid, index);
        let (resources, mounts) = spec.get(index).cloned().unwrap_or_default();
        let volume_mounts = mounts.map(|all| all.iter().map(|own| mounted(own, host)).collect());
        let allocated_resources = resources.as_ref().and_then(|own| own.requests.clone());
        let resources = reported(pod, index, resources, &previous, &status.name);
        ContainerStatus { resources, allocated_resources, volume_mounts, ..status }
    };
    let with = |roles: &[Role]| -> Vec<ContainerStatus> {
        (0..pod.containers.len()).filter(|index| roles.contains(&pod.role(*index))).map(of).collect()
    };
    let (init, ephemeral) = (with(&[Role::Init, Role::Sidecar]), with(&[Role::Ephemeral]));
    let was_told = matches!(previous.phase.as_deref(), Some("Succeeded" | "Failed"));
    let phase = if was_told { phase(pod) } else { told_phase(pod) };
    let conditions = conditions(pod, object, &previous, phase, now);
    let failed = pod.failed.as_ref().filter(|_| phase == Phase::Failed);
    let words = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    PodStatus {
        phase: Some(phase.as_str().into()),
        reason: failed.and_then(|why| words(&why.reason)).or_else(|| previous.reason.clone()),
        message: failed.and_then(|why| words(&why.message)).or_else(|| previous.message.clone()),
        conditions: Some(conditions),
        container_statuses: Some(with(&[Role::App])),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        pod_ip: pod.ips.first().cloned(),
        pod_ips: (!pod.ips.is_empty()).then(|| pod.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        host_ip: host.ips.first().cloned(),
        host_ips: Some(host.ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        start_time: previous.start_time.clone().or(pod.started_at.map(|at| Time(whole_seconds(at)))),
        observed_generation: object.metadata.generation,
        ..previous
    }
}

/// How a volume is mounted: what `IfPossible` came to.
fn mounted(mount: &VolumeMount, host: &HostFacts) -> VolumeMountStatus {
    let is_recursive = match mount.recursive_read_only.as_deref() {
        Some("Enabled") => true,
        Some("IfPossible") => host.recursive_read_only,
        _ => false,
    };
    let word = if is_recursive { "Enabled" } else { "Disabled" };
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        recursive_read_only: (mount.read_only == Some(true)).then(|| word.to_owned()),
        ..VolumeMountStatus::default()
    }
}

/// The resources that a running container has: those of its spec, or, until it was given them, those it had before.
fn reported(
    pod: &PodState,
    index: usize,
    spec: Option<ResourceRequirements>,
    previous: &PodStatus,
    name: &str,
) -> Option<ResourceRequirements> {
    if resize::is_done(pod, index) {
        return spec;
    }
    let lists = [&previous.container_statuses, &previous.init_container_statuses];
    let mut statuses = lists.into_iter().flatten().flatten();
    statuses.find(|own| own.name == name).and_then(|own| own.resources.clone())
}

/// metav1.Time has whole seconds.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
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
    ContainerStatus {
        name: facts.name.clone(),
        // Its whole name once it is known, as with containerd.
        image: if container.image.image.is_empty() { facts.image.clone() } else { container.image.image.clone() },
        image_id: container.image.id.clone(),
        container_id: container.was_started.then(|| {
            container_id(
                uid,
                &facts.name,
                if container.is_running() || last.is_none() {
                    container.attempt
                } else {
                    container.attempt.saturating_sub(1)
                },
            )
        }),
        ready: pod.is_ready(index),
        started: Some(pod.is_started(index)),
        restart_count: i32::try_from(container.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        user: container.effective.as_ref().map(|own| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: own.uid.into(),
                gid: own.gid.into(),
                supplemental_groups: Some(own.groups.iter().map(|gid| i64::from(*gid)).collect()),
            }),
        }),
        stop_signal: container.effective.as_ref().map(|own| own.stop_signal.clone()),
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
