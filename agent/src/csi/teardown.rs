//! Takes a pod's volumes away again: unpublished for the pod, unstaged when nobody else here has them. What a driver
//! cannot undo now is tried again: the pod waits, and its volume stays in use.

use std::fs;
use std::path::Path;

use api_plugin::csi::node::{UnpublishRequest, UnstageRequest};

use super::volume::{Record, records_dir};
use crate::execute::undo::{DRIVER_WITHIN, Told, until_undone};
use crate::execute::{Executor, Host, chain};

fn records(pod_dir: &Path) -> Vec<(std::path::PathBuf, Record)> {
    let entries = fs::read_dir(records_dir(pod_dir)).into_iter().flatten().flatten();
    let read = |path: std::path::PathBuf| {
        let record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some((path, record))
    };
    entries.map(|entry| entry.path()).filter_map(read).collect()
}

/// The record of one volume of a pod.
pub(super) fn record(pod_dir: &Path, name: &str) -> Option<Record> {
    serde_json::from_slice(&fs::read(records_dir(pod_dir).join(name)).ok()?).ok()
}

/// Whether a pod's directory knows of volumes of drivers.
pub(crate) fn has_any(pod_dir: &Path) -> bool {
    !records(pod_dir).is_empty()
}

/// Driver and handle of every volume that some pod of this node has, or had.
pub(super) fn volumes_on_disk(host: &Host) -> Vec<(String, String)> {
    let instance = &host.config.instance;
    let pods = fs::read_dir(instance.pods_dir()).into_iter().flatten().flatten();
    let own = pods.map(|entry| entry.path()).filter(|dir| instance.owns(dir));
    own.flat_map(|dir| records(&dir)).map(|(_, record)| (record.driver, record.handle)).collect()
}

/// Undoes all of a pod's; `is_patient` tries until it is done, and tells people meanwhile. Whether nothing is left.
pub(crate) async fn tear_down(executor: &Executor, is_patient: bool) -> bool {
    let told = Told { reason: "FailedUnMount", prefix: "UnmountVolume.TearDown failed for volume " };
    until_undone(executor, is_patient, told, executor.host.drivers.comings(), || async move {
        let mut first = None;
        for (path, record) in records(&executor.pod_dir()) {
            if let Err(why) = undo(executor, &path, &record).await {
                first.get_or_insert(format!("{:?} of driver {}: {why}", record.handle, record.driver));
            }
        }
        first
    })
    .await
}

async fn undo(executor: &Executor, path: &Path, record: &Record) -> Result<(), String> {
    let drivers = &executor.host.drivers;
    let _turn = drivers.turn(&record.driver, &record.handle).await;
    let driver = drivers.get(&record.driver, DRIVER_WITHIN).await;
    let driver = driver.ok_or_else(|| "the driver is not registered here".to_owned())?;
    let request =
        UnpublishRequest { volume_id: record.handle.clone(), target_path: record.target.display().to_string() };
    driver.plugin.unpublish(request).await.map_err(|error| chain(&error))?;
    let others = others(executor, path, record);
    if let (Some(staging), false) = (&record.staging, others) {
        let staging_target_path = staging.display().to_string();
        let request = UnstageRequest { volume_id: record.handle.clone(), staging_target_path };
        driver.plugin.unstage(request).await.map_err(|error| chain(&error))?;
        // Drivers may leave the directory; what is mounted there stays, and so does the directory.
        drop(fs::remove_dir(staging));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    if !others {
        drivers.uses(&record.driver, &record.handle, false);
    }
    Ok(())
}

/// Whether another record of this node names the same volume.
fn others(executor: &Executor, path: &Path, record: &Record) -> bool {
    let pods = fs::read_dir(executor.host.config.instance.pods_dir()).into_iter().flatten().flatten();
    pods.flat_map(|entry| records(&entry.path()))
        .any(|(other, own)| other != path && own.driver == record.driver && own.handle == record.handle)
}
