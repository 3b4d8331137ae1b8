//! What is placed, workload by workload, as kube-scheduler's own measurements have it (test/integration/scheduler_perf of
//! kubernetes/kubernetes; the gates are quoted from there, the pods are its own in our words).

use serde_json::{Value, json};

/// A workload, its gate in pods a second, and its pods.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) gate: f64,
    pub(crate) kind: Kind,
}

/// How the pods of a workload differ from plain ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Each names its node, as the pods of a DaemonSet do.
    PerNode,
    NodeAffinity,
    /// All in the zone of the first.
    RequiredAffinity,
    PreferredAffinity,
    /// One on a node.
    AntiAffinity,
    Spread,
    /// While a node, a Service and a pod that fits nowhere come and go each second.
    Churn,
    /// Each needs the room of three less important ones.
    Preemption,
}

pub(crate) const WORKLOADS: [Workload; 9] = [
    Workload { name: "plain", gate: 680.0, kind: Kind::Plain },
    Workload { name: "node affinity", gate: 220.0, kind: Kind::NodeAffinity },
    Workload { name: "preferred affinity", gate: 90.0, kind: Kind::PreferredAffinity },
    Workload { name: "spread", gate: 460.0, kind: Kind::Spread },
    Workload { name: "daemonset-like", gate: 1100.0, kind: Kind::PerNode },
    Workload { name: "required affinity", gate: 35.0, kind: Kind::RequiredAffinity },
    Workload { name: "anti-affinity", gate: 60.0, kind: Kind::AntiAffinity },
    Workload { name: "mixed churn", gate: 710.0, kind: Kind::Churn },
    Workload { name: "preemption", gate: 570.0, kind: Kind::Preemption },
];

/// Less important pods on each node before [`Kind::Preemption`].
pub(crate) const LOW_PER_NODE: usize = 4;

impl Workload {
    pub(crate) fn namespace(&self) -> String {
        self.name.replace(' ', "-")
    }

    /// How many pods, if `wished` are.
    pub(crate) fn count(&self, wished: usize, nodes: usize) -> usize {
        match self.kind {
            Kind::PerNode | Kind::Preemption => nodes,
            // A node that has one takes no other.
            Kind::AntiAffinity => nodes * 4 / 5,
            _ => wished,
        }
    }

    /// The pod of this number.
    pub(crate) fn spec(&self, number: usize) -> Value {
        let (hosts, zones) = ("kubernetes.io/hostname", "topology.kubernetes.io/zone");
        let own = json!({"matchLabels": {"set": self.namespace()}});
        let term = |key: &str| json!({"topologyKey": key, "labelSelector": own});
        match self.kind {
            Kind::Plain | Kind::Churn => plain(),
            Kind::PerNode => {
                let name = json!({"key": "metadata.name", "operator": "In", "values": [crate::agents::name(number)]});
                node_affinity(&json!({"matchFields": [name]}))
            }
            Kind::NodeAffinity => node_affinity(
                &json!({"matchExpressions": [{"key": zones, "operator": "In", "values": ["zone-1", "zone-2"]}]}),
            ),
            Kind::RequiredAffinity => {
                let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(zones)]});
                with("affinity", json!({"podAffinity": required}))
            }
            Kind::PreferredAffinity => {
                let preferred = json!([{"weight": 1, "podAffinityTerm": term(hosts)}]);
                let preferred = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
                with("affinity", json!({"podAffinity": preferred}))
            }
            Kind::AntiAffinity => {
                let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(hosts)]});
                with("affinity", json!({"podAntiAffinity": required}))
            }
            Kind::Spread => {
                let constraint = json!({"maxSkew": 5, "topologyKey": zones, "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": own});
                with("topologySpreadConstraints", json!([constraint]))
            }
            Kind::Preemption => of_class("high", "3000m"),
        }
    }
}

pub(crate) fn plain() -> Value {
    json!({"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "pause",
        "resources": {"requests": {"cpu": "10m", "memory": "50Mi"}}}]})
}

/// Four of these fill a node of four processors.
pub(crate) fn low() -> Value {
    of_class("low", "900m")
}

/// No node is so large.
pub(crate) fn huge() -> Value {
    of_class("high", "9")
}

fn of_class(class: &str, cpu: &str) -> Value {
    let mut spec = with("priorityClassName", class.into());
    spec["containers"][0]["resources"]["requests"]["cpu"] = cpu.into();
    spec
}

fn with(field: &str, value: Value) -> Value {
    let mut spec = plain();
    spec[field] = value;
    spec
}

fn node_affinity(term: &Value) -> Value {
    let required = json!({"nodeSelectorTerms": [term]});
    with("affinity", json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}))
}
