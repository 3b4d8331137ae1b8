//! What stands behind a Service, and which slices have to change for that. Pure.
use super::facts::{BackendFacts, EndpointsFacts, ServiceFacts, SliceFacts};
use api::well_known::{LABEL_ENDPOINTSLICE_MANAGED_BY, LABEL_HEADLESS_SERVICE, LABEL_SERVICE_NAME};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, ObjectReference};
use k8s_openapi::api::core::v1::{EndpointPort as ClassicPort, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Who keeps slices of what Services select.
pub(crate) const SELECTED: &str = "endpointslice-controller.k8s.io";
/// Who keeps slices of hand-made Endpoints.
pub(crate) const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";
/// Who keeps slices of the name servers of the nodes.
pub(crate) const NAME_SERVERS: &str = "dns.gantry.k8s.io";
/// Endpoints of a slice at most, as Kubernetes has it by default.
pub(crate) const SLICE: usize = 100;
/// Addresses of classic Endpoints at most.
const CLASSIC: usize = 1000;
/// Says of classic Endpoints that some were left out.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Endpoints that are made for a slice already.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// The ports and the endpoints that have them: what one or more slices hold.
pub(crate) type Groups = BTreeMap<Vec<PortKey>, Vec<Endpoint>>;

/// A port that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    name: String,
    protocol: String,
    port: i32,
    app_protocol: Option<String>,
}

impl PortKey {
    fn slice_port(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            protocol: Some(self.protocol.clone()),
            port: Some(self.port),
            app_protocol: self.app_protocol.clone(),
        }
    }

    fn of(port: &EndpointPort) -> PortKey {
        PortKey {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.unwrap_or_default(),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

/// The port of a pod that a Service's port leads to; a name may be another number in every pod.
fn target(port: &ServicePort, pod: &BackendFacts) -> Option<PortKey> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => *number,
        Some(IntOrString::String(name)) if !name.is_empty() => {
            pod.ports.iter().find(|(own, own_protocol, _)| own == name && *own_protocol == protocol)?.2
        }
        _ => port.port,
    };
    Some(PortKey {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        port: number,
        app_protocol: port.app_protocol.clone(),
    })
}

/// Whether a Service leads to a pod at all.
pub(crate) fn selects(service: &ServiceFacts, pod: &BackendFacts) -> bool {
    let selector = service.selector.as_ref();
    selector.is_some_and(|selector| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
}

/// The endpoints of what a Service selects. `zone` tells a node's.
pub(crate) fn selected(
    service: &ServiceFacts,
    pods: &[Arc<BackendFacts>],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Groups {
    let mut groups = Groups::new();
    for pod in pods.iter().filter(|pod| selects(service, pod) && !pod.is_over) {
        let Some(address) = pod.address else { continue };
        let mut ports: Vec<PortKey> = service.ports.iter().filter_map(|port| target(port, pod)).collect();
        ports.sort();
        ports.dedup_by(|a, b| (&a.name, &a.protocol) == (&b.name, &b.protocol));
        // A pod without any of the ports cannot be reached by the Service, but by its name.
        if ports.is_empty() && !service.ports.is_empty() {
            continue;
        }
        groups.entry(ports).or_default().push(endpoint(service, pod, address, zone));
    }
    for endpoints in groups.values_mut() {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    }
    groups
}

fn endpoint(
    service: &ServiceFacts,
    pod: &BackendFacts,
    address: std::net::Ipv4Addr,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let (namespace, name) = crate::cache::split(&pod.key);
    let service_name = crate::cache::split(&service.key).1;
    let is_serving = pod.is_ready;
    let hostname =
        pod.hostname.as_ref().filter(|(subdomain, _)| subdomain == service_name).map(|(_, name)| name.clone());
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(service.publishes_unready || is_serving && !pod.is_terminating),
            serving: Some(is_serving),
            terminating: Some(pod.is_terminating),
        }),
        hostname,
        node_name: pod.node.clone(),
        zone: pod.node.as_deref().and_then(zone),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The endpoints of hand-made Endpoints; `None` where they are not to be mirrored.
pub(crate) fn mirrored(endpoints: &EndpointsFacts) -> Option<Groups> {
    let metadata = &endpoints.object.metadata;
    let is_lock = metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    let is_skipped = metadata.labels.as_ref().and_then(|labels| labels.get(SKIP_MIRROR)).is_some_and(|v| v == "true");
    if is_lock || is_skipped {
        return None;
    }
    let mut groups = Groups::new();
    for subset in endpoints.object.subsets.iter().flatten() {
        let mut ports: Vec<PortKey> = subset.ports.iter().flatten().map(classic_key).collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)));
        for (address, is_ready) in all.filter(|(address, _)| address.ip.parse::<std::net::Ipv4Addr>().is_ok()) {
            let group = groups.entry(ports.clone()).or_default();
            // What Kubernetes mirrors at most of one subset.
            if group.len() < CLASSIC {
                group.push(Endpoint {
                    addresses: vec![address.ip.clone()],
                    conditions: Some(EndpointConditions { ready: Some(is_ready), ..EndpointConditions::default() }),
                    hostname: address.hostname.clone().filter(|name| !name.is_empty()),
                    node_name: address.node_name.clone(),
                    target_ref: address.target_ref.clone(),
                    ..Endpoint::default()
                });
            }
        }
    }
    Some(groups)
}

fn classic_key(port: &ClassicPort) -> PortKey {
    PortKey {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    }
}

/// The endpoints of the cluster's name servers: one per node, at its address in the pods' range.
pub(crate) fn name_servers(service: &ServiceFacts, nodes: &[(String, std::net::Ipv4Addr)]) -> Groups {
    let ports = service.ports.iter().filter_map(|port| target(port, &BackendFacts::default())).collect();
    let endpoints = nodes.iter().map(|(node, address)| Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
        node_name: Some(node.clone()),
        ..Endpoint::default()
    });
    let endpoints: Vec<Endpoint> = endpoints.collect();
    if endpoints.is_empty() { Groups::new() } else { Groups::from([(ports, endpoints)]) }
}

/// The labels of a Service's slices.
pub(crate) fn slice_labels(service: &ServiceFacts, keeper: &str) -> BTreeMap<String, String> {
    let mut labels = service.labels.clone();
    labels.remove(LABEL_HEADLESS_SERVICE);
    if service.is_headless {
        labels.insert(LABEL_HEADLESS_SERVICE.to_owned(), String::new());
    }
    labels.insert(LABEL_SERVICE_NAME.to_owned(), crate::cache::split(&service.key).1.to_owned());
    labels.insert(LABEL_ENDPOINTSLICE_MANAGED_BY.to_owned(), keeper.to_owned());
    labels
}

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// New slices: ports and endpoints.
    pub(crate) create: Vec<(Vec<EndpointPort>, Vec<Endpoint>)>,
    /// Slices by key with their new endpoints.
    pub(crate) update: Vec<(crate::cache::Key, Vec<EndpointPort>, Vec<Endpoint>)>,
    /// Slices that hold nothing any more.
    pub(crate) delete: Vec<crate::cache::Key>,
}

/// The fewest writes by which a Service's slices hold these groups: endpoints stay where they are, new ones go where
/// something is written anyway or where there is room.
pub(crate) fn plan(groups: &Groups, slices: &[Arc<SliceFacts>], labels: &BTreeMap<String, String>) -> Plan {
    let mut plan = Plan::default();
    let mut by_ports: BTreeMap<Vec<PortKey>, Vec<&Arc<SliceFacts>>> = BTreeMap::new();
    for slice in slices {
        let mut ports: Vec<PortKey> = slice.ports.iter().map(PortKey::of).collect();
        ports.sort();
        by_ports.entry(ports).or_default().push(slice);
    }
    for (ports, slices) in &by_ports {
        if !groups.contains_key(ports) {
            plan.delete.extend(slices.iter().map(|slice| Arc::clone(&slice.key)));
        }
    }
    let none = Vec::new();
    for (ports, endpoints) in groups {
        let slice_ports: Vec<EndpointPort> = ports.iter().map(PortKey::slice_port).collect();
        plan_group(&mut plan, &slice_ports, endpoints, by_ports.get(ports).unwrap_or(&none), labels);
    }
    plan
}

/// A Service that selects nobody has one slice that says so (Kubernetes' placeholder): without ports and endpoints.
pub(crate) fn hold_place(plan: &mut Plan, slices: &[Arc<SliceFacts>]) {
    let goes = |slice: &Arc<SliceFacts>| plan.delete.contains(&slice.key);
    if !plan.create.is_empty() || slices.iter().any(|slice| !goes(slice)) {
        return;
    }
    match slices.iter().find(|slice| slice.ports.is_empty() && slice.endpoints.is_empty()) {
        Some(placeholder) => plan.delete.retain(|key| *key != placeholder.key),
        None => plan.create.push((Vec::new(), Vec::new())),
    }
}

struct Draft<'a> {
    slice: &'a Arc<SliceFacts>,
    kept: Vec<Endpoint>,
    is_changed: bool,
}

fn plan_group(
    plan: &mut Plan,
    ports: &[EndpointPort],
    wanted: &[Endpoint],
    slices: &[&Arc<SliceFacts>],
    labels: &BTreeMap<String, String>,
) {
    let mut missing: BTreeMap<&str, &Endpoint> = wanted.iter().map(|endpoint| (identity(endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for slice in slices {
        let kept: Vec<Endpoint> =
            slice.endpoints.iter().filter_map(|own| missing.remove(identity(own)).cloned()).collect();
        let is_changed = kept != slice.endpoints || slice.labels != *labels;
        drafts.push(Draft { slice, kept, is_changed });
    }
    let mut rest: Vec<Endpoint> = missing.into_values().cloned().collect();
    // First into slices that are written anyway, then into the fullest that takes all, then anywhere there is room.
    drafts.sort_by_key(|draft| (!draft.is_changed, std::cmp::Reverse(draft.kept.len())));
    for draft in &mut drafts {
        let room = SLICE.saturating_sub(draft.kept.len());
        if !rest.is_empty() && room > 0 {
            draft.is_changed = true;
            draft.kept.extend(rest.drain(..room.min(rest.len())));
        }
    }
    let is_empty = |draft: &Draft<'_>| draft.kept.is_empty();
    for draft in drafts.iter().filter(|draft| draft.is_changed) {
        let key = Arc::clone(&draft.slice.key);
        if is_empty(draft) {
            plan.delete.push(key);
        } else {
            plan.update.push((key, ports.to_vec(), draft.kept.clone()));
        }
    }
    plan.create.extend(rest.chunks(SLICE).map(|chunk| (ports.to_vec(), chunk.to_vec())));
}

/// What tells an endpoint from the others of its group.
fn identity(endpoint: &Endpoint) -> &str {
    endpoint.addresses.first().map_or("", String::as_str)
}

/// The label of Endpoints that are written here.
const CLASSIC_KEEPER: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");

/// Whether Endpoints are written here, and not by hand.
pub(crate) fn is_ours(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> bool {
    metadata.labels.as_ref().and_then(|labels| labels.get(CLASSIC_KEEPER.0)).is_some_and(|by| by == CLASSIC_KEEPER.1)
}

/// The classic subsets of what a Service selects, and whether some had to be left out.
pub(crate) fn classic(service: &ServiceFacts, groups: &Groups) -> (Vec<EndpointSubset>, bool) {
    // Ready ones first where there are too many.
    let mut count = 0;
    let mut subsets = Vec::new();
    let mut is_truncated = false;
    for (ports, endpoints) in groups {
        let is_ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
        // One that ends is in neither list, unless unready ones are wanted.
        let ends = |endpoint: &&Endpoint| {
            endpoint.conditions.as_ref().is_some_and(|c| c.terminating == Some(true)) && !service.publishes_unready
        };
        let mut take = |endpoints: Vec<&Endpoint>| {
            let room = CLASSIC - count;
            is_truncated |= endpoints.len() > room;
            let taken: Vec<EndpointAddress> = endpoints.into_iter().take(room).map(classic_address).collect();
            count += taken.len();
            Some(taken).filter(|taken| !taken.is_empty())
        };
        let addresses = take(endpoints.iter().filter(is_ready).collect());
        let not_ready = take(endpoints.iter().filter(|e| !is_ready(e) && !ends(e)).collect());
        if addresses.is_none() && not_ready.is_none() {
            continue;
        }
        let ports: Vec<ClassicPort> = ports
            .iter()
            .map(|port| ClassicPort {
                name: Some(port.name.clone()).filter(|name| !name.is_empty()),
                protocol: Some(port.protocol.clone()),
                port: port.port,
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        subsets.push(EndpointSubset {
            addresses,
            not_ready_addresses: not_ready,
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        });
    }
    (subsets, is_truncated)
}

fn classic_address(endpoint: &Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: identity(endpoint).to_owned(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    }
}

/// The labels and annotations of the classic object.
pub(crate) fn classic_metadata(
    service: &ServiceFacts,
    is_truncated: bool,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let mut labels = service.labels.clone();
    labels.insert(CLASSIC_KEEPER.0.to_owned(), CLASSIC_KEEPER.1.to_owned());
    if service.is_headless {
        labels.insert(LABEL_HEADLESS_SERVICE.to_owned(), String::new());
    }
    let mut annotations = BTreeMap::new();
    if is_truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    (labels, annotations)
}

/// Which keepers' slices a Service of this shape has; all others of ours go.
pub(crate) fn keeper(service: &ServiceFacts) -> &'static str {
    match service.selector {
        Some(_) => SELECTED,
        None if &*service.key == DNS_SERVICE => NAME_SERVERS,
        None => MIRRORED,
    }
}

/// The cluster's DNS.
pub(crate) const DNS_SERVICE: &str = "kube-system/kube-dns";

/// Every keeper of ours.
pub(crate) fn keepers() -> BTreeSet<&'static str> {
    BTreeSet::from([SELECTED, MIRRORED, NAME_SERVERS])
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
