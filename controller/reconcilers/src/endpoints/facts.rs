//! The facts about Services, pods and slices that decide what stands behind a Service.
use crate::cache::{Key, key_of};
use api::well_known::{LABEL_ENDPOINTSLICE_MANAGED_BY, LABEL_SERVICE_NAME};
use k8s_openapi::api::core::v1::{Endpoints, Pod, PodCondition, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use std::collections::BTreeMap;

/// A Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceFacts {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// `None` where somebody else says what stands behind it.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) is_headless: bool,
    pub(crate) publishes_unready: bool,
    pub(crate) is_external: bool,
    pub(crate) is_deleting: bool,
}

impl ServiceFacts {
    /// Takes the facts out.
    pub(crate) fn new(service: Service) -> Self {
        let key = key_of(&service.metadata);
        let spec = service.spec.unwrap_or_default();
        Self {
            key,
            uid: service.metadata.uid.unwrap_or_default(),
            labels: service.metadata.labels.unwrap_or_default(),
            selector: spec.selector.filter(|selector| !selector.is_empty()),
            ports: spec.ports.unwrap_or_default(),
            is_headless: spec.cluster_ip.as_deref() == Some("None"),
            publishes_unready: spec.publish_not_ready_addresses == Some(true),
            is_external: spec.type_.as_deref() == Some("ExternalName"),
            is_deleting: service.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// A pod that may stand behind a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BackendFacts {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) address: Option<std::net::Ipv4Addr>,
    pub(crate) node: Option<String>,
    /// `spec.hostname`, if `spec.subdomain` makes a name of it: the Service it counts for, and the name.
    pub(crate) hostname: Option<(String, String)>,
    pub(crate) is_ready: bool,
    pub(crate) is_terminating: bool,
    /// It ended, and answers nobody any more.
    pub(crate) is_over: bool,
    /// Ports by name and protocol, in the containers' order.
    pub(crate) ports: Vec<(String, String, i32)>,
}

impl BackendFacts {
    /// Takes the facts out.
    pub(crate) fn new(pod: &Pod) -> Self {
        let key = key_of(&pod.metadata);
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        // A sidecar's ports count like those of the other containers.
        let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let containers = sidecars.chain(spec.into_iter().flat_map(|spec| &spec.containers));
        let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port.name.clone()?, protocol, port.container_port))
        });
        let subdomain = spec.and_then(|spec| spec.subdomain.clone()).filter(|subdomain| !subdomain.is_empty());
        let hostname = spec.and_then(|spec| spec.hostname.clone()).or_else(|| pod.metadata.name.clone());
        let is_ready = |condition: &PodCondition| condition.type_ == "Ready" && condition.status == "True";
        let phase = status.and_then(|status| status.phase.as_deref());
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            address: status.and_then(|status| status.pod_ip.as_deref()?.parse().ok()),
            node: spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
            hostname: subdomain.map(|subdomain| (subdomain, hostname.unwrap_or_default())),
            is_ready: status.is_some_and(|status| status.conditions.iter().flatten().any(is_ready)),
            is_terminating: pod.metadata.deletion_timestamp.is_some(),
            is_over: matches!(phase, Some("Succeeded" | "Failed")),
            ports: ports.collect(),
            key,
        }
    }
}

/// An EndpointSlice that belongs to a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SliceFacts {
    pub(crate) key: Key,
    /// The Service, in the same namespace.
    pub(crate) service: String,
    pub(crate) keeper: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl SliceFacts {
    /// Takes the facts out.
    pub(crate) fn new(slice: EndpointSlice) -> Self {
        let labels = slice.metadata.labels.clone().unwrap_or_default();
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        Self {
            key: key_of(&slice.metadata),
            service: label(LABEL_SERVICE_NAME),
            keeper: label(LABEL_ENDPOINTSLICE_MANAGED_BY),
            ports: slice.ports.unwrap_or_default(),
            endpoints: slice.endpoints.unwrap_or_default(),
            labels,
        }
    }
}

/// Classic Endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EndpointsFacts {
    pub(crate) object: Endpoints,
}

impl EndpointsFacts {
    /// Takes the facts out.
    pub(crate) fn new(object: Endpoints) -> Self {
        let metadata =
            k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta { managed_fields: None, ..object.metadata };
        Self { object: Endpoints { metadata, ..object } }
    }
}
