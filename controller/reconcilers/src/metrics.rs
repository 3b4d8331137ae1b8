//! What is measured of the work queues, with Kubernetes' names. The queues are this process's, by name, and so are their
//! figures.
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::LazyLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

fn latency() -> Histogram {
    // 100 us to 27 min, in steps of 4.
    Histogram::new((0..13).map(|power| 1e-4 * f64::from(1u32 << (2 * power))))
}

/// The figures of one queue.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Keys that wait.
    pub(crate) depth: Gauge,
    /// Keys that came.
    pub(crate) adds: Counter,
    /// Runs that failed and are tried again.
    pub(crate) retries: Counter,
    /// How long keys waited.
    pub(crate) waited: Histogram,
    /// How long runs took.
    pub(crate) worked: Histogram,
}

#[derive(Debug)]
struct Families {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Family<Name, Histogram, fn() -> Histogram>,
    worked: Family<Name, Histogram, fn() -> Histogram>,
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| Families {
    depth: Family::default(),
    adds: Family::default(),
    retries: Family::default(),
    waited: Family::new_with_constructor(latency as fn() -> Histogram),
    worked: Family::new_with_constructor(latency as fn() -> Histogram),
});

/// The figures of the queue of this name.
pub(crate) fn of(name: &'static str) -> Figures {
    let name = Name { name };
    Figures {
        depth: FAMILIES.depth.get_or_create(&name).clone(),
        adds: FAMILIES.adds.get_or_create(&name).clone(),
        retries: FAMILIES.retries.get_or_create(&name).clone(),
        waited: FAMILIES.waited.get_or_create(&name).clone(),
        worked: FAMILIES.worked.get_or_create(&name).clone(),
    }
}

/// Names the figures of all queues.
pub fn register(registry: &mut Registry) {
    registry.register("workqueue_depth", "Keys that wait in a work queue", FAMILIES.depth.clone());
    registry.register("workqueue_adds", "Keys that came into a work queue", FAMILIES.adds.clone());
    registry.register("workqueue_retries", "Runs of a work queue that failed", FAMILIES.retries.clone());
    let help = "How long keys waited in a work queue";
    registry.register("workqueue_queue_duration_seconds", help, FAMILIES.waited.clone());
    registry.register("workqueue_work_duration_seconds", "How long runs took", FAMILIES.worked.clone());
}
