use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::service::Protocol;

fn endpoint(last: u8, ready: bool, serving: bool, terminating: bool, local: bool) -> Endpoint {
    Endpoint {
        address: Ipv4Addr::new(10, 42, 0, last),
        port: 8080,
        is_ready: ready,
        is_serving: serving,
        is_terminating: terminating,
        is_local: local,
    }
}

fn service(endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort {
        key: "default/web/http/TCP".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_address: Some(Ipv4Addr::new(10, 43, 0, 5)),
        external_addresses: vec![Ipv4Addr::new(198, 51, 100, 1)],
        node_port: Some(30_080),
        is_internal_local: false,
        is_external_local: false,
        affinity_seconds: None,
        endpoints,
    }
}

fn lasts(backends: &[Backend]) -> Vec<u8> {
    backends.iter().map(|(address, _)| address.octets()[3]).collect()
}

#[test]
fn ready_ones_first_then_those_that_end_but_serve() {
    let ending = endpoint(1, false, true, true, true);
    let dead = endpoint(2, false, false, true, true);
    let ready = endpoint(3, true, true, false, false);
    assert_eq!(lasts(&usable(&[ending, dead, ready], false)), [3]);
    assert_eq!(lasts(&usable(&[ending, dead], false)), [1]);
    // Of those on this node, the one that ends is all there is.
    assert_eq!(lasts(&usable(&[ending, dead, ready], true)), [1]);
    assert!(usable(&[dead], false).is_empty());
}

#[test]
fn one_chain_serves_inside_and_outside_unless_they_differ() {
    let all = vec![endpoint(1, true, true, false, true), endpoint(2, true, true, false, false)];
    let rules = plan(&[service(all.clone())], &[]);
    assert_eq!(rules.chains.keys().collect::<Vec<_>>(), ["in/default/web/http/TCP"]);
    assert_eq!((rules.addresses.len(), rules.ports.len()), (2, 1));
    let local = ServicePort { is_external_local: true, ..service(all) };
    let rules = plan(&[local], &[]);
    let outside = &rules.chains["out/default/web/http/TCP"];
    assert_eq!((lasts(&outside.backends), outside.from_pods.as_deref().map(lasts)), (vec![1], Some(vec![1, 2])));
    assert_eq!((rules.local.len(), rules.remote.len()), (1, 1));
}

#[test]
fn without_endpoints_outside_addresses_are_refused() {
    let rules = plan(&[service(vec![])], &[]);
    assert!(rules.chains.is_empty() && rules.ports.is_empty());
    assert_eq!(rules.refused.len(), 1);
}

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let one = (1..6u8, any::<[bool; 4]>()).prop_map(|(last, [a, b, c, d])| endpoint(last, a, b, c, d));
    proptest::collection::vec(one, 0..8)
}

proptest! {
    #[test]
    fn every_ruleset_is_whole(
        parts in proptest::collection::vec((endpoints(), 0..4u8, any::<[bool; 4]>(), 0..3u16), 0..6),
        hosts in proptest::collection::vec((any::<bool>(), 0..3u16), 0..4),
    ) {
        let services: Vec<ServicePort> = parts.into_iter().enumerate().map(|(index, (endpoints, place, [a, b, c, d], node))| ServicePort {
            key: format!("default/s{index}/p/TCP"),
            cluster_address: a.then(|| Ipv4Addr::new(10, 43, 0, index as u8)),
            external_addresses: vec![Ipv4Addr::new(198, 51, 100, place)],
            node_port: b.then_some(30_000 + node),
            is_internal_local: c,
            is_external_local: d,
            ..service(endpoints)
        }).collect();
        let hosts: Vec<HostPort> = hosts.into_iter().map(|(all, port)| HostPort {
            host_address: (!all).then(|| Ipv4Addr::new(198, 51, 100, port as u8)),
            protocol: Protocol::Tcp, host_port: if all { 30_000 + port } else { 80 },
            address: Ipv4Addr::new(10, 42, 0, 9), port: 80,
        }).collect();
        let rules = plan(&services, &hosts);
        prop_assert_eq!(rules.validate(), Ok(()));
    }
}
