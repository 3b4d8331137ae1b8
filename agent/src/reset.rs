//! Removes all of an instance from this machine: processes, mounts, cgroups, links, rules, files of pods.
//! Every step is tried whatever the others say; what failed is returned.

use std::fs;
use std::io;
use std::path::Path;

use agent_runtime::cgroup;
use nix::mount::{MntFlags, umount2};

use crate::execute::chain;
use crate::instance::Instance;

const SIGKILL: i32 = 9;

/// Resets an instance whose server and agent do not run. With `purge` its data goes too.
pub async fn reset(instance: &Instance, purge: bool) -> Vec<String> {
    let mut failures = Vec::new();
    if let Err(error) = stop_processes(instance) {
        failures.push(format!("stopping pods: {error}"));
    }
    let mut places = vec![instance.run_dir(), instance.pods_dir()];
    if purge {
        places.push(instance.data_dir.clone());
    }
    for place in &places {
        failures
            .extend(unmount_below(place).err().map(|error| format!("unmounting below {}: {error}", place.display())));
    }
    if let Err(error) = agent_network::reset(&instance.hash).await {
        failures.push(format!("removing the pod network: {}", chain(&error)));
    }
    let snapshots = instance.image_dir().join("c");
    for place in places.into_iter().chain([snapshots, instance.log_dir()]) {
        if let Err(error) = fs::remove_dir_all(&place)
            && error.kind() != io::ErrorKind::NotFound
        {
            failures.push(format!("removing {}: {error}", place.display()));
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

/// Unmounts everything below a directory, the newest mounts first.
fn unmount_below(dir: &Path) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let own: Vec<_> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    let mut result = Ok(());
    for point in own.iter().rev() {
        if let Err(error) = umount2(point.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            result = Err(error.into());
        }
    }
    result
}

/// Octal escapes of proc(5) mountinfo: space, tab, newline, backslash.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}
