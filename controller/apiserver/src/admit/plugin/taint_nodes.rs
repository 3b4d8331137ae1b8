//! TaintNodesByCondition: a new node gets no pods before it was seen to be ready.

use api::well_known::TAINT_NOT_READY;
use serde_json::{Value, json};

use crate::admit::Attributes;

pub(super) fn mutate(attributes: &Attributes<'_>, node: &mut Value) {
    if !attributes.creates("", "nodes") {
        return;
    }
    let Some(node) = node.as_object_mut() else { return };
    let spec = node.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else { return };
    let Some(taints) = spec.entry("taints").or_insert_with(|| json!([])).as_array_mut() else { return };
    let is_same = |taint: &Value| taint["key"] == TAINT_NOT_READY && taint["effect"] == "NoSchedule";
    if !taints.iter().any(is_same) {
        taints.push(json!({"key": TAINT_NOT_READY, "effect": "NoSchedule"}));
    }
}
