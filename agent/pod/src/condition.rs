//! The conditions of a pod that the agent answers for. Kubernetes documentation, "Pod Lifecycle", pod conditions; the words
//! are the kubelet's (`pkg/kubelet/status/generate.go`).

use api::well_known::CONDITION_DISRUPTED;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::facts::Role;
use crate::resize;
use crate::state::{PodState, Stage};
use crate::status::{Phase, whole_seconds};

/// The types of those that every pod has.
pub const OWN: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
/// The types of those that are there only while they hold.
pub const RESIZES: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The reason of `DisruptionTarget` where this node ended the pod. Others say so too, so it is there only while the node does.
pub const DISRUPTED_BY_NODE: &str = "TerminationByKubelet";

struct Verdict {
    kind: &'static str,
    holds: bool,
    /// Why, mostly why not: reason and message.
    why: Option<(String, Option<String>)>,
}

impl Verdict {
    fn new(kind: &'static str, why_not: Option<(String, Option<String>)>) -> Self {
        Self { kind, holds: why_not.is_none(), why: why_not }
    }
}

/// The agent's own conditions, and whatever others say of the pod: PodScheduled, readiness gates, disruptions.
pub(crate) fn conditions(
    pod: &PodState,
    object: &Pod,
    previous: &PodStatus,
    phase: Phase,
    now: Timestamp,
) -> Vec<PodCondition> {
    let old = previous.conditions.as_deref().unwrap_or_default();
    let not_ready = containers_not_ready(pod, phase);
    let gated = || gates_not_ready(object, old).map(|message| ("ReadinessGatesNotReady".to_owned(), Some(message)));
    let mut sandbox = Verdict { kind: OWN[0], holds: pod.stage == Stage::Up, why: None };
    if pod.stage == Stage::Refused {
        let message = format!("this node cannot honour {}", pod.facts.unsupported.join(", "));
        sandbox.why = Some(("UnsupportedField".to_owned(), Some(message)));
    }
    let verdicts = [
        sandbox,
        Verdict::new(OWN[1], not_initialized(pod, phase)),
        Verdict::new(OWN[2], not_ready.clone().or_else(gated)),
        Verdict::new(OWN[3], not_ready),
    ];
    let own = verdicts.into_iter().chain(resizes(pod)).chain(disrupted(pod)).map(|verdict| {
        let status = if verdict.holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == verdict.kind && condition.status == status);
        let since = before.and_then(|condition| condition.last_transition_time.clone());
        let (reason, message) = verdict.why.map_or((None, None), |(reason, message)| (Some(reason), message));
        PodCondition {
            type_: verdict.kind.into(),
            status: status.into(),
            reason,
            message,
            last_transition_time: Some(since.unwrap_or(Time(whole_seconds(now)))),
            last_probe_time: None,
            observed_generation: object.metadata.generation,
        }
    });
    let is_own = |condition: &&PodCondition| {
        OWN.iter().chain(&RESIZES).any(|own| *own == condition.type_)
            || pod.is_disrupted && condition.type_ == CONDITION_DISRUPTED
    };
    own.chain(old.iter().filter(|condition| !is_own(condition)).cloned()).collect()
}

fn disrupted(pod: &PodState) -> Option<Verdict> {
    let failure = pod.failed.as_ref().filter(|_| pod.is_disrupted)?;
    let why = Some((DISRUPTED_BY_NODE.to_owned(), Some(failure.message.clone())));
    Some(Verdict { kind: CONDITION_DISRUPTED, holds: true, why })
}

/// What keeps containers from having the resources that the spec gives them.
fn resizes(pod: &PodState) -> Vec<Verdict> {
    if pod.goes_down() {
        return vec![];
    }
    let pending = pod.facts.pending.as_ref().map(|pending| {
        let why = Some((pending.reason().to_owned(), Some(pending.message().to_owned())));
        Verdict { kind: RESIZES[0], holds: true, why }
    });
    let under_way = resize::in_progress(pod).map(|failure| {
        let why = failure.map(|message| ("Error".to_owned(), Some(message)));
        Verdict { kind: RESIZES[1], holds: true, why }
    });
    pending.into_iter().chain(under_way).collect()
}

fn names(pod: &PodState, pick: impl Fn(usize, Role) -> bool) -> Vec<&str> {
    let all = pod.facts.containers.iter().enumerate();
    all.filter(|(index, facts)| pick(*index, facts.role)).map(|(_, facts)| facts.name.as_str()).collect()
}

fn not_initialized(pod: &PodState, phase: Phase) -> Option<(String, Option<String>)> {
    if pod.is_initialized() || phase == Phase::Succeeded {
        return None;
    }
    let incomplete = names(pod, |index, role| match role {
        Role::Init => !pod.containers[index].has_succeeded(),
        Role::Sidecar => !pod.containers[index].came_up,
        Role::App | Role::Ephemeral => false,
    });
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Some(("ContainersNotInitialized".to_owned(), Some(message)))
}

fn containers_not_ready(pod: &PodState, phase: Phase) -> Option<(String, Option<String>)> {
    match phase {
        Phase::Succeeded => return Some(("PodCompleted".to_owned(), None)),
        Phase::Failed => return Some(("PodFailed".to_owned(), None)),
        Phase::Pending | Phase::Running => {}
    }
    let unready = names(pod, |index, role| matches!(role, Role::Sidecar | Role::App) && !pod.is_ready(index));
    if unready.is_empty() && pod.is_initialized() && pod.stage == Stage::Up {
        return None;
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Some(("ContainersNotReady".to_owned(), Some(message)))
}

/// Why the readiness gates of the pod keep it from being ready.
fn gates_not_ready(object: &Pod, conditions: &[PodCondition]) -> Option<String> {
    let gates = object.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref()).into_iter().flatten();
    let closed = gates.filter_map(|gate| {
        let kind = &gate.condition_type;
        match conditions.iter().find(|condition| condition.type_ == *kind) {
            None => Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(condition) if condition.status == "True" => None,
            Some(condition) => {
                Some(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", condition.status))
            }
        }
    });
    let all: Vec<String> = closed.collect();
    (!all.is_empty()).then(|| all.join("; "))
}
