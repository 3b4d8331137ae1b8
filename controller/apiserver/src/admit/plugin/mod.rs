//! The built-in plugins, in the order of Kubernetes (kubeapiserver/options/plugins.go); each is one file.

mod certificate;
mod ingress;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod owner;
mod pod_priority;
mod pod_security;
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
    limit_ranger::mutate(attributes, object);
    counted("ServiceAccount", service_account::admit(attributes, object))?;
    taint_nodes::mutate(attributes, object);
    counted("Priority", pod_priority::admit(attributes, object))?;
    tolerations::admit(attributes, object);
    storage::default_storage_class(attributes, object);
    storage::protect(attributes, object);
    counted("RuntimeClass", runtime_class::mutate(attributes, object))?;
    ingress::mutate(attributes, object);
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
    counted("NodeRestriction", node_restriction::admit(attributes, object))?;
    counted("PodSecurity", pod_security::validate(attributes, object))?;
    counted("Priority", pod_priority::validate(attributes, object))?;
    counted("OwnerReferencesPermissionEnforcement", owner::validate(attributes, object))?;
    counted("PersistentVolumeClaimResize", storage::resize(attributes, object))?;
    counted("RuntimeClass", runtime_class::validate(attributes, object))?;
    counted("CertificateSigning", certificate::validate(attributes, object))?;
    counted("RBACEscalation", rbac_escalation::admit(attributes, object))
}

/// The class that an annotation marks as the default: the newest, then the first by name.
fn default_class(classes: &[Value], annotation: &str) -> Option<String> {
    let marked = classes.iter().filter(|class| class["metadata"]["annotations"][annotation] == "true");
    let created = |class: &Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    let newest = marked.min_by_key(|class| (std::cmp::Reverse(created(class)), names(class).1.to_owned()))?;
    Some(names(newest).1.to_owned())
}
