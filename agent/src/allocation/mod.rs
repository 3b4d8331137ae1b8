//! What this node has given each pod of the resources that may change while it runs, which is not what the spec asks for
//! while a resize waits. All that is done for a pod goes by it. KEP 1287, "Resource States". Pure but for the book's file.
//! Start reading here, then `admission/resize.rs`, which decides.

mod book;
mod message;

use std::collections::BTreeMap;

use agent_pod::facts::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};

pub(crate) use book::Book;
pub(crate) use message::{completed, failed, pending, started};

/// What one pod was given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    /// By container; of sidecars and containers alone, as others are never resized.
    containers: BTreeMap<String, ResourceRequirements>,
    /// `spec.resources`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ResourceRequirements>,
}

/// The containers of a pod whose resources may change.
fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|own| api::pod::is_sidecar(own));
    sidecars.chain(&spec.containers)
}

impl Allocation {
    /// All that a pod asks for.
    pub(crate) fn of(pod: &Pod) -> Self {
        let spec = pod.spec.iter();
        let all = spec.flat_map(resizable).map(|own| (own.name.clone(), own.resources.clone().unwrap_or_default()));
        Self { containers: all.collect(), pod: pod.spec.as_ref().and_then(|spec| spec.resources.clone()) }
    }

    /// What the status of a pod says that it was given, by an agent that left nothing else behind: what is not told of is
    /// as the spec has it.
    pub(crate) fn told(pod: &Pod) -> Self {
        let mut own = Self::of(pod);
        for status in crate::execute::sandbox::statuses(pod) {
            let Some(container) = own.containers.get_mut(&status.name) else { continue };
            let Some(requests) = status.allocated_resources.clone().filter(|all| !all.is_empty()) else { continue };
            let limits = status.resources.as_ref().and_then(|resources| resources.limits.clone());
            let before = ResourceRequirements { requests: Some(requests), limits, ..container.clone() };
            if Resources::of(Some(&before)) != Resources::of(Some(container)) {
                *container = before;
            }
        }
        own
    }

    /// The pod with what it was given instead of what it asks for.
    pub(crate) fn apply(&self, pod: &Pod) -> Pod {
        let mut given = pod.clone();
        let Some(spec) = &mut given.spec else { return given };
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(own) = self.containers.get(&container.name)
                && container.resources.as_ref() != Some(own)
            {
                container.resources = Some(own.clone());
            }
        }
        spec.resources.clone_from(&self.pod);
        given
    }

    /// Whether both are as much, however it is written.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let amounts = |own: &Self| -> BTreeMap<String, Resources> {
            own.containers.iter().map(|(name, own)| (name.clone(), Resources::of(Some(own)))).collect()
        };
        Resources::of(self.pod.as_ref()) == Resources::of(other.pod.as_ref()) && amounts(self) == amounts(other)
    }

    /// Containers that are to have other resources than before: the name, before, after.
    pub(crate) fn changes<'a>(&'a self, to: &'a Self) -> impl Iterator<Item = (&'a str, Resources, Resources)> {
        let both = self.containers.iter().filter_map(|(name, own)| Some((name, own, to.containers.get(name)?)));
        let both = both.map(|(name, from, to)| (name.as_str(), Resources::of(Some(from)), Resources::of(Some(to))));
        both.filter(|(_, from, to)| from != to)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(cpu: &str, status: Value) -> Pod {
        let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        from_value(json!({"spec": {
            "initContainers": [{"name": "i", "resources": resources(cpu)},
                {"name": "s", "restartPolicy": "Always", "resources": resources(cpu)}],
            "containers": [{"name": "c", "resources": resources(cpu)}, {"name": "plain"}]},
            "status": {"containerStatuses": status}}))
        .unwrap()
    }

    fn cpu(pod: &Pod) -> Vec<i64> {
        let all = agent_pod::facts::containers(pod).map(|(own, _)| Resources::of(own.resources.as_ref()).cpu_limit);
        all.map(|own| own.unwrap_or(0)).collect()
    }

    #[test]
    fn what_was_given_takes_the_place_of_what_is_asked_for() {
        let given = Allocation::of(&pod("1", json!([])));
        assert_eq!(cpu(&given.apply(&pod("2", json!([])))), [2000, 1000, 1000, 0], "an init container is not resized");
        assert!(given.is_as(&Allocation::of(&pod("1000m", json!([])))));
        let wanted = Allocation::of(&pod("2", json!([])));
        assert!(!given.is_as(&wanted));
        assert_eq!(given.changes(&wanted).map(|(name, ..)| name).collect::<Vec<_>>(), ["c", "s"]);
    }

    #[test]
    fn a_status_tells_what_was_given_where_nothing_else_does() {
        let told = |allocated: &str| {
            let of = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": allocated}, "resources": {"limits": {"cpu": "1"}}});
            let pod = pod("2", json!([of]));
            Allocation::told(&pod).apply(&pod).spec.unwrap().containers[0].resources.clone().unwrap()
        };
        assert_eq!(Resources::of(Some(&told("1"))).cpu_request, Some(1000));
        assert_eq!(Resources::of(Some(&told("1"))).cpu_limit, Some(1000));
        assert_eq!(Allocation::told(&pod("2", json!([]))), Allocation::of(&pod("2", json!([]))));
    }
}
