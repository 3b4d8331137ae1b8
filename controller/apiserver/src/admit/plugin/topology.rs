//! PodTopologyLabels: a pod that is bound to a node gets the node's zone and region as labels of its own.
//! Kubernetes documentation, "Admission Control in Kubernetes"; KEP-4742.

use api::well_known::{LABEL_REGION, LABEL_ZONE};
use controller_object::resource::Subresource;
use serde_json::{Value, json};

use crate::admit::{Attributes, Operation};

/// `object` is the Binding, or a pod that names its node itself.
pub(super) fn mutate(attributes: &Attributes<'_>, object: &mut Value) {
    let binds = attributes.is("", "pods") && attributes.subresource == Some(Subresource::Binding)
        || attributes.is("", "bindings") && attributes.operation == Operation::Create;
    let node = match (binds, attributes.creates("", "pods")) {
        (true, _) => object.pointer("/target/name"),
        (_, true) => object.pointer("/spec/nodeName"),
        _ => return,
    };
    let Some(node) = node.and_then(Value::as_str).filter(|name| !name.is_empty()) else { return };
    let Some(node) = attributes.state.registry.peek_at(("", "v1", "nodes"), None, node, &["metadata.labels"]) else {
        return;
    };
    for key in [LABEL_ZONE, LABEL_REGION] {
        let Some(value) = node["metadata"]["labels"].get(key).cloned() else { continue };
        let Some(object) = object.as_object_mut() else { return };
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut()
            && let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
        {
            labels.entry(key).or_insert(value);
        }
    }
}
