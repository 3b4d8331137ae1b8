//! As what a container runs, for its status: user, groups and stop signal, after spec, image and defaults.

use agent_pod::protocol::{Effective, Found};
use k8s_openapi::api::core::v1::ContainerStatus;
use serde::Deserialize;

use super::{Executor, sandbox, stop_signal};
use crate::oci::User;

/// Of a container with this user in its `config.json`.
pub(super) fn of(user: &User, stop_signal: String) -> Effective {
    Effective { uid: user.uid, gid: user.gid, groups: user.additional_gids.iter().copied().collect(), stop_signal }
}

/// What a status tells of it.
pub(crate) fn told(status: &ContainerStatus) -> Option<Effective> {
    let linux = status.user.as_ref()?.linux.as_ref()?;
    let id = |id: i64| u32::try_from(id).ok();
    Some(Effective {
        uid: id(linux.uid)?,
        gid: id(linux.gid)?,
        groups: linux.supplemental_groups.iter().flatten().filter_map(|gid| id(*gid)).collect(),
        stop_signal: status.stop_signal.clone()?,
    })
}

/// Of a container that ran on while no agent did; its status may never have been written.
pub(crate) fn find(executor: &Executor, found: &mut Found) {
    if found.effective.is_none() && found.exit.is_none() {
        found.effective = written(executor, &found.name, found.attempt);
    }
}

#[derive(Deserialize)]
struct Specification {
    process: Process,
}

#[derive(Deserialize)]
struct Process {
    user: User,
}

fn written(executor: &Executor, name: &str, attempt: u32) -> Option<Effective> {
    let path = executor.bundle(&sandbox::id(name, attempt)).join("config.json");
    let written: Specification = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let (container, _) = agent_pod::facts::containers(&executor.pod).find(|(own, _)| own.name == name)?;
    Some(of(&written.process.user, stop_signal::name(stop_signal::of(executor, &container))))
}
