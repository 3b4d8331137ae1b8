//! Who leaves for whom, by table, and what holds for every preemption.
use controller_scheduler::budget::Budget;
use controller_scheduler::decide::{Decision, decide};
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::preempt::{Preemption, would_fit};
use controller_scheduler::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

fn nodes(count: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..count {
        let node = json!({"metadata": {"name": format!("n{n}")},
            "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}});
        snapshot.set_node(NodeFacts::new(serde_json::from_value(node).unwrap()));
    }
    snapshot
}

fn pod(name: &str, priority: i32, cpu: &str, more: Value) -> PodFacts {
    let mut whole = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
    for (key, part) in more.as_object().into_iter().flatten() {
        for (name, value) in part.as_object().into_iter().flatten() {
            whole[key][name] = value.clone();
        }
    }
    PodFacts::new(serde_json::from_value(whole).unwrap())
}

fn put(snapshot: &mut Snapshot, node: &str, name: &str, priority: i32, cpu: &str) {
    snapshot.place(&pod(name, priority, cpu, Value::Null), node);
}

fn said(snapshot: &Snapshot, pod: &PodFacts) -> String {
    match decide(snapshot, pod) {
        Decision::Bind(node) => format!("bind to {node}"),
        Decision::Prepare(node, work) => format!("{work:?} on {node}"),
        Decision::Preempt(Preemption { node, victims, .. }, _) => {
            let mut names: Vec<&str> = victims.iter().map(|victim| &*victim.uid).collect();
            names.sort_unstable();
            format!("{} leave {node}", names.join(" "))
        }
        Decision::Unfit(error) => error.preemption.unwrap_or_default(),
    }
}

#[test]
fn as_few_and_as_unimportant_as_possible_leave() {
    let mut snapshot = nodes(3);
    put(&mut snapshot, "n0", "a", 5, "2");
    put(&mut snapshot, "n0", "b", 1, "1");
    put(&mut snapshot, "n0", "c", 1, "1");
    put(&mut snapshot, "n1", "d", 7, "4");
    put(&mut snapshot, "n2", "e", 20, "4");
    let wants = |cpu: &str| pod("p", 10, cpu, Value::Null);
    assert_eq!(said(&snapshot, &wants("2")), "b c leave n0", "the lowest of the highest priorities");
    assert_eq!(said(&snapshot, &wants("1")), "c leave n0", "of equals the first by name is taken back");
    assert_eq!(said(&snapshot, &wants("3")), "a c leave n0", "one may stay");
    assert_eq!(said(&snapshot, &pod("p", 6, "4", Value::Null)), "a b c leave n0");
    put(&mut snapshot, "n1", "d", 1, "4");
    assert_eq!(said(&snapshot, &wants("2")), "d leave n1", "the smallest sum");
    assert_eq!(
        said(&snapshot, &pod("p", 1, "2", Value::Null)),
        "0/3 nodes are available: 3 No preemption victims found for incoming pod."
    );
    assert_eq!(
        said(&snapshot, &wants("5")),
        "0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        "nobody leaves in vain"
    );
    put(&mut snapshot, "n0", "strong", 30, "0");
    let never = json!({"spec": {"preemptionPolicy": "Never"}});
    assert_eq!(said(&snapshot, &pod("p", 10, "2", never)), "not eligible due to preemptionPolicy=Never.");
}

#[test]
fn of_equals_the_one_that_started_last_leaves() {
    let mut snapshot = nodes(2);
    for (node, name, time) in [("n0", "old", "2026-01-01T00:00:00Z"), ("n1", "new", "2026-01-02T00:00:00Z")] {
        snapshot.place(&pod(name, 1, "4", json!({"status": {"startTime": time}})), node);
    }
    assert_eq!(said(&snapshot, &pod("p", 10, "2", Value::Null)), "new leave n1");
}

#[test]
fn budgets_are_broken_last() {
    let mut snapshot = nodes(2);
    put(&mut snapshot, "n0", "guarded", 1, "4");
    put(&mut snapshot, "n1", "free", 5, "4");
    let budget = json!({"metadata": {"namespace": "d", "name": "b"}, "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    let mut with = |budget: &Value| {
        let budget = Budget::new(serde_json::from_value(budget.clone()).unwrap());
        snapshot.budgets.insert(budget.key.clone(), budget);
        said(&snapshot, &pod("p", 10, "4", Value::Null))
    };
    assert_eq!(with(&budget), "free leave n1");
    let mut loose = budget.clone();
    loose["status"]["disruptionsAllowed"] = json!(1);
    assert_eq!(with(&loose), "guarded leave n0");
    let mut counted = budget.clone();
    counted["status"]["disruptedPods"] = json!({"guarded": "2026-01-01T00:00:00Z"});
    assert_eq!(with(&counted), "guarded leave n0", "its end is counted already");
    with(&budget);
    snapshot.unplace("d/free");
    put(&mut snapshot, "n1", "strong", 20, "4");
    assert_eq!(said(&snapshot, &pod("p", 10, "4", Value::Null)), "guarded leave n0", "if nothing else helps");
}

#[test]
fn who_waits_for_a_node_holds_it_against_lower_priorities() {
    let mut snapshot = nodes(1);
    put(&mut snapshot, "n0", "victim", 1, "4");
    let waiting = pod("waiting", 10, "3", Value::Null);
    assert_eq!(said(&snapshot, &waiting), "victim leave n0");
    snapshot.nominate(&waiting.key, &waiting.shape, "n0");
    snapshot.doom(&"victim".into());
    assert_eq!(said(&snapshot, &waiting), "not eligible due to a terminating pod on the nominated node.");
    let second = pod("second", 10, "1", Value::Null);
    assert_eq!(said(&snapshot, &second), " leave n0", "what leaves anyway is enough");
    snapshot.unplace("d/victim");
    assert_eq!(
        said(&snapshot, &pod("low", 1, "2", Value::Null)),
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(said(&snapshot, &pod("low", 1, "1", Value::Null)), "bind to n0");
    assert_eq!(said(&snapshot, &pod("high", 20, "4", Value::Null)), "bind to n0", "a higher priority goes first");
    assert_eq!(said(&snapshot, &waiting), "bind to n0");
    snapshot.place(&waiting, "n0");
    assert_eq!(snapshot.nomination("d/waiting"), None);
    snapshot.nominate(&second.key, &second.shape, "n0");
    let Decision::Preempt(preemption, _) = decide(&snapshot, &pod("high", 20, "4", Value::Null)) else { panic!("no") };
    assert_eq!(preemption.displaced, ["d/second".into()], "who is displaced looks elsewhere");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whoever leaves: only lower priorities, the pod fits then, and it would not if one of them stayed.
    #[test]
    fn nobody_leaves_in_vain(
        placed in prop::collection::vec((0usize..4, 0i32..6, 1u32..4000), 0..30),
        priority in 0i32..8,
        cpu in 1u32..5000,
    ) {
        let mut snapshot = nodes(4);
        let mut used = [0; 4];
        for (i, (node, priority, cpu)) in placed.into_iter().enumerate() {
            if used[node] + cpu <= 4000 {
                used[node] += cpu;
                put(&mut snapshot, &format!("n{node}"), &format!("v{i}"), priority, &format!("{cpu}m"));
            }
        }
        let new = pod("p", priority, &format!("{cpu}m"), Value::Null);
        match decide(&snapshot, &new) {
            Decision::Preempt(preemption, _) => {
                prop_assert!(!preemption.victims.is_empty());
                prop_assert!(would_fit(&snapshot, &new, &preemption));
                for spared in 0..preemption.victims.len() {
                    let mut fewer = preemption.clone();
                    fewer.victims.remove(spared);
                    prop_assert!(!would_fit(&snapshot, &new, &fewer));
                }
            }
            Decision::Bind(_) => prop_assert!(used.iter().any(|used| used + cpu <= 4000)),
            Decision::Prepare(..) => prop_assert!(false),
            Decision::Unfit(_) => {
                // Even with everybody of lower priority gone there is no room.
                for node in 0..4 {
                    let all = Preemption { node: format!("n{node}").into(), victims: lower(&snapshot, node, priority), displaced: vec![] };
                    prop_assert!(!would_fit(&snapshot, &new, &all));
                }
            }
        }
    }
}

fn lower(snapshot: &Snapshot, node: usize, priority: i32) -> Vec<controller_scheduler::preempt::Victim> {
    let slot = snapshot.slot(&format!("n{node}")).unwrap();
    let victim = |(key, uid): (&controller_scheduler::pod::PodKey, &std::sync::Arc<str>)| {
        controller_scheduler::preempt::Victim { key: key.clone(), uid: uid.clone() }
    };
    snapshot.below(slot, priority).map(victim).collect()
}
