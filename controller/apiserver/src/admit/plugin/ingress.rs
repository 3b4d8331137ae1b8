//! DefaultIngressClass: an Ingress that names no class gets the default one, if there is one.

use api::well_known::ANNOTATION_DEFAULT_INGRESS_CLASS;
use serde_json::Value;

use super::default_class;
use crate::admit::Attributes;

const OLD_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn mutate(attributes: &Attributes<'_>, ingress: &mut Value) {
    if !attributes.creates("networking.k8s.io", "ingresses") || ingress.pointer("/spec/ingressClassName").is_some() {
        return;
    }
    let annotations = ingress.pointer("/metadata/annotations");
    if annotations.is_some_and(|annotations| annotations.get(OLD_ANNOTATION).is_some()) {
        return;
    }
    let classes = attributes.state.registry.list("networking.k8s.io", "v1", "ingressclasses", None);
    if let Some(name) = default_class(&classes, ANNOTATION_DEFAULT_INGRESS_CLASS)
        && let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("ingressClassName".into(), name.into());
    }
}
