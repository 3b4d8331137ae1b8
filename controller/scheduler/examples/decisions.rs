//! Decisions per second on the workloads that the field measures with: decisions alone, without an API. Nodes have 4
//! processors, 32 GiB and room for 110 pods; pods ask for 100m and 500 MiB; both as kube-scheduler's own measure uses.
use controller_scheduler::decide::{Decider, Decision};
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::snapshot::Snapshot;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A workload and what kube-scheduler's gate demands of it, in pods a second (quoted from its repository, not measured here).
struct Workload {
    name: &'static str,
    gate: Option<u32>,
    nodes: usize,
    /// Pods that have their place before, and how they are.
    before: (usize, Shape),
    pods: (usize, Shape),
    /// Every so many decisions one pod leaves; 0 is never.
    churn: usize,
}

#[derive(Clone, Copy)]
enum Shape {
    Plain,
    /// One node each, by name.
    Daemon,
    NodeAffinity,
    Affinity,
    PreferredAffinity,
    AntiAffinity,
    PreferredAntiAffinity,
    Spread,
    Low,
    High,
    /// More than any node has.
    Huge,
}

const ZONES: usize = 3;

fn node(n: usize) -> NodeFacts {
    let name = format!("node-{n}");
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", n % ZONES)});
    let node = json!({"metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}});
    NodeFacts::new(serde_json::from_value(node).expect("a node"))
}

fn spec(shape: Shape, n: usize) -> Value {
    let zone = "topology.kubernetes.io/zone";
    let host = "kubernetes.io/hostname";
    let term = |key: &str| json!({"labelSelector": {"matchLabels": {"color": "blue"}}, "topologyKey": key});
    let required =
        |kind: &str, key: &str| json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(key)]}});
    let preferred = |kind: &str, key: &str| json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term(key)}]}});
    let nodes = |part: &str, requirement: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{part: [requirement]}]}}}})
    };
    match shape {
        Shape::Plain => json!({}),
        Shape::Daemon => {
            let one = json!({"key": "metadata.name", "operator": "In", "values": [format!("node-{n}")]});
            nodes("matchFields", one)
        }
        Shape::NodeAffinity => {
            nodes("matchExpressions", json!({"key": zone, "operator": "In", "values": ["zone-1", "zone-2"]}))
        }
        Shape::Affinity => json!({"affinity": required("podAffinity", zone)}),
        Shape::PreferredAffinity => json!({"affinity": preferred("podAffinity", host)}),
        Shape::AntiAffinity => json!({"affinity": required("podAntiAffinity", host)}),
        Shape::PreferredAntiAffinity => json!({"affinity": preferred("podAntiAffinity", host)}),
        Shape::Spread => json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": zone,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "blue"}}}]}),
        Shape::Low => json!({"priority": 0}),
        Shape::High => json!({"priority": 10}),
        Shape::Huge => json!({}),
    }
}

fn pod(name: &str, shape: Shape, n: usize) -> PodFacts {
    let (cpu, memory) = match shape {
        Shape::Low => ("900m", "500Mi"),
        Shape::High => ("3", "500Mi"),
        Shape::Huge => ("5", "500Mi"),
        _ => ("100m", "500Mi"),
    };
    let mut whole = json!({"metadata": {"namespace": "bench", "name": name, "uid": name, "labels": {"color": "blue"}},
        "spec": {"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}});
    for (key, value) in spec(shape, n).as_object().into_iter().flatten() {
        whole["spec"][key] = value.clone();
    }
    PodFacts::new(serde_json::from_value(whole).expect("a pod"))
}

fn run(workload: &Workload) {
    let mut snapshot = Snapshot::default();
    for n in 0..workload.nodes {
        snapshot.set_node(node(n));
    }
    for n in 0..workload.before.0 {
        snapshot.place(&pod(&format!("before-{n}"), workload.before.1, n), &format!("node-{}", n % workload.nodes));
    }
    // Reading pods is the watch's work, on its own time.
    let pods: Vec<PodFacts> = (0..workload.pods.0).map(|n| pod(&format!("pod-{n}"), workload.pods.1, n)).collect();
    let mut decider = Decider::default();
    let mut times: Vec<Duration> = Vec::with_capacity(pods.len());
    let (mut placed, mut unfit, mut victims, mut left) = (0_usize, 0_usize, 0_usize, 0_usize);
    let start = Instant::now();
    for (n, pod) in pods.iter().enumerate() {
        let begin = Instant::now();
        snapshot.attend(&pod.shape);
        let decision = decider.decide(&snapshot, pod);
        times.push(begin.elapsed());
        match decision {
            Decision::Bind(node) => {
                snapshot.place(pod, &node);
                placed += 1;
            }
            Decision::Preempt(preemption, _) => {
                // As if the victims left at once: the next decision binds.
                for victim in &preemption.victims {
                    snapshot.unplace(&victim.key);
                }
                victims += preemption.victims.len();
                snapshot.place(pod, &preemption.node);
                placed += 1;
            }
            Decision::Prepare(..) | Decision::Unfit(_) => unfit += 1,
        }
        if workload.churn > 0 && n % workload.churn == 0 && snapshot.unplace(&format!("before-{left}")).is_some() {
            left += 1;
        }
    }
    let whole = start.elapsed();
    times.sort_unstable();
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let rate = pods.len() as f64 / whole.as_secs_f64();
    let gate = workload.gate.map_or("-".to_owned(), |gate| gate.to_string());
    let ratio = workload.gate.map_or("-".to_owned(), |gate| format!("{:.0} x", rate / f64::from(gate)));
    let what = format!("{placed} placed, {unfit} unfit, {victims} preempted");
    println!("{:34} {rate:>9.0} {:>9.1} {gate:>6} {ratio:>7}  {what}", workload.name, p99.as_secs_f64() * 1e6);
}

fn main() {
    use Shape::*;
    let only = std::env::args().nth(1).unwrap_or_default();
    println!("{:34} {:>9} {:>9} {:>6} {:>7}", "workload", "pods/s", "p99 us", "gate*", "ratio");
    let workload = |name, gate, nodes, before, pods| Workload { name, gate, nodes, before, pods, churn: 0 };
    let all = [
        workload("plain, 5000 x 10000", Some(680), 5000, (1000, Plain), (10_000, Plain)),
        workload("plain, 5000 x 50000", Some(810), 5000, (5000, Plain), (50_000, Plain)),
        workload("daemonset-like, 15000 x 15000", Some(1100), 15_000, (0, Plain), (15_000, Daemon)),
        workload("node affinity, 5000 x 10000", Some(220), 5000, (5000, NodeAffinity), (10_000, NodeAffinity)),
        workload("pod affinity required, 5000 x 5000", Some(35), 5000, (5000, Affinity), (5000, Affinity)),
        workload("pod affinity preferred", Some(90), 5000, (5000, PreferredAffinity), (5000, PreferredAffinity)),
        workload("anti-affinity required", Some(60), 5000, (1000, AntiAffinity), (4000, AntiAffinity)),
        workload("anti-affinity preferred", None, 5000, (5000, PreferredAntiAffinity), (5000, PreferredAntiAffinity)),
        workload("topology spread, 5000 x 5000", Some(460), 5000, (5000, Plain), (5000, Spread)),
        workload("preemption, 5000 x 5000", Some(570), 5000, (20_000, Low), (5000, High)),
        Workload {
            churn: 2,
            ..workload("mixed churn, 5000 x 10000", Some(710), 5000, (10_000, Plain), (10_000, Plain))
        },
        workload("unschedulable backlog", None, 5000, (1000, Plain), (10_000, Huge)),
        workload("plain, 20000 x 20000", None, 20_000, (0, Plain), (20_000, Plain)),
    ];
    for workload in all.iter().filter(|workload| workload.name.contains(&only)) {
        run(workload);
    }
    println!("* what kube-scheduler's own gate demands, in pods/s, quoted from its repository; not measured here");
}
