//! The part of the machine that moves one container.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::facts::{PodFacts, Role};
use crate::probe::{self, Probes, later};
use crate::protocol::{Command, Effective, Exit, FailedStep, Failure, Found, Hook, Notice};
use crate::resize::Resize;
use crate::state::{Container, ContainerStage, PodState, Stop};
use crate::{image, stop};

const SIGKILL: i32 = 9;

/// Starts every container whose turn and time has come.
pub(crate) fn start_due(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    let mut is_blocked = false;
    for index in 0..pod.containers.len() {
        // An ephemeral container may be there to find out what holds up the others.
        if is_blocked && pod.role(index) != Role::Ephemeral {
            continue;
        }
        if matches!(pod.containers[index].stage, ContainerStage::PullFailed { told_until, .. } if told_until <= now) {
            image::tell_backoff(pod, index, commands);
        }
        let due = match &pod.containers[index].stage {
            ContainerStage::Waiting => true,
            ContainerStage::BackingOff { until, .. } => *until <= now,
            ContainerStage::EnsuringImage
            | ContainerStage::PullFailed { .. }
            | ContainerStage::Starting
            | ContainerStage::Settling { .. }
            | ContainerStage::Running { .. }
            | ContainerStage::Ended => false,
        };
        if due && pod.facts.containers[index].unsupported.is_empty() {
            image::ensure(pod, index, now, commands);
        } else if due {
            refuse(pod, index, commands);
        }
        is_blocked |= blocks_the_rest(pod, index);
    }
}

/// An ephemeral container asks for what this node cannot honour.
fn refuse(pod: &mut PodState, index: usize, commands: &mut Vec<Command>) {
    let facts = &pod.facts.containers[index];
    let message = format!("this node cannot honour {}", facts.unsupported.join(", "));
    let why = Failure { reason: "UnsupportedField".into(), message: message.clone() };
    let (reason, container) = ("UnsupportedField", Some(facts.name.clone()));
    commands.push(Command::Emit(Notice { warning: true, reason, message, container }));
    pod.containers[index].stage = ContainerStage::BackingOff { until: Timestamp::MAX, why };
}

fn blocks_the_rest(pod: &PodState, index: usize) -> bool {
    let container = &pod.containers[index];
    match pod.role(index) {
        Role::Init => container.stage != ContainerStage::Ended,
        Role::Sidecar => !container.came_up,
        // Containers start beside each other, but not before a hook that others may rely on.
        Role::App => {
            pod.facts.containers[index].has_post_start
                && match container.stage {
                    ContainerStage::Waiting
                    | ContainerStage::EnsuringImage
                    | ContainerStage::Starting
                    | ContainerStage::Settling { .. } => true,
                    ContainerStage::PullFailed { .. }
                    | ContainerStage::Running { .. }
                    | ContainerStage::BackingOff { .. }
                    | ContainerStage::Ended => false,
                }
        }
        Role::Ephemeral => false,
    }
}

/// The spec of a pod that is here says something else now.
pub(crate) fn changed(pod: &mut PodState, facts: PodFacts, now: Timestamp, commands: &mut Vec<Command>) {
    pod.facts.grace_seconds = facts.grace_seconds;
    pod.facts.active_deadline = facts.active_deadline;
    pod.facts.pending = facts.pending;
    for (index, new) in facts.containers.into_iter().enumerate() {
        let Some(old) = pod.facts.containers.get_mut(index) else {
            pod.facts.containers.push(new);
            pod.containers.push(Container::new());
            continue;
        };
        if old.name != new.name || std::mem::replace(old, new.clone()).image == new.image || pod.goes_down() {
            continue;
        }
        let until = later(now, SignedDuration::from_secs(pod.facts.grace_seconds.max(0)));
        if pod.containers[index].runs_since().is_some() {
            pod.containers[index].restarts_anyway = true;
            let why = format!("Container {} definition changed, will be restarted", new.name);
            stop::begin(pod, index, until, why, now, commands);
        }
    }
}

pub(crate) fn started(
    pod: &mut PodState,
    index: usize,
    effective: Effective,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let facts = &pod.facts.containers[index];
    let container = &mut pod.containers[index];
    container.effective = Some(effective);
    // It may have ended before its start was answered.
    if container.stage != ContainerStage::Starting {
        return;
    }
    container.was_started = true;
    container.restarts_anyway = false;
    container.resize = Resize::Done;
    commands.push(notice("Started", &facts.name, format!("Started container {}", facts.name)));
    if facts.has_post_start {
        container.stage = ContainerStage::Settling { started_at: now };
        commands.push(Command::RunHook { container: index, attempt: container.attempt, hook: Hook::PostStart });
    } else {
        container.stage = ContainerStage::Running { started_at: now };
        probe::begin(pod, index);
    }
}

/// A hook of a container ended.
pub(crate) fn hook_ended(
    pod: &mut PodState,
    (index, attempt): (usize, u32),
    hook: Hook,
    succeeded: bool,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let Some(container) = pod.containers.get_mut(index) else { return };
    if container.attempt != attempt || container.runs_since().is_none() {
        return;
    }
    let name = pod.facts.containers[index].name.clone();
    // What a hook printed is kept from events: it may hold secrets.
    let mut failed = |reason, message: &str| {
        let message = message.to_owned();
        commands.push(Command::Emit(Notice { warning: true, reason, message, container: Some(name.clone()) }));
    };
    match (hook, succeeded, &container.stage) {
        (Hook::PreStop, _, _) => {
            if !succeeded {
                failed("FailedPreStopHook", "PreStopHook failed");
            }
            stop::hook_ended(pod, index);
        }
        (Hook::PostStart, true, ContainerStage::Settling { started_at }) => {
            container.stage = ContainerStage::Running { started_at: *started_at };
            probe::begin(pod, index);
        }
        (Hook::PostStart, false, ContainerStage::Settling { .. }) => {
            failed("FailedPostStartHook", "PostStartHook failed");
            let until = later(now, SignedDuration::from_secs(pod.facts.grace_seconds.max(0)));
            stop::begin(pod, index, until, "FailedPostStartHook".into(), now, commands);
        }
        (Hook::PostStart, _, _) => {}
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
    let over = pod.deletion.is_some() || pod.failed.is_some();
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
        FailedStep::Start => pod.facts.restarts(index, exit.code),
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
        ContainerStage::Starting | ContainerStage::Settling { .. } | ContainerStage::Running { .. } => {
            end(pod, index, exit, now, commands)
        }
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
    let over = pod.deletion.is_some() || pod.failed.is_some() || (role == Role::Sidecar && pod.is_terminal());
    let restarts = !over && (pod.containers[index].restarts_anyway || pod.facts.restarts(index, exit.code));
    let container = &mut pod.containers[index];
    let started_at = container.runs_since();
    commands.push(Command::RemoveContainer { container: index, attempt: container.attempt });
    container.was_started = true;
    container.stop = Stop::No;
    container.restarts_anyway = false;
    container.probes = Probes::default();
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
pub(crate) fn adopt(pod: &mut PodState, found: Vec<Found>, now: Timestamp, commands: &mut Vec<Command>) {
    let over = pod.deletion.is_some() || pod.failed.is_some();
    for found in found {
        let Some(index) = pod.facts.containers.iter().position(|facts| facts.name == found.name) else { continue };
        let restarts = found.exit.as_ref().is_some_and(|exit| !over && pod.facts.restarts(index, exit.code));
        let container: &mut Container = &mut pod.containers[index];
        container.attempt = found.attempt;
        container.image = found.image;
        container.effective = found.effective;
        container.was_started = found.started_at.is_some();
        match (found.exit, found.started_at) {
            (Some(exit), started_at) => {
                container.last = Some((exit, started_at));
                container.stage = if restarts { ContainerStage::Waiting } else { ContainerStage::Ended };
                container.attempt += u32::from(restarts);
            }
            (None, Some(started_at)) => {
                // What was under way while the agent was away is not known: it is done again.
                container.applied = found.resources.unwrap_or(pod.facts.containers[index].resources);
                if pod.facts.containers[index].has_post_start && !found.is_settled && !over {
                    container.stage = ContainerStage::Settling { started_at };
                    let (container, attempt) = (index, found.attempt);
                    commands.push(Command::RunHook { container, attempt, hook: Hook::PostStart });
                    continue;
                }
                container.stage = ContainerStage::Running { started_at };
                probe::take_over(pod, index, found.is_started, found.is_ready, now);
            }
            // Created and never started: the start is done again.
            (None, None) => container.stage = ContainerStage::Waiting,
        }
    }
    pod.started_at.get_or_insert(now);
    let apps_started = pod.with_roles().any(|(container, role)| role == Role::App && container.was_started);
    if !apps_started {
        return;
    }
    for index in 0..pod.containers.len() {
        let role = pod.role(index);
        let container = &mut pod.containers[index];
        match role {
            // Init containers leave nothing behind once later ones run.
            Role::Init if container.last.is_none() => {
                let exit = Exit { code: 0, signal: None, oom_killed: false, finished_at: now, message: String::new() };
                container.last = Some((exit, None));
                container.stage = ContainerStage::Ended;
            }
            Role::Sidecar => container.came_up = true,
            Role::Init | Role::App | Role::Ephemeral => {}
        }
    }
}

pub(crate) fn notice(reason: &'static str, container: &str, message: String) -> Command {
    Command::Emit(Notice { warning: false, reason, message, container: Some(container.to_owned()) })
}
