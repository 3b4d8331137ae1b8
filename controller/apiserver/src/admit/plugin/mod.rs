//! The built-in plugins, in the order of Kubernetes (kubeapiserver/options/plugins.go); each is one file.

mod certificate;
mod device;
mod ingress;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod owner;
mod pod_certificate;
mod pod_group;
mod pod_priority;
mod pod_security;
mod protection;
mod rbac_escalation;
mod runtime_class;
mod service_account;
mod storage;
mod taint_nodes;
mod tolerations;
mod topology;

use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;
use crate::registry::names;

/// Runs those that may change the object.
pub(super) fn mutate(attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
    let metrics = &attributes.state.metrics;
    let counted = |plugin, result: Result<(), Status>| result.inspect_err(|_| metrics.refused(plugin));
    counted("NamespaceLifecycle", namespace::admit(attributes))?;
    let Some(object) = object else { return Ok(()) };
    limit_ranger::mutate(attributes, object)?;
    counted("ServiceAccount", service_account::admit(attributes, object))?;
    taint_nodes::mutate(attributes, object);
    counted("Priority", pod_priority::admit(attributes, object))?;
    tolerations::admit(attributes, object);
    storage::default_storage_class(attributes, object)?;
    protection::mutate(attributes, object);
    counted("RuntimeClass", runtime_class::mutate(attributes, object))?;
    ingress::mutate(attributes, object)?;
    topology::mutate(attributes, object);
    certificate::mutate(attributes, object);
    Ok(())
}

/// Runs those that only judge.
pub(super) fn validate(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    let metrics = &attributes.state.metrics;
    let counted = |plugin, result: Result<(), Status>| result.inspect_err(|_| metrics.refused(plugin));
    let Some(object) = object else { return Ok(()) };
    counted("LimitRanger", limit_ranger::validate(attributes, object))?;
    device::validate(attributes, object)?;
    counted("NodeRestriction", node_restriction::admit(attributes, object))?;
    counted("PodSecurity", pod_security::validate(attributes, object))?;
    counted("Priority", pod_priority::validate(attributes, object))?;
    counted("PodGroupWorkloadExists", pod_group::validate(attributes, object))?;
    counted("OwnerReferencesPermissionEnforcement", owner::validate(attributes, object))?;
    counted("PersistentVolumeClaimResize", storage::resize(attributes, object))?;
    counted("RuntimeClass", runtime_class::validate(attributes, object))?;
    counted("CertificateSigning", certificate::validate(attributes, object))?;
    counted("PodCertificateRequest", pod_certificate::validate(attributes, object))?;
    counted("RBACEscalation", rbac_escalation::admit(attributes, object))
}

/// Fills in the class of an object that names none, not even by the annotation of earlier times; `classes` are a group,
/// a plural and the annotation of the default one. An empty name asks for no class.
fn fill_class(
    attributes: &Attributes<'_>,
    object: &mut Value,
    field: &str,
    old_annotation: &str,
    classes: (&str, &str, &str),
) -> Result<(), Status> {
    let is_named = object["spec"].get(field).is_some()
        || object.pointer("/metadata/annotations").is_some_and(|all| all.get(old_annotation).is_some());
    if is_named {
        return Ok(());
    }
    let (group, plural, annotation) = classes;
    let classes = attributes.state.registry.list(group, "v1", plural, None)?;
    if let Some(name) = default_class(&classes, annotation)
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert(field.to_owned(), name.into());
    }
    Ok(())
}

/// The class that an annotation marks as the default: the newest, then the first by name.
fn default_class(classes: &[Value], annotation: &str) -> Option<String> {
    let marked = classes.iter().filter(|class| class["metadata"]["annotations"][annotation] == "true");
    let created = |class: &Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    let newest = marked.min_by_key(|class| (std::cmp::Reverse(created(class)), names(class).1.to_owned()))?;
    Some(names(newest).1.to_owned())
}
