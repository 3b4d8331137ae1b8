//! DefaultStorageClass, StorageObjectInUseProtection and PersistentVolumeClaimResize.
//! Kubernetes documentation, "Admission Control in Kubernetes".

use api::quantity::Quantity;
use api::well_known::{
    ANNOTATION_DEFAULT_STORAGE_CLASS, ANNOTATION_OLD_CLASS, FINALIZER_PV_PROTECTION, FINALIZER_PVC_PROTECTION,
};
use controller_object::status::{About, Status};
use serde_json::{Value, json};

use super::fill_class;
use crate::admit::Attributes;
use crate::registry::names;

/// A claim that names no class gets the default one, if there is one; an empty name asks for none.
pub(super) fn default_storage_class(attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), Status> {
    if !attributes.creates("", "persistentvolumeclaims") {
        return Ok(());
    }
    let classes = ("storage.k8s.io", "storageclasses", ANNOTATION_DEFAULT_STORAGE_CLASS);
    fill_class(attributes, claim, "storageClassName", ANNOTATION_OLD_CLASS, classes)
}

/// Claims and volumes that somebody uses stay until nobody does; their controllers take the finalizer away then.
pub(super) fn protect(attributes: &Attributes<'_>, object: &mut Value) {
    let finalizer =
        match (attributes.creates("", "persistentvolumeclaims"), attributes.creates("", "persistentvolumes")) {
            (true, _) => FINALIZER_PVC_PROTECTION,
            (_, true) => FINALIZER_PV_PROTECTION,
            _ => return,
        };
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(finalizers) = metadata.entry("finalizers").or_insert_with(|| json!([])).as_array_mut() else { return };
    if !finalizers.iter().any(|own| own == finalizer) {
        finalizers.push(finalizer.into());
    }
}

/// A bound claim grows only where its class allows it.
pub(super) fn resize(attributes: &Attributes<'_>, claim: &Value) -> Result<(), Status> {
    let Some(old) = attributes.old.filter(|_| attributes.updates("", "persistentvolumeclaims")) else { return Ok(()) };
    let size = |claim: &Value| {
        let text = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
        text.and_then(|text| Quantity::parse(text).ok()).map_or(0, Quantity::nano)
    };
    if size(claim) <= size(old) {
        return Ok(());
    }
    let refuse = |detail: &str| Err(Status::forbidden(About::resource(attributes.resource, names(claim).1), detail));
    if old.pointer("/status/phase").and_then(Value::as_str) != Some("Bound") {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str).filter(|name| !name.is_empty());
    let class =
        class.and_then(|name| attributes.state.registry.peek("storage.k8s.io", "v1", "storageclasses", None, name));
    match class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        true => Ok(()),
        false => refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ),
    }
}
