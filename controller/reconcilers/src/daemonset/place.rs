//! Which nodes a DaemonSet's pods belong on, and the pod for one of them: pure.
use crate::node::NodeFacts;
use crate::parent::Parent;
use api::affinity;
use api::toleration::untolerated;
use api::well_known::{
    LABEL_CONTROLLER_REVISION_HASH, TAINT_DISK_PRESSURE, TAINT_MEMORY_PRESSURE, TAINT_NETWORK_UNAVAILABLE,
    TAINT_NOT_READY, TAINT_PID_PRESSURE, TAINT_UNREACHABLE, TAINT_UNSCHEDULABLE,
};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};

/// Annotation that counts the templates, and the label of pods that tells it.
const ANNOTATION_GENERATION: &str = "deprecated.daemonset.template.generation";
const LABEL_GENERATION: &str = "pod-template-generation";

/// What the set's pods tolerate beside what their template says: they stay where others would not.
const TOLERATED: [(&str, &str); 6] = [
    (TAINT_NOT_READY, "NoExecute"),
    (TAINT_UNREACHABLE, "NoExecute"),
    (TAINT_DISK_PRESSURE, "NoSchedule"),
    (TAINT_MEMORY_PRESSURE, "NoSchedule"),
    (TAINT_PID_PRESSURE, "NoSchedule"),
    (TAINT_UNSCHEDULABLE, "NoSchedule"),
];

/// The set as owner.
pub(super) fn parent(set: &DaemonSet) -> Parent<'_> {
    Parent { api_version: "apps/v1", kind: "DaemonSet", metadata: &set.metadata }
}

/// What a node is to the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    /// It gets a pod.
    Wanted,
    /// It gets none, and keeps the one it has: a taint came that only keeps new pods away.
    Kept,
    /// It has no business with a pod.
    Unfit,
}

/// What a set asks of nodes; made once for many.
pub(super) struct Demands(PodSpec);

impl Demands {
    /// Those of a set's template.
    pub(super) fn new(set: &DaemonSet) -> Self {
        let spec = set.spec.template.spec.as_ref();
        let asked = spec.map(|spec| PodSpec {
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            node_selector: spec.node_selector.clone(),
            affinity: spec.affinity.clone(),
            tolerations: Some(tolerations(spec)),
            ..PodSpec::default()
        });
        Self(asked.unwrap_or_default())
    }

    /// Judges a node.
    pub(super) fn fitness(&self, node: &NodeFacts) -> Fitness {
        let facts = affinity::NodeFacts { name: node.name(), labels: node.labels() };
        if self.0.node_name.as_deref().is_some_and(|name| name != &**node.name())
            || !affinity::pod_admits_node(&self.0, facts)
        {
            return Fitness::Unfit;
        }
        let tolerations = self.0.tolerations.as_deref().unwrap_or_default();
        let stops = |effects: &[&str]| untolerated(node.taints(), tolerations, effects).is_some();
        match (stops(&["NoExecute"]), stops(&["NoSchedule"])) {
            (true, _) => Fitness::Unfit,
            (false, true) => Fitness::Kept,
            (false, false) => Fitness::Wanted,
        }
    }
}

/// The tolerations of the set's pods.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = spec.host_network == Some(true);
    let more = network.then_some((TAINT_NETWORK_UNAVAILABLE, "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(more) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        // One that says less about the same taint gives way.
        all.retain(|own| own.key != toleration.key || own.effect != toleration.effect || own.value.is_some());
        all.push(toleration);
    }
    all
}

/// The pod for a node, made from a template whose revision has this hash.
pub(super) fn pod(set: &DaemonSet, template: &PodTemplateSpec, hash: &str, node: &str) -> Pod {
    let mut metadata = parent(set).pod_metadata(template.metadata.clone());
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(LABEL_CONTROLLER_REVISION_HASH.to_owned(), hash.to_owned());
    if let Some(generation) = set.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_GENERATION)) {
        labels.insert(LABEL_GENERATION.to_owned(), generation.clone());
    }
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.tolerations = Some(tolerations(&spec));
    bind_to(&mut spec, node);
    Pod { metadata, spec: Some(spec), status: None }
}

/// Leaves the scheduler no other node. Which nodes fit was decided here; the rest of the affinity stays.
fn bind_to(spec: &mut PodSpec, node: &str) {
    let only = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None }],
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(spec: Value) -> DaemonSet {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
        let metadata = json!({"name": "d", "uid": "u", "annotations": {ANNOTATION_GENERATION: "4"}});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"selector": {}, "template": template}})).unwrap()
    }

    fn node(labels: Value, taints: Value) -> NodeFacts {
        let node = json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
        NodeFacts::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn nodes_are_judged() {
        let plain = json!({"containers": []});
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        for (spec, labels, taints, want) in [
            (plain.clone(), json!({}), json!([]), Fitness::Wanted),
            (json!({"containers": [], "nodeName": "n2"}), json!({}), json!([]), Fitness::Unfit),
            (json!({"containers": [], "nodeSelector": {"c": "x"}}), json!({"c": "x"}), json!([]), Fitness::Wanted),
            (json!({"containers": [], "nodeSelector": {"c": "x"}}), json!({}), json!([]), Fitness::Unfit),
            (plain.clone(), json!({}), taint("own", "NoSchedule"), Fitness::Kept),
            (plain.clone(), json!({}), taint("own", "NoExecute"), Fitness::Unfit),
            (plain.clone(), json!({}), taint("own", "PreferNoSchedule"), Fitness::Wanted),
            (plain.clone(), json!({}), taint(TAINT_UNSCHEDULABLE, "NoSchedule"), Fitness::Wanted),
            (plain.clone(), json!({}), taint(TAINT_NOT_READY, "NoExecute"), Fitness::Wanted),
            (plain, json!({}), taint(TAINT_NETWORK_UNAVAILABLE, "NoSchedule"), Fitness::Kept),
            (
                json!({"containers": [], "hostNetwork": true}),
                json!({}),
                taint(TAINT_NETWORK_UNAVAILABLE, "NoSchedule"),
                Fitness::Wanted,
            ),
        ] {
            assert_eq!(Demands::new(&set(spec.clone())).fitness(&node(labels, taints)), want, "{spec}");
        }
    }

    #[test]
    fn a_pod_goes_to_its_node_and_nowhere_else() {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}, {"matchExpressions": []}]}}});
        let patient =
            json!([{"key": TAINT_NOT_READY, "effect": "NoExecute", "operator": "Exists", "tolerationSeconds": 5}]);
        let set = set(json!({"containers": [], "affinity": affinity, "tolerations": patient}));
        let pod = pod(&set, &set.spec.template, "abc", "n1");
        let facts = crate::pod::PodFacts::new(pod.clone());
        assert_eq!((facts.place(), facts.label("controller-revision-hash")), (Some("n1"), Some("abc")));
        assert_eq!(facts.label("pod-template-generation"), Some("4"));
        assert!(facts.tolerations.iter().all(|toleration| toleration.toleration_seconds.is_none()));
        assert_eq!(facts.tolerations.len(), TOLERATED.len());
    }
}
