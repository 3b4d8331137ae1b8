use super::*;
use proptest::prelude::*;
use serde_json::{from_value, json};

fn service(ports: serde_json::Value) -> ServiceFacts {
    ServiceFacts::new(
        from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "u", "labels": {"tier": "front"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.43.0.5", "ports": ports}}))
        .unwrap(),
    )
}

fn pod(name: &str, address: &str, more: serde_json::Value) -> Arc<BackendFacts> {
    let mut pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"podIP": address, "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    for (part, values) in more.as_object().unwrap() {
        pod[part].as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
    }
    Arc::new(BackendFacts::new(&from_value(pod).unwrap()))
}

fn no_zone(_: &str) -> Option<String> {
    None
}

#[test]
fn a_named_port_is_looked_up_in_every_pod() {
    let service = service(json!([{"port": 80, "targetPort": "http"}]));
    let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let without = json!({"spec": {"containers": [{"name": "c"}]}});
    let pods = [pod("a", "10.0.0.1", json!({})), pod("b", "10.0.0.2", other), pod("c", "10.0.0.3", without)];
    let groups = selected(&service, &pods, &no_zone);
    let ports: Vec<(i32, usize)> = groups.iter().map(|(ports, all)| (ports[0].port, all.len())).collect();
    assert_eq!(ports, [(8080, 1), (9090, 1)]);
}

#[test]
fn conditions_tell_ready_serving_and_terminating() {
    let mut service = service(json!([{"port": 80}]));
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let unready = json!({"status": {"conditions": []}});
    let over = json!({"status": {"phase": "Succeeded"}});
    let pods = [
        pod("a", "10.0.0.1", json!({"spec": {"hostname": "db", "subdomain": "web"}})),
        pod("b", "10.0.0.2", deleted),
        pod("c", "10.0.0.3", unready),
        pod("d", "10.0.0.4", over),
    ];
    let conditions = |service: &ServiceFacts| -> Vec<[bool; 3]> {
        let groups = selected(service, &pods, &|node| Some(format!("zone-of-{node}")));
        let all = groups.into_values().next().unwrap();
        assert_eq!((all[0].hostname.as_deref(), all[0].zone.as_deref()), (Some("db"), Some("zone-of-n")));
        let each = all.iter().map(|e| e.conditions.clone().unwrap());
        each.map(|c| [c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()]).collect()
    };
    assert_eq!(conditions(&service), [[true, true, false], [false, true, true], [false, false, false]]);
    service.publishes_unready = true;
    assert_eq!(conditions(&service).iter().filter(|[ready, ..]| *ready).count(), 3);
    service.publishes_unready = false;
    let (subsets, is_truncated) = classic(&service, &selected(&service, &pods, &no_zone));
    let lengths = |subset: &EndpointSubset| {
        (subset.addresses.as_ref().map_or(0, Vec::len), subset.not_ready_addresses.as_ref().map_or(0, Vec::len))
    };
    assert_eq!((subsets.iter().map(lengths).collect::<Vec<_>>(), is_truncated), (vec![(1, 1)], false));
}

#[test]
fn hand_made_endpoints_are_mirrored_unless_they_say_no() {
    let mut object = json!({"metadata": {"name": "web", "namespace": "d"}, "subsets": [{
        "addresses": [{"ip": "192.0.2.9", "hostname": "x"}], "notReadyAddresses": [{"ip": "192.0.2.8"}],
        "ports": [{"name": "http", "port": 80}]}]});
    let groups = mirrored(&EndpointsFacts::new(from_value(object.clone()).unwrap())).unwrap();
    let (ports, endpoints) = groups.first_key_value().unwrap();
    assert_eq!((ports[0].port, endpoints.len()), (80, 2));
    object["metadata"]["labels"] = json!({SKIP_MIRROR: "true"});
    assert_eq!(mirrored(&EndpointsFacts::new(from_value(object).unwrap())), None);
}

#[test]
fn more_than_a_thousand_are_cut_in_the_classic_object() {
    let service = service(json!([{"port": 80}]));
    let pods: Vec<_> =
        (0..1200).map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), json!({}))).collect();
    let (subsets, is_truncated) = classic(&service, &selected(&service, &pods, &no_zone));
    assert_eq!((subsets[0].addresses.as_ref().unwrap().len(), is_truncated), (CLASSIC, true));
}

/// Slices as they stand in a cluster; carries plans out.
#[derive(Default)]
struct Cluster {
    slices: BTreeMap<String, Arc<SliceFacts>>,
    made: usize,
}

impl Cluster {
    fn apply(&mut self, plan: Plan, labels: &BTreeMap<String, String>) -> usize {
        let writes = plan.create.len() + plan.update.len() + plan.delete.len();
        for key in plan.delete {
            assert!(self.slices.remove(&*key).is_some(), "{key} is not there");
        }
        let mut put = |key: String, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>| {
            let facts = SliceFacts {
                key: key.clone().into(),
                ports,
                endpoints,
                labels: labels.clone(),
                ..SliceFacts::default()
            };
            self.slices.insert(key, Arc::new(facts));
        };
        for (key, ports, endpoints) in plan.update {
            put(key.to_string(), ports, endpoints);
        }
        for (ports, endpoints) in plan.create {
            self.made += 1;
            put(format!("d/web-{}", self.made), ports, endpoints);
        }
        writes
    }

    fn all(&self) -> Vec<Arc<SliceFacts>> {
        self.slices.values().cloned().collect()
    }
}

proptest! {
    #[test]
    fn slices_hold_exactly_what_there_is_after_any_changes(steps in proptest::collection::vec(proptest::collection::btree_set(0..300u16, 0..260), 1..6)) {
        let service = service(json!([{"port": 80, "name": "a"}]));
        let labels = slice_labels(&service, SELECTED);
        let mut cluster = Cluster::default();
        let mut before = BTreeSet::new();
        for step in steps {
            let pods: Vec<_> = step.iter().map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), json!({}))).collect();
            let groups = selected(&service, &pods, &no_zone);
            let writes = cluster.apply(plan(&groups, &cluster.all(), &labels), &labels);
            let held: Vec<String> = cluster.slices.values().flat_map(|s| s.endpoints.iter().map(|e| e.addresses[0].clone())).collect();
            prop_assert_eq!(held.len(), step.len());
            prop_assert_eq!(held.into_iter().collect::<BTreeSet<_>>(), groups.into_values().flatten().map(|e| e.addresses[0].clone()).collect());
            prop_assert!(cluster.slices.values().all(|slice| (1..=SLICE).contains(&slice.endpoints.len())));
            if before == step {
                prop_assert_eq!(writes, 0);
            }
            // Nothing is left to do.
            let again = selected(&service, &pods, &no_zone);
            prop_assert_eq!(plan(&again, &cluster.all(), &labels), Plan::default());
            before = step;
        }
    }

    #[test]
    fn one_change_is_one_write(count in 1..350u16, gone in 0..350u16) {
        let service = service(json!([{"port": 80}]));
        let labels = slice_labels(&service, SELECTED);
        let make = |numbers: &mut dyn Iterator<Item = u16>| -> Vec<_> { numbers.map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), json!({}))).collect() };
        let mut cluster = Cluster::default();
        cluster.apply(plan(&selected(&service, &make(&mut (0..count)), &no_zone), &[], &labels), &labels);
        let left = make(&mut (0..count).filter(|n| *n != gone % count));
        let next = plan(&selected(&service, &left, &no_zone), &cluster.all(), &labels);
        prop_assert_eq!(cluster.apply(next, &labels), 1);
    }
}

#[test]
fn a_service_that_selects_nobody_has_one_empty_slice() {
    let slice = |key: &str, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>| {
        Arc::new(SliceFacts { key: key.into(), ports, endpoints, ..SliceFacts::default() })
    };
    let none = Groups::new();
    let labels = Default::default();
    let held = |slices: &[Arc<SliceFacts>]| {
        let mut plan = plan(&none, slices, &labels);
        hold_place(&mut plan, slices);
        (plan.create.len(), plan.delete.len())
    };
    assert_eq!(held(&[]), (1, 0));
    let empty = slice("d/empty", vec![], vec![]);
    assert_eq!(held(&[Arc::clone(&empty)]), (0, 0), "it is there");
    let port = EndpointPort { port: Some(80), ..EndpointPort::default() };
    let old = slice("d/old", vec![port], vec![Endpoint { addresses: vec!["10.0.0.1".into()], ..Endpoint::default() }]);
    assert_eq!(held(&[Arc::clone(&old)]), (1, 1), "its last pod went");
    assert_eq!(held(&[empty, old]), (0, 1));
}
