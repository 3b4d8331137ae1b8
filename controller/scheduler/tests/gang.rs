//! Gangs: by table, and against a reference that counts the room of every node.
use controller_scheduler::budget::Budget;
use controller_scheduler::decide::{Decider, decide as decide_one};
use controller_scheduler::gang::{Verdict, decide};
use controller_scheduler::group::GroupFacts;
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const NODE: i64 = 4000;

fn nodes(count: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..count {
        let node = json!({"metadata": {"name": format!("n{n}"), "labels": {"kubernetes.io/hostname": format!("n{n}")}},
            "status": {"allocatable": {"cpu": format!("{NODE}m"), "memory": "4Gi", "pods": "10"}}});
        snapshot.set_node(NodeFacts::new(serde_json::from_value(node).unwrap()));
    }
    snapshot
}

fn pod(name: &str, priority: i32, cpu: i64, group: Option<&str>) -> PodFacts {
    with(name, priority, cpu, group, json!({}))
}

fn with(name: &str, priority: i32, cpu: i64, group: Option<&str>, spec: Value) -> PodFacts {
    let mut whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": format!("{cpu}m")}}}]}});
    if let Some(group) = group {
        whole["spec"]["schedulingGroup"] = json!({"podGroupName": group});
    }
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole["spec"][key] = value.clone();
    }
    PodFacts::new(serde_json::from_value(whole).unwrap())
}

fn group(name: &str, min_count: usize, priority: i32, mode: &str) -> GroupFacts {
    let group = json!({"metadata": {"namespace": "d", "name": name, "uid": name},
        "spec": {"schedulingPolicy": {"gang": {"minCount": min_count}}, "priority": priority, "disruptionMode": {mode: {}}}});
    GroupFacts::new(serde_json::from_value(group).unwrap())
}

/// So many equal pods of a gang.
fn members(count: usize, priority: i32, cpu: i64) -> Vec<Arc<PodFacts>> {
    (0..count).map(|n| Arc::new(pod(&format!("m{n}"), priority, cpu, Some("g")))).collect()
}

fn said(snapshot: &mut Snapshot, group: &GroupFacts, waiting: &[Arc<PodFacts>]) -> String {
    match decide(&mut Decider::default(), snapshot, group, waiting) {
        Verdict::Bind { placements, left, .. } => {
            let all: Vec<String> =
                placements.iter().map(|one| format!("{} to {}", &one.pod.key[2..], one.node)).collect();
            format!("{}, {} left", all.join(", "), left.len())
        }
        Verdict::Preempt(all, _) => {
            let of = |(pod, preemption): &(Arc<PodFacts>, controller_scheduler::preempt::Preemption)| {
                let mut gone: Vec<&str> = preemption.victims.iter().map(|victim| &*victim.uid).collect();
                gone.sort_unstable();
                format!("{} to {} for {}", &pod.key[2..], preemption.node, gone.join(" "))
            };
            all.iter().map(of).collect::<Vec<_>>().join(", ")
        }
        Verdict::Unfit(error) => error.to_string(),
    }
}

#[test]
fn all_go_or_none() {
    let mut snapshot = nodes(2);
    let of_three = group("g", 3, 0, "single");
    assert_eq!(said(&mut snapshot, &of_three, &members(3, 0, 2000)), "m0 to n0, m1 to n1, m2 to n0, 0 left");
    assert_eq!(
        said(&mut snapshot, &of_three, &members(3, 0, 3000)),
        "minCount (3) cannot be satisfied: 2 of 3 pods fit. 0/2 nodes are available: 2 Insufficient cpu. \
         preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
    );
    assert_eq!(said(&mut snapshot, &of_three, &members(5, 0, 2000)), "m0 to n0, m1 to n1, m2 to n0, m3 to n1, 1 left");
    snapshot.place(&pod("m9", 0, 3000, Some("g")), "n0");
    assert_eq!(said(&mut snapshot, &of_three, &members(2, 0, 1000)), "m0 to n1, m1 to n1, 0 left", "one has its place");
    snapshot.place(&with("m9", 0, 3000, Some("g"), json!({})), "n0");
    snapshot.doom("d/m9", &"m9".into());
    assert!(
        said(&mut snapshot, &of_three, &members(2, 0, 1000)).contains("2 of 2 pods fit"),
        "who leaves does not count"
    );
    snapshot.spare("d/m9", "m9");
    assert!(said(&mut nodes(0), &of_three, &members(3, 0, 1)).ends_with("no nodes available to schedule pods"));
}

#[test]
fn pods_of_a_gang_see_each_other() {
    let term = json!({"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        "topologyKey": "kubernetes.io/hostname"});
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let member = |n: usize| Arc::new(with(&format!("m{n}"), 0, 100, Some("g"), apart.clone()));
    let waiting: Vec<_> = (0..3).map(member).collect();
    assert_eq!(said(&mut nodes(3), &group("g", 3, 0, "single"), &waiting), "m0 to n0, m1 to n1, m2 to n2, 0 left");
    let none = said(&mut nodes(2), &group("g", 3, 0, "single"), &waiting);
    assert!(
        none.contains("2 of 3 pods fit. 0/2 nodes are available: 2 node(s) didn't match pod anti-affinity"),
        "{none}"
    );
}

#[test]
fn others_leave_only_if_the_minimum_fits_then() {
    let mut snapshot = nodes(2);
    snapshot.place(&pod("low", 1, 4000, None), "n0");
    snapshot.place(&pod("strong", 20, 4000, None), "n1");
    let of_two = group("g", 2, 10, "single");
    assert_eq!(said(&mut snapshot, &of_two, &members(2, 10, 2000)), "m0 to n0 for low, m1 to n0 for ");
    let vain = said(&mut snapshot, &of_two, &members(2, 10, 3000));
    assert!(vain.contains("minCount (2) cannot be satisfied: 0 of 2 pods fit"), "{vain}");
    snapshot.unplace("d/strong");
    assert_eq!(said(&mut snapshot, &of_two, &members(2, 10, 3000)), "m0 to n1 for , m1 to n0 for low");
    let never = Arc::new(with("m0", 10, 3000, Some("g"), json!({"preemptionPolicy": "Never"})));
    let also = Arc::new(with("m1", 10, 3000, Some("g"), json!({"preemptionPolicy": "Never"})));
    assert!(said(&mut snapshot, &of_two, &[never, also]).ends_with("not eligible due to preemptionPolicy=Never."));
}

#[test]
fn a_budget_is_spent_once() {
    let mut snapshot = nodes(3);
    for n in 0..2 {
        snapshot.place(&with(&format!("guarded-{n}"), 1, 4000, None, json!({})), &format!("n{n}"));
    }
    snapshot.place(&pod("free", 5, 4000, None), "n2");
    let budget = json!({"metadata": {"namespace": "d", "name": "b"},
        "spec": {"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["guarded-0", "guarded-1"]}]}},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    let budget = Budget::new(serde_json::from_value(budget).unwrap());
    snapshot.set_budget(budget.key.clone(), Some(budget));
    let of_two = group("g", 2, 10, "single");
    assert_eq!(
        said(&mut snapshot, &of_two, &members(2, 10, 4000)),
        "m0 to n0 for guarded-0, m1 to n2 for free",
        "the second of the guarded ones would break it"
    );
    assert_eq!(said(&mut snapshot, &of_two, &members(2, 10, 4000)), "m0 to n0 for guarded-0, m1 to n2 for free");
}

#[test]
fn who_leaves_whole_leaves_with_all_or_stays() {
    let mut snapshot = nodes(3);
    snapshot.set_group(group("w", 2, 1, "all"));
    for n in 0..2 {
        snapshot.place(&pod(&format!("w{n}"), 1, 4000, Some("w")), &format!("n{n}"));
    }
    snapshot.place(&pod("single", 3, 4000, None), "n2");
    let new = |cpu| pod("p", 10, cpu, None);
    let victims = |snapshot: &Snapshot, pod: &PodFacts| -> Vec<String> {
        let controller_scheduler::decide::Decision::Preempt(preemption, _) = decide_one(snapshot, pod) else {
            panic!("nobody leaves")
        };
        let mut names: Vec<String> = preemption.victims.iter().map(|victim| victim.uid.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(victims(&snapshot, &new(1000)), ["w0", "w1"], "priority counts first");
    snapshot.place(&pod("single", 1, 4000, None), "n2");
    assert_eq!(victims(&snapshot, &new(1000)), ["single"], "one is less than two");
    let both = said(&mut snapshot, &group("g", 3, 10, "single"), &members(3, 10, 3000));
    assert_eq!(both, "m0 to n2 for single, m1 to n0 for w0 w1, m2 to n1 for ");
    snapshot.set_group(group("w", 2, 1, "single"));
    assert_eq!(victims(&snapshot, &new(1000)), ["w0"], "each by itself");
    snapshot.set_group(group("w", 2, 11, "all"));
    assert_eq!(victims(&snapshot, &new(1000)), ["single"], "a group of higher priority stays");
}

/// What is free of each node, with and without the pods below a priority.
fn free(there: &BTreeMap<String, (usize, i32, i64)>, count: usize, below: i32) -> Vec<(i64, i64)> {
    let mut free = vec![(NODE, 10); count];
    for (node, priority, cpu) in there.values() {
        if *priority >= below {
            free[*node].0 -= cpu;
            free[*node].1 -= 1;
        }
    }
    free
}

/// How many pods fit, counting node by node.
fn room(free: &[(i64, i64)], cpu: i64) -> i64 {
    free.iter().map(|(left, pods)| if *left < 0 { 0 } else { (left / cpu.max(1)).min(*pods) }).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// All or none, never more than a node has, nobody leaves in vain, and no fit is missed. The snapshot is afterwards what
    /// it was before.
    #[test]
    fn gangs_hold(
        count in 1usize..5,
        placed in prop::collection::vec((0usize..5, 0i32..6, 100i64..3000), 0..16),
        size in 1usize..7,
        min_count in 1usize..8,
        own in 0usize..3,
        priority in 0i32..8,
        cpu in 200i64..4200,
    ) {
        let mut snapshot = nodes(count);
        let mut there: BTreeMap<String, (usize, i32, i64)> = BTreeMap::new();
        for (n, (node, priority, cpu)) in placed.into_iter().enumerate() {
            let node = node % count;
            if free(&there, count, i32::MIN)[node].0 >= cpu {
                let name = format!("v{n}");
                snapshot.place(&pod(&name, priority, cpu, None), &format!("n{node}"));
                there.insert(name, (node, priority, cpu));
            }
        }
        // Pods of the gang that have their place already, for nothing.
        for n in 0..own {
            let node = n % count;
            if free(&there, count, i32::MIN)[node].1 > 0 {
                snapshot.place(&pod(&format!("own{n}"), priority, 0, Some("g")), &format!("n{node}"));
                there.insert(format!("own{n}"), (node, i32::MAX, 0));
            }
        }
        let own = there.keys().filter(|name| name.starts_with("own")).count();
        // With fewer pods the gang is not tried.
        let min_count = min_count.min(size + own);
        let needed = min_count.saturating_sub(own).max(1);
        let (gang, waiting) = (group("g", min_count, priority, "single"), members(size, priority, cpu));
        let before: Vec<String> = snapshot.nodes().map(|(_, node)| format!("{:?}", node.taken)).collect();
        let mut decider = Decider::default();
        let verdict = decide(&mut decider, &mut snapshot, &gang, &waiting);
        let after: Vec<String> = snapshot.nodes().map(|(_, node)| format!("{:?}", node.taken)).collect();
        prop_assert_eq!(&before, &after);
        let again = decide(&mut decider, &mut snapshot, &gang, &waiting);
        prop_assert_eq!(format!("{verdict:?}"), format!("{again:?}"));
        let as_is = free(&there, count, i32::MIN);
        let fit = usize::try_from(room(&as_is, cpu)).unwrap();
        let index = |node: &str| node[1..].parse::<usize>().unwrap();
        match verdict {
            Verdict::Bind { placements, left, .. } => {
                prop_assert_eq!(placements.len(), fit.min(size));
                prop_assert!(placements.len() >= needed && placements.len() + left.len() == size);
                let mut free = as_is;
                for placement in &placements {
                    let node = &mut free[index(&placement.node)];
                    *node = (node.0 - cpu, node.1 - 1);
                    prop_assert!(node.0 >= 0 && node.1 >= 0, "overcommitted");
                }
            }
            Verdict::Preempt(all, _) => {
                prop_assert!(fit < needed && all.len() >= needed);
                let mut gone: Vec<String> = Vec::new();
                for victim in all.iter().flat_map(|(_, preemption)| &preemption.victims) {
                    let name = victim.uid.to_string();
                    prop_assert!(there[&name].1 < priority && !gone.contains(&name));
                    gone.push(name);
                }
                prop_assert!(!gone.is_empty(), "then they would have fitted");
                let fits_without = |gone: &[String]| {
                    let rest: BTreeMap<_, _> = there.iter().filter(|(name, _)| !gone.contains(name)).map(|(name, one)| (name.clone(), *one)).collect();
                    let mut free = free(&rest, count, i32::MIN);
                    for (_, preemption) in &all {
                        let node = &mut free[index(&preemption.node)];
                        *node = (node.0 - cpu, node.1 - 1);
                    }
                    free.iter().all(|(left, pods)| *left >= 0 && *pods >= 0)
                };
                prop_assert!(fits_without(&gone));
                for spared in 0..gone.len() {
                    let mut fewer = gone.clone();
                    fewer.remove(spared);
                    prop_assert!(!fits_without(&fewer), "{} leaves in vain", gone[spared]);
                }
            }
            Verdict::Unfit(_) => {
                prop_assert!(fit < needed);
                let most = usize::try_from(room(&free(&there, count, priority), cpu)).unwrap();
                prop_assert!(most < needed, "{} would fit", most);
            }
        }
    }
}
