//! Gives a container the devices that it asks for, and what comes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use agent_pod::facts::{self, Role};
use agent_pod::protocol::Failure;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::Container;

use super::book::{Book, Wish};
use super::is_extended;
use super::message::{Allocation, Allocations, Empty, Ids, IdsOfContainers, PreferredRequest, PreferredRequests};
use super::plugin::Resource;
use crate::cdi;
use crate::execute::container::CREATE_ERROR;
use crate::execute::{Executor, chain};

/// What a container gets with its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) env: BTreeMap<String, String>,
    /// On the machine, in the container, and whether it is read only.
    pub(crate) mounts: Vec<(PathBuf, String, bool)>,
    /// On the machine, in the container, and of `rwm` what is allowed.
    pub(crate) devices: Vec<(PathBuf, String, String)>,
    /// Names of the Container Device Interface.
    pub(crate) cdi: Vec<String>,
}

fn said(message: String) -> Failure {
    Failure { reason: CREATE_ERROR.into(), message }
}

/// The resources of plugins that a container asks for: those with a domain that is not Kubernetes' own.
fn asked(container: &Container) -> BTreeMap<String, usize> {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let count = |text: &str| Quantity::parse(text).ok().and_then(|own| usize::try_from(own.value()).ok());
    let all = limits.into_iter().flatten().filter(|(name, _)| is_extended(name));
    all.filter_map(|(name, text)| Some((name.clone(), count(&text.0).filter(|count| *count > 0)?))).collect()
}

/// Gives a container its devices; one that starts again gets the same.
pub(crate) async fn give(executor: &Executor, container: &Container) -> Result<Given, Failure> {
    let mut given = Given::default();
    for (name, count) in asked(container) {
        // What no plugin ever told of is counted by the scheduler alone.
        let Some(resource) = executor.host.devices.get(&name) else { continue };
        let ids = choose(executor, container, &name, count, &resource).await?;
        let Some((plugin, options)) = &resource.plugin else {
            return Err(said(format!("the device plugin of {name} is away")));
        };
        let refused = |error: api_plugin::grpc::CallError| said(format!("device plugin of {name}: {}", chain(&error)));
        let ids: Vec<String> = ids.into_iter().collect();
        let request = IdsOfContainers { containers: vec![Ids { ids: ids.clone() }] };
        let answer: Allocations = plugin.call("/v1beta1.DevicePlugin/Allocate", request).await.map_err(refused)?;
        add(&mut given, answer.containers, &name)?;
        if options.pre_start_required {
            let call = "/v1beta1.DevicePlugin/PreStartContainer";
            plugin.call::<_, Empty>(call, Ids { ids }).await.map_err(refused)?;
        }
    }
    Ok(given)
}

/// The containers of a pod that have ended when another begins.
fn ended_before(executor: &Executor, name: &str) -> Vec<String> {
    let before = facts::containers(&executor.pod).take_while(|(own, _)| own.name != name);
    before.filter(|(_, role)| *role == Role::Init).map(|(own, _)| own.name.clone()).collect()
}

async fn choose(
    executor: &Executor,
    container: &Container,
    name: &str,
    count: usize,
    resource: &Resource,
) -> Result<BTreeSet<String>, Failure> {
    let devices = &executor.host.devices;
    let _turn = devices.turn.lock().await;
    let path = executor.host.config.instance.devices_file();
    let before = ended_before(executor, &container.name);
    let wish = Wish { pod: &executor.uid, container: &container.name, resource: name, count, before: &before };
    let (reused, free) = {
        let mut book = devices.book.lock().unwrap_or_else(PoisonError::into_inner);
        let book = book.get_or_insert_with(|| Book::read(&path));
        if let Some(held) = book.held(&wish).filter(|held| held.len() == count) {
            return Ok(held);
        }
        book.retain(|uid| uid == executor.uid || !executor.host.pods.is_over(uid));
        book.free(&wish, &resource.devices).map_err(|available| {
            said(format!(
                "requested number of devices unavailable for {name}. Requested: {count}, Available: {available}"
            ))
        })?
    };
    let ids = prefer(count, reused, free, resource).await;
    let mut book = devices.book.lock().unwrap_or_else(PoisonError::into_inner);
    let book = book.get_or_insert_with(|| Book::read(&path));
    book.give(&wish, ids.clone());
    book.write(&path).map_err(|error| said(format!("{}: {error}", path.display())))?;
    Ok(ids)
}

/// So many of these, as the plugin likes it, if it says so and its answer makes sense.
async fn prefer(
    count: usize,
    reused: BTreeSet<String>,
    free: BTreeSet<String>,
    resource: &Resource,
) -> BTreeSet<String> {
    let must: Vec<String> = reused.into_iter().take(count).collect();
    if let Some((plugin, _)) =
        resource.plugin.as_ref().filter(|(_, options)| options.get_preferred_allocation_available)
    {
        let request = PreferredRequest {
            available: must.iter().chain(&free).cloned().collect(),
            must_include: must.clone(),
            size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let call = "/v1beta1.DevicePlugin/GetPreferredAllocation";
        let request = PreferredRequests { containers: vec![request] };
        let answer: Result<IdsOfContainers, _> = plugin.call(call, request).await;
        let liked: BTreeSet<String> = answer
            .ok()
            .and_then(|answer| answer.containers.into_iter().next())
            .unwrap_or_default()
            .ids
            .into_iter()
            .collect();
        let is_possible = liked.iter().all(|id| free.contains(id) || must.contains(id));
        if liked.len() == count && is_possible && must.iter().all(|id| liked.contains(id)) {
            return liked;
        }
    }
    must.into_iter().chain(free).take(count).collect()
}

fn add(given: &mut Given, answers: Vec<Allocation>, name: &str) -> Result<(), Failure> {
    for answer in answers {
        for mount in &answer.mounts {
            if !Path::new(&mount.container_path).is_absolute() || !Path::new(&mount.host_path).is_absolute() {
                return Err(said(format!("device plugin of {name}: mount {mount:?}: expected absolute paths")));
            }
        }
        let named = answer.annotations.iter().filter(|(key, _)| key.starts_with(cdi::ANNOTATION));
        let named = named.flat_map(|(_, names)| names.split(',').map(|name| name.trim().to_owned()));
        for name in answer.cdi_devices.into_iter().map(|own| own.name).chain(named) {
            if !given.cdi.contains(&name) {
                given.cdi.push(name);
            }
        }
        given.env.extend(answer.envs);
        let mounts = answer.mounts.into_iter();
        given.mounts.extend(mounts.map(|own| (PathBuf::from(own.host_path), own.container_path, own.read_only)));
        let devices = answer.devices.into_iter();
        given.devices.extend(devices.map(|own| (PathBuf::from(own.host_path), own.container_path, own.permissions)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn devices_are_asked_for_by_limits_with_a_domain() {
        let container: Container = from_value(json!({"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi",
            "example.com/gpu": "2", "requests.kubernetes.io/x": "1", "example.com/none": "0", "hugepages-2Mi": "2Mi"}}}))
        .unwrap();
        assert_eq!(asked(&container), BTreeMap::from([("example.com/gpu".to_owned(), 2)]));
    }

    #[test]
    fn what_cannot_be_given_is_told() {
        use super::super::message::Mount;
        let mut given = Given::default();
        let mount = Mount { container_path: "x".into(), host_path: "/y".into(), read_only: false };
        let relative = Allocation { mounts: vec![mount], ..Allocation::default() };
        assert!(add(&mut given, vec![relative], "r").unwrap_err().message.contains("absolute"));
        assert_eq!(given, Given::default());
    }

    #[test]
    fn names_of_the_container_device_interface_come_once_whichever_way() {
        use super::super::message::CdiDevice;
        let mut given = Given::default();
        let annotations = [("cdi.k8s.io/x", "v.com/c=1, v.com/c=2"), ("other", "v.com/c=3")];
        let cdi = Allocation {
            cdi_devices: vec![CdiDevice { name: "v.com/c=1".into() }],
            annotations: annotations.map(|(key, names)| (key.to_owned(), names.to_owned())).into(),
            ..Allocation::default()
        };
        add(&mut given, vec![cdi], "r").unwrap();
        assert_eq!(given.cdi, ["v.com/c=1", "v.com/c=2"]);
    }
}
