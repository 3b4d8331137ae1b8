//! Takes back what was prepared for a pod whose containers have ended: a claim that no other pod of this node has is told to
//! its drivers, once. What a driver cannot undo now is tried again, and the pod waits: before it has ended in the eyes of
//! others nobody else gets its devices.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agent_pod::protocol::Notice;

use super::message::{Claim, Claims};
use super::record::{Record, all};
use crate::execute::{Executor, chain};

/// A driver that is being replaced is back within this, mostly.
const DRIVER_WITHIN: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Undoes all of a pod's; `is_patient` tries until it is done, and tells people meanwhile. Whether nothing is left.
pub(crate) async fn unprepare(executor: &Executor, is_patient: bool) -> bool {
    let mut wait = RETRY;
    loop {
        let mut comings = executor.host.device_drivers.comings();
        comings.mark_unchanged();
        let mut failures = Vec::new();
        for (path, record) in all(&executor.pod_dir()) {
            if let Err(why) = undo(executor, &path, &record).await {
                failures.push(format!("ResourceClaim {}: {why}", record.name));
            }
        }
        let Some(why) = failures.first() else { return true };
        tracing::warn!(uid = executor.uid, why, "taking back what was prepared for a pod");
        if !is_patient {
            return false;
        }
        let message = format!("Failed to unprepare dynamic resources: {why}");
        let notice = Notice { warning: true, reason: "FailedUnprepareDynamicResources", message, container: None };
        executor.host.recorder.pod(&executor.host.client, &executor.pod, &notice).await;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // It may be the one that was waited for.
            _ = comings.changed() => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
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
