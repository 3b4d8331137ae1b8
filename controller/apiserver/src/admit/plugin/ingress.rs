//! DefaultIngressClass: an Ingress that names no class gets the default one, if there is one.

use api::well_known::ANNOTATION_DEFAULT_INGRESS_CLASS;
use controller_object::status::Status;
use serde_json::Value;

use super::fill_class;
use crate::admit::Attributes;

const OLD_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn mutate(attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), Status> {
    if !attributes.creates("networking.k8s.io", "ingresses") {
        return Ok(());
    }
    let classes = ("networking.k8s.io", "ingressclasses", ANNOTATION_DEFAULT_INGRESS_CLASS);
    fill_class(attributes, ingress, "ingressClassName", OLD_ANNOTATION, classes)
}
