//! The rules that objects must keep, with the messages of Kubernetes. One file per family of kinds.
//! Every rule reads the tree defensively: what is missing or of another type is a fault, never a panic.
mod autoscaler;
mod certificate;
mod check;
mod cluster;
mod config;
mod container;
mod device;
mod device_slice;
mod job;
mod job_status;
mod metadata;
mod network;
mod pod;
mod policy;
mod quota;
mod scheduling;
mod stateful;
mod update;
mod volume;
mod webhook;
mod workload;

use crate::custom;
use crate::resource::{Resource, Subresource};
use crate::status::Cause;
use check::Faults;
use serde_json::Value;

/// Everything that is wrong with a new object.
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut faults = Faults::default();
    metadata::validate(resource, object, &mut faults);
    validate_spec(resource, object, &mut faults);
    let mut causes = faults.into_causes();
    if let Some(custom) = &resource.custom {
        causes.extend(custom::validate(&custom.node, object, None));
        causes.extend(custom::scale(custom, object));
    } else if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        causes.extend(custom::validate_definition(object));
    }
    causes
}

/// Everything that is wrong with a change. `sub` is the path that was written through.
pub fn validate_update(resource: &Resource, old: &Value, new: &Value, sub: Option<Subresource>) -> Vec<Cause> {
    let mut faults = Faults::default();
    metadata::validate(resource, new, &mut faults);
    metadata::validate_update(old, new, &mut faults);
    if let Some(custom) = &resource.custom {
        let mut causes = faults.into_causes();
        causes.extend(custom::validate(&custom.node, new, Some(old)));
        causes.extend(custom::scale(custom, new));
        return causes;
    }
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        let mut causes = faults.into_causes();
        if sub.is_none() {
            causes.extend(custom::validate_definition_update(old, new));
        }
        return causes;
    }
    match sub {
        // Who waits for a Job reads its status.
        Some(Subresource::Status) if resource.is("batch", "jobs") => job_status::update(old, new, &mut faults),
        Some(Subresource::Status) if resource.is("autoscaling", "horizontalpodautoscalers") => {
            autoscaler::status(new, &mut faults);
        }
        // Status is an observation; its shape was checked when it was decoded.
        Some(Subresource::Status | Subresource::Approval | Subresource::Finalize) => {}
        _ => {
            // What was stored before a rule existed may stay as it is.
            if spec_of(old) != spec_of(new) {
                validate_spec(resource, new, &mut faults);
            }
            update::validate(resource, old, new, sub, &mut faults);
        }
    }
    faults.into_causes()
}

/// The object without what is checked on its own.
fn spec_of(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(map) = copy.as_object_mut() {
        map.remove("metadata");
        map.remove("status");
    }
    copy
}

/// How a webhook is reached: the same for admission and for conversion.
pub(crate) fn client_config(config: &Value, path: &str) -> Vec<Cause> {
    let mut faults = Faults::default();
    webhook::client_config(config, path, &mut faults);
    faults.into_causes()
}

fn validate_spec(resource: &Resource, object: &Value, faults: &mut Faults) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::pod(object, faults),
        ("", "podtemplates") => pod::template(&object["template"], "template", faults),
        ("", "replicationcontrollers") => workload::replication_controller(object, faults),
        ("apps", "deployments") => workload::deployment(object, faults),
        ("apps", "replicasets") => workload::replica_set(object, faults),
        ("apps", "statefulsets") => stateful::stateful_set(object, faults),
        ("apps", "daemonsets") => stateful::daemon_set(object, faults),
        ("apps", "controllerrevisions") => stateful::controller_revision(object, faults),
        ("batch", "jobs") => job::job(object, faults),
        ("batch", "cronjobs") => job::cron_job(object, faults),
        ("autoscaling", "horizontalpodautoscalers") => autoscaler::autoscaler(resource, object, faults),
        ("policy", "poddisruptionbudgets") => workload::disruption_budget(object, faults),
        ("", "services") => network::service(object, faults),
        ("", "endpoints") => network::endpoints(object, faults),
        ("discovery.k8s.io", "endpointslices") => network::endpoint_slice(object, faults),
        ("networking.k8s.io", "ingresses") => network::ingress(object, faults),
        ("networking.k8s.io", "networkpolicies") => network::network_policy(object, faults),
        ("", "configmaps") => config::config_map(object, faults),
        ("", "secrets") => config::secret(object, faults),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => config::role(resource, object, faults),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            config::role_binding(resource, object, faults)
        }
        ("", "nodes") => cluster::node(object, faults),
        ("", "events") | ("events.k8s.io", "events") => cluster::event(object, faults),
        ("", "persistentvolumes") => cluster::persistent_volume(object, faults),
        ("", "persistentvolumeclaims") => cluster::claim(object, faults),
        ("", "resourcequotas") => quota::quota(object, faults),
        ("", "limitranges") => quota::limit_range(object, faults),
        ("storage.k8s.io", "storageclasses") => cluster::storage_class(object, faults),
        ("scheduling.k8s.io", "priorityclasses") => cluster::priority_class(object, faults),
        ("scheduling.k8s.io", "podgroups") => scheduling::pod_group(object, faults),
        ("scheduling.k8s.io", "workloads") => scheduling::workload(object, faults),
        ("coordination.k8s.io", "leases") => cluster::lease(object, faults),
        ("node.k8s.io", "runtimeclasses") => cluster::runtime_class(object, faults),
        ("certificates.k8s.io", "certificatesigningrequests") => certificate::signing_request(object, faults),
        ("certificates.k8s.io", "podcertificaterequests") => certificate::pod_request(object, faults),
        ("certificates.k8s.io", "clustertrustbundles") => certificate::trust_bundle(object, faults),
        ("resource.k8s.io", "resourceclaims") => device::claim(object, faults),
        ("resource.k8s.io", "resourceclaimtemplates") => device::template(object, faults),
        ("resource.k8s.io", "deviceclasses") => device::class(object, faults),
        ("resource.k8s.io", "resourceslices") => device_slice::slice(object, faults),
        ("resource.k8s.io", "devicetaintrules") => device_slice::taint_rule(object, faults),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => {
            webhook::configuration(object, true, faults)
        }
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            webhook::configuration(object, false, faults)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => policy::validating(object, faults),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => policy::mutating(object, faults),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => policy::binding(object, true, faults),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => policy::binding(object, false, faults),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
