//! DefaultStorageClass and PersistentVolumeClaimResize.
//! Kubernetes documentation, "Admission Control in Kubernetes".

use api::quantity::Quantity;
use api::well_known::{ANNOTATION_DEFAULT_STORAGE_CLASS, ANNOTATION_OLD_CLASS};
use controller_object::status::{About, Status};
use serde_json::Value;

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
