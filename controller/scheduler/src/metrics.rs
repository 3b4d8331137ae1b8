//! What is measured of the scheduler, with Kubernetes' names.
use crate::pod::PodFacts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Ended {
    result: &'static str,
    /// Profiles come from the scheduler's configuration alone.
    profile: String,
}

impl Ended {
    /// The pod has a node.
    pub(crate) fn scheduled(pod: &PodFacts) -> Self {
        Self::new("scheduled", pod)
    }

    /// No node takes it.
    pub(crate) fn unschedulable(pod: &PodFacts) -> Self {
        Self::new("unschedulable", pod)
    }

    /// Binding failed.
    pub(crate) fn error(pod: &PodFacts) -> Self {
        Self::new("error", pod)
    }

    fn new(result: &'static str, pod: &PodFacts) -> Self {
        Self { result, profile: pod.shape.profile.name.to_string() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InQueue {
    queue: &'static str,
}

fn latency() -> Histogram {
    // 1 ms to 16 s, and below it what deciding alone takes.
    Histogram::new((0..18).map(|power| 1.25e-4 * f64::from(1u32 << power)))
}

fn patience() -> Histogram {
    // 10 ms to 5 min.
    Histogram::new((0..16).map(|power| 0.01 * f64::from(1u32 << power)))
}

/// Counters, gauges and histograms of the scheduler. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<Ended, Counter>,
    durations: Family<Ended, Histogram, fn() -> Histogram>,
    waited: Histogram,
    pending: Family<InQueue, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(latency as fn() -> Histogram),
            waited: patience(),
            pending: Family::default(),
        }
    }
}

impl Metrics {
    /// Names them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Attempts to schedule pods, by result";
        registry.register("scheduler_schedule_attempts", help, self.attempts.clone());
        let help = "From taking a pod in hand to its binding, or to finding that no node takes it";
        registry.register("scheduler_scheduling_attempt_duration_seconds", help, self.durations.clone());
        let help = "From seeing a pod to its binding";
        registry.register("scheduler_pod_scheduling_sli_duration_seconds", help, self.waited.clone());
        registry.register("scheduler_pending_pods", "Pods that wait, by queue", self.pending.clone());
    }

    /// An attempt ended after so many seconds.
    pub(crate) fn attempted(&self, ended: Ended, seconds: f64) {
        self.attempts.get_or_create(&ended).inc();
        self.durations.get_or_create(&ended).observe(seconds);
    }

    /// A pod was bound so many seconds after it was first seen.
    pub(crate) fn bound(&self, seconds: f64) {
        self.waited.observe(seconds);
    }

    /// So many pods wait.
    pub(crate) fn waiting(&self, active: usize, backoff: usize, unschedulable: usize) {
        for (queue, count) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)] {
            self.pending.get_or_create(&InQueue { queue }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
