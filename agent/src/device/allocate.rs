//! Gives a container the devices that it asks for, and what comes with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use agent_pod::facts::{self, Role};
use agent_pod::protocol::Failure;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::book::{Book, Wish};
use super::message::{Allocation, Allocations, Empty, Ids, IdsOfContainers, PreferredRequest, PreferredRequests};
use super::plugin::Resource;
use super::{hint, is_extended};
use crate::cdi;
use crate::execute::container::CREATE_ERROR;
use crate::execute::{Executor, Host, chain};
use crate::topology::{Hints, Nodes};

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
        let of = Of { host: &executor.host, uid: &executor.uid, pod: &executor.pod, container };
        let ids = choose(of, &name, count, &resource, None).await?;
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

/// A container that devices are for.
#[derive(Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) host: &'a Host,
    pub(crate) uid: &'a str,
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
}

impl Of<'_> {
    /// The containers of its pod that have ended when it begins.
    fn ended_before(&self) -> Vec<String> {
        let before = facts::containers(self.pod).take_while(|(own, _)| own.name != self.container.name);
        before.filter(|(_, role)| *role == Role::Init).map(|(own, _)| own.name.clone()).collect()
    }

    /// What it may have of a resource: what it is to use again, and what nobody has.
    fn look<T>(&self, name: &str, count: usize, ask: impl FnOnce(&mut Book, &Wish<'_>) -> T) -> T {
        let (before, path) = (self.ended_before(), self.host.config.instance.devices_file());
        let wish = Wish { pod: self.uid, container: &self.container.name, resource: name, count, before: &before };
        let mut book = self.host.devices.book.lock().unwrap_or_else(PoisonError::into_inner);
        let book = book.get_or_insert_with(|| Book::read(&path));
        // What pods had that have ended is nobody's.
        book.retain(|uid| uid == self.uid || !self.host.pods.is_over(uid));
        ask(book, &wish)
    }
}

/// Where a container could be given the devices that it asks for, one list for each resource.
pub(crate) fn hints(of: Of<'_>, machine: Nodes) -> Hints {
    hints_for(of, asked(of.container), machine)
}

fn hints_for(of: Of<'_>, asked: BTreeMap<String, usize>, machine: Nodes) -> Hints {
    let hint = |(name, count): (String, usize)| {
        let resource = of.host.devices.get(&name)?;
        Some(of.look(&name, count, |book, wish| hint::of(book, wish, &resource, machine)))
    };
    asked.into_iter().filter_map(hint).collect()
}

/// Where that could be which the containers of a pod ask for together at its peak: init containers pass theirs on.
pub(crate) fn hints_of_pod(of: Of<'_>, machine: Nodes) -> Hints {
    let (mut lasting, mut peak) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for (container, role) in facts::containers(of.pod) {
        for (name, count) in asked(&container) {
            let lasts = lasting.entry(name.clone()).or_default();
            let at_once = *lasts + count;
            if role != Role::Init {
                *lasts = at_once;
            }
            let most = peak.entry(name).or_default();
            *most = at_once.max(*most);
        }
    }
    hints_for(of, peak, machine)
}

/// Chooses a container's devices before it begins, near these nodes if there are; it gets them when it does.
pub(crate) async fn hold(of: Of<'_>, nodes: Option<Nodes>) -> Result<(), Failure> {
    for (name, count) in asked(of.container) {
        let Some(resource) = of.host.devices.get(&name) else { continue };
        choose(of, &name, count, &resource, nodes).await?;
    }
    Ok(())
}

/// What a pod holds is others' again.
pub(crate) fn forget(host: &Host, uid: &str) {
    let path = host.config.instance.devices_file();
    let mut book = host.devices.book.lock().unwrap_or_else(PoisonError::into_inner);
    let book = book.get_or_insert_with(|| Book::read(&path));
    book.retain(|own| own != uid);
    if let Err(error) = book.write(&path) {
        tracing::error!(%error, path = %path.display(), "writing who has which device");
    }
}

async fn choose(
    of: Of<'_>,
    name: &str,
    count: usize,
    resource: &Resource,
    nodes: Option<Nodes>,
) -> Result<BTreeSet<String>, Failure> {
    let _turn = of.host.devices.turn.lock().await;
    let (reused, free) = match of.look(name, count, |book, wish| {
        if let Some(held) = book.held(wish).filter(|held| held.len() == count) {
            return Err(held);
        }
        Ok(book.free(wish, &resource.devices))
    }) {
        Err(held) => return Ok(held),
        Ok(free) => free.map_err(|available| {
            said(format!(
                "requested number of devices unavailable for {name}. Requested: {count}, Available: {available}"
            ))
        })?,
    };
    let mut must: BTreeSet<String> = reused.into_iter().take(count).collect();
    let is_near = |id: &String| match (nodes, resource.nodes.get(id)) {
        (Some(nodes), Some(own)) => own.meets(nodes),
        (Some(_), None) => false,
        (None, _) => true,
    };
    let (near, far): (BTreeSet<String>, BTreeSet<String>) = free.into_iter().partition(is_near);
    let ids = if must.len() + near.len() >= count {
        prefer(count, must, near, resource).await
    } else {
        must.extend(near);
        prefer(count, must, far, resource).await
    };
    let path = of.host.config.instance.devices_file();
    let written = of.look(name, count, |book, wish| {
        book.give(wish, ids.clone());
        book.write(&path)
    });
    written.map_err(|error| said(format!("{}: {error}", path.display())))?;
    Ok(ids)
}

/// So many of these, as the plugin likes it, if it says so and its answer makes sense.
async fn prefer(
    count: usize,
    reused: BTreeSet<String>,
    free: BTreeSet<String>,
    resource: &Resource,
) -> BTreeSet<String> {
    let must: Vec<String> = reused.into_iter().collect();
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
