//! How many replicas one metric wants: pure. The algorithm of the Kubernetes documentation, "Horizontal Pod
//! Autoscaling", section "Algorithm details": `ceil(current * measured / wanted)`, with pods that are not measured, or
//! not ready, taken for whatever scales less.
use crate::pod::{Phase, PodFacts};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::MetricValueStatus;
use k8s_openapi::apimachinery::pkg::api::resource;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// For so long after its start a pod's CPU time counts only once it is ready (`--horizontal-pod-autoscaler-cpu-initialization-period`).
const CPU_INITIALIZATION_SECONDS: i64 = 300;
/// A pod that turned unready within this time after its start was never ready (`--horizontal-pod-autoscaler-initial-readiness-delay`).
const INITIAL_READINESS_SECONDS: i64 = 30;

/// What one pod uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// In thousandths.
    pub(super) value: i64,
    /// When it was taken, in seconds since 1970.
    pub(super) at: i64,
    /// Over so many seconds.
    pub(super) window: i64,
}

/// By the names of the pods.
pub(super) type Samples = BTreeMap<Box<str>, Sample>;

/// How far from its goal a metric may be before anything changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a metric wants, and what it showed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    pub(super) current: MetricValueStatus,
}

/// Where and when a metric is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    /// The pods that the target selects.
    pub(super) pods: &'a [Arc<PodFacts>],
    /// What the target asks for.
    pub(super) wanted: i32,
    /// What the target has.
    pub(super) present: i32,
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

/// What the pods are to use.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Goal<'a> {
    /// So many percent of what they ask for of this resource; of one of their containers, where it is named.
    Utilization { percent: i32, resource: &'a str, container: Option<&'a str> },
    /// So much each, in thousandths; of this resource, where it is one.
    Average { milli: i64, resource: Option<&'a str> },
}

/// An amount of thousandths, as statuses tell it.
fn quantity(milli: i64) -> Option<resource::Quantity> {
    Some(resource::Quantity(api::quantity::Quantity::from_milli(milli).to_string()))
}

/// Rounded up; beyond the range of its type it is the end of that.
fn ceil(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// The average, rounded towards nothing.
fn average(sum: i64, count: usize) -> i64 {
    i64::try_from(count).ok().and_then(|count| sum.checked_div(count)).unwrap_or(0)
}

/// How the pods stand to their goal.
struct Usage {
    ratio: f64,
    current: MetricValueStatus,
}

impl<'a> Goal<'a> {
    fn resource(&self) -> Option<&'a str> {
        match self {
            Self::Utilization { resource, .. } => Some(resource),
            Self::Average { resource, .. } => *resource,
        }
    }

    /// What each pod asks for; nothing where that does not matter.
    fn requests(&self, pods: &'a [Arc<PodFacts>]) -> Result<BTreeMap<&'a str, i64>, String> {
        let Self::Utilization { resource, container, .. } = self else { return Ok(BTreeMap::new()) };
        let of = |pod: &'a Arc<PodFacts>| match pod.load.request(*container, resource) {
            Ok(request) => Ok((pod.name(), request)),
            Err(open) => Err(format!("missing request for {resource} in container {open} of Pod {}", pod.name())),
        };
        pods.iter().map(of).collect()
    }

    /// What a pod that is not measured is taken to use before anything is scaled down: all that it may.
    fn assumed(&self, request: i64) -> i64 {
        match self {
            Self::Utilization { percent, .. } => request.saturating_mul(i64::from((*percent).max(100))) / 100,
            Self::Average { milli, .. } => *milli,
        }
    }

    fn usage(&self, samples: &BTreeMap<&str, i64>, requests: &BTreeMap<&str, i64>) -> Result<Usage, String> {
        match self {
            Self::Utilization { percent, .. } => {
                let known = || samples.iter().filter_map(|(pod, value)| Some((*value, *requests.get(pod)?)));
                let (used, asked) = known().fold((0_i64, 0_i64), |(used, asked), (value, request)| {
                    (used.saturating_add(value), asked.saturating_add(request))
                });
                if asked == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let utilization = i32::try_from(used.saturating_mul(100) / asked).unwrap_or(i32::MAX);
                let current = MetricValueStatus {
                    average_utilization: Some(utilization),
                    average_value: quantity(average(used, known().count())),
                    value: None,
                };
                Ok(Usage { ratio: f64::from(utilization) / f64::from(*percent), current })
            }
            Self::Average { milli, .. } => {
                let sum = samples.values().fold(0_i64, |sum, value| sum.saturating_add(*value));
                let each = average(sum, samples.len());
                let current = MetricValueStatus { average_value: quantity(each), ..MetricValueStatus::default() };
                Ok(Usage { ratio: each as f64 / *milli as f64, current })
            }
        }
    }
}

/// The pods by what can be said of them.
#[derive(Debug, Default)]
struct Groups<'a> {
    /// Measured, in thousandths.
    measured: BTreeMap<&'a str, i64>,
    /// Not ready yet: what they use says nothing.
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
}

/// Whether a pod that is measured is still coming up, so that its CPU time is that of a start.
fn is_starting(pod: &PodFacts, sample: Sample, now: i64) -> bool {
    let (Some(started), Some(ready)) = (pod.load.started, pod.load.readiness) else { return true };
    if started + CPU_INITIALIZATION_SECONDS > now {
        ready.is_denied || sample.at < ready.since + sample.window
    } else {
        ready.is_denied && started + INITIAL_READINESS_SECONDS > ready.since
    }
}

fn group<'a>(situation: &Situation<'a>, samples: &Samples, resource: Option<&str>) -> Groups<'a> {
    let now = situation.now.as_second();
    let mut groups = Groups::default();
    for pod in situation.pods {
        let name = pod.name();
        if pod.is_deleting || pod.has_failed {
            continue;
        }
        let sample = samples.get(name);
        match sample {
            _ if pod.phase == Phase::Pending => groups.unready.insert(name),
            None => groups.missing.insert(name),
            Some(sample) if resource == Some("cpu") && is_starting(pod, *sample, now) => groups.unready.insert(name),
            Some(sample) => groups.measured.insert(name, sample.value).is_none(),
        };
    }
    groups
}

/// What a metric of pods wants.
pub(super) fn per_pod(goal: &Goal<'_>, situation: &Situation<'_>, samples: &Samples) -> Result<Proposal, String> {
    if situation.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let mut groups = group(situation, samples, goal.resource());
    let requests = goal.requests(situation.pods)?;
    if groups.measured.is_empty() {
        return Err("did not receive metrics for any ready pods".to_owned());
    }
    let first = goal.usage(&groups.measured, &requests)?;
    let propose = |replicas: i32| Ok(Proposal { replicas, current: first.current.clone() });
    let adds_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !adds_unready && groups.missing.is_empty() {
        let is_near = situation.tolerance.covers(first.ratio);
        let wanted = ceil(first.ratio * groups.measured.len() as f64);
        return propose(if is_near { situation.wanted } else { wanted });
    }
    // Each of those that nothing is known of pulls towards the number that is there.
    for pod in &groups.missing {
        if first.ratio < 1.0 {
            groups.measured.insert(pod, goal.assumed(requests.get(pod).copied().unwrap_or(0)));
        } else if first.ratio > 1.0 {
            groups.measured.insert(pod, 0);
        }
    }
    if adds_unready {
        groups.measured.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    let second = goal.usage(&groups.measured, &requests)?.ratio;
    let has_turned = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    if situation.tolerance.covers(second) || has_turned {
        return propose(situation.wanted);
    }
    let replicas = ceil(second * groups.measured.len() as f64);
    let is_against = if second < 1.0 { replicas > situation.wanted } else { replicas < situation.wanted };
    propose(if is_against { situation.wanted } else { replicas })
}

/// What one value wants that all replicas together are to keep at `target`; both in thousandths.
pub(super) fn by_value(target: i64, situation: &Situation<'_>, value: i64) -> Result<Proposal, String> {
    let ratio = value as f64 / target as f64;
    let current = MetricValueStatus { value: quantity(value), ..MetricValueStatus::default() };
    let replicas = if situation.wanted == 0 {
        // Nothing is there that could be multiplied.
        ceil(ratio)
    } else if situation.tolerance.covers(ratio) {
        situation.wanted
    } else if situation.pods.is_empty() {
        let message = "unable to calculate ready pods: no pods returned by selector while calculating replica count";
        return Err(message.to_owned());
    } else {
        let is_ready = |pod: &&Arc<PodFacts>| pod.phase == Phase::Running && pod.ready_since.is_some();
        ceil(ratio * situation.pods.iter().filter(is_ready).count() as f64)
    };
    Ok(Proposal { replicas, current })
}

/// What one value wants of which each replica is to have `target`; both in thousandths.
pub(super) fn by_share(target: i64, situation: &Situation<'_>, value: i64) -> Proposal {
    let ratio = value as f64 / (target as f64 * f64::from(situation.present));
    let is_near = situation.present != 0 && situation.tolerance.covers(ratio);
    let replicas = if is_near { situation.present } else { ceil(value as f64 / target as f64) };
    let share =
        if situation.present == 0 { value } else { (value as f64 / f64::from(situation.present)).ceil() as i64 };
    Proposal { replicas, current: MetricValueStatus { average_value: quantity(share), ..MetricValueStatus::default() } }
}
