//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going; the system's own stay.

use controller_object::status::{About, Cause, CauseReason, Status};

use crate::admit::{Attributes, Operation};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(attributes: &Attributes<'_>) -> Result<(), Status> {
    if attributes.is("", "namespaces") {
        return match attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
            true => Err(Status::forbidden(
                About::resource(attributes.resource, attributes.name),
                "this namespace may not be deleted",
            )),
            false => Ok(()),
        };
    }
    let (Operation::Create, None, Some(namespace)) =
        (attributes.operation, attributes.subresource, attributes.namespace)
    else {
        return Ok(());
    };
    let registry = &attributes.state.registry;
    let Some(live) = registry.peek_at(("", "v1", "namespaces"), None, namespace, &["metadata.deletionTimestamp"])
    else {
        return Err(Status::not_found(About { group: "", kind: "namespaces", name: namespace }));
    };
    if live.pointer("/metadata/deletionTimestamp").is_none() {
        return Ok(());
    }
    let detail = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(About::resource(attributes.resource, attributes.name), &detail);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: CauseReason::NamespaceTerminating,
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    Err(status)
}
