//! From Services and endpoints to rules. Pure.

use std::collections::BTreeSet;

use super::ruleset::{Backend, Chain, Ruleset};
use super::{Endpoint, HostPort, ServicePort};

/// The rules for these Services and host ports.
pub(crate) fn plan(services: &[ServicePort], host_ports: &[HostPort]) -> Ruleset {
    let mut rules = Ruleset::default();
    for service in services {
        add_service(&mut rules, service);
    }
    for port in host_ports {
        add_host_port(&mut rules, *port);
    }
    rules
}

/// The endpoints that take new connections: the ready ones; if there is none, those that end but still serve (KEP-1669).
fn usable(endpoints: &[Endpoint], only_local: bool) -> Vec<Backend> {
    let candidates = || endpoints.iter().filter(|endpoint| endpoint.is_local || !only_local);
    let ready: BTreeSet<Backend> = candidates().filter(|e| e.is_ready).map(|e| (e.address, e.port)).collect();
    if !ready.is_empty() {
        return ready.into_iter().collect();
    }
    let ending = candidates().filter(|e| e.is_serving && e.is_terminating).map(|e| (e.address, e.port));
    ending.collect::<BTreeSet<Backend>>().into_iter().collect()
}

fn add_service(rules: &mut Ruleset, service: &ServicePort) {
    let everywhere = usable(&service.endpoints, false);
    let here = usable(&service.endpoints, true);
    let internal = Chain {
        from_pods: None,
        backends: if service.is_internal_local { here.clone() } else { everywhere.clone() },
        affinity_seconds: service.affinity_seconds,
    };
    // Pods that take the way from outside may be sent to any node: nothing is lost with their address.
    let external = Chain {
        from_pods: (service.is_external_local && here != everywhere).then(|| everywhere.clone()),
        backends: if service.is_external_local { here } else { everywhere },
        affinity_seconds: service.affinity_seconds,
    };
    let (inside, outside) = (format!("in/{}", service.key), format!("out/{}", service.key));
    let cluster = service.cluster_address.map(|address| (address, service.protocol, service.port));
    if let Some(place) = cluster.filter(|place| !internal.backends.is_empty() && !rules.addresses.contains_key(place)) {
        rules.addresses.insert(place, inside.clone());
        use_chain(rules, &inside, &internal, service);
    }
    let serves_outside =
        !external.backends.is_empty() || external.from_pods.as_ref().is_some_and(|all| !all.is_empty());
    // With the same content one chain does, and keeps one memory of clients.
    let outside = if external == internal { inside } else { outside };
    for address in &service.external_addresses {
        let place = (*address, service.protocol, service.port);
        if rules.addresses.contains_key(&place) {
            continue;
        }
        if serves_outside {
            rules.addresses.insert(place, outside.clone());
            use_chain(rules, &outside, &external, service);
        } else {
            rules.refused.insert(place);
        }
    }
    let node_port = service.node_port.map(|port| (service.protocol, port));
    if let Some(place) = node_port.filter(|place| serves_outside && !rules.ports.contains_key(place)) {
        rules.ports.insert(place, outside.clone());
        use_chain(rules, &outside, &external, service);
    }
    // A later Service may serve what an earlier one could not.
    let addresses = &rules.addresses;
    rules.refused.retain(|place| !addresses.contains_key(place));
}

fn use_chain(rules: &mut Ruleset, name: &str, chain: &Chain, service: &ServicePort) {
    if rules.chains.insert(name.to_owned(), chain.clone()).is_some() {
        return;
    }
    let used: BTreeSet<Backend> = chain.backends.iter().chain(chain.from_pods.iter().flatten()).copied().collect();
    for endpoint in service.endpoints.iter().filter(|e| used.contains(&(e.address, e.port))) {
        let places = if endpoint.is_local { &mut rules.local } else { &mut rules.remote };
        places.insert(endpoint.address);
    }
}

/// A Service that has the place already keeps it.
fn add_host_port(rules: &mut Ruleset, port: HostPort) {
    let (protocol, number) = (port.protocol.number(), port.host_port);
    let name = match port.host_address {
        Some(address) => format!("host/{address}/{protocol}/{number}"),
        None => format!("host/{protocol}/{number}"),
    };
    let is_taken = match port.host_address {
        Some(address) => {
            let place = (address, port.protocol, number);
            rules.refused.remove(&place);
            rules.addresses.contains_key(&place) || rules.addresses.insert(place, name.clone()).is_some()
        }
        None => {
            let place = (port.protocol, number);
            rules.ports.contains_key(&place) || rules.ports.insert(place, name.clone()).is_some()
        }
    };
    if !is_taken {
        rules.chains.insert(name, Chain { backends: vec![(port.address, port.port)], ..Chain::default() });
        rules.local.insert(port.address);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
