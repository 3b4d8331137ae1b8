//! What claims of pods say about nodes, by table.
use api::volume::{Claim, Class, Volume};
use controller_scheduler::capacity::Capacity;
use controller_scheduler::decide::{Decider, Decision, FitError, decide};
use controller_scheduler::gang::{self, Verdict};
use controller_scheduler::group::GroupFacts;
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::snapshot::Snapshot;
use controller_scheduler::volumes::{Preparation, Progress};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Two nodes, the default class, one that people make volumes for, and one that does not wait.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in ["a", "b"] {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"}}});
        snapshot.set_node(NodeFacts::new(serde_json::from_value(node).unwrap()));
    }
    for (name, provisioner, waits) in [
        ("local-path", "gantry.io/local-path", true),
        ("static", "kubernetes.io/no-provisioner", true),
        ("now", "x", false),
    ] {
        let (provisioner, reclaim) = (provisioner.to_owned(), "Delete".to_owned());
        let (name_of, mount_options, topologies) = (name.into(), vec![], vec![]);
        let class = Class { name: name_of, provisioner, waits, reclaim, can_grow: false, mount_options, topologies };
        snapshot.volumes.classes.insert(name.into(), class);
    }
    snapshot
}

fn claim(name: &str, class: &str, more: Value) -> Claim {
    let mut whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "status": {"phase": "Pending"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    merge(&mut whole, &more);
    Claim::new(serde_json::from_value(whole).unwrap())
}

fn bound(name: &str, volume: &str) -> Claim {
    let metadata = json!({"annotations": {"pv.kubernetes.io/bind-completed": "yes"}});
    claim(name, "static", json!({"metadata": metadata, "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}))
}

fn volume(name: &str, node: &str, size: &str) -> Volume {
    let affinity = json!({"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
    let whole = json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {"storageClassName": "static",
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "nodeAffinity": affinity}});
    Volume::new(serde_json::from_value(whole).unwrap())
}

fn pod(name: &str, claims: &[&str]) -> PodFacts {
    let volumes: Vec<Value> =
        claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})).collect();
    let whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "spec": {"containers": [], "volumes": volumes}});
    PodFacts::new(serde_json::from_value(whole).unwrap())
}

fn said(snapshot: &Snapshot, pod: &PodFacts) -> String {
    match decide(snapshot, pod) {
        Decision::Bind(node) => format!("bind to {node}"),
        Decision::Prepare(node, work) => format!("{work:?} on {node}"),
        Decision::Preempt(preemption, _) => format!("{preemption:?}"),
        Decision::Unfit(error) => FitError { preemption: None, ..error }.to_string(),
    }
}

#[test]
fn refusals_of_claims_speak_as_kubernetes_does() {
    let mut snapshot = cluster();
    let wants = |name: &str| pod("p", &[name]);
    let of_all = |why: &str| format!("0/2 nodes are available: {why}.");
    assert_eq!(said(&snapshot, &wants("c")), of_all("persistentvolumeclaim \"c\" not found"));
    snapshot.volumes.set_claim(claim("c", "now", json!({})));
    assert_eq!(said(&snapshot, &wants("c")), of_all("pod has unbound immediate PersistentVolumeClaims"));
    snapshot.volumes.set_claim(claim(
        "c",
        "local-path",
        json!({"status": {"phase": "Lost"}, "spec": {"volumeName": "v"}}),
    ));
    let lost = "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"";
    assert_eq!(said(&snapshot, &wants("c")), of_all(lost));
    snapshot.volumes.set_claim(claim(
        "c",
        "local-path",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ));
    assert_eq!(said(&snapshot, &wants("c")), of_all("persistentvolumeclaim \"c\" is being deleted"));
    snapshot.volumes.set_claim(bound("c", "v"));
    assert_eq!(
        said(&snapshot, &wants("c")),
        of_all("2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
    );
    snapshot.volumes.set_volume(volume("v", "elsewhere", "1Gi"));
    assert_eq!(said(&snapshot, &wants("c")), of_all("2 node(s) had volume node affinity conflict"));
    snapshot.volumes.set_volume(volume("v", "b", "1Gi"));
    assert_eq!(said(&snapshot, &wants("c")), "bind to b");
    snapshot.volumes.set_claim(claim("s", "static", json!({"spec": {"resources": {"requests": {"storage": "9Gi"}}}})));
    assert_eq!(said(&snapshot, &wants("s")), of_all("2 node(s) didn't find available persistent volumes to bind"));
}

#[test]
fn volumes_are_reserved_or_asked_for_where_the_pod_goes() {
    let mut snapshot = cluster();
    for name in ["one", "two"] {
        snapshot.volumes.set_claim(claim(name, "static", json!({})));
    }
    snapshot.volumes.set_volume(volume("v", "b", "2Gi"));
    let reserve =
        |claim: &str, volume: &str| Preparation::Reserve { claim: format!("d/{claim}"), volume: volume.into() };
    let Decision::Prepare(node, work) = decide(&snapshot, &pod("p", &["one"])) else { panic!("nothing to prepare") };
    assert_eq!((&*node, &work), ("b", &vec![reserve("one", "v")]));
    assert!(said(&snapshot, &pod("q", &["one", "two"])).contains("didn't find available"), "one volume is not two");
    snapshot.volumes.assume(&node, &work);
    assert!(said(&snapshot, &pod("q", &["two"])).contains("didn't find available"), "it is reserved");
    assert_eq!(snapshot.volumes.progress(&pod("p", &["one"]), "b"), Progress::UnderWay);
    snapshot.volumes.forget(&work);
    assert_eq!(snapshot.volumes.progress(&pod("p", &["one"]), "b"), Progress::GivenUp);

    snapshot.volumes.set_claim(claim("fresh", "local-path", json!({})));
    let both = pod("p", &["fresh"]);
    let Decision::Prepare(node, work) = decide(&snapshot, &both) else { panic!("nothing to prepare") };
    assert_eq!(work, [Preparation::Provision { claim: "d/fresh".into() }]);
    snapshot.volumes.assume(&node, &work);
    // The first pod takes room there, the second must follow its claim all the same.
    snapshot.place(&both, &node);
    let Decision::Prepare(second, _) = decide(&snapshot, &pod("q", &["fresh"])) else { panic!("nothing to prepare") };
    assert_eq!(second, node, "a claim has one node");
    assert_eq!(snapshot.volumes.progress(&both, &node), Progress::UnderWay);
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": *node}}});
    snapshot.volumes.set_claim(claim("fresh", "local-path", chosen));
    assert_eq!(snapshot.volumes.progress(&both, &node), Progress::UnderWay);
    snapshot.volumes.set_claim(claim("fresh", "local-path", json!({})));
    assert_eq!(snapshot.volumes.progress(&both, &node), Progress::GivenUp, "the provisioner took it back");
    snapshot.volumes.set_claim(bound("fresh", "v"));
    assert_eq!(snapshot.volumes.progress(&both, &node), Progress::Ready);
}

#[test]
fn volumes_are_made_where_the_class_allows_it_and_the_driver_has_room() {
    let mut snapshot = cluster();
    let class = json!({"metadata": {"name": "disk"}, "provisioner": "disk.example.com", "volumeBindingMode": "WaitForFirstConsumer",
        "allowedTopologies": [{}, {"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["b", "c"]}]}]});
    snapshot.volumes.classes.insert("disk".into(), Class::new(serde_json::from_value(class).unwrap()));
    snapshot.volumes.set_claim(claim("c", "disk", json!({})));
    let wants = pod("p", &["c"]);
    let goes_to = |snapshot: &Snapshot| match decide(snapshot, &wants) {
        Decision::Prepare(node, _) => Ok(node.to_string()),
        _ => Err(said(snapshot, &wants)),
    };
    assert_eq!(goes_to(&snapshot).as_deref(), Ok("b"), "the class allows no other");
    snapshot.volumes.classes.get_mut("disk").unwrap().topologies.remove(1);
    let none = "2 node(s) didn't find available persistent volumes to bind.";
    assert!(goes_to(&snapshot).unwrap_err().contains(none), "a term that says nothing selects nothing");
    snapshot.volumes.classes.get_mut("disk").unwrap().topologies.clear();

    let driver = |tells: bool| {
        let whole = json!({"metadata": {"name": "disk.example.com"}, "spec": {"storageCapacity": tells}});
        serde_json::from_value(whole).unwrap()
    };
    let tell = |snapshot: &mut Snapshot, name: &str, class: &str, node: &str, amounts: Value| {
        let mut whole = json!({"metadata": {"namespace": "s", "name": name}, "storageClassName": class,
            "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": node}}});
        merge(&mut whole, &amounts);
        let capacity = Capacity::new(serde_json::from_value(whole).unwrap());
        snapshot.volumes.capacities.set(format!("s/{name}"), capacity);
    };
    snapshot.volumes.capacities.set_driver(driver(true));
    let short = "2 node(s) did not have enough free storage.";
    assert!(goes_to(&snapshot).unwrap_err().contains(short), "it has told of no room yet");
    tell(&mut snapshot, "1", "other", "a", json!({"capacity": "10Gi"}));
    tell(&mut snapshot, "2", "disk", "a", json!({"capacity": "1023Mi"}));
    tell(&mut snapshot, "3", "disk", "b", json!({"capacity": "10Gi", "maximumVolumeSize": "1000Mi"}));
    tell(&mut snapshot, "4", "disk", "a", json!({"capacity": "10Gi", "nodeTopology": null}));
    assert!(goes_to(&snapshot).unwrap_err().contains(short), "elsewhere, too little, in pieces, reached from nowhere");
    tell(&mut snapshot, "2", "disk", "a", json!({"capacity": "1Gi"}));
    assert_eq!(goes_to(&snapshot).as_deref(), Ok("a"));
    snapshot.volumes.capacities.retain(|key| key != "s/2");
    assert!(goes_to(&snapshot).is_err());
    snapshot.volumes.capacities.set_driver(driver(false));
    assert!(goes_to(&snapshot).is_ok(), "a driver that does not tell is tried");
}

#[test]
fn a_claim_of_one_pod_is_of_one_pod() {
    let mut snapshot = cluster();
    let mut only = bound("only", "v");
    only.access_modes = vec!["ReadWriteOncePod".into()];
    snapshot.volumes.set_claim(only);
    snapshot.volumes.set_volume(volume("v", "b", "1Gi"));
    let first = pod("p", &["only"]);
    assert_eq!(said(&snapshot, &first), "bind to b");
    snapshot.place(&first, "b");
    assert!(
        said(&snapshot, &pod("q", &["only"])).ends_with(
            "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."
        )
    );
    snapshot.unplace(&first.key);
    assert_eq!(said(&snapshot, &pod("q", &["only"])), "bind to b");
}

#[test]
fn a_claim_that_is_made_for_a_pod_must_be_its_own() {
    let mut snapshot = cluster();
    let whole = json!({"metadata": {"namespace": "d", "name": "p", "uid": "u"},
        "spec": {"containers": [], "volumes": [{"name": "e", "ephemeral": {}}]}});
    let pod = PodFacts::new(serde_json::from_value(whole).unwrap());
    assert!(
        said(&snapshot, &pod)
            .contains("waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-e\"")
    );
    snapshot.volumes.set_claim(claim("p-e", "local-path", json!({})));
    assert!(said(&snapshot, &pod).contains("PVC d/p-e was not created for pod d/p (pod is not owner)"));
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
    snapshot.volumes.set_claim(claim("p-e", "local-path", json!({"metadata": {"ownerReferences": [owner]}})));
    assert!(matches!(decide(&snapshot, &pod), Decision::Prepare(..)));
}

#[test]
fn a_node_takes_so_many_volumes_of_a_driver() {
    let mut snapshot = cluster();
    for n in 0..3 {
        let name = format!("v{n}");
        let mut whole = json!({"metadata": {"name": name}, "status": {"phase": "Bound"}, "spec": {"storageClassName": "static",
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
        whole["spec"]["csi"] = json!({"driver": "disk.example.com", "volumeHandle": name});
        snapshot.volumes.set_volume(Volume::new(serde_json::from_value(whole).unwrap()));
        snapshot.volumes.set_claim(bound(&format!("c{n}"), &name));
    }
    for (node, most) in [("a", 1), ("b", 0)] {
        snapshot.volumes.limits.insert(node.into(), [("disk.example.com".to_owned(), most)].into());
    }
    let first = pod("p0", &["c0"]);
    assert_eq!(said(&snapshot, &first), "bind to a");
    snapshot.place(&first, "a");
    assert_eq!(said(&snapshot, &pod("again", &["c0"])), "bind to a", "the same volume counts once");
    assert_eq!(said(&snapshot, &pod("p1", &["c1"])), "0/2 nodes are available: 2 node(s) exceed max volume count.");
    snapshot.unplace("d/p0");
    assert!(said(&snapshot, &pod("p2", &["c1", "c2"])).contains("2 node(s) exceed max volume count"));
}

#[test]
fn the_claims_of_a_gang_take_one_volume_each() {
    let mut snapshot = cluster();
    let group = json!({"metadata": {"namespace": "d", "name": "g", "uid": "g"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}});
    let group = GroupFacts::new(serde_json::from_value(group).unwrap());
    let waiting: Vec<_> = ["one", "two"].map(|name| Arc::new(pod(name, &[name]))).into();
    for name in ["one", "two"] {
        snapshot.volumes.set_claim(claim(name, "static", json!({})));
    }
    let decide = |snapshot: &mut Snapshot| gang::decide(&mut Decider::default(), snapshot, &group, &waiting);
    snapshot.volumes.set_volume(volume("v", "b", "1Gi"));
    for _ in 0..2 {
        let Verdict::Unfit(error) = decide(&mut snapshot) else { panic!("a volume for two") };
        assert!(error.to_string().contains("1 of 2 pods fit"), "{error}");
    }
    snapshot.volumes.set_volume(volume("w", "a", "1Gi"));
    for _ in 0..2 {
        let Verdict::Bind { placements, .. } = decide(&mut snapshot) else { panic!("each has a volume") };
        let mut taken = BTreeMap::new();
        for one in &placements {
            let [Preparation::Reserve { claim, volume }] = &*one.work else { panic!("{:?}", one.work) };
            assert_eq!(**claim, *one.pod.key);
            taken.insert(volume.to_string(), one.node.to_string());
        }
        assert_eq!(taken, BTreeMap::from([("v".into(), "b".into()), ("w".into(), "a".into())]));
    }
}
