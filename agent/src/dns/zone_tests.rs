use serde_json::{Value, from_value, json};

use super::*;

pub(crate) fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local").unwrap();
    let mut service = |name: &str, spec: Value| {
        let service = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec});
        zone.set_service(("d".into(), name.into()), Some(from_value(service).unwrap()));
    };
    let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    service("web", json!({"clusterIP": "10.43.0.5", "ports": ports}));
    service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}));
    service("away", json!({"type": "ExternalName", "externalName": "example.org."}));
    let slice = json!({"metadata": {"name": "db-1", "namespace": "d", "labels": {LABEL_SERVICE_NAME: "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432}], "endpoints": [
            {"addresses": ["10.42.0.2"], "hostname": "db-0"}, {"addresses": ["10.42.0.3"]},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false}}]});
    zone.set_slice(("d".into(), "db-1".into()), Some(from_value(slice).unwrap()));
    zone
}

fn find(zone: &Zone, name: &str) -> Found {
    zone.find(&name.split('.').map(str::to_owned).collect::<Vec<_>>())
}

fn addresses(found: Found) -> Vec<String> {
    let Found::Records(all) = found else { panic!("{found:?}") };
    let addresses = all.into_iter().filter_map(|data| match data {
        Data::Address(address) => Some(address.to_string()),
        _ => None,
    });
    addresses.collect()
}

#[test]
fn names_mean_what_the_specification_says() {
    let zone = zone();
    assert_eq!(addresses(find(&zone, "web.d.svc.cluster.local")), ["10.43.0.5"]);
    assert_eq!(addresses(find(&zone, "db.d.svc.cluster.local")), ["10.42.0.2", "10.42.0.3"]);
    assert_eq!(addresses(find(&zone, "db-0.db.d.svc.cluster.local")), ["10.42.0.2"]);
    assert_eq!(addresses(find(&zone, "10-42-0-3.db.d.svc.cluster.local")), ["10.42.0.3"]);
    assert_eq!(addresses(find(&zone, "10-42-0-9.d.pod.cluster.local")), ["10.42.0.9"]);
    let server = |port, target: &str, address: &str| {
        Found::Records(vec![Data::Server(port, target.into(), address.parse().unwrap())])
    };
    assert_eq!(find(&zone, "_dns._udp.web.d.svc.cluster.local"), server(53, "web.d.svc.cluster.local", "10.43.0.5"));
    let Found::Records(servers) = find(&zone, "_sql._tcp.db.d.svc.cluster.local") else { panic!() };
    assert_eq!(servers.len(), 2);
    assert_eq!(servers[0], Data::Server(5432, "db-0.db.d.svc.cluster.local".into(), "10.42.0.2".parse().unwrap()));
    assert_eq!(find(&zone, "away.d.svc.cluster.local"), Found::Records(vec![Data::Alias("example.org".into())]));
    let pointer = |name: &str| Found::Records(vec![Data::Pointer(name.into())]);
    assert_eq!(find(&zone, "5.0.43.10.in-addr.arpa"), pointer("web.d.svc.cluster.local"));
    assert_eq!(find(&zone, "2.0.42.10.in-addr.arpa"), pointer("db-0.db.d.svc.cluster.local"));
}

#[test]
fn what_is_not_there_is_told_apart_from_what_is_elsewhere() {
    let mut zone = zone();
    for name in [
        "none.d.svc.cluster.local",
        "x.svc.cluster.local",
        "_dns._tcp.web.d.svc.cluster.local",
        "x.y.d.pod.cluster.local",
        "nope.cluster.local",
        "a.b.c.web.d.svc.cluster.local",
        "10-42-0-4.db.d.svc.cluster.local",
    ] {
        assert_eq!(find(&zone, name), Found::Nothing, "{name}");
    }
    for name in ["example.org", "local", "1.2.0.192.in-addr.arpa", "cluster.local.example.org"] {
        assert_eq!(find(&zone, name), Found::Elsewhere, "{name}");
    }
    for name in ["d.svc.cluster.local", "svc.cluster.local", "cluster.local"] {
        assert_eq!(find(&zone, name), Found::Records(vec![]), "{name}");
    }
    zone.set_slice(("d".into(), "db-1".into()), None);
    assert_eq!(find(&zone, "db.d.svc.cluster.local"), Found::Records(vec![]));
    zone.set_service(("d".into(), "db".into()), None);
    assert_eq!(find(&zone, "db.d.svc.cluster.local"), Found::Nothing);
}
