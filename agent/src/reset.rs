//! Removes all of an instance from this machine: processes, mounts, cgroups, links, rules, files of pods.
//! Every step is tried whatever the others say; what failed is returned.

use std::fs;
use std::path::{Path, PathBuf};

use agent_runtime::cgroup;
use agent_volume::removal::remove_tree;

use crate::execute::chain;
use crate::instance::Instance;

const SIGKILL: i32 = 9;

/// Resets an instance whose server and agent do not run. With `purge` its data goes too.
pub async fn reset(instance: &Instance, purge: bool) -> Vec<String> {
    let mut failures = Vec::new();
    let _claim = match instance.claim() {
        Ok(Some(claim)) => claim,
        Ok(None) => {
            return vec![format!("{} is in use: stop the gantry that runs on it first", instance.data_dir.display())];
        }
        Err(error) => return vec![format!("claiming {}: {error}", instance.data_dir.display())],
    };
    if let Err(error) = stop_processes(instance) {
        failures.push(format!("stopping pods: {error}"));
    }
    if let Err(error) = agent_network::reset(&instance.hash).await {
        failures.push(format!("removing the pod network: {}", chain(&error)));
    }
    // The roots of containers, which stand on the snapshots, first; at shared places only what is marked as ours.
    let mut places = vec![instance.run_dir(), instance.image_dir().join("c")];
    places.extend(owned_below(instance, &instance.pods_dir()));
    let logs = owned_below(instance, &instance.log_dir());
    for log in &logs {
        crate::rotation::unlink(&instance.log_link_dir(), log);
    }
    places.extend(logs);
    if purge {
        places.push(instance.data_dir.clone());
    }
    for place in &places {
        if let Err(error) = remove_tree(place) {
            failures.push(format!("removing {}: {}", place.display(), chain(&error)));
        }
    }
    failures
}

/// Ends every process in the instance's cgroups, monitors included, and removes the cgroups.
fn stop_processes(instance: &Instance) -> Result<(), String> {
    let group = cgroup::open(&instance.cgroup_root()).map_err(|error| chain(&error))?;
    group.signal(SIGKILL).map_err(|error| chain(&error))?;
    group.delete().map_err(|error| chain(&error))
}

/// Directories of pods that this instance made.
fn owned_below(instance: &Instance, dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| instance.owns(path)).collect()
}
