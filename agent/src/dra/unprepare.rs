//! Takes back what was prepared for a pod whose containers have ended: a claim that no other pod of this node has is told to
//! its drivers, once. What a driver cannot undo now is tried again, and the pod waits: before it has ended in the eyes of
//! others nobody else gets its devices.

use std::fs;
use std::path::Path;

use super::message::{Claim, Claims};
use super::record::{Record, all};
use crate::execute::undo::{DRIVER_WITHIN, Told, until_undone};
use crate::execute::{Executor, chain};

/// Undoes all of a pod's; `is_patient` tries until it is done, and tells people meanwhile. Whether nothing is left.
pub(crate) async fn unprepare(executor: &Executor, is_patient: bool) -> bool {
    let told = Told {
        reason: "FailedUnprepareDynamicResources",
        prefix: "Failed to unprepare dynamic resources: ResourceClaim ",
    };
    until_undone(executor, is_patient, told, executor.host.device_drivers.comings(), || async move {
        let mut first = None;
        for (path, record) in all(&executor.pod_dir()) {
            if let Err(why) = undo(executor, &path, &record).await {
                first.get_or_insert(format!("{}: {why}", record.name));
            }
        }
        first
    })
    .await
}

async fn undo(executor: &Executor, path: &Path, record: &Record) -> Result<(), String> {
    let drivers = &executor.host.device_drivers;
    let _turn = drivers.turn(&record.uid).await;
    if !path.exists() {
        // Somebody else was at it before.
        return Ok(());
    }
    if !others(executor, path, record) {
        let claim = Claim { namespace: record.namespace.clone(), uid: record.uid.clone(), name: record.name.clone() };
        for name in &record.drivers {
            let driver = drivers.get(name, DRIVER_WITHIN).await;
            let driver = driver.ok_or_else(|| format!("DRA driver {name} is not registered"))?;
            let answer = driver.unprepare(Claims { claims: vec![claim.clone()] }).await;
            let answer = answer.map_err(|error| format!("NodeUnprepareResources: {}", chain(&error)))?;
            match answer.claims.get(&record.uid) {
                Some(own) if own.error.is_empty() => {}
                Some(own) => return Err(format!("NodeUnprepareResources failed: {}", own.error)),
                None => return Err("NodeUnprepareResources skipped it".to_owned()),
            }
        }
        drivers.remember(&record.uid, None);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Whether another pod of this node has the same claim.
fn others(executor: &Executor, path: &Path, record: &Record) -> bool {
    let pods = fs::read_dir(executor.host.config.instance.pods_dir()).into_iter().flatten().flatten();
    pods.flat_map(|entry| all(&entry.path())).any(|(other, own)| other != path && own.uid == record.uid)
}
