//! The part of the machine that ends running containers: preStop hook, stop signal, SIGKILL, each in its time.
//! Kubernetes documentation, "Pod Lifecycle", termination of pods; order of sidecars: "Sidecar Containers".

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::container::notice;
use crate::facts::Role;
use crate::probe::later;
use crate::protocol::{Command, Hook};
use crate::state::{ContainerStage, PodState, Stop};

/// However long a hook took or a turn was waited for: so much is left between stop signal and SIGKILL, as with the
/// kubelet (`minimumGracePeriodInSeconds`).
const LEAST: SignedDuration = SignedDuration::from_secs(2);

/// Begins to end a container that runs. What is left of it at `until` is killed; at once if that has passed.
pub(crate) fn begin(
    pod: &mut PodState,
    index: usize,
    until: Timestamp,
    why: String,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let (facts, container) = (&pod.facts.containers[index], &mut pod.containers[index]);
    if container.stop != Stop::No || container.runs_since().is_none() {
        return;
    }
    commands.push(notice("Killing", &facts.name, why));
    container.stop = match (until <= now, facts.has_pre_stop) {
        (true, _) => Stop::Asked { kill_at: until },
        (false, true) => {
            commands.push(Command::RunHook { container: index, attempt: container.attempt, hook: Hook::PreStop });
            Stop::Hook { until }
        }
        (false, false) => Stop::Turn { until },
    };
}

/// Begins to end all containers of a pod that goes down; what does not run yet never will.
pub(crate) fn begin_all(pod: &mut PodState, until: Timestamp, now: Timestamp, commands: &mut Vec<Command>) {
    for index in 0..pod.containers.len() {
        let container = &mut pod.containers[index];
        match container.stage {
            ContainerStage::Running { .. } | ContainerStage::Settling { .. } => {
                let why = format!("Stopping container {}", pod.facts.containers[index].name);
                begin(pod, index, until, why, now, commands);
            }
            ContainerStage::EnsuringImage => {
                container.stage = ContainerStage::Ended;
                commands.push(Command::CancelPull { container: index });
            }
            ContainerStage::Waiting | ContainerStage::PullFailed { .. } | ContainerStage::BackingOff { .. } => {
                container.stage = ContainerStage::Ended;
            }
            // What is only half started is ended once it runs.
            ContainerStage::Starting | ContainerStage::Ended => {}
        }
    }
}

/// A deletion leaves less time than was thought.
pub(crate) fn hurry(pod: &mut PodState, deadline: Timestamp, now: Timestamp) {
    for container in &mut pod.containers {
        container.stop = match container.stop {
            Stop::Hook { .. } | Stop::Turn { .. } | Stop::Asked { .. } if deadline <= now => {
                Stop::Asked { kill_at: deadline }
            }
            Stop::Hook { until } => Stop::Hook { until: until.min(deadline) },
            Stop::Turn { until } => Stop::Turn { until: until.min(deadline) },
            Stop::Asked { kill_at } => Stop::Asked { kill_at: kill_at.min(deadline) },
            done @ (Stop::No | Stop::Killed) => done,
        };
    }
}

/// A preStop hook ended.
pub(crate) fn hook_ended(pod: &mut PodState, index: usize) {
    if let Stop::Hook { until } = pod.containers[index].stop {
        pod.containers[index].stop = Stop::Turn { until };
    }
}

/// Goes on with every container that is being ended.
pub(crate) fn advance(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    for index in 0..pod.containers.len() {
        if pod.containers[index].runs_since().is_none() {
            continue;
        }
        let has_turn = has_turn(pod, index);
        let container = &mut pod.containers[index];
        let attempt = container.attempt;
        if let Stop::Hook { until } = container.stop
            && until <= now
        {
            container.stop = Stop::Turn { until };
        }
        match container.stop {
            Stop::Turn { until } if has_turn || until <= now => {
                container.stop = Stop::Asked { kill_at: until.max(later(now, LEAST)) };
                commands.push(Command::StopContainer { container: index, attempt });
            }
            Stop::Asked { kill_at } if kill_at <= now => {
                container.stop = Stop::Killed;
                commands.push(Command::KillContainer { container: index, attempt });
            }
            Stop::No | Stop::Hook { .. } | Stop::Turn { .. } | Stop::Asked { .. } | Stop::Killed => {}
        }
    }
}

/// When a pod goes down, a sidecar is ended after the containers that it serves: those that came after it.
fn has_turn(pod: &PodState, index: usize) -> bool {
    let is_served = |(container, role): (&crate::state::Container, Role)| {
        matches!(role, Role::Sidecar | Role::App) && container.is_alive()
    };
    pod.role(index) != Role::Sidecar || !pod.goes_down() || !pod.with_roles().skip(index + 1).any(is_served)
}

/// When something is due.
pub(crate) fn next_due(pod: &PodState) -> Option<Timestamp> {
    let due = |stop: &Stop| match stop {
        Stop::Hook { until } | Stop::Turn { until } => Some(*until),
        Stop::Asked { kill_at } => Some(*kill_at),
        Stop::No | Stop::Killed => None,
    };
    pod.containers.iter().filter(|container| container.runs_since().is_some()).filter_map(|own| due(&own.stop)).min()
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
