//! The built-in plugins, in the order of Kubernetes (kubeapiserver/options/plugins.go); each is one file.

mod certificate;
mod namespace;
mod node_restriction;
mod pod_priority;
mod rbac_escalation;
mod service_account;
mod tolerations;

use controller_object::status::Status;
use serde_json::Value;

use super::attributes::Attributes;

/// Runs those that may change the object.
pub(super) fn mutate(attributes: &Attributes<'_>, object: Option<&mut Value>) -> Result<(), Status> {
    let metrics = &attributes.state.metrics;
    let counted = |plugin, result: Result<(), Status>| result.inspect_err(|_| metrics.refused(plugin));
    counted("NamespaceLifecycle", namespace::admit(attributes))?;
    let Some(object) = object else { return Ok(()) };
    counted("ServiceAccount", service_account::admit(attributes, object))?;
    counted("Priority", pod_priority::admit(attributes, object))?;
    tolerations::admit(attributes, object);
    certificate::mutate(attributes, object);
    Ok(())
}

/// Runs those that only judge.
pub(super) fn validate(attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    let metrics = &attributes.state.metrics;
    let counted = |plugin, result: Result<(), Status>| result.inspect_err(|_| metrics.refused(plugin));
    let Some(object) = object else { return Ok(()) };
    counted("NodeRestriction", node_restriction::admit(attributes, object))?;
    counted("CertificateSigning", certificate::validate(attributes, object))?;
    counted("RBACEscalation", rbac_escalation::admit(attributes, object))
}
