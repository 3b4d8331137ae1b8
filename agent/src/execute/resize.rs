//! Gives a running container other resources: its cgroup and its pod's. Whether is decided in `crate::admission`, when in
//! `agent_pod`.

use agent_pod::facts::Resources;
use agent_runtime::cgroup::{self, Cgroup, CgroupError};
use oci_spec::runtime::LinuxResources;

use super::{Executor, chain, memory, sandbox};
use crate::oci;

/// Applies them. Answers why not; then the container has what it had.
pub(crate) async fn apply(executor: &Executor, index: usize, attempt: u32, to: Resources) -> Result<(), String> {
    let container = executor.container(index).ok_or("the pod has no such container")?;
    let path = format!("{}/{}", executor.cgroup(), sandbox::id(&container.name, attempt));
    let this = executor.clone();
    let applied = super::blocking::run(move || {
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
