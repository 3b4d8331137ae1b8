//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going; the system's own stay.

use controller_object::status::{About, Cause, CauseReason, Status};
use serde_json::Value;

use super::Admission;
use crate::registry::{Registry, names};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(registry: &Registry, admission: &Admission<'_>, object: &Value) -> Result<(), Status> {
    let creates = admission.old.is_none() && admission.subresource.is_none() && admission.resource.is_namespaced();
    let (Some(namespace), name) = names(object) else { return Ok(()) };
    if !creates {
        return Ok(());
    }
    let Some(live) = registry.peek("", "v1", "namespaces", None, namespace) else {
        let namespaces = registry.builtin().find("", "v1", "namespaces");
        return Err(namespaces.map_or_else(
            || Status::internal_error("the table has no namespaces"),
            |resource| Status::not_found(About::resource(resource, namespace)),
        ));
    };
    if live.pointer("/metadata/deletionTimestamp").is_none() {
        return Ok(());
    }
    let detail = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(About::resource(admission.resource, name), &detail);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: CauseReason::NamespaceTerminating,
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
    }
    Err(status)
}

pub(super) fn admit_deletion(admission: &Admission<'_>, name: &str) -> Result<(), Status> {
    match admission.is("", "namespaces") && IMMORTAL.contains(&name) {
        true => Err(Status::forbidden(About::resource(admission.resource, name), "this namespace may not be deleted")),
        false => Ok(()),
    }
}
