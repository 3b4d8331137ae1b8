//! PodGroupWorkloadExists: a group of pods is not made out of a Workload that is not there or is going.

use controller_object::status::{About, Status};
use serde_json::Value;

use crate::admit::Attributes;
use crate::registry::names;

const GROUP: &str = "scheduling.k8s.io";

pub(super) fn validate(attributes: &Attributes<'_>, group: &Value) -> Result<(), Status> {
    let Some(workload) = group.pointer("/spec/workloadRef/workloadName").and_then(Value::as_str) else { return Ok(()) };
    if !attributes.creates(GROUP, "podgroups") {
        return Ok(());
    }
    let found = attributes.state.registry.peek(GROUP, "v1beta1", "workloads", attributes.namespace, workload);
    let detail = match found {
        None => format!("workload {workload:?} not found"),
        Some(found) if found.pointer("/metadata/deletionTimestamp").is_some() => {
            format!("workload {workload:?} is being deleted")
        }
        Some(_) => return Ok(()),
    };
    Err(Status::forbidden(About::resource(attributes.resource, names(group).1), &detail))
}
