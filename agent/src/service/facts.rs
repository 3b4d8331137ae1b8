//! The facts of Services and EndpointSlices that rules and variables need, and rules' input made of them. Pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use agent_network::{Endpoint, Protocol, ServicePort};
use api::well_known::{LABEL_SERVICE_NAME, LABEL_SERVICE_PROXY_NAME};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) cluster_address: Option<Ipv4Addr>,
    pub(crate) external_addresses: Vec<Ipv4Addr>,
    pub(crate) ports: Vec<PortFacts>,
    pub(crate) is_internal_local: bool,
    pub(crate) is_external_local: bool,
    pub(crate) affinity_seconds: Option<u32>,
    /// Another proxy serves it.
    pub(crate) is_foreign: bool,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortFacts {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
}

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

impl ServiceFacts {
    pub(crate) fn new(service: Service) -> ServiceFacts {
        let spec = service.spec.unwrap_or_default();
        let is_external_name = spec.type_.as_deref() == Some("ExternalName");
        let labels = service.metadata.labels.unwrap_or_default();
        let balancer = service.status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
        // An address with the mode Proxy leads through the balancer itself.
        let balancer = balancer.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
        let balancer = balancer.filter_map(|ingress| ingress.ip);
        let external = spec.external_ips.into_iter().flatten().chain(balancer);
        let config = spec.session_affinity_config.and_then(|config| config.client_ip);
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
        let has_affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let ports = spec.ports.into_iter().flatten().filter_map(|port| {
            Some(PortFacts {
                name: port.name.unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
                port: u16::try_from(port.port).ok()?,
                node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            })
        });
        ServiceFacts {
            namespace: service.metadata.namespace.unwrap_or_default(),
            name: service.metadata.name.unwrap_or_default(),
            cluster_address: spec.cluster_ip.and_then(|ip| ip.parse().ok()).filter(|_| !is_external_name),
            external_addresses: external.filter_map(|ip| ip.parse().ok()).collect(),
            ports: ports.collect(),
            is_internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            is_external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds: has_affinity.then(|| u32::try_from(seconds).unwrap_or_default()),
            is_foreign: labels.contains_key(LABEL_SERVICE_PROXY_NAME),
        }
    }
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    /// Namespace and name of its Service.
    service: (String, String),
    /// Name, protocol and number.
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<(Endpoint, Option<String>)>,
}

impl SliceFacts {
    pub(crate) fn new(slice: EndpointSlice) -> SliceFacts {
        let service = slice.metadata.labels.and_then(|labels| labels.get(LABEL_SERVICE_NAME).cloned());
        let ports = slice.ports.into_iter().flatten().filter_map(|port| {
            let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?;
            Some((port.name.unwrap_or_default(), protocol, u16::try_from(port.port?).ok()?))
        });
        let endpoints = slice.endpoints.into_iter().flatten().filter_map(|endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            // Nothing said means ready, and serving like ready.
            let is_ready = conditions.ready != Some(false);
            let one = Endpoint {
                address: endpoint.addresses.first()?.parse().ok()?,
                port: 0,
                is_ready,
                is_serving: conditions.serving.unwrap_or(is_ready),
                is_terminating: conditions.terminating == Some(true),
                is_local: false,
            };
            Some((one, endpoint.node_name))
        });
        SliceFacts {
            service: (slice.metadata.namespace.unwrap_or_default(), service.unwrap_or_default()),
            ports: ports.collect(),
            endpoints: if slice.address_type == "IPv4" { endpoints.collect() } else { Vec::new() },
        }
    }
}

/// What the rules are made of, for the node of this name.
pub(crate) fn service_ports<'a>(
    services: impl Iterator<Item = &'a ServiceFacts>,
    slices: impl Iterator<Item = &'a SliceFacts>,
    node: &str,
) -> Vec<ServicePort> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&SliceFacts>> = BTreeMap::new();
    for slice in slices {
        by_service.entry((&slice.service.0, &slice.service.1)).or_default().push(slice);
    }
    let mut all = Vec::new();
    let served = services.filter(|service| !service.is_foreign);
    for service in served.filter(|service| service.cluster_address.is_some() || !service.external_addresses.is_empty())
    {
        let slices = by_service.get(&(service.namespace.as_str(), service.name.as_str()));
        let slices = slices.map(Vec::as_slice).unwrap_or_default();
        all.extend(service.ports.iter().map(|port| service_port(service, port, slices, node)));
    }
    all
}

fn service_port(service: &ServiceFacts, port: &PortFacts, slices: &[&SliceFacts], node: &str) -> ServicePort {
    let endpoints = slices.iter().flat_map(|slice| {
        let own = slice.ports.iter().filter(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        own.flat_map(|(_, _, number)| {
            slice.endpoints.iter().map(|(endpoint, on)| Endpoint {
                port: *number,
                is_local: on.as_deref() == Some(node),
                ..*endpoint
            })
        })
    });
    let (namespace, name, protocol) = (&service.namespace, &service.name, port.protocol);
    let number = port.port;
    ServicePort {
        key: format!("{namespace}/{name}/{number}/{protocol:?}"),
        protocol,
        port: number,
        cluster_address: service.cluster_address,
        external_addresses: service.external_addresses.clone(),
        node_port: port.node_port,
        is_internal_local: service.is_internal_local,
        is_external_local: service.is_external_local,
        affinity_seconds: service.affinity_seconds,
        endpoints: endpoints.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn ports_find_their_endpoints_by_name_and_protocol() {
        let service = ServiceFacts::new(
            from_value(json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"clusterIP": "10.43.0.5",
                "sessionAffinity": "ClientIP", "ports": [{"name": "a", "port": 80, "nodePort": 30080},
                {"name": "b", "port": 53, "protocol": "UDP"}]}}))
            .unwrap(),
        );
        let slice = SliceFacts::new(
            from_value(json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {LABEL_SERVICE_NAME: "web"}},
                "addressType": "IPv4", "ports": [{"name": "a", "port": 8080}],
                "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "n"}, {"addresses": ["10.42.1.2"], "nodeName": "m",
                    "conditions": {"ready": false, "serving": true, "terminating": true}}]}))
            .unwrap(),
        );
        let all = service_ports([&service].into_iter(), [&slice].into_iter(), "n");
        let at = |index: usize| all[0].endpoints[index];
        assert_eq!((at(0).port, at(0).is_ready, at(0).is_local), (8080, true, true));
        assert_eq!(
            (at(1).is_ready, at(1).is_serving, at(1).is_terminating, at(1).is_local),
            (false, true, true, false)
        );
        assert_eq!((all[0].node_port, all[0].affinity_seconds), (Some(30_080), Some(10_800)));
        assert!(all[1].endpoints.is_empty());
    }
}
