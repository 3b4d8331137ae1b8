//! Affinity, anti-affinity and spread: by table, and against a reference that looks at every pod and every node.
use controller_scheduler::decide::{Decider, Decision, decide};
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

fn node(name: &str, zone: Option<&str>) -> NodeFacts {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"}}});
    if let Some(zone) = zone {
        node["metadata"]["labels"]["zone"] = json!(zone);
    }
    NodeFacts::new(serde_json::from_value(node).unwrap())
}

fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        snapshot.set_node(node(name, Some(zone)));
    }
    snapshot.set_node(node("c1", None));
    snapshot
}

fn pod(name: &str, app: &str, spec: Value) -> PodFacts {
    let mut whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": app}},
        "spec": {"containers": [{}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole["spec"][key] = value.clone();
    }
    PodFacts::new(serde_json::from_value(whole).unwrap())
}

fn term(app: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
}

fn required(kind: &str, app: &str, key: &str) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, key)]}}})
}

fn preferred(kind: &str, app: &str, key: &str) -> Value {
    let terms = json!([{"weight": 100, "podAffinityTerm": term(app, key)}]);
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn spread(app: &str, key: &str, skew: i32, when: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": app}}}]})
}

fn said(snapshot: &Snapshot, pod: &PodFacts) -> String {
    match decide(snapshot, pod) {
        Decision::Bind(node) => node.into(),
        Decision::Unfit(error) => {
            let text = error.to_string();
            text.split(" preemption: ").next().unwrap().to_owned()
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn required_terms_of_both_sides_hold() {
    let mut snapshot = cluster();
    let with = |app: &str| pod("p", "x", required("podAffinity", app, "zone"));
    assert_eq!(said(&snapshot, &with("web")), "0/5 nodes are available: 5 node(s) didn't match pod affinity rules.");
    assert_eq!(
        said(&snapshot, &pod("p", "web", required("podAffinity", "web", "zone"))),
        "a1",
        "the first of its kind"
    );
    snapshot.place(&pod("w", "web", json!({})), "b2");
    assert_eq!(said(&snapshot, &with("web")), "b1", "the other node of the place is emptier");
    let without = pod("p", "x", required("podAntiAffinity", "web", "zone"));
    assert_eq!(said(&snapshot, &without), "a1");
    for (n, name) in ["a2", "c1"].iter().enumerate() {
        snapshot.place(&pod(&format!("w{n}"), "web", json!({})), name);
    }
    assert_eq!(said(&snapshot, &without), "c1", "a node without the label is no place");
    snapshot.unplace("d/w0");
    snapshot.place(&pod("hermit", "h", required("podAntiAffinity", "x", "zone")), "a1");
    assert_eq!(
        said(&snapshot, &pod("p", "x", required("podAffinity", "h", "kubernetes.io/hostname"))),
        "0/5 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, 4 node(s) didn't match pod affinity rules."
    );
    let elsewhere = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone", "namespaceSelector": {"matchLabels": {"team": "t"}}}]}}});
    assert!(said(&snapshot, &pod("p", "y", elsewhere.clone())).contains("pod affinity rules"));
    snapshot.set_namespace("d", Some([("team".to_owned(), "t".to_owned())].into()));
    assert_eq!(said(&snapshot, &pod("p", "y", elsewhere)), "b1");
}

#[test]
fn keys_of_labels_make_terms_about_likes() {
    let mut snapshot = cluster();
    snapshot.place(&pod("old", "web", json!({})), "a1");
    let term = json!({"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}, "topologyKey": "zone",
        "matchLabelKeys": ["app"]});
    let apart = |app: &str| {
        pod(
            "p",
            app,
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        )
    };
    assert_eq!(said(&snapshot, &apart("web")), "b1");
    assert_eq!(said(&snapshot, &apart("db")), "a2");
}

#[test]
fn wishes_of_both_sides_count() {
    let mut snapshot = cluster();
    snapshot.place(&pod("w", "web", json!({})), "b1");
    assert_eq!(said(&snapshot, &pod("p", "x", preferred("podAffinity", "web", "zone"))), "b2");
    assert_eq!(said(&snapshot, &pod("p", "x", preferred("podAntiAffinity", "web", "zone"))), "a1");
    snapshot.place(&pod("fan", "fan", preferred("podAffinity", "x", "zone")), "b2");
    assert_eq!(said(&snapshot, &pod("p", "x", json!({}))), "b1", "the fan wants it near");
    assert_eq!(said(&snapshot, &pod("p", "z", json!({}))), "a1");
}

#[test]
fn spread_keeps_within_its_skew() {
    let mut snapshot = cluster();
    let hard = |name: &str| pod(name, "s", spread("s", "zone", 1, "DoNotSchedule"));
    for (n, name) in ["s0", "s1", "s2"].iter().enumerate() {
        let node = said(&snapshot, &hard(name));
        assert!(["a", "b", "a"][n] == &node[..1], "{name} on {node}");
        snapshot.place(&hard(name), &node);
    }
    snapshot.unplace("d/s1");
    snapshot.place(&pod("s3", "s", json!({})), "a1");
    for name in ["b1", "b2"] {
        snapshot.remove_node(name);
    }
    assert_eq!(said(&snapshot, &hard("p")), "a2", "a place without nodes does not count");
    let mut least = spread("s", "zone", 1, "DoNotSchedule");
    least["topologySpreadConstraints"][0]["minDomains"] = json!(2);
    assert_eq!(
        said(&snapshot, &pod("p", "s", least)),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         2 node(s) didn't match pod topology spread constraints."
    );
    snapshot.set_node(node("b1", Some("b")));
    let soft = pod("p", "s", spread("s", "zone", 1, "ScheduleAnyway"));
    assert_eq!(said(&snapshot, &soft), "b1");
    let mut picky = spread("s", "zone", 1, "DoNotSchedule");
    picky["nodeSelector"] = json!({"zone": "a"});
    assert_eq!(said(&snapshot, &pod("p", "s", picky.clone())), "a2", "only places that it may go to count");
    picky["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = json!("Ignore");
    assert!(said(&snapshot, &pod("p", "s", picky)).contains("2 node(s) didn't match pod topology spread"));
}

#[test]
fn siblings_spread_without_asking() {
    let mut snapshot = cluster();
    let sibling = |name: &str| {
        let whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
            "spec": {"containers": [{}]}});
        PodFacts::new(serde_json::from_value(whole).unwrap())
    };
    // Were it not for the spread, the nodes without the heavy pods would take all of them.
    for name in ["a2", "b1", "b2", "c1"] {
        let heavy = json!({"containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]});
        snapshot.place(&pod(&format!("heavy-{name}"), "heavy", heavy), name);
    }
    let mut nodes: Vec<String> = Vec::new();
    for n in 0..5 {
        let pod = sibling(&format!("p{n}"));
        let node = said(&snapshot, &pod);
        snapshot.place(&pod, &node);
        nodes.push(node);
    }
    nodes.sort();
    assert_eq!(nodes, ["a1", "a2", "b1", "b2", "c1"]);
}

const APPS: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 2] = ["zone", "kubernetes.io/hostname"];

/// What a pod of the property asks for: kind, app, key, skew.
type Ask = (u8, usize, usize, i32);

fn asked((kind, app, key, skew): Ask) -> Value {
    match kind {
        0 => json!({}),
        1 => required("podAffinity", APPS[app], KEYS[key]),
        2 => required("podAntiAffinity", APPS[app], KEYS[key]),
        3 => spread(APPS[app], KEYS[key], skew, "DoNotSchedule"),
        4 => preferred("podAffinity", APPS[app], KEYS[key]),
        _ => spread(APPS[app], KEYS[key], skew, "ScheduleAnyway"),
    }
}

struct There {
    app: usize,
    ask: Ask,
    node: usize,
    name: String,
}

/// The place of a node by a key.
fn place(zones: &[Option<u8>], node: usize, key: usize) -> Option<usize> {
    match key {
        0 => zones[node].map(usize::from),
        _ => Some(node),
    }
}

/// Whether a node does, looking at everything.
fn does(zones: &[Option<u8>], there: &[There], app: usize, (kind, about, key, skew): Ask, node: usize) -> bool {
    let own = place(zones, node, key);
    let near = |other: &There| own.is_some() && place(zones, other.node, key) == own;
    let about_it = |other: &&There| other.app == about;
    let mine = match kind {
        1 => {
            let any = there.iter().filter(about_it).any(|other| place(zones, other.node, key).is_some());
            there.iter().filter(about_it).any(near) || (!any && about == app && own.is_some())
        }
        2 => !there.iter().filter(about_it).any(near),
        3 => own.is_some_and(|own| {
            let places: std::collections::BTreeSet<usize> =
                (0..zones.len()).filter_map(|n| place(zones, n, key)).collect();
            let count = |at: usize| {
                there.iter().filter(about_it).filter(|other| place(zones, other.node, key) == Some(at)).count()
            };
            let least = places.iter().map(|at| count(*at)).min().unwrap_or(0);
            i64::try_from(count(own) + usize::from(about == app) - least).unwrap() <= i64::from(skew)
        }),
        _ => true,
    };
    let theirs = there.iter().all(|other| {
        let (kind, about, key, _) = other.ask;
        let at = place(zones, node, key);
        !(kind == 2 && about == app && at.is_some() && place(zones, other.node, key) == at)
    });
    mine && theirs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// A node is chosen exactly if there is one that does, and then it is one that does; memory changes nothing.
    #[test]
    fn required_rules_hold(
        zones in prop::collection::vec(prop::option::weighted(0.8, 0u8..3), 1..6),
        steps in prop::collection::vec((0usize..3, (0u8..6, 0usize..3, 0usize..2, 1i32..3), prop::option::weighted(0.25, any::<prop::sample::Index>())), 1..30),
    ) {
        let mut snapshot = Snapshot::default();
        for (n, zone) in zones.iter().enumerate() {
            snapshot.set_node(node(&format!("n{n}"), zone.map(|zone| zone.to_string()).as_deref()));
        }
        let mut decider = Decider::default();
        let mut there: Vec<There> = Vec::new();
        for (step, (app, ask, leaves)) in steps.into_iter().enumerate() {
            if let Some(index) = leaves.filter(|_| !there.is_empty()) {
                let gone = there.swap_remove(index.index(there.len()));
                let key = format!("d/{}", gone.name);
                prop_assert!(snapshot.unplace(&key).is_some());
                continue;
            }
            let name = format!("p{step}");
            let new = pod(&name, APPS[app], asked(ask));
            let forgetful = decide(&snapshot, &new);
            snapshot.attend(&new.shape);
            let decision = decider.decide(&snapshot, &new);
            prop_assert_eq!(&forgetful, &decision);
            prop_assert_eq!(&decide(&snapshot, &new), &decision);
            let good: Vec<usize> = (0..zones.len()).filter(|n| does(&zones, &there, app, ask, *n)).collect();
            match decision {
                Decision::Bind(node) => {
                    let node: usize = node[1..].parse().unwrap();
                    prop_assert!(good.contains(&node), "{} is not in {:?}", node, good);
                    snapshot.place(&new, &format!("n{node}"));
                    there.push(There { app, ask, node, name });
                }
                Decision::Unfit(_) => prop_assert!(good.is_empty(), "{:?} would do", good),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
