//! Has a pod's claims prepared before its containers start, and tells what each container is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent_pod::protocol::{Failure, PREPARE_FAILED};
use api::resource_claim::{Source, claims_of, is_owned, is_reserved_for};
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::api::Api;

use super::message::{self, Claims};
use super::record::{self, Device, Record};
use crate::execute::blocking::blocking;
use crate::execute::container::CREATE_ERROR;
use crate::execute::{Executor, chain};
use crate::failpoint;

/// After a start of the agent its drivers register within this.
const DRIVER_WITHIN: Duration = Duration::from_secs(5);
/// A driver does not name more for one claim; each takes memory and a file to be read.
const MOST_DEVICES: usize = 1024;

/// A failure in the words of the kubelet.
fn said(message: impl std::fmt::Display) -> Failure {
    let message = format!("Failed to prepare dynamic resources: prepare dynamic resources: {message}");
    Failure { reason: PREPARE_FAILED.into(), message }
}

/// A claim, and the drivers that have something to do for it here.
struct Wanted {
    record: Record,
    drivers: BTreeSet<String>,
}

/// Prepares all claims of the pod. Done again, drivers that this agent has not asked yet are asked again.
pub(crate) async fn prepare(executor: &Executor) -> Result<(), Failure> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for claim in claims_of(&executor.pod) {
        let (name, is_own) = match &claim.source {
            Source::Shared(name) => (name, false),
            Source::Own(name) => (name, true),
            Source::Unneeded => continue,
            Source::Pending => {
                let pod = format!("{}/{}", executor.namespace(), executor.name());
                return Err(said(format!("pod {pod:?}: ResourceClaim not created yet")));
            }
        };
        if wanted.iter().all(|own| own.record.name != *name) {
            wanted.push(look_at(executor, name, is_own).await?);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let (instance, dir) = (executor.host.config.instance.clone(), executor.pod_dir());
    blocking(move || instance.make_owned(&dir).map_err(said)).await?;
    for own in wanted {
        prepare_one(executor, own).await?;
    }
    failpoint::reach("claims", "prepared");
    Ok(())
}

/// Whether the pod may use a claim, and who has to be asked.
async fn look_at(executor: &Executor, name: &str, is_own: bool) -> Result<Wanted, Failure> {
    let (pod, namespace) = (executor.name(), executor.namespace());
    let claims: Api<ResourceClaim> = Api::namespaced(executor.host.client.clone(), namespace);
    let claim =
        claims.get(name).await.map_err(|error| said(format!("fetch ResourceClaim {name}: {}", chain(&error))))?;
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    if is_own && !is_owned(&claim.metadata, &executor.uid) {
        let why =
            format!("ResourceClaim {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)");
        return Err(said(why));
    }
    if !is_reserved_for(&claim, &executor.uid) {
        let why = format!("pod {pod} ({}) is not allowed to use ResourceClaim {name} ({uid})", executor.uid);
        return Err(said(why));
    }
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let allocation = allocation.ok_or_else(|| said(format!("ResourceClaim {name}: claim not allocated")))?;
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    // Of a driver's devices each has to say that a call is not needed.
    let asked = |call: &str| -> BTreeSet<String> {
        let skips = |own: &[String]| own.iter().any(|skipped| skipped == call || skipped == "*");
        let all = results.clone().filter(|own| !skips(own.skip_node_operations.as_deref().unwrap_or_default()));
        all.map(|own| own.driver.clone()).collect()
    };
    let (drivers, undoing) = (asked("NodePrepareResources"), asked("NodeUnprepareResources"));
    for driver in &drivers {
        if executor.host.device_drivers.get(driver, DRIVER_WITHIN).await.is_none() {
            return Err(said(format!("DRA driver {driver} is not registered")));
        }
    }
    let record = Record {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid,
        drivers: undoing.into_iter().collect(),
        devices: None,
    };
    Ok(Wanted { record, drivers })
}

async fn prepare_one(executor: &Executor, wanted: Wanted) -> Result<(), Failure> {
    let Wanted { mut record, drivers } = wanted;
    let known = &executor.host.device_drivers;
    let _turn = known.turn(&record.uid).await;
    if let Some(devices) = known.prepared(&record.uid) {
        record.devices = Some(devices);
        return keep(executor, record).await;
    }
    keep(executor, record.clone()).await?;
    let claim =
        message::Claim { namespace: record.namespace.clone(), uid: record.uid.clone(), name: record.name.clone() };
    let mut devices = Vec::new();
    for name in drivers {
        let driver = known.get(&name, Duration::ZERO).await;
        let driver = driver.ok_or_else(|| said(format!("DRA driver {name} is not registered")))?;
        let answer = driver.prepare(Claims { claims: vec![claim.clone()] }).await;
        let mut answer = answer.map_err(|error| said(format!("NodePrepareResources: {}", chain(&error))))?;
        let Some(own) = answer.claims.remove(&record.uid) else {
            return Err(said("NodePrepareResources skipped 1 ResourceClaims"));
        };
        if !own.error.is_empty() {
            let why = format!("NodePrepareResources failed for ResourceClaim {}: {}", record.name, own.error);
            return Err(said(why));
        }
        let new = own.devices.into_iter();
        devices.extend(new.map(|device| Device { requests: device.requests, cdi_ids: device.cdi_ids }));
        if devices.len() > MOST_DEVICES {
            return Err(said(format!("DRA driver {name} names more than {MOST_DEVICES} devices")));
        }
    }
    record.devices = Some(devices.clone());
    let uid = record.uid.clone();
    keep(executor, record).await?;
    known.remember(&uid, Some(devices));
    Ok(())
}

async fn keep(executor: &Executor, record: Record) -> Result<(), Failure> {
    let dir = executor.pod_dir();
    blocking(move || record::keep(&dir, &record).map_err(said)).await
}

/// What a container is given of the claims that it names, by the names of the Container Device Interface.
pub(crate) fn devices(executor: &Executor, container: &Container) -> Result<Vec<String>, Failure> {
    let asked = container.resources.as_ref().and_then(|resources| resources.claims.as_deref()).unwrap_or_default();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let held: BTreeMap<String, Record> =
        record::all(&executor.pod_dir()).into_iter().map(|(_, record)| (record.name.clone(), record)).collect();
    let claims = claims_of(&executor.pod);
    let mut ids: Vec<String> = Vec::new();
    for wish in asked {
        let claim = claims.iter().find(|claim| claim.name == wish.name);
        if claim.is_some_and(|claim| claim.source == Source::Unneeded) {
            continue;
        }
        let record = claim.and_then(|claim| held.get(claim.object()?));
        let devices = record.and_then(|record| record.devices.as_ref());
        let devices = devices.ok_or_else(|| Failure {
            reason: CREATE_ERROR.into(),
            message: format!("resource claim {:?} is not prepared", wish.name),
        })?;
        for id in given(devices, wish.request.as_deref()) {
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
    }
    Ok(ids)
}

/// Of a claim's devices, those of one of its requests; of all where none is named.
fn given<'d>(devices: &'d [Device], request: Option<&str>) -> impl Iterator<Item = &'d String> {
    let whole = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let request = request.filter(|name| !name.is_empty()).map(whole);
    let is_meant = move |device: &&Device| match &request {
        None => true,
        Some(name) => device.requests.is_empty() || device.requests.iter().any(|own| whole(own) == *name),
    };
    devices.iter().filter(is_meant).flat_map(|device| &device.cdi_ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_given_the_devices_of_the_request_that_it_names() {
        let device = |requests: &[&str], id: &str| Device {
            requests: requests.iter().map(|name| (*name).to_owned()).collect(),
            cdi_ids: vec![id.to_owned()],
        };
        let devices = [device(&["a"], "1"), device(&["b/small"], "2"), device(&[], "3")];
        let of = |request| given(&devices, request).cloned().collect::<Vec<_>>();
        assert_eq!(of(None), ["1", "2", "3"]);
        assert_eq!(of(Some("")), ["1", "2", "3"]);
        assert_eq!(of(Some("a")), ["1", "3"]);
        assert_eq!(of(Some("b")), ["2", "3"], "whichever alternative it was");
    }
}
