//! Gives a running container other resources: its cgroup and its pod's. Whether and when is decided in `agent_pod`.

use agent_pod::facts::Resources;
use agent_runtime::cgroup::{self, Cgroup, CgroupError};
use k8s_openapi::api::core::v1::ResourceRequirements;
use oci_spec::runtime::LinuxResources;

use super::{Executor, chain, memory, sandbox};
use crate::oci;

/// Applies them. Answers why not; then the container has what it had.
pub(crate) async fn apply(executor: &Executor, index: usize, attempt: u32, to: Resources) -> Result<(), String> {
    let container = executor.container(index).ok_or("the pod has no such container")?;
    let own = executor.host.processors.own(&executor.uid, &container.name);
    check_cpus(own, to.cpu_request.or(to.cpu_limit))?;
    let from = Resources::of(held(executor, &container.name).as_ref());
    memory::check_resize(executor, &from, &to)?;
    let path = format!("{}/{}", executor.cgroup(), sandbox::id(&container.name, attempt));
    let this = executor.clone();
    let applied = tokio::task::spawn_blocking(move || {
        let open = |path: &str| cgroup::open(path).map_err(|error| chain(&error));
        let (own, pod) = (open(&path)?, open(&this.cgroup())?);
        check_memory(own.as_ref(), to.memory_limit)?;
        let own_settings: LinuxResources =
            serde_json::from_value(oci::resized(&to, &memory::files(&this, &to))).map_err(|error| error.to_string())?;
        let pod_settings = unlimited_where_unset(sandbox::pod_resources(&this.pod, this.host.config.pod_max_pids));
        within(own.as_ref(), &own_settings, pod.as_ref(), &pod_settings).map_err(|error| chain(&error))?;
        memory::protect(&this);
        Ok(())
    });
    applied.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Where the pod has no limit, an earlier one goes.
fn unlimited_where_unset(mut settings: LinuxResources) -> LinuxResources {
    let (mut cpu, mut memory) = (settings.cpu().clone().unwrap_or_default(), settings.memory().unwrap_or_default());
    cpu.set_quota(cpu.quota().or(Some(-1)));
    memory.set_limit(memory.limit().or(Some(-1)));
    settings.set_cpu(Some(cpu)).set_memory(Some(memory));
    settings
}

/// Limits of a pod and of a container in it go up from the outside and down from the inside: the kernel takes no quota of
/// a group that is larger than that of the group around it.
fn within(
    own: &dyn Cgroup,
    own_settings: &LinuxResources,
    pod: &dyn Cgroup,
    pod_settings: &LinuxResources,
) -> Result<(), CgroupError> {
    // It may still be too small for another container, which is resized next; then the last try counts.
    let grown = pod.apply(pod_settings);
    own.apply(own_settings)?;
    match grown {
        Ok(()) => Ok(()),
        Err(_) => pod.apply(pod_settings),
    }
}

/// The resources that a container has, as its status tells.
fn held(executor: &Executor, name: &str) -> Option<ResourceRequirements> {
    sandbox::statuses(&executor.pod).find(|own| own.name == name)?.resources.clone()
}

/// A container keeps the processors that it has for itself, no more and no less.
fn check_cpus(own: Option<usize>, milli: Option<i64>) -> Result<(), String> {
    let has = own.and_then(|own| i64::try_from(own).ok()).map(|own| own * 1000);
    match has {
        Some(has) if milli != Some(has) => {
            Err("Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"".into())
        }
        _ => Ok(()),
    }
}

/// A limit below what is used would have the kernel kill the container.
fn check_memory(own: &dyn Cgroup, limit: Option<i64>) -> Result<(), String> {
    let used = own.stats().map_err(|error| chain(&error))?.memory_working_set_bytes;
    match limit.and_then(|limit| u64::try_from(limit).ok()) {
        Some(limit) if limit < used => {
            Err(format!("attempting to set container memory limit ({limit}) below current usage ({used})"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_ones_own_stay_as_many_as_they_are() {
        assert!(check_cpus(None, Some(1500)).is_ok() && check_cpus(Some(2), Some(2000)).is_ok());
        assert!(check_cpus(Some(2), Some(3000)).unwrap_err().contains("static"));
        assert!(check_cpus(Some(2), None).is_err());
    }
}
