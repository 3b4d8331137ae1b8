//! Writes what `crate::memory` decides into cgroups of version 2; on others there is nothing to write.

use std::collections::BTreeMap;

use agent_pod::facts::Resources;
use agent_runtime::cgroup;
use api::pod::{QosClass, recorded_qos_class};
use k8s_openapi::api::core::v1::Pod;
use oci_spec::runtime::LinuxResources;

use super::{Executor, Host, chain};
use crate::memory::{self, Asked, Machine, Reservation};

/// The memory of this machine.
pub(crate) fn machine(host: &Host) -> Machine {
    Machine::look(host.memory_capacity, host.allocatable.memory)
}

/// The memory files of a container's cgroup that the kernel has, and what they are to say.
pub(super) fn files(executor: &Executor, resources: &Resources) -> BTreeMap<String, String> {
    let (host, group) = (&executor.host, executor.cgroup());
    let mut all = memory::of_container(&host.config.memory, &Asked::of(&executor.pod, resources), &machine(host));
    all.retain(|file, _| cgroup::has_file(&group, file));
    all
}

/// Protects what the pod asks for, and in the groups around it what all pods ask for: the kernel protects in a group what
/// the group around it is protected for.
pub(super) fn protect(executor: &Executor) {
    let settings = &executor.host.config.memory;
    if settings.reservation == Reservation::None {
        return;
    }
    write(&executor.cgroup(), &memory::protection(settings, recorded_qos_class(&executor.pod), request(&executor.pod)));
    protect_all(&executor.host);
}

/// The same for the groups around all pods, when one is there or gone.
pub(super) fn protect_all(host: &Host) {
    let settings = &host.config.memory;
    if settings.reservation == Reservation::None {
        return;
    }
    // What was counted last is written last.
    let _turn = host.protecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut guaranteed, mut burstable) = (0, 0);
    let members = host.pods.members();
    // The run directory is the first that is made of a pod, and the last that goes.
    let here = members.iter().filter(|(uid, _)| host.config.instance.pod_run_dir(uid).exists());
    for (_, member) in here {
        match recorded_qos_class(&member.pod) {
            QosClass::Guaranteed => guaranteed += request(&member.pod),
            QosClass::Burstable => burstable += request(&member.pod),
            QosClass::BestEffort => {}
        }
    }
    let all = |min: i64, low: i64| {
        [("memory.min".to_owned(), min.to_string()), ("memory.low".to_owned(), low.to_string())].into()
    };
    let root = host.config.instance.cgroup_root();
    write(&format!("/{root}"), &all(guaranteed, burstable));
    write(&format!("/{root}/kubepods"), &all(guaranteed, burstable));
    write(&format!("/{root}/kubepods/burstable"), &all(0, burstable));
}

fn request(pod: &Pod) -> i64 {
    let requests = pod.spec.as_ref().map(api::pod::requests).unwrap_or_default();
    requests.get("memory").map_or(0, |amount| amount.value())
}

fn write(group: &str, files: &BTreeMap<String, String>) {
    let here: BTreeMap<_, _> = files.iter().filter(|(file, _)| cgroup::has_file(group, file)).collect();
    let resources = serde_json::from_value::<LinuxResources>(serde_json::json!({"unified": here}));
    let Ok(resources) = resources else { return };
    if let Err(error) = cgroup::open(group).and_then(|own| own.apply(&resources)) {
        tracing::warn!(error = chain(&error), group, "protecting memory");
    }
}
