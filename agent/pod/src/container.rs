//! The part of the machine that moves one container.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::facts::Role;
use crate::image;
use crate::protocol::{Command, Exit, FailedStep, Failure, Found, Notice};
use crate::state::{Container, ContainerStage, PodState, Stop};

const SIGKILL: i32 = 9;

/// Starts every container whose turn and time has come.
pub(crate) fn start_due(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    for index in 0..pod.containers.len() {
        if matches!(pod.containers[index].stage, ContainerStage::PullFailed { told_until, .. } if told_until <= now) {
            image::tell_backoff(pod, index, commands);
        }
        let due = match &pod.containers[index].stage {
            ContainerStage::Waiting => true,
            ContainerStage::BackingOff { until, .. } => *until <= now,
            ContainerStage::EnsuringImage
            | ContainerStage::PullFailed { .. }
            | ContainerStage::Starting
            | ContainerStage::Running { .. }
            | ContainerStage::Ended => false,
        };
        if due {
            image::ensure(pod, index, now, commands);
        }
        let container = &pod.containers[index];
        let blocks_the_rest = match pod.role(index) {
            Role::Init => container.stage != ContainerStage::Ended,
            Role::Sidecar => !container.was_started,
            Role::App => false,
        };
        if blocks_the_rest {
            return;
        }
    }
}

/// Ends whatever runs: politely at first, at the deadline for good.
pub(crate) fn stop_all(pod: &mut PodState, now: Timestamp, deadline: Timestamp, commands: &mut Vec<Command>) {
    for (index, container) in pod.containers.iter_mut().enumerate() {
        match container.stage {
            // What is only half started is ended once it runs.
            ContainerStage::Running { .. } => {
                let attempt = container.attempt;
                if deadline <= now && container.stop != Stop::Killed {
                    container.stop = Stop::Killed;
                    commands.push(Command::KillContainer { container: index, attempt });
                } else if container.stop == Stop::No {
                    container.stop = Stop::Asked;
                    commands.push(Command::StopContainer { container: index, attempt });
                    let name = &pod.facts.containers[index].name;
                    commands.push(notice("Killing", name, format!("Stopping container {name}")));
                }
            }
            ContainerStage::EnsuringImage => {
                container.stage = ContainerStage::Ended;
                commands.push(Command::CancelPull { container: index });
            }
            ContainerStage::Waiting | ContainerStage::PullFailed { .. } | ContainerStage::BackingOff { .. } => {
                container.stage = ContainerStage::Ended;
            }
            ContainerStage::Starting | ContainerStage::Ended => {}
        }
    }
}

pub(crate) fn started(pod: &mut PodState, index: usize, now: Timestamp, commands: &mut Vec<Command>) {
    let name = pod.facts.containers[index].name.clone();
    let container = &mut pod.containers[index];
    // It may have ended before its start was answered.
    if container.stage == ContainerStage::Starting {
        container.stage = ContainerStage::Running { started_at: now };
        container.was_started = true;
        container.stop = Stop::No;
        commands.push(notice("Started", &name, format!("Started container {name}")));
    }
}

pub(crate) fn start_failed(
    pod: &mut PodState,
    index: usize,
    step: FailedStep,
    failure: Failure,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let name = pod.facts.containers[index].name.clone();
    let (over, role) = (pod.deletion.is_some(), pod.role(index));
    let attempt = pod.containers[index].attempt;
    commands.push(Command::RemoveContainer { container: index, attempt });
    commands.push(Command::Emit(Notice {
        warning: true,
        reason: "Failed",
        message: format!("Error: {}", failure.message),
        container: Some(name),
    }));
    // 128 is what the kubelet reports for a container that never came to run.
    let exit = Exit { code: 128, signal: None, oom_killed: false, finished_at: now, message: String::new() };
    let tried_again = match step {
        FailedStep::Create => true,
        FailedStep::Start => pod.facts.restarts(role, exit.code),
    };
    let container = &mut pod.containers[index];
    if over || !tried_again {
        container.last = Some((exit, None));
        container.stage = ContainerStage::Ended;
        return;
    }
    let until = now + container.backoff.next_delayed();
    container.stage = ContainerStage::BackingOff { until, why: failure };
}

pub(crate) fn exited(
    pod: &mut PodState,
    index: usize,
    attempt: u32,
    exit: Exit,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let Some(container) = pod.containers.get(index) else { return };
    // An exit that was told twice, or of a start long replaced.
    if attempt != container.attempt || !container.is_alive() {
        return;
    }
    end(pod, index, exit, now, commands);
}

/// Everything of a container died with its sandbox.
pub(crate) fn lost(pod: &mut PodState, index: usize, now: Timestamp, commands: &mut Vec<Command>) {
    let exit = Exit {
        code: 128 + SIGKILL,
        signal: Some(SIGKILL),
        oom_killed: false,
        finished_at: now,
        message: String::new(),
    };
    match pod.containers[index].stage {
        ContainerStage::Starting | ContainerStage::Running { .. } => end(pod, index, exit, now, commands),
        ContainerStage::EnsuringImage => {
            pod.containers[index].stage = ContainerStage::Waiting;
            commands.push(Command::CancelPull { container: index });
        }
        ContainerStage::Waiting
        | ContainerStage::PullFailed { .. }
        | ContainerStage::BackingOff { .. }
        | ContainerStage::Ended => {}
    }
}

fn end(pod: &mut PodState, index: usize, exit: Exit, now: Timestamp, commands: &mut Vec<Command>) {
    let (role, name) = (pod.role(index), pod.facts.containers[index].name.clone());
    let over = pod.deletion.is_some() || (role == Role::Sidecar && pod.is_terminal());
    let restarts = !over && pod.facts.restarts(role, exit.code);
    let container = &mut pod.containers[index];
    let started_at = match container.stage {
        ContainerStage::Running { started_at } => Some(started_at),
        _ => None,
    };
    commands.push(Command::RemoveContainer { container: index, attempt: container.attempt });
    container.was_started = true;
    container.stop = Stop::No;
    container.backoff.forgive(started_at, exit.finished_at);
    container.last = Some((exit, started_at));
    if !restarts {
        container.stage = ContainerStage::Ended;
        return;
    }
    container.attempt += 1;
    let wait = container.backoff.next_wait();
    if wait == SignedDuration::ZERO {
        container.stage = ContainerStage::Waiting;
        return;
    }
    let message = format!("back-off {}s restarting failed container {name}", wait.as_secs());
    commands.push(Command::Emit(Notice {
        warning: true,
        reason: "BackOff",
        message: message.clone(),
        container: Some(name),
    }));
    let why = Failure { reason: "CrashLoopBackOff".into(), message };
    container.stage = ContainerStage::BackingOff { until: now + wait, why };
}

/// Takes over containers that ran on while the agent was away.
pub(crate) fn adopt(pod: &mut PodState, found: Vec<Found>, now: Timestamp) {
    let over = pod.deletion.is_some();
    for found in found {
        let Some(index) = pod.facts.containers.iter().position(|facts| facts.name == found.name) else { continue };
        let restarts = found.exit.as_ref().map(|exit| !over && pod.facts.restarts(pod.role(index), exit.code));
        let container: &mut Container = &mut pod.containers[index];
        container.attempt = found.attempt;
        container.image = found.image;
        container.was_started = found.started_at.is_some();
        match (found.exit, restarts) {
            (Some(exit), Some(restarts)) => {
                container.last = Some((exit, found.started_at));
                container.stage = match restarts {
                    true => ContainerStage::Waiting,
                    false => ContainerStage::Ended,
                };
                container.attempt += u32::from(restarts);
            }
            (_, _) => {
                container.stage = match found.started_at {
                    Some(started_at) => ContainerStage::Running { started_at },
                    // Created and never started: the start is done again.
                    None => ContainerStage::Waiting,
                }
            }
        }
    }
    pod.started_at.get_or_insert(now);
    // Init containers leave nothing behind once later ones run.
    let apps_started = pod.with_roles().any(|(container, role)| role == Role::App && container.was_started);
    if apps_started {
        for index in 0..pod.containers.len() {
            if pod.role(index) == Role::Init && pod.containers[index].last.is_none() {
                let exit = Exit { code: 0, signal: None, oom_killed: false, finished_at: now, message: String::new() };
                pod.containers[index].last = Some((exit, None));
                pod.containers[index].stage = ContainerStage::Ended;
            }
        }
    }
}

pub(crate) fn notice(reason: &'static str, container: &str, message: String) -> Command {
    Command::Emit(Notice { warning: false, reason, message, container: Some(container.to_owned()) })
}
