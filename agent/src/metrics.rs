//! What is measured of the agent, with the kubelet's names.

use std::time::{Duration, Instant};

use agent_pod::probe::{Health, ProbeKind};
use agent_pod::protocol::{Command, Event};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    container_state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Node {
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Probe {
    probe_type: &'static str,
    result: &'static str,
}

type Durations = Family<Operation, Histogram, fn() -> Histogram>;

fn latency() -> Histogram {
    // 1 ms to 4 min.
    Histogram::new((0..19).map(|power| 1e-3 * f64::from(1u32 << power)))
}

/// Counters, gauges and histograms of one agent. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    node: Family<Node, Gauge>,
    pods: Gauge,
    containers: Family<State, Gauge>,
    started_pods: Counter,
    failed_pods: Counter,
    started_containers: Counter,
    failed_containers: Counter,
    pod_start: Histogram,
    worker: Durations,
    operations: Family<Operation, Counter>,
    errors: Family<Operation, Counter>,
    durations: Durations,
    pull: Histogram,
    probes: Family<Probe, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            node: Family::default(),
            pods: Gauge::default(),
            containers: Family::default(),
            started_pods: Counter::default(),
            failed_pods: Counter::default(),
            started_containers: Counter::default(),
            failed_containers: Counter::default(),
            pod_start: latency(),
            worker: Durations::new_with_constructor(latency as fn() -> Histogram),
            operations: Family::default(),
            errors: Family::default(),
            durations: Durations::new_with_constructor(latency as fn() -> Histogram),
            pull: latency(),
            probes: Family::default(),
        }
    }
}

impl Metrics {
    /// Names them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("kubelet_node_name", "The node's name; always 1", self.node.clone());
        registry.register("kubelet_running_pods", "Pods that have a running container", self.pods.clone());
        registry.register("kubelet_running_containers", "Containers by state", self.containers.clone());
        registry.register("kubelet_started_pods", "Sandboxes started", self.started_pods.clone());
        registry.register("kubelet_started_pods_errors", "Sandboxes that did not start", self.failed_pods.clone());
        registry.register("kubelet_started_containers", "Containers started", self.started_containers.clone());
        let help = "Containers that did not start";
        registry.register("kubelet_started_containers_errors", help, self.failed_containers.clone());
        let help = "From seeing a pod to all its containers running";
        registry.register("kubelet_pod_start_duration_seconds", help, self.pod_start.clone());
        let help = "How long a pod's worker takes for one event";
        registry.register("kubelet_pod_worker_duration_seconds", help, self.worker.clone());
        registry.register("kubelet_runtime_operations", "Operations on pods and containers", self.operations.clone());
        registry.register("kubelet_runtime_operations_errors", "Operations that failed", self.errors.clone());
        let help = "How long operations on pods and containers take";
        registry.register("kubelet_runtime_operations_duration_seconds", help, self.durations.clone());
        registry.register("kubelet_image_pull_duration_seconds", "How long image pulls take", self.pull.clone());
        registry.register("prober_probe", "Probes by kind and result", self.probes.clone());
    }

    /// A probe was answered.
    pub(crate) fn probed(&self, kind: ProbeKind, health: &Health) {
        let result = match health {
            Health::Good | Health::Warned(_) => "successful",
            Health::Bad(_) => "failed",
            Health::Unknown(_) => "unknown",
        };
        self.probes.get_or_create(&Probe { probe_type: kind.as_str(), result }).inc();
    }

    /// The node's name is known.
    pub(crate) fn node(&self, node: &str) {
        self.node.get_or_create(&Node { node: node.to_owned() }).set(1);
    }

    /// A command was carried out, with this outcome.
    pub(crate) fn carried_out(&self, operation: &'static str, took: Duration, outcome: Option<&Event>) {
        let labels = Operation { operation_type: operation };
        self.operations.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        match outcome {
            Some(Event::SandboxReady { .. }) => drop(self.started_pods.inc()),
            Some(Event::ContainerStarted { .. }) => drop(self.started_containers.inc()),
            Some(Event::ImageReady { .. }) if operation == "pull_image" => self.pull.observe(took.as_secs_f64()),
            Some(Event::SandboxFailed(_)) => drop(self.failed_pods.inc()),
            Some(Event::ContainerFailed { .. }) => drop(self.failed_containers.inc()),
            _ => {}
        }
        let failed = matches!(
            outcome,
            Some(
                Event::SandboxFailed(_)
                    | Event::ContainerFailed { .. }
                    | Event::ImageFailed { .. }
                    | Event::VolumesFailed(_)
            )
        );
        if failed {
            self.errors.get_or_create(&labels).inc();
        }
    }

    /// A worker has taken an event.
    pub(crate) fn worked(&self, took: Duration) {
        self.worker.get_or_create(&Operation { operation_type: "sync" }).observe(took.as_secs_f64());
    }
}

/// What a command is called among the operations of a runtime; `None` where it is none.
pub(crate) fn operation(command: &Command) -> Option<&'static str> {
    Some(match command {
        Command::SetUpVolumes => "set_up_volumes",
        Command::StartSandbox => "run_podsandbox",
        Command::EnsureImage { .. } => "image_status",
        Command::PullImage { .. } => "pull_image",
        Command::StartContainer { .. } => "start_container",
        Command::StopContainer { .. } | Command::KillContainer { .. } => "stop_container",
        Command::RemoveContainer { .. } => "remove_container",
        Command::RunHook { .. } => "run_hook",
        Command::ResizeContainer { .. } => "update_container",
        Command::StopSandbox => "stop_podsandbox",
        Command::TearDownVolumes => "tear_down_volumes",
        Command::CancelPull { .. }
        | Command::Probe { .. }
        | Command::Emit(_)
        | Command::TellResize(_)
        | Command::Release
        | Command::WakeAt(_) => return None,
    })
}

/// What one pod adds to the gauges, until it is dropped.
pub(crate) struct PodFigures {
    metrics: Metrics,
    since: Instant,
    running: i64,
    was_up: bool,
}

impl PodFigures {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { metrics, since: Instant::now(), running: 0, was_up: false }
    }

    /// So many of its containers run; and whether those are all that it has.
    pub(crate) fn show(&mut self, running: usize, all: bool) {
        let running = i64::try_from(running).unwrap_or(i64::MAX);
        self.metrics.pods.inc_by(i64::from(running > 0) - i64::from(self.running > 0));
        let state = State { container_state: "running" };
        self.metrics.containers.get_or_create(&state).inc_by(running - self.running);
        self.running = running;
        if all && !std::mem::replace(&mut self.was_up, true) {
            self.metrics.pod_start.observe(self.since.elapsed().as_secs_f64());
        }
    }

    /// The pod was running before it was seen here: its start is not this agent's to measure.
    pub(crate) fn is_old(&mut self) {
        self.was_up = true;
    }
}

impl Drop for PodFigures {
    fn drop(&mut self) {
        self.show(0, false);
    }
}
