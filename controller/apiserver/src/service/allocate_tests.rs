use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;

const CIDR: &str = "10.43.0.0/24";

fn ranges() -> Ranges {
    Ranges { cidr: CIDR.parse().unwrap(), dns: Ipv4Addr::new(10, 43, 0, 10) }
}

/// Services one after another; what each holds stays taken.
struct Cluster(RefCell<BTreeSet<Bytes>>);

impl Cluster {
    fn create(&self, random: u32, mut service: Value) -> Result<Value, Vec<Cause>> {
        let is_taken = |key: &Bytes| self.0.borrow().contains(key);
        let world = World { old: None, is_taken: &is_taken, random };
        let causes = allocate(ranges(), &world, &mut service);
        if !causes.is_empty() {
            return Err(causes);
        }
        let claims = claims(&service);
        for claim in claims {
            assert!(self.0.borrow_mut().insert(claim), "given twice");
        }
        Ok(service)
    }
}

#[test]
fn a_range_is_used_up_to_its_last_address_and_no_further() {
    let cluster = Cluster(RefCell::default());
    let mut offsets = Vec::new();
    for round in 0..254u32 {
        let service =
            cluster.create(round.wrapping_mul(2_654_435_761), json!({"spec": {"type": "ClusterIP"}})).unwrap();
        let address: Ipv4Addr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert_eq!(service["spec"]["clusterIPs"], json!([address.to_string()]));
        offsets.push(address.octets()[3]);
    }
    assert!(offsets[..238].iter().all(|last| *last > 16), "the lower band comes last");
    let causes = cluster.create(7, json!({"spec": {"type": "ClusterIP"}})).unwrap_err();
    assert_eq!(causes[0].field.as_str(), "spec.clusterIPs");
}

#[test]
fn named_ones_are_checked() {
    let cluster = Cluster(RefCell::default());
    let named = |address: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": address}});
    assert!(cluster.create(0, named("10.43.0.10")).is_ok());
    for (address, reason) in [
        ("10.43.0.10", "already allocated"),
        ("10.43.1.1", "not in the valid range"),
        ("10.43.0.255", "not in the valid"),
        ("10.43.0.0", "not in"),
    ] {
        let causes = cluster.create(0, named(address)).unwrap_err();
        assert!(causes[0].message.contains(reason), "{address}: {}", causes[0].message);
    }
    let port =
        |port: u32| json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}]}});
    assert!(cluster.create(0, port(30_080)).is_ok());
    for (number, reason) in [(30_080, "already allocated"), (80, "30000-32767")] {
        let causes = cluster.create(0, port(number)).unwrap_err();
        assert_eq!(causes[0].field.as_str(), "spec.ports[0].nodePort");
        assert!(causes[0].message.contains(reason), "{}", causes[0].message);
    }
}

#[test]
fn both_protocols_of_a_port_share_a_node_port_and_others_do_not() {
    let cluster = Cluster(RefCell::default());
    let ports =
        json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 9153, "protocol": "TCP"}]);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports});
    let service = cluster.create(5, json!({"spec": spec})).unwrap();
    let at = |index: usize| service["spec"]["ports"][index]["nodePort"].as_u64().unwrap();
    assert_eq!(at(0), at(1));
    assert_ne!(at(0), at(2));
    let health = service["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert!(health != at(0) && health != at(2) && NODE_PORTS.contains(&u16::try_from(health).unwrap()));
}

#[test]
fn a_change_keeps_what_it_has() {
    let is_taken = |_: &Bytes| true;
    let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_001}]}});
    let mut new = old.clone();
    let world = World { old: Some(&old), is_taken: &is_taken, random: 0 };
    assert!(allocate(ranges(), &world, &mut new).is_empty());
    assert_eq!(new["spec"]["clusterIP"], "10.43.0.7");
    let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
    assert!(allocate(ranges(), &world, &mut headless).is_empty());
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert!(claims(&headless).is_empty());
}
