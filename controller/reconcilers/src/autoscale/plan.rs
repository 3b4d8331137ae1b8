//! What an autoscaler does now: pure.
use super::conditions::{self, Condition, Told};
use super::pace::{Bounds, Memory, Pace, Verdict};
use super::replicas::Situation;
use super::source::{Failure, Measured, Source};
use crate::cache::Key;
use crate::pod::PodFacts;
use crate::record::{Notice, Severity};
use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

/// The scale of a target.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    /// What it asks for.
    pub(super) wanted: i32,
    /// What it has.
    pub(super) present: i32,
    /// Its pods; `None` where it names none, `Err` where nobody understands them.
    pub(super) selector: Result<Option<Selector>, String>,
}

/// What is known.
pub(super) struct Observed<'a> {
    /// `Err` tells why it cannot be read.
    pub(super) scale: Result<&'a Scale, &'a str>,
    /// The pods that the target selects.
    pub(super) pods: &'a [Arc<PodFacts>],
    /// The autoscalers that have any of those, this one included.
    pub(super) rivals: &'a [Key],
    /// An answer for each metric, where they matter.
    pub(super) measured: &'a [Result<Measured, String>],
    pub(super) now: Timestamp,
}

/// Another number for the target.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rescale {
    pub(super) from: i32,
    pub(super) to: i32,
    pub(super) reason: String,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What the status is to say, as long as nothing is scaled.
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) notices: Vec<Notice>,
    pub(super) rescale: Option<Rescale>,
    pub(super) memory: Memory,
}

/// How the number that is there stands to those that it may have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Somebody has set it to nothing.
    Disabled,
    Above,
    Below,
    Within,
}

fn least(spec: &HorizontalPodAutoscalerSpec) -> i32 {
    spec.min_replicas.unwrap_or(1)
}

fn stage(spec: &HorizontalPodAutoscalerSpec, scale: &Scale) -> Stage {
    match scale.wanted {
        0 if least(spec) != 0 => Stage::Disabled,
        wanted if wanted > spec.max_replicas => Stage::Above,
        wanted if wanted < least(spec) => Stage::Below,
        _ => Stage::Within,
    }
}

/// Whether metrics decide; else there is no need to ask for them.
pub(super) fn needs_metrics(spec: &HorizontalPodAutoscalerSpec, scale: &Scale, rivals: &[Key]) -> bool {
    stage(spec, scale) == Stage::Within && matches!(scale.selector, Ok(Some(_))) && rivals.len() <= 1
}

impl Plan {
    fn warn(&mut self, reason: &'static str, message: String) {
        self.notices.push(Notice { severity: Severity::Warning, reason, message });
    }

    fn set(&mut self, condition: Condition, holds: bool, (reason, message): (&'static str, String), now: Timestamp) {
        conditions::set(&mut self.status.conditions, condition, Told { holds, reason, message }, now);
    }
}

/// Decides.
pub(super) fn plan(hpa: &HorizontalPodAutoscaler, observed: &Observed<'_>, memory: Memory) -> Plan {
    let mut plan = Plan { status: hpa.status.clone().unwrap_or_default(), memory, ..Plan::default() };
    plan.status.observed_generation = hpa.metadata.generation;
    let now = observed.now;
    let scale = match observed.scale {
        Ok(scale) => scale,
        Err(cause) => {
            plan.warn("FailedGetScale", cause.to_owned());
            let message = format!("the HPA controller was unable to get the target's current scale: {cause}");
            plan.set(Condition::AbleToScale, false, ("FailedGetScale", message), now);
            return plan;
        }
    };
    let message = "the HPA controller was able to get the target's current scale".to_owned();
    plan.set(Condition::AbleToScale, true, ("SucceededGetScale", message), now);
    let current = scale.wanted;
    plan.status.current_replicas = Some(current);
    let to = match stage(&hpa.spec, scale) {
        Stage::Disabled => {
            let message = "scaling is disabled since the replica count of the target is zero".to_owned();
            plan.set(Condition::ScalingActive, false, ("ScalingDisabled", message), now);
            plan.status.current_metrics = None;
            (current, String::new())
        }
        Stage::Above => {
            plan.status.current_metrics = None;
            (hpa.spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        }
        Stage::Below => {
            plan.status.current_metrics = None;
            (least(&hpa.spec), "Current number of replicas below Spec.MinReplicas".to_owned())
        }
        Stage::Within => match measure(hpa, scale, observed, &mut plan) {
            Ok(wanted) => follow(hpa, current, wanted, now, &mut plan),
            Err(message) => {
                plan.warn("FailedComputeMetricsReplicas", message);
                return plan;
            }
        },
    };
    let (to, reason) = to;
    if to == current {
        plan.status.desired_replicas = current;
    } else {
        plan.rescale = Some(Rescale { from: current, to, reason });
    }
    plan
}

/// What the metrics want: the number, and the metric that wants it.
fn measure(
    hpa: &HorizontalPodAutoscaler,
    scale: &Scale,
    observed: &Observed<'_>,
    plan: &mut Plan,
) -> Result<(i32, String), String> {
    let now = observed.now;
    let selector = match &scale.selector {
        Ok(Some(selector)) => selector,
        Ok(None) => {
            plan.status.current_metrics = None;
            plan.warn("SelectorRequired", "selector is required".to_owned());
            let message = "the HPA target's scale is missing a selector".to_owned();
            plan.set(Condition::ScalingActive, false, ("InvalidSelector", message), now);
            return Err("selector is required".to_owned());
        }
        Err(cause) => {
            plan.status.current_metrics = None;
            let message = format!("couldn't convert selector into a corresponding internal selector object: {cause}");
            plan.warn("InvalidSelector", message.clone());
            plan.set(Condition::ScalingActive, false, ("InvalidSelector", message.clone()), now);
            return Err(message);
        }
    };
    if observed.rivals.len() > 1 {
        plan.status.current_metrics = None;
        let all = observed.rivals.join(" ");
        let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{all}]");
        plan.warn("AmbiguousSelector", message.clone());
        plan.set(Condition::ScalingActive, false, ("AmbiguousSelector", message.clone()), now);
        return Err(message);
    }
    let situation = Situation {
        pods: observed.pods,
        wanted: scale.wanted,
        present: scale.present,
        tolerance: Pace::new(hpa.spec.behavior.as_ref()).tolerance(),
        now,
    };
    let namespace = hpa.metadata.namespace.as_deref().unwrap_or_default();
    let specs = hpa.spec.metrics.as_deref().unwrap_or_default();
    let mut statuses = vec![MetricStatus::default(); specs.len()];
    let mut best: Option<(i32, String)> = None;
    let mut failures: Vec<Failure> = Vec::new();
    let unanswered = Err("it was not asked for".to_owned());
    for (index, spec) in specs.iter().enumerate() {
        let answer = observed.measured.get(index).unwrap_or(&unanswered);
        let proposed =
            Source::read(spec).and_then(|source| Ok((source, source.propose(&situation, namespace, answer)?)));
        match proposed {
            Ok((source, proposal)) => {
                statuses[index] = source.status(proposal.current);
                if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                    best = Some((proposal.replicas, source.title()));
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    plan.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
    for failure in &failures {
        plan.warn(failure.reason, failure.message.clone());
    }
    // What cannot be measured might want more than the others: it holds nobody up who wants to grow.
    match (best, failures.first()) {
        (Some(best), failure) if failure.is_none() || best.0 >= scale.wanted => {
            let message = format!("the HPA was able to successfully calculate a replica count from {}", best.1);
            plan.set(Condition::ScalingActive, true, ("ValidMetricFound", message), now);
            Ok(best)
        }
        (_, Some(first)) => {
            let message = format!("the HPA was unable to compute the replica count: {}", first.message);
            plan.set(Condition::ScalingActive, false, (first.reason, message), now);
            let (invalid, all) = (failures.len(), specs.len());
            Err(format!("invalid metrics ({invalid} invalid out of {all}), first error is: {}", first.whole))
        }
        (_, None) => Err("no metrics are given".to_owned()),
    }
}

/// As far as the number may follow what the metrics want, and why.
fn follow(
    hpa: &HorizontalPodAutoscaler,
    current: i32,
    (wanted, metric): (i32, String),
    now: Timestamp,
    plan: &mut Plan,
) -> (i32, String) {
    let bounds = Bounds { current, min: least(&hpa.spec), max: hpa.spec.max_replicas };
    let pace = Pace::new(hpa.spec.behavior.as_ref());
    let Verdict { replicas, stabilized, is_limited, limit } = pace.follow(wanted, bounds, &mut plan.memory, now);
    let (reason, message) = stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
    plan.set(Condition::AbleToScale, true, (reason, message.to_owned()), now);
    plan.set(Condition::ScalingLimited, is_limited, (limit.0, limit.1.to_owned()), now);
    let reason = if replicas < current {
        "All metrics below target".to_owned()
    } else if wanted > current {
        format!("{metric} above target")
    } else {
        "recent recommendations were higher".to_owned()
    };
    (replicas, reason)
}

/// What follows from having scaled the target, or from having failed to.
pub(super) fn rescaled(plan: &mut Plan, done: Result<(), String>, now: Timestamp) {
    let Some(Rescale { from, to, reason }) = plan.rescale.take() else { return };
    match done {
        Ok(()) => {
            let message = format!("the HPA controller was able to update the target scale to {to}");
            plan.set(Condition::AbleToScale, true, ("SucceededRescale", message), now);
            let message = format!("New size: {to}; reason: {reason}");
            plan.notices.push(Notice { severity: Severity::Normal, reason: "SuccessfulRescale", message });
            plan.memory.note(from, to, now);
            plan.status.desired_replicas = to;
            plan.status.last_scale_time = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
        }
        Err(cause) => {
            plan.warn("FailedRescale", format!("New size: {to}; reason: {reason}; error: {cause}"));
            let message = format!("the HPA controller was unable to update the target scale: {cause}");
            plan.set(Condition::AbleToScale, false, ("FailedUpdateScale", message), now);
        }
    }
}
