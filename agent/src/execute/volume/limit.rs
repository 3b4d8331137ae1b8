//! Limits of what a pod writes to the disk: `sizeLimit` of empty directories, `ephemeral-storage` of containers and of the
//! pod. Who takes more is evicted. In memory the kernel keeps the limit. Nothing tells of writes, so it is looked at as
//! often as the kubelet does; only pods that have limits are. Kubernetes documentation, "Local ephemeral storage".

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agent_pod::protocol::{EVICTED, Event, Eviction, Failure};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, Volume};
use tokio::time::MissedTickBehavior;

use super::{Executor, plugin};
use crate::local_storage::{self, Written};
use crate::worker::Input;

const EVERY: Duration = Duration::from_secs(10);
const RESOURCE: &str = "ephemeral-storage";

impl Executor {
    /// The pod's empty directories on disk, by volume.
    pub(crate) fn empty_directories(&self) -> Vec<(String, PathBuf)> {
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
        let on_disk = volumes.filter(|volume| is_on_disk(volume));
        on_disk
            .filter_map(|volume| Some((volume.name.clone(), self.volume_dir(plugin(volume)?, &volume.name))))
            .collect()
    }
}

fn is_on_disk(volume: &Volume) -> bool {
    volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref().unwrap_or_default().is_empty())
}

/// An amount and how the pod writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Most {
    bytes: u64,
    text: String,
}

impl Most {
    fn of(text: &str) -> Option<Self> {
        let bytes = u64::try_from(Quantity::parse(text).ok()?.value()).ok().filter(|bytes| *bytes > 0)?;
        Some(Self { bytes, text: text.to_owned() })
    }
}

/// What a pod may write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Allowed {
    volumes: BTreeMap<String, Most>,
    containers: BTreeMap<String, Most>,
    /// All containers together, if each has a limit.
    pod: Option<Most>,
}

impl Allowed {
    fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let volumes = spec.volumes.iter().flatten().filter(|volume| is_on_disk(volume)).filter_map(|volume| {
            let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
            Some((volume.name.clone(), Most::of(&limit.0)?))
        });
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).filter_map(|container| {
            let limits = container.resources.as_ref()?.limits.as_ref()?;
            Some((container.name.clone(), Most::of(&limits.get(RESOURCE)?.0)?))
        });
        let containers: BTreeMap<String, Most> = containers.collect();
        let is_whole = spec.containers.iter().all(|container| containers.contains_key(&container.name));
        let total = api::pod::limits(spec).get(RESOURCE).map(|quantity| quantity.to_string());
        let pod = total.filter(|_| is_whole).and_then(|text| Most::of(&text));
        Self { volumes: volumes.collect(), containers, pod }
    }

    /// What is to be said of the first limit that was passed, in the kubelet's words.
    fn complaint(&self, written: &Written) -> Option<String> {
        let over =
            |used: Option<&agent_volume::measure::Used>, most: &Most| used.is_some_and(|own| own.bytes > most.bytes);
        let volume = self.volumes.iter().find(|(name, most)| over(written.volumes.get(*name), most));
        if let Some((name, most)) = volume {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", most.text));
        }
        if let Some(most) = self.pod.as_ref().filter(|most| over(Some(&written.total()), most)) {
            let text = &most.text;
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. "));
        }
        let container = self.containers.iter().find(|(name, most)| over(written.containers.get(*name), most))?;
        let (name, most) = container;
        Some(format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", most.text))
    }
}

/// Looks until dropped.
pub(crate) async fn watch(executor: Executor) {
    let allowed = Allowed::of(&executor.pod);
    if allowed == Allowed::default() {
        return;
    }
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !executor.live.is_up() {
            continue;
        }
        let (this, allowed) = (executor.clone(), allowed.clone());
        let measured = crate::execute::blocking::run(move || allowed.complaint(&local_storage::measure(&this))).await;
        if let Ok(Some(message)) = measured {
            let failure = Failure { reason: EVICTED.into(), message };
            let eviction = Eviction { failure, grace_seconds: Some(0), is_disruption: false, event: EVICTED };
            // The worker is gone only when the pod is.
            drop(executor.inputs.send(Input::Machine(Event::Evicted(eviction))));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_volume::measure::Used;
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn the_first_limit_that_was_passed_is_told() {
        let container = |name: &str, limit: Value| json!({"name": name, "resources": {"limits": limit}});
        let limited = json!({"ephemeral-storage": "1Ki"});
        let pod = |containers: Value| -> Pod {
            from_value(json!({"spec": {"containers": containers, "volumes": [
                {"name": "v", "emptyDir": {"sizeLimit": "2Ki"}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]}}))
            .unwrap()
        };
        let both = Allowed::of(&pod(json!([container("a", limited.clone()), container("b", limited.clone())])));
        let one = Allowed::of(&pod(json!([container("a", limited), container("b", json!({}))])));
        let written = |a: u64, b: u64, v: u64| {
            let used = |bytes| Used { bytes, inodes: 1 };
            Written {
                containers: BTreeMap::from([("a".to_owned(), used(a)), ("b".to_owned(), used(b))]),
                volumes: BTreeMap::from([("v".to_owned(), used(v)), ("m".to_owned(), used(9000))]),
            }
        };
        let only_v = |a, b, v| Written {
            volumes: BTreeMap::from([("v".to_owned(), Used { bytes: v, inodes: 1 })]),
            ..written(a, b, 0)
        };
        assert_eq!(both.complaint(&only_v(1000, 1000, 48)), None);
        assert!(both.complaint(&only_v(1000, 1000, 49)).unwrap().contains("total limit of containers 2Ki"));
        assert!(
            both.complaint(&only_v(0, 0, 2049)).unwrap().contains("EmptyDir volume \"v\" exceeds the limit \"2Ki\"")
        );
        assert!(
            both.complaint(&only_v(1025, 0, 0))
                .unwrap()
                .contains("Container a exceeded its local ephemeral storage limit \"1Ki\"")
        );
        assert_eq!(one.complaint(&written(0, 1 << 30, 0)), None, "one container is free, so the pod is");
    }
}
