//! Variables that tell containers where Services are: `NAME_SERVICE_HOST` and those of Docker's links. Pure.
//! Kubernetes documentation, "Service", "Environment variables".

use std::collections::BTreeMap;

use agent_network::Protocol;

use super::facts::ServiceFacts;

/// The Service of the API server, which every container is told of.
const KUBERNETES: (&str, &str) = ("default", "kubernetes");

/// The variables for pods of a namespace; without `wants_all` only those of the API server.
pub(super) fn variables<'a>(
    services: impl Iterator<Item = &'a ServiceFacts>,
    namespace: &str,
    wants_all: bool,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let is_kubernetes = |service: &ServiceFacts| (service.namespace.as_str(), service.name.as_str()) == KUBERNETES;
    let (own, others): (Vec<_>, Vec<_>) = services.partition(|service| service.namespace == namespace && wants_all);
    // A Service of the pod's own namespace that has the same name wins.
    for service in others.into_iter().filter(|service| is_kubernetes(service)).chain(own) {
        add(&mut all, service);
    }
    all
}

fn add(all: &mut BTreeMap<String, String>, service: &ServiceFacts) {
    let (Some(address), Some(first)) = (service.cluster_address, service.ports.first()) else { return };
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let name = upper(&service.name);
    all.insert(format!("{name}_SERVICE_HOST"), address.to_string());
    all.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in service.ports.iter().enumerate() {
        if !port.name.is_empty() {
            all.insert(format!("{name}_SERVICE_PORT_{}", upper(&port.name)), port.port.to_string());
        }
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let url = format!("{protocol}://{address}:{}", port.port);
        if index == 0 {
            all.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, upper(protocol));
        all.insert(format!("{prefix}_PROTO"), protocol.to_owned());
        all.insert(format!("{prefix}_PORT"), port.port.to_string());
        all.insert(format!("{prefix}_ADDR"), address.to_string());
        all.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn service(namespace: &str, name: &str) -> ServiceFacts {
        ServiceFacts::new(
            from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": "10.43.0.5",
                "ports": [{"name": "web-ui", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn a_namespace_sees_its_own_and_the_api_server() {
        let services = [service("d", "my-web"), service("other", "x"), service("default", "kubernetes")];
        let all = variables(services.iter(), "d", true);
        for (name, value) in [
            ("MY_WEB_SERVICE_HOST", "10.43.0.5"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_SERVICE_PORT_WEB_UI", "80"),
            ("MY_WEB_PORT", "tcp://10.43.0.5:80"),
            ("MY_WEB_PORT_53_UDP", "udp://10.43.0.5:53"),
            ("MY_WEB_PORT_53_UDP_ADDR", "10.43.0.5"),
            ("KUBERNETES_SERVICE_HOST", "10.43.0.5"),
        ] {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!all.contains_key("X_SERVICE_HOST"));
        let few = variables(services.iter(), "d", false);
        assert!(few.keys().all(|name| name.starts_with("KUBERNETES_")) && !few.is_empty());
    }
}
