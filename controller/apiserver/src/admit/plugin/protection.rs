//! StorageObjectInUseProtection, and PodGroupProtection, which does the same for groups of pods.
//! Kubernetes documentation, "Admission Control in Kubernetes".

use api::well_known::{FINALIZER_POD_GROUP_PROTECTION, FINALIZER_PV_PROTECTION, FINALIZER_PVC_PROTECTION};
use serde_json::{Value, json};

use crate::admit::Attributes;

/// What is protected while somebody uses it: group, plural, finalizer.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", FINALIZER_PVC_PROTECTION),
    ("", "persistentvolumes", FINALIZER_PV_PROTECTION),
    ("scheduling.k8s.io", "podgroups", FINALIZER_POD_GROUP_PROTECTION),
];

/// What somebody uses stays until nobody does; controllers take the finalizer away then.
pub(super) fn mutate(attributes: &Attributes<'_>, object: &mut Value) {
    let mut own = PROTECTED.iter().filter(|(group, plural, _)| attributes.creates(group, plural));
    let Some((_, _, finalizer)) = own.next() else { return };
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(finalizers) = metadata.entry("finalizers").or_insert_with(|| json!([])).as_array_mut() else { return };
    if !finalizers.iter().any(|own| own == finalizer) {
        finalizers.push((*finalizer).into());
    }
}
