//! Who leaves for whom, by table, and what holds for every preemption.
use controller_scheduler::budget::Budget;
use controller_scheduler::decide::{Decider, Decision, decide};
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::preempt::{Preemption, Victim, would_fit};
use controller_scheduler::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

fn node(n: usize, pods: u32) -> NodeFacts {
    let node = json!({"metadata": {"name": format!("n{n}")},
        "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": pods.to_string()}}});
    NodeFacts::new(serde_json::from_value(node).unwrap())
}

fn nodes(count: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..count {
        snapshot.set_node(node(n, 10));
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
        snapshot.set_budget(budget.key.clone(), Some(budget));
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
    snapshot.doom("d/victim", &"victim".into());
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

#[test]
fn who_may_go_to_one_node_only_empties_no_other() {
    let mut snapshot = nodes(3);
    put(&mut snapshot, "n0", "a", 1, "4");
    let to = |node: &str, priority: i32| {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
        pod("daemon", priority, "1", json!({"spec": {"affinity": affinity}}))
    };
    assert_eq!(said(&snapshot, &to("n1", 0)), "bind to n1");
    assert_eq!(said(&snapshot, &to("n0", 5)), "a leave n0");
    let Decision::Unfit(error) = decide(&snapshot, &to("n0", 0)) else { panic!("it fits") };
    assert_eq!(
        error.to_string(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector. preemption: \
         0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
    assert!(matches!(decide(&snapshot, &to("elsewhere", 5)), Decision::Unfit(_)));
}

#[test]
fn victims_may_be_those_that_it_cannot_be_with() {
    let mut snapshot = nodes(2);
    let host = |n: &str| json!({"metadata": {"name": n, "labels": {"host": n}}, "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}});
    for name in ["n0", "n1"] {
        snapshot.set_node(NodeFacts::new(serde_json::from_value(host(name)).unwrap()));
    }
    let apart = |app: &str| {
        let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "host"});
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    };
    put(&mut snapshot, "n0", "web", 5, "1");
    put(&mut snapshot, "n0", "other", 1, "1");
    snapshot.place(&pod("hermit", 7, "1", apart("p")), "n1");
    put(&mut snapshot, "n1", "more", 1, "1");
    assert_eq!(
        said(&snapshot, &pod("p", 10, "1", apart("web"))),
        "web leave n0",
        "neighbours that are in nobody's way stay"
    );
    snapshot.unplace("d/web");
    put(&mut snapshot, "n0", "web", 9, "1");
    assert_eq!(said(&snapshot, &pod("p", 10, "1", apart("web"))), "hermit leave n1");
    assert_eq!(
        said(&snapshot, &pod("p", 3, "1", apart("web"))),
        "0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules, 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
}

#[test]
fn who_stays_after_all_and_a_claim_that_is_given_up_are_not_remembered() {
    let mut snapshot = nodes(2);
    let mut decider = Decider::default();
    put(&mut snapshot, "n0", "more", 5, "4");
    put(&mut snapshot, "n1", "less", 1, "4");
    let mut emptied = |snapshot: &Snapshot| match decider.decide(snapshot, &pod("p", 10, "4", Value::Null)) {
        Decision::Preempt(preemption, _) => preemption.node.to_string(),
        other => format!("{other:?}"),
    };
    snapshot.doom("d/more", &"more".into());
    assert_eq!(emptied(&snapshot), "n0", "it is emptied anyway");
    snapshot.spare("d/more", "more");
    assert_eq!(emptied(&snapshot), "n1");
    let strong = pod("strong", 20, "4", Value::Null);
    snapshot.nominate(&strong.key, &strong.shape, "n1");
    assert_eq!(emptied(&snapshot), "n0");
    snapshot.renounce(&strong.key);
    assert_eq!(emptied(&snapshot), "n1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// What is remembered from one decision to the next changes none, whatever happens in between. Most nodes take no pods
    /// at all: among so many the memory takes in the few that changed instead of beginning anew.
    #[test]
    fn memory_changes_no_decision(
        steps in prop::collection::vec((0u8..14, 0usize..4, 0i32..4, 1u32..4), 1..60),
    ) {
        let mut snapshot = nodes(4);
        for n in 4..64 {
            snapshot.set_node(node(n, 0));
        }
        let mut decider = Decider::default();
        let (mut names, mut waiting, mut doomed): (Vec<String>, Vec<PodFacts>, Vec<Victim>) = Default::default();
        for n in 0..8 {
            put(&mut snapshot, &format!("n{}", n / 2), &format!("v{n}"), 0, "2");
            names.push(format!("d/v{n}"));
        }
        for (step, (what, which, priority, cpu)) in steps.into_iter().enumerate() {
            let name = names.get(which % names.len().max(1)).cloned();
            match (what, name) {
                (0, Some(key)) => {
                    names.retain(|name| *name != key);
                    snapshot.unplace(&key);
                }
                (1, Some(key)) => snapshot.doom(&key, &key[2..].into()),
                (2, _) => {
                    if let Some(Victim { key, uid }) = doomed.pop() {
                        snapshot.spare(&key, &uid);
                    }
                }
                (3, _) => snapshot.remove_node(&format!("n{which}")),
                (4, _) => drop(snapshot.set_node(node(which, 10))),
                (5, _) => {
                    if let Some(pod) = waiting.pop() {
                        snapshot.renounce(&pod.key);
                    }
                }
                (6, _) => {
                    let budget = json!({"metadata": {"namespace": "d", "name": "b"}, "status": {"disruptionsAllowed": cpu - 1, "currentHealthy": 9, "desiredHealthy": 9, "expectedPods": 9},
                        "spec": {"selector": {"matchLabels": {"app": format!("v{}", 2 * which)}}}});
                    let budget = Budget::new(serde_json::from_value(budget).unwrap());
                    snapshot.set_budget(budget.key.clone(), Some(budget));
                }
                _ => {
                    // One that waits for its victims to leave is tried again and again.
                    let again = waiting.pop().filter(|_| what < 9);
                    let fresh = || pod(&format!("p{step}"), priority, &cpu.to_string(), json!({"metadata": {"labels": {}}}));
                    let new = again.unwrap_or_else(fresh);
                    let decision = decider.decide(&snapshot, &new);
                    prop_assert_eq!(&decide(&snapshot, &new), &decision);
                    match decision {
                        Decision::Bind(node) => {
                            snapshot.place(&new, &node);
                            names.push(new.key.to_string());
                        }
                        Decision::Preempt(preemption, _) => {
                            prop_assert!(would_fit(&snapshot, &new, &preemption));
                            snapshot.nominate(&new.key, &new.shape, &preemption.node);
                            for victim in &preemption.victims {
                                snapshot.doom(&victim.key, &victim.uid);
                            }
                            doomed.extend(preemption.victims);
                            waiting.push(new);
                        }
                        Decision::Unfit(_) => {
                            snapshot.renounce(&new.key);
                        }
                        Decision::Prepare(..) => prop_assert!(false),
                    }
                }
            }
        }
    }

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
