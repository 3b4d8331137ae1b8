//! The part of the machine that decides about probes: when the next one runs, what a row of answers means, what follows.
//! Rules and words are the kubelet's (Kubernetes documentation, "Liveness, Readiness, and Startup Probes"; its
//! `pkg/kubelet/prober` for the words).

use k8s_openapi::api::core::v1;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::protocol::{Command, Notice};
use crate::state::{Container, PodState, Stop};
use crate::stop;

/// More of what a container says about itself is not passed on: events are for people.
const MESSAGE_MAX: usize = 1024;

/// What a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Whether it has come up. Until then nothing else is asked.
    Startup,
    /// Whether it still works; if not, it is restarted.
    Liveness,
    /// Whether it takes requests.
    Readiness,
}

impl ProbeKind {
    pub(crate) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As events spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// When and how often a probe runs. What it does is the executor's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFacts {
    /// `initialDelaySeconds`.
    pub initial_delay: SignedDuration,
    /// `periodSeconds`.
    pub period: SignedDuration,
    /// `successThreshold`: so many good answers in a row count.
    pub success_threshold: u32,
    /// `failureThreshold`: so many bad ones do.
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds`: instead of the pod's, when this probe ends the container.
    pub grace_seconds: Option<i64>,
}

impl ProbeFacts {
    /// The facts of a probe; what is unset or zero has the default of the API.
    pub fn of(probe: &v1::Probe) -> Self {
        let number = |value: Option<i32>, default| value.filter(|value| *value > 0).unwrap_or(default);
        let threshold = |value, default| u32::try_from(number(value, default)).unwrap_or(1);
        Self {
            initial_delay: SignedDuration::from_secs(number(probe.initial_delay_seconds, 0).into()),
            period: SignedDuration::from_secs(number(probe.period_seconds, 10).into()),
            success_threshold: threshold(probe.success_threshold, 1),
            failure_threshold: threshold(probe.failure_threshold, 3),
            grace_seconds: probe.termination_grace_period_seconds,
        }
    }
}

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Well.
    Good,
    /// Well, but people should know.
    Warned(String),
    /// Not well, and why.
    Bad(String),
    /// It could not be asked, which says nothing about the container.
    Unknown(String),
}

/// What the probes of a running container have said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    /// Its startup probe has succeeded, or it has none.
    pub(crate) started: bool,
    /// Its readiness probe said so last.
    pub(crate) ready: bool,
    marks: [Mark; 3],
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    /// When it runs next; `None` where there is no such probe.
    due: Option<Timestamp>,
    /// An answer is on its way.
    is_asked: bool,
    /// The last answer, and how often it came in a row.
    row: Option<(bool, u32)>,
}

/// A container runs: forgets what was said of its earlier start.
pub(crate) fn begin(pod: &mut PodState, index: usize) {
    let facts = &pod.facts.containers[index];
    let container = &mut pod.containers[index];
    let Some(since) = container.runs_since() else { return };
    container.probes = Probes { started: facts.probe(ProbeKind::Startup).is_none(), ..Probes::default() };
    container.came_up |= container.probes.started;
    for kind in ProbeKind::ALL {
        container.probes.marks[kind as usize].due = facts.probe(kind).map(|probe| later(since, probe.initial_delay));
    }
}

/// A container ran on while the agent was away: it stays what its status says until a probe says otherwise.
pub(crate) fn take_over(pod: &mut PodState, index: usize, started: bool, ready: bool, now: Timestamp) {
    begin(pod, index);
    let (facts, spread) = (&pod.facts.containers[index], i32::from(pod.facts.spread));
    let container = &mut pod.containers[index];
    container.probes.started |= started;
    container.came_up |= started;
    container.probes.ready = ready;
    for kind in ProbeKind::ALL {
        let mark = &mut container.probes.marks[kind as usize];
        if let (Some(due), Some(probe)) = (mark.due, facts.probe(kind)) {
            mark.due = Some(due.max(later(now, probe.period / 65536 * spread)));
        }
    }
}

/// Whether this probe runs now: startup until it succeeded, the others from then on; in a container that is being ended,
/// only readiness.
fn is_open(pod: &PodState, index: usize, kind: ProbeKind) -> bool {
    let container = &pod.containers[index];
    container.is_running()
        && match kind {
            ProbeKind::Startup => !container.probes.started && container.stop == Stop::No,
            ProbeKind::Liveness => container.probes.started && container.stop == Stop::No,
            ProbeKind::Readiness => container.probes.started,
        }
}

/// Runs every probe whose time has come.
pub(crate) fn ask_due(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    for (index, kind) in all(pod) {
        if !is_open(pod, index, kind) {
            continue;
        }
        let Some(period) = pod.facts.containers[index].probe(kind).map(|probe| probe.period) else { continue };
        let container = &mut pod.containers[index];
        let mark = &mut container.probes.marks[kind as usize];
        if !mark.is_asked && mark.due.is_some_and(|due| due <= now) {
            mark.is_asked = true;
            mark.due = Some(later(now, period));
            commands.push(Command::Probe { container: index, attempt: container.attempt, kind });
        }
    }
}

/// When each probe of a container is due.
pub(crate) fn due(container: &mut Container) -> impl Iterator<Item = &mut Timestamp> {
    container.probes.marks.iter_mut().filter_map(|mark| mark.due.as_mut())
}

/// When the next probe of the pod is due.
pub(crate) fn next_due(pod: &PodState) -> Option<Timestamp> {
    let open = all(pod).filter(|(index, kind)| is_open(pod, *index, *kind));
    let marks = open.map(|(index, kind)| &pod.containers[index].probes.marks[kind as usize]);
    marks.filter(|mark| !mark.is_asked).filter_map(|mark| mark.due).min()
}

fn all(pod: &PodState) -> impl Iterator<Item = (usize, ProbeKind)> + use<> {
    (0..pod.containers.len()).flat_map(|index| ProbeKind::ALL.into_iter().map(move |kind| (index, kind)))
}

/// Takes an answer in.
pub(crate) fn answered(
    pod: &mut PodState,
    (index, attempt): (usize, u32),
    kind: ProbeKind,
    health: Health,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    // Of a start that is no more.
    if pod.containers.get(index).is_none_or(|container| container.attempt != attempt || !container.is_running()) {
        return;
    }
    let is_open = is_open(pod, index, kind);
    let Some(facts) = pod.facts.containers[index].probe(kind).cloned() else { return };
    let name = pod.facts.containers[index].name.clone();
    let container = &mut pod.containers[index];
    let mark = &mut container.probes.marks[kind as usize];
    if !std::mem::take(&mut mark.is_asked) || !is_open {
        return;
    }
    let mut tell = |reason, text: &str, output: &str| {
        let message = format!("{} probe {text}: {}", kind.as_str(), cut(output));
        commands.push(Command::Emit(Notice { warning: true, reason, message, container: Some(name.clone()) }));
    };
    let is_good = match health {
        Health::Good => true,
        Health::Warned(output) => {
            tell("ProbeWarning", "warning", &output);
            true
        }
        Health::Bad(output) => {
            tell("Unhealthy", "failed", &output);
            false
        }
        Health::Unknown(error) => return tell("Unhealthy", "errored and resulted in unknown state", &error),
    };
    let count = match mark.row {
        Some((before, count)) if before == is_good => count.saturating_add(1),
        _ => 1,
    };
    mark.row = Some((is_good, count));
    let enough = if is_good { facts.success_threshold } else { facts.failure_threshold };
    if count < enough {
        return;
    }
    match (kind, is_good) {
        (ProbeKind::Readiness, _) => container.probes.ready = is_good,
        (ProbeKind::Liveness, true) => {}
        (ProbeKind::Startup, true) => {
            container.probes.started = true;
            container.came_up = true;
        }
        (ProbeKind::Startup | ProbeKind::Liveness, false) => {
            let restarts = pod.facts.restarts_after_probe(index);
            let rest = if restarts { ", will be restarted" } else { "" };
            let why = format!("Container {name} failed {} probe{rest}", kind.as_str().to_lowercase());
            container.restarts_anyway = restarts;
            let grace = facts.grace_seconds.unwrap_or(pod.facts.grace_seconds);
            stop::begin(pod, index, later(now, SignedDuration::from_secs(grace.max(0))), why, now, commands);
        }
    }
}

/// A time that is later by so much, or the end of time.
pub(crate) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_MAX)]
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
