//! Step 9: `step(state, now, event) -> (state, commands)`.
//!
//! A pod goes up in order (volumes beside the sandbox, init containers one by one, the rest together) and down in
//! reverse. Every event is taken in, then `drive` looks at the whole and says what is next; so the order in
//! which answers arrive does not matter.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::probe::{self, later};
use crate::protocol::{Command, Event, Failure, Notice, PREPARE_FAILED};
use crate::state::{Container, ContainerStage, Deletion, Part, PodState, Stage};
use crate::{container, image, resize, stop};

const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// Takes one event in.
pub fn step(mut pod: PodState, now: Timestamp, event: Event) -> (PodState, Vec<Command>) {
    let mut commands = Vec::new();
    take_in(&mut pod, now, event, &mut commands);
    drive(&mut pod, now, &mut commands);
    resize::note(&mut pod, &mut commands);
    commands.extend(next_wake(&pod, now).map(Command::WakeAt));
    (pod, commands)
}

fn take_in(pod: &mut PodState, now: Timestamp, event: Event, commands: &mut Vec<Command>) {
    match event {
        Event::Assigned | Event::Tick => {}
        Event::Adopted { ips, containers } => {
            pod.ips = ips;
            pod.stage = Stage::Up;
            // Before the first container the volumes may not have been complete.
            if containers.is_empty() && pod.deletion.is_none() {
                commands.push(Command::SetUpVolumes);
                pod.stage = Stage::SettingUp { volumes: Part::Working, sandbox: Part::Ready };
            }
            container::adopt(pod, containers, now, commands);
        }
        Event::SpecChanged(facts) => container::changed(pod, facts, now, commands),
        Event::Resumed { containers } => container::adopt(pod, containers, now, commands),
        Event::DeletionRequested { grace_seconds } => {
            let grace = grace_seconds.clamp(0, i64::from(i32::MAX));
            let deadline = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
            let sooner = pod.deletion.is_none_or(|deletion| deadline < deletion.deadline);
            if sooner {
                pod.deletion = Some(Deletion { deadline });
                stop::hurry(pod, deadline, now);
            }
        }
        Event::Evicted(eviction) => {
            if !pod.goes_down() {
                let message = eviction.failure.message.clone();
                let reason = eviction.event;
                commands.push(Command::Emit(Notice { warning: true, reason, message, container: None }));
                let own = pod.facts.grace_seconds.max(0);
                let grace = eviction.grace_seconds.map_or(own, |most| own.min(most.max(0)));
                pod.winding_down = Some(later(now, SignedDuration::from_secs(grace)));
                pod.is_disrupted = eviction.is_disruption;
                pod.failed = Some(eviction.failure);
            }
        }
        Event::VolumesReady => {
            if let Stage::SettingUp { volumes: volumes @ Part::Working, .. } = &mut pod.stage {
                *volumes = Part::Ready;
                pod.volume_backoff.reset();
            }
        }
        Event::VolumesFailed(failure) => {
            if let Stage::SettingUp { volumes: volumes @ Part::Working, .. } = &mut pod.stage {
                let is_of_devices = failure.reason == PREPARE_FAILED;
                commands.push(warn(if is_of_devices { PREPARE_FAILED } else { "FailedMount" }, &failure));
                *volumes = Part::BackingOff(now + pod.volume_backoff.next_delayed(), failure);
            }
        }
        Event::SandboxReady { ips } => {
            if let Stage::SettingUp { sandbox: sandbox @ Part::Working, .. } = &mut pod.stage {
                if pod.sandbox_died {
                    return sandbox_failed(pod, monitor_died(), now, commands);
                }
                *sandbox = Part::Ready;
                pod.sandbox_backoff.reset();
                pod.ips = ips;
            }
        }
        Event::SandboxFailed(failure) => {
            if let Stage::SettingUp { sandbox: Part::Working, .. } = pod.stage {
                sandbox_failed(pod, failure, now, commands);
            }
        }
        Event::SandboxDied => {
            match pod.stage {
                // What is being made has an answer on its way, which this makes void.
                Stage::SettingUp { sandbox: Part::Working, .. } => pod.sandbox_died = true,
                Stage::SettingUp { sandbox: Part::Ready, .. } => sandbox_failed(pod, monitor_died(), now, commands),
                _ => {}
            }
            // Only what is up can die; an announced end is not news.
            if pod.stage == Stage::Up {
                commands.push(Command::Emit(Notice {
                    warning: true,
                    reason: "SandboxChanged",
                    message: "the pod's monitor died; its containers are started again".into(),
                    container: None,
                }));
                for index in 0..pod.containers.len() {
                    container::lost(pod, index, now, commands);
                }
                pod.ips.clear();
                pod.stage = Stage::StoppingSandbox;
                commands.push(Command::StopSandbox);
            }
        }
        Event::ImageReady { container, image, pulled } => image::ready(pod, container, image, pulled, commands),
        Event::ImageMissing { container } => image::missing(pod, container, now, commands),
        Event::ImageFailed { container, fault, message } => {
            image::failed(pod, container, fault, message, now, commands);
        }
        Event::ContainerStarted { container, effective } => {
            container::started(pod, container, effective, now, commands);
        }
        Event::ContainerFailed { container, step, failure } => {
            container::start_failed(pod, container, step, failure, now, commands);
        }
        Event::ContainerExited { container, attempt, exit } => {
            container::exited(pod, container, attempt, exit, now, commands);
        }
        Event::HookEnded { container, attempt, hook, succeeded } => {
            container::hook_ended(pod, (container, attempt), hook, succeeded, now, commands);
        }
        Event::Resized { container, attempt, to, failure } => {
            resize::answered(pod, (container, attempt), to, failure, now, commands);
        }
        Event::Probed { container, attempt, kind, health } => {
            probe::answered(pod, (container, attempt), kind, health, now, commands);
        }
        Event::SandboxStopped => {
            if pod.stage == Stage::StoppingSandbox {
                // A sandbox that died under a living pod is built anew; otherwise this is the way down, on which the status
                // keeps the address that the pod had, as clients of the API expect.
                if !pod.goes_down() {
                    pod.ips.clear();
                    pod.stage = Stage::SettingUp { volumes: Part::Ready, sandbox: start_sandbox(pod, commands) };
                } else {
                    pod.stage = Stage::TearingDownVolumes;
                    commands.push(Command::TearDownVolumes);
                }
            }
        }
        Event::VolumesTornDown => {
            if pod.stage == Stage::TearingDownVolumes {
                pod.stage = Stage::Finished;
            }
        }
    }
}

/// What follows from the state alone.
fn drive(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    if active_deadline(pod).is_some_and(|deadline| deadline <= now) {
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        let notice = Notice { warning: false, reason: DEADLINE_EXCEEDED, message: message.clone(), container: None };
        commands.push(Command::Emit(notice));
        pod.failed = Some(Failure { reason: DEADLINE_EXCEEDED.into(), message });
    }
    match &pod.stage {
        Stage::Assigned => {
            pod.started_at.get_or_insert(now);
            if pod.goes_down() {
                pod.stage = Stage::StoppingSandbox;
                commands.push(Command::StopSandbox);
            } else if pod.facts.unsupported.is_empty() {
                commands.push(Command::SetUpVolumes);
                pod.stage = Stage::SettingUp { volumes: Part::Working, sandbox: start_sandbox(pod, commands) };
            } else {
                pod.stage = Stage::Refused;
                let fields = pod.facts.unsupported.join(", ");
                commands.push(Command::Emit(Notice {
                    warning: true,
                    reason: "UnsupportedField",
                    message: format!("this node cannot honour {fields}"),
                    container: None,
                }));
            }
        }
        Stage::Refused => {
            if pod.deletion.is_some() {
                finish(pod, commands);
            }
        }
        Stage::SettingUp { volumes, sandbox } => {
            let (volumes, sandbox) = (volumes.clone(), sandbox.clone());
            drive_set_up(pod, volumes, sandbox, now, commands);
        }
        Stage::Up => drive_containers(pod, now, commands),
        Stage::Finished => {
            if pod.deletion.is_some() {
                finish(pod, commands);
            }
        }
        // An answer is on its way.
        Stage::StoppingSandbox | Stage::TearingDownVolumes | Stage::Gone => {}
    }
}

fn drive_set_up(pod: &mut PodState, volumes: Part, sandbox: Part, now: Timestamp, commands: &mut Vec<Command>) {
    if volumes == Part::Ready && sandbox == Part::Ready {
        pod.stage = Stage::Up;
        return drive_containers(pod, now, commands);
    }
    if pod.goes_down() {
        // What is being made is taken down once it is there.
        if volumes != Part::Working && sandbox != Part::Working {
            pod.stage = Stage::StoppingSandbox;
            commands.push(Command::StopSandbox);
        }
        return;
    }
    let volumes = match volumes {
        Part::BackingOff(until, _) if until <= now => {
            commands.push(Command::SetUpVolumes);
            Part::Working
        }
        volumes => volumes,
    };
    let sandbox = match sandbox {
        Part::BackingOff(until, _) if until <= now => start_sandbox(pod, commands),
        sandbox => sandbox,
    };
    pod.stage = Stage::SettingUp { volumes, sandbox };
}

fn drive_containers(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    if pod.goes_down() {
        let grace = SignedDuration::from_secs(pod.facts.grace_seconds.max(0));
        let deadline = match pod.deletion {
            Some(deletion) => deletion.deadline,
            None => *pod.winding_down.get_or_insert(later(now, grace)),
        };
        stop::begin_all(pod, deadline, now, commands);
    } else {
        container::start_due(pod, now, commands);
    }
    resize::begin_due(pod, now, commands);
    stop::advance(pod, now, commands);
    probe::ask_due(pod, now, commands);
    if pod.goes_down() && !pod.containers.iter().any(Container::is_alive) {
        pod.stage = Stage::StoppingSandbox;
        commands.push(Command::StopSandbox);
    }
}

/// When the pod has been active for too long. `spec.activeDeadlineSeconds`.
fn active_deadline(pod: &PodState) -> Option<Timestamp> {
    let is_active = matches!(pod.stage, Stage::SettingUp { .. } | Stage::Up | Stage::Assigned) && !pod.goes_down();
    let limit = pod.facts.active_deadline.filter(|_| is_active)?;
    pod.started_at.map(|since| later(since, limit))
}

fn start_sandbox(pod: &mut PodState, commands: &mut Vec<Command>) -> Part {
    pod.sandbox_died = false;
    commands.push(Command::StartSandbox);
    Part::Working
}

fn sandbox_failed(pod: &mut PodState, failure: Failure, now: Timestamp, commands: &mut Vec<Command>) {
    commands.push(warn("FailedCreatePodSandBox", &failure));
    pod.ips.clear();
    let until = now + pod.sandbox_backoff.next_delayed();
    if let Stage::SettingUp { sandbox, .. } = &mut pod.stage {
        *sandbox = Part::BackingOff(until, failure);
    }
}

fn monitor_died() -> Failure {
    let message = "the pod's monitor died before its containers were started".to_owned();
    Failure { reason: "FailedCreatePodSandBox".into(), message }
}

fn finish(pod: &mut PodState, commands: &mut Vec<Command>) {
    pod.stage = Stage::Gone;
    commands.push(Command::Release);
}

fn warn(reason: &'static str, failure: &Failure) -> Command {
    Command::Emit(Notice { warning: true, reason, message: failure.message.clone(), container: None })
}

/// The soonest time at which something is due.
fn next_wake(pod: &PodState, now: Timestamp) -> Option<Timestamp> {
    let goes_down = pod.goes_down();
    let due = match &pod.stage {
        Stage::SettingUp { volumes, sandbox } if !goes_down => {
            let retry = |part: &Part| match part {
                Part::BackingOff(until, _) => Some(*until),
                Part::Working | Part::Ready => None,
            };
            [volumes, sandbox].into_iter().filter_map(retry).min()
        }
        Stage::Up => {
            let retries = pod.containers.iter().filter_map(|container| match &container.stage {
                ContainerStage::BackingOff { until, .. } if !goes_down => Some(*until),
                ContainerStage::PullFailed { told_until, .. } if !goes_down => Some(*told_until),
                _ => None,
            });
            // A probe that is overdue was held up; it is asked at the next event.
            let resizes = resize::next_due(pod).filter(|_| !goes_down);
            let others = [stop::next_due(pod), probe::next_due(pod), resizes].into_iter().flatten();
            retries.chain(others).filter(|at| *at > now).min()
        }
        _ => None,
    };
    due.into_iter().chain(active_deadline(pod)).filter(|at| *at > now && *at < Timestamp::MAX).min()
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
