//! Which objects a quota is for.
use super::Scope;
use super::usage::spec_of;
use crate::pod::{QosClass, qos_class};
use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec};
use serde_json::Value;
use std::collections::BTreeSet;

impl Scope {
    pub(super) fn holds(&self, group: &str, plural: &str, object: &Value) -> bool {
        match (group, plural) {
            ("", "pods") => self.holds_pod(&spec_of(object)),
            ("", "persistentvolumeclaims") if self.name == "VolumeAttributesClass" => {
                let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
                let named = [
                    "/spec/volumeAttributesClassName",
                    "/status/currentVolumeAttributesClassName",
                    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
                ];
                let classes = named.iter().filter_map(|pointer| text(pointer)).filter(|class| !class.is_empty());
                let classes: BTreeSet<&str> = classes.collect();
                match classes.is_empty() {
                    true => self.selects(None),
                    false => classes.into_iter().any(|class| self.selects(Some(class))),
                }
            }
            // Scopes are about pods and claims; a quota with one limits nothing else.
            _ => false,
        }
    }

    fn holds_pod(&self, spec: &PodSpec) -> bool {
        let ends = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
        match self.name.as_str() {
            "Terminating" => ends,
            "NotTerminating" => !ends,
            "BestEffort" => qos_class(spec) == QosClass::BestEffort,
            "NotBestEffort" => qos_class(spec) != QosClass::BestEffort,
            "PriorityClass" => self.selects(spec.priority_class_name.as_deref().filter(|name| !name.is_empty())),
            "CrossNamespacePodAffinity" => reaches_other_namespaces(spec),
            _ => false,
        }
    }

    fn selects(&self, name: Option<&str>) -> bool {
        let listed = name.is_some_and(|name| self.values.iter().any(|value| value == name));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "DoesNotExist" => name.is_none(),
            _ => name.is_some(),
        }
    }
}

fn reaches_other_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let reaches = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some()
    };
    let near = affinity.pod_affinity.iter().flat_map(|one| {
        let preferred = one.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        one.required_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .chain(preferred.map(|term| &term.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|one| {
        let preferred = one.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        one.required_during_scheduling_ignored_during_execution
            .iter()
            .flatten()
            .chain(preferred.map(|term| &term.pod_affinity_term))
    });
    near.chain(far).any(reaches)
}
