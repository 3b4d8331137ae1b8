//! Decisions by table, and what holds for every sequence of them.
use controller_scheduler::decide::{Decider, Decision, decide};
use controller_scheduler::node::NodeFacts;
use controller_scheduler::pod::PodFacts;
use controller_scheduler::queue::{Causes, Queue};
use controller_scheduler::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn node(name: &str, cpu: &str, pods: u32, more: Value) -> NodeFacts {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": pods.to_string()}},
    });
    if !more.is_null() {
        value["spec"] = more;
    }
    NodeFacts::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, cpu: &str, more: Value) -> PodFacts {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    });
    for (key, field) in more.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    PodFacts::new(serde_json::from_value(value).unwrap())
}

fn snapshot(nodes: Vec<NodeFacts>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    snapshot
}

fn refusal(snapshot: &Snapshot, pod: &PodFacts) -> String {
    match decide(snapshot, pod) {
        Decision::Bind(node) => format!("bound to {node}"),
        Decision::Prepare(node, work) => format!("{work:?} on {node}"),
        Decision::Preempt(preemption, _) => format!("{preemption:?}"),
        Decision::Unfit(error) => error.to_string(),
    }
}

#[test]
fn refusals_speak_as_kubernetes_does() {
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let nodes = snapshot(vec![
        node("a", "1", 10, Value::Null),
        node("b", "8", 10, tainted.clone()),
        node("c", "8", 10, tainted),
        node("d", "8", 10, json!({"unschedulable": true})),
        node("e", "8", 0, Value::Null),
    ]);
    assert_eq!(
        refusal(&nodes, &pod("p", "2", json!({}))),
        "0/5 nodes are available: 1 Insufficient cpu, 1 Too many pods, 1 node(s) were unschedulable, 2 node(s) had untolerated taint {k: v}. \
         preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling."
    );
    assert_eq!(
        refusal(
            &nodes,
            &pod("p", "2", json!({"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]}))
        ),
        "0/5 nodes are available: 5 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling."
    );
    assert_eq!(refusal(&snapshot(vec![]), &pod("p", "1", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn wishes_are_met() {
    let mut nodes = snapshot(vec![node("a", "4", 10, Value::Null), node("b", "4", 10, Value::Null)]);
    let first = pod("p", "1", json!({}));
    assert_eq!(decide(&nodes, &first), Decision::Bind("a".into()), "the name decides among equals");
    nodes.place(&first, "a");
    assert_eq!(decide(&nodes, &pod("q", "1", json!({}))), Decision::Bind("b".into()), "load spreads");
    let wants_a = json!({"nodeSelector": {"kubernetes.io/hostname": "a"}});
    assert_eq!(decide(&nodes, &pod("q", "3", wants_a.clone())), Decision::Bind("a".into()));
    assert_eq!(
        refusal(&nodes, &pod("q", "3001m", wants_a)),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector. \
         preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
    );
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
    for want in ["b", "a"] {
        let next = pod(&format!("port-{want}"), "0", port.clone());
        assert_eq!(decide(&nodes, &next), Decision::Bind(want.into()));
        nodes.place(&next, want);
    }
    assert!(refusal(&nodes, &pod("r", "0", port)).contains("2 node(s) didn't have free ports"));
    assert!(nodes.unplace("d/port-a").is_some() && nodes.unplace("d/port-a").is_none());
}

#[test]
fn images_that_are_there_draw_pods() {
    let mut nodes = snapshot((0..3).map(|n| node(&format!("n{n}"), "8", 10, Value::Null)).collect());
    let runs = |name: &str| pod(name, "0", json!({"containers": [{"name": "c", "image": "registry.example/big"}]}));
    let mut decider = Decider::default();
    assert_eq!(decider.decide(&nodes, &runs("p")), Decision::Bind("n0".into()));
    for name in ["n1", "n2"] {
        let images = json!([{"names": ["registry.example/big:latest"], "sizeBytes": 500 * 1024 * 1024}]);
        let has = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "8", "memory": "4Gi", "pods": "10"}, "images": images}});
        assert_eq!(nodes.set_node(NodeFacts::new(serde_json::from_value(has).unwrap())), None, "it wakes nobody");
    }
    assert_eq!(decider.decide(&nodes, &runs("q")), Decision::Bind("n1".into()));
    nodes.remove_node("n1");
    nodes.remove_node("n2");
    assert_eq!(decider.decide(&nodes, &runs("q")), Decision::Bind("n0".into()));
}

#[test]
fn whose_pod_is_it() {
    assert!(pod("p", "1", json!({})).is_ours);
    for other in
        [json!({"nodeName": "a"}), json!({"schedulerName": "mine"}), json!({"schedulingGates": [{"name": "g"}]})]
    {
        let other_pod = pod("p", "1", other.clone());
        assert!(!other_pod.is_ours, "{other}");
        assert_eq!(other_pod.is_gated, other["schedulingGates"].is_array());
    }
}

#[test]
fn the_queue_orders_waits_and_wakes() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let causes = Causes::default();
    queue.offer(pod("late", "1", json!({})));
    queue.offer(pod("urgent", "1", json!({"priority": 5})));
    let first = queue.pop().unwrap();
    assert_eq!(&*first.key, "d/urgent");
    queue.unfit(&first.key, causes, false, now);
    assert_eq!(&*queue.pop().unwrap().key, "d/late");
    queue.remove("d/late");
    assert!(queue.pop().is_none(), "an unfit pod waits for a move");
    queue.offer(pod("urgent", "1", json!({"priority": 5})));
    assert!(queue.pop().is_none(), "news without a change do not wake it");
    queue.move_those(now, |_, _| false);
    assert!(queue.pop().is_none(), "nor does what cannot help");
    queue.move_those(now, |_, _| true);
    let again = queue.pop().unwrap();
    queue.unfit(&again.key, causes, false, now);
    queue.move_those(now, |_, _| true);
    assert!(queue.pop().is_none(), "the second failure backs off");
    assert_eq!(queue.next_wake(), Some(now + Duration::from_secs(1)));
    queue.advance(now + Duration::from_secs(1));
    let again = queue.pop().unwrap();
    queue.unfit(&again.key, causes, false, now);
    queue.move_one(&again.key, now);
    assert_eq!(queue.next_wake(), Some(now + Duration::from_secs(2)), "the wait doubles");
    queue.offer(pod("urgent", "2", json!({"priority": 5})));
    let changed = queue.pop().expect("a changed pod is tried at once");
    let mut other = pod("urgent", "2", json!({"priority": 5}));
    other.uid = "another".into();
    queue.failed(&other, now);
    assert!(queue.is_in_hand("d/urgent"), "an answer about another pod of its name does not touch it");
    queue.failed(&changed, now);
    for _ in 0..5 {
        queue.advance(now + Duration::from_secs(60));
        queue.pop().unwrap();
        queue.failed(&changed, now);
    }
    assert_eq!(queue.next_wake(), Some(now + Duration::from_secs(10)));
}

#[test]
fn pods_that_are_alike_wait_in_line() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for name in ["a", "b", "c"] {
        queue.offer(pod(name, "1", json!({})));
    }
    queue.offer(pod("other", "2", json!({})));
    while let Some(pod) = queue.pop() {
        queue.unfit(&pod.key, Causes::default(), false, now);
    }
    queue.move_those(now, |shape, _| shape.load.requests.milli_cpu == 1000);
    let first = queue.pop().unwrap();
    assert_eq!((&*first.key, queue.pop().is_none()), ("d/a", true), "the first of those whom it helps");
    queue.next_like(&first.shape, now);
    assert_eq!(&*queue.pop().unwrap().key, "d/b", "it got a node, so the next is tried");
    assert!(queue.pop().is_none());
    queue.remove("d/c");
    queue.next_like(&first.shape, now);
    assert!(queue.pop().is_none());
}

#[test]
fn five_thousand_nodes() {
    let nodes = snapshot((0..5000).map(|n| node(&format!("n{n}"), "8", 110, Value::Null)).collect());
    let start = Instant::now();
    assert!(matches!(decide(&nodes, &pod("p", "1", json!({}))), Decision::Bind(_)));
    println!("one decision over 5,000 nodes: {:?}", start.elapsed());
}

proptest! {
    #[test]
    fn never_overcommits(
        sizes in prop::collection::vec((1u32..8, 1u32..6), 0..6),
        steps in prop::collection::vec((0u32..3000, any::<bool>(), any::<prop::sample::Index>()), 0..60),
    ) {
        let mut nodes = snapshot(
            sizes.iter().enumerate().map(|(i, (cpu, pods))| node(&format!("n{i}"), &cpu.to_string(), *pods, Value::Null)).collect(),
        );
        let mut placed = Vec::new();
        for (i, (cpu, leave, which)) in steps.into_iter().enumerate() {
            if leave && !placed.is_empty() {
                let gone: PodFacts = placed.swap_remove(which.index(placed.len()));
                prop_assert!(nodes.unplace(&gone.key).is_some());
            } else {
                let new = pod(&format!("p{i}"), &format!("{cpu}m"), json!({}));
                if let Decision::Bind(name) = decide(&nodes, &new) {
                    nodes.place(&new, &name);
                    placed.push(new);
                }
            }
            for (_, node) in nodes.nodes() {
                prop_assert!(node.taken.requested.milli_cpu <= node.allocatable.milli_cpu && node.taken.requested.milli_cpu >= 0);
                prop_assert!(node.taken.pod_count <= node.max_pods && node.taken.pod_count >= 0);
            }
        }
    }
}

/// A pod that runs and whose container asks for `asked`, was given `allocated` and has `actual`.
fn resizing(asked: &str, allocated: &str, actual: &str, reason: &str) -> PodFacts {
    let status = json!({
        "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "resources": {"requests": {"cpu": actual}}, "allocatedResources": {"cpu": allocated}}],
        "conditions": [{"type": "PodResizePending", "status": "True", "reason": reason}],
    });
    let spec = json!({"nodeName": "a", "containers": [{"name": "c", "resources": {"requests": {"cpu": asked}}}]});
    let pod = json!({"metadata": {"name": "r", "namespace": "d", "uid": "r"}, "spec": spec, "status": status});
    PodFacts::new(serde_json::from_value(pod).unwrap())
}

#[test]
fn a_pod_that_is_resized_takes_the_most_of_what_it_asks_for_was_given_and_has() {
    let fits = |other: PodFacts| {
        let mut nodes = snapshot(vec![node("a", "4", 10, Value::Null)]);
        nodes.place(&other, "a");
        decide(&nodes, &pod("p", "2", json!({}))) == Decision::Bind("a".into())
    };
    assert!(fits(resizing("1", "1", "1", "")));
    assert!(!fits(resizing("3", "1", "1", "Deferred")), "what it waits for is kept for it");
    assert!(!fits(resizing("1", "3", "1", "")));
    assert!(!fits(resizing("1", "1", "3", "")), "what it has not given back yet is not there");
    assert!(fits(resizing("3", "1", "1", "Infeasible")), "it never gets that");
    // As it changes, so does what is left.
    let mut nodes = snapshot(vec![node("a", "4", 10, Value::Null)]);
    for (asked, is_left) in [("3", false), ("1", true), ("3", false)] {
        nodes.place(&resizing(asked, "1", "1", ""), "a");
        assert_eq!(decide(&nodes, &pod("p", "2", json!({}))) == Decision::Bind("a".into()), is_left, "{asked}");
    }
}
