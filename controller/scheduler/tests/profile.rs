//! What profiles change about decisions.
use controller_scheduler::decide::{Decider, Decision, decide};
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::profile::{DefaultSpread, Filter, Ignored, Profile, Profiles, Strategy, Weights};
use controller_scheduler::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

const OWN: &str = "default-scheduler";

fn node(name: &str, more: Value) -> NodeFacts {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "half": if name < "c" { "x" } else { "y" }}},
        "spec": more, "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10", "example.com/gpu": "1"}}});
    NodeFacts::new(serde_json::from_value(node).unwrap())
}

fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in ["a", "b", "c", "d"] {
        snapshot.set_node(node(name, json!({})));
    }
    snapshot
}

/// A pod of a profile; its own where there is no such profile.
fn pod_of(profiles: &Profiles, name: &str, scheduler: &str, spec: Value) -> PodFacts {
    // Pods that differ in their number are alike.
    let app = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let mut whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": app}},
        "spec": {"schedulerName": scheduler, "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        match key.as_str() {
            "owner" => {
                whole["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                    "name": value, "uid": value, "controller": true}]);
            }
            _ => whole["spec"][key] = value.clone(),
        }
    }
    PodFacts::read(serde_json::from_value(whole).unwrap(), profiles)
}

fn of(profile: Profile) -> Profiles {
    Profiles::new([Profile::new(OWN), profile])
}

fn said(snapshot: &Snapshot, pod: &PodFacts) -> String {
    match decide(snapshot, pod) {
        Decision::Bind(node) => node.into(),
        Decision::Unfit(error) => error.to_string(),
        other => format!("{other:?}"),
    }
}

/// Where so many pods go, one after the other.
fn places(snapshot: &mut Snapshot, pods: impl Iterator<Item = PodFacts>) -> String {
    let place = |pod: PodFacts| {
        let node = said(snapshot, &pod);
        snapshot.place(&pod, &node);
        node
    };
    pods.map(place).collect::<Vec<_>>().join(" ")
}

#[test]
fn pods_of_a_profile_that_is_not_there_are_left_alone() {
    let profiles = of(Profile::new("packing"));
    for (name, is_ours) in [("packing", true), (OWN, true), ("", true), ("stranger", false)] {
        assert_eq!(pod_of(&profiles, "p", name, json!({})).is_ours, is_ours, "{name}");
    }
    let only = Profiles::new([Profile::new("packing")]);
    assert!(!pod_of(&only, "p", OWN, json!({})).is_ours);
}

#[test]
fn most_allocated_fills_a_node_before_the_next() {
    let profiles = of(Profile { strategy: Strategy::MostAllocated, ..Profile::new("packing") });
    let pods = |scheduler| {
        let profiles = profiles.clone();
        (0..6).map(move |n| pod_of(&profiles, &format!("p{n}"), scheduler, json!({})))
    };
    assert_eq!(places(&mut cluster(), pods("packing")), "a a a a b b");
    assert_eq!(places(&mut cluster(), pods(OWN)), "a b c d a b");
}

#[test]
fn a_ratio_packs_half_full_and_then_spreads() {
    // Half full is best: the first two share a node, the next two another.
    let curve = Strategy::RequestedToCapacityRatio(vec![(0, 0), (50, 100), (75, 0)]);
    let profiles = of(Profile { strategy: curve, ..Profile::new("half") });
    let pods = (0..4).map(|n| pod_of(&profiles, &format!("p{n}"), "half", json!({})));
    assert_eq!(places(&mut cluster(), pods), "a a b b");
}

#[test]
fn what_is_left_out_is_not_asked() {
    let with = |filter: Filter| {
        let mut profile = Profile::new("lax");
        profile.skip(filter);
        of(profile)
    };
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("a", json!({"unschedulable": true})));
    let lax = |filter: Filter, spec: Value| pod_of(&with(filter), "p", "lax", spec);
    assert!(said(&snapshot, &lax(Filter::Taints, json!({}))).contains("unschedulable"));
    assert_eq!(said(&snapshot, &lax(Filter::Unschedulable, json!({}))), "a");
    snapshot.set_node(node("a", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]})));
    assert!(said(&snapshot, &lax(Filter::Ports, json!({}))).contains("untolerated taint"));
    assert_eq!(said(&snapshot, &lax(Filter::Taints, json!({}))), "a");
    snapshot.set_node(node("a", json!({})));
    let selects = json!({"nodeSelector": {"no": "where"}});
    assert!(said(&snapshot, &lax(Filter::Ports, selects.clone())).contains("node affinity/selector"));
    assert_eq!(said(&snapshot, &lax(Filter::Affinity, selects)), "a");
    let port = json!({"containers": [{"ports": [{"containerPort": 1, "hostPort": 80}]}]});
    snapshot.place(&lax(Filter::Taints, port.clone()), "a");
    let mut other = lax(Filter::Taints, port.clone());
    other.key = "d/other".into();
    assert!(said(&snapshot, &other).contains("free ports"));
    let mut other = lax(Filter::Ports, port);
    other.key = "d/other".into();
    assert_eq!(said(&snapshot, &other), "a");
    let huge = json!({"containers": [{"resources": {"requests": {"cpu": "40"}}}]});
    assert!(said(&snapshot, &lax(Filter::Taints, huge.clone())).contains("Insufficient cpu"));
    assert_eq!(said(&snapshot, &lax(Filter::Resources, huge)), "a");
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {}, "topologyKey": "kubernetes.io/hostname"}]}}});
    let hermit = pod_of(&Profiles::default(), "hermit", OWN, apart);
    snapshot.place(&hermit, "a");
    assert!(said(&snapshot, &lax(Filter::Taints, json!({}))).contains("existing pods anti-affinity"));
    assert_eq!(said(&snapshot, &lax(Filter::Relations, json!({}))), "a");
}

#[test]
fn resources_that_are_ignored_are_not_asked_for() {
    let groups = Ignored { names: vec![], groups: vec!["example.com".into()] };
    let profiles = of(Profile { ignored: groups, ..Profile::new("lax") });
    let two = json!({"containers": [{"resources": {"requests": {"example.com/gpu": "2"}}}]});
    assert!(said(&cluster(), &pod_of(&profiles, "p", OWN, two.clone())).contains("Insufficient example.com/gpu"));
    assert_eq!(said(&cluster(), &pod_of(&profiles, "p", "lax", two)), "a");
    let both = json!({"containers": [{"resources": {"requests": {"example.com/gpu": "2", "cpu": "5"}}}]});
    assert!(said(&cluster(), &pod_of(&profiles, "p", "lax", both)).contains("4 Insufficient cpu. "));
}

#[test]
fn an_added_affinity_is_asked_beside_the_pod_s_own() {
    let term = |value: &str| json!({"matchExpressions": [{"key": "half", "operator": "In", "values": [value]}]});
    let added = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term("y")]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 9, "preference":
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["d"]}]}}]});
    let added = Some(Box::new(serde_json::from_value(added).unwrap()));
    let profiles = of(Profile { added_affinity: added, ..Profile::new("y") });
    assert_eq!(said(&cluster(), &pod_of(&profiles, "p", "y", json!({}))), "d", "of the two the preferred one");
    let a = json!({"nodeSelector": {"kubernetes.io/hostname": "a"}});
    assert!(said(&cluster(), &pod_of(&profiles, "p", "y", a)).contains("4 node(s) didn't match Pod's node affinity"));
}

#[test]
fn siblings_spread_as_the_profile_says() {
    let half = DefaultSpread { topology: "half".into(), max_skew: 1, is_hard: true };
    let weights = Weights { fit: 0, balance: 0, ..Weights::default() };
    let strict = Profile { spread: Some(vec![half]), weights: weights.clone(), ..Profile::new("strict") };
    let none = Profile { spread: Some(vec![]), weights, ..Profile::new("none") };
    let profiles = Profiles::new([strict, none]);
    let siblings = |scheduler| {
        let profiles = profiles.clone();
        (0..4).map(move |n| pod_of(&profiles, &format!("p{n}"), scheduler, json!({"owner": "set"})))
    };
    assert_eq!(places(&mut cluster(), siblings("strict")), "a c a c", "in turn, by halves");
    assert_eq!(places(&mut cluster(), siblings("none")), "a a a a");
}

#[test]
fn how_much_affinity_of_others_counts() {
    let fan = |kind: &str, weight: Option<i32>| {
        let term = json!({"labelSelector": {"matchLabels": {"app": "p"}}, "topologyKey": "half"});
        let terms = match weight {
            Some(weight) => json!([{"weight": weight, "podAffinityTerm": term}]),
            None => json!([term]),
        };
        json!({"affinity": {"podAffinity": {kind: terms}}})
    };
    let required = fan("requiredDuringSchedulingIgnoredDuringExecution", None);
    let preferred = fan("preferredDuringSchedulingIgnoredDuringExecution", Some(1));
    let mut snapshot = cluster();
    snapshot.place(&pod_of(&Profiles::default(), "needs", OWN, required), "c");
    snapshot.place(&pod_of(&Profiles::default(), "wants", OWN, preferred), "a");
    let of_weight = |hard_affinity_weight: i64, ignores_wishes_of_others: bool| {
        let weights = Weights { fit: 0, balance: 0, ..Weights::default() };
        let profile = Profile { hard_affinity_weight, ignores_wishes_of_others, weights, ..Profile::new("p") };
        pod_of(&of(profile), "p", "p", json!({}))
    };
    assert_eq!(said(&snapshot, &of_weight(1, false)), "a", "of equals the first");
    assert_eq!(said(&snapshot, &of_weight(2, false)), "c");
    assert_eq!(said(&snapshot, &of_weight(2, true)), "a", "nobody's wishes count");
}

#[test]
fn nobody_leaves_for_pods_of_a_profile_that_does_not_preempt() {
    let profiles = of(Profile { preempts: false, ..Profile::new("meek") });
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("a", json!({})));
    let low = json!({"containers": [{"resources": {"requests": {"cpu": "4"}}}]});
    snapshot.place(&pod_of(&profiles, "low", OWN, low), "a");
    let high = json!({"priority": 10});
    assert!(said(&snapshot, &pod_of(&profiles, "p", OWN, high.clone())).starts_with("Preempt"));
    assert_eq!(said(&snapshot, &pod_of(&profiles, "p", "meek", high)), "0/1 nodes are available: 1 Insufficient cpu.");
}

proptest! {
    /// Pods of several profiles in turn: no more than nodes have, and memory changes no decision.
    #[test]
    fn profiles_do_not_mix(steps in prop::collection::vec((0usize..4, 1u32..3, any::<bool>()), 1..40)) {
        let curve = Strategy::RequestedToCapacityRatio(vec![(0, 100), (100, 0)]);
        let profiles = Profiles::new([
            Profile::new(OWN),
            Profile { strategy: Strategy::MostAllocated, ..Profile::new("packing") },
            Profile { strategy: curve, weights: Weights { balance: 0, fit: 5, ..Weights::default() }, ..Profile::new("ratio") },
            Profile { ignored: Ignored { names: vec!["memory".into()], groups: vec![] }, ..Profile::new("ignoring") },
        ]);
        let (mut snapshot, mut decider) = (cluster(), Decider::default());
        for (step, (which, cpu, leaves)) in steps.into_iter().enumerate() {
            if leaves {
                snapshot.unplace(&format!("d/p{}", step / 2));
            }
            let requests = json!({"containers": [{"resources": {"requests": {"cpu": cpu.to_string(), "memory": "1Gi"}}}]});
            let name = [OWN, "packing", "ratio", "ignoring"][which];
            let pod = pod_of(&profiles, &format!("p{step}"), name, requests);
            let decision = decider.decide(&snapshot, &pod);
            prop_assert_eq!(&decide(&snapshot, &pod), &decision);
            if let Decision::Bind(node) = decision {
                snapshot.place(&pod, &node);
            }
            for (_, node) in snapshot.nodes() {
                prop_assert!(node.taken.requested.milli_cpu <= node.allocatable.milli_cpu);
            }
        }
    }
}
