//! Node selectors and node affinity: whether a node has the labels that a pod asks for.
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use std::collections::BTreeMap;

/// What node selection looks at.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// The node's name, for `matchFields`.
    pub name: &'a str,
    /// The node's labels.
    pub labels: &'a BTreeMap<String, String>,
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let integer = |test: fn(i64, i64) -> bool| match (values, value.and_then(|v| v.parse().ok())) {
        ([bound], Some(have)) => bound.parse().is_ok_and(|bound| test(have, bound)),
        _ => false,
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(|v| values.iter().any(|w| w == v)),
        "NotIn" => value.is_none_or(|v| values.iter().all(|w| w != v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => integer(|have, bound| have > bound),
        "Lt" => integer(|have, bound| have < bound),
        _ => false,
    }
}

/// Whether a node meets one term. A term without any requirement matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: NodeFacts<'_>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|r| requirement(r, node.labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(node.name)))
}

/// Whether a node meets any term.
pub fn node_selector_matches(selector: &NodeSelector, node: NodeFacts<'_>) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// Whether a node meets the pod's `nodeSelector` and its required node affinity.
pub fn pod_admits_node(spec: &PodSpec, node: NodeFacts<'_>) -> bool {
    let plain = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    plain && required.is_none_or(|selector| node_selector_matches(selector, node))
}

/// The sum of the weights of the preferred terms that a node meets.
pub fn preference(spec: &PodSpec, node: NodeFacts<'_>) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    preferred
        .unwrap_or_default()
        .iter()
        .filter(|p| term_matches(&p.preference, node))
        .map(|p| i64::from(p.weight))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let labels: BTreeMap<String, String> =
            [("zone".to_owned(), "a".to_owned()), ("n".to_owned(), "5".to_owned())].into();
        let node = NodeFacts { name: "n1", labels: &labels };
        let spec = |value| -> PodSpec { serde_json::from_value(value).unwrap() };
        let affinity = |expression: serde_json::Value| {
            spec(
                serde_json::json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [expression]}}}}),
            )
        };
        for (expression, want) in [
            (serde_json::json!({}), false),
            (serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}), true),
            (serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}), false),
            (serde_json::json!({"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["4"]}]}), true),
            (serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "Lt", "values": ["4"]}]}), false),
            (serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true),
            (serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false),
        ] {
            assert_eq!(pod_admits_node(&affinity(expression.clone()), node), want, "{expression}");
        }
        assert!(!pod_admits_node(&spec(serde_json::json!({"containers": [], "nodeSelector": {"zone": "b"}})), node));
        assert!(pod_admits_node(&spec(serde_json::json!({"containers": []})), node));
    }
}
