use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, from_value, json};

use super::super::Verdict;
use super::*;
use crate::memory::Machine;
use crate::pressure::Pressures;

/// A node of 4 processors and 1 GiB.
struct Place {
    admission: Admission,
    node: Node,
    room: Amounts,
    pressures: Pressures,
    free_cpus: Option<usize>,
    swap: Option<Machine>,
}

impl Place {
    fn new() -> Self {
        let room = [("cpu", "4"), ("memory", "1Gi"), ("pods", "9")];
        let quantity = |text| api::quantity::Quantity::parse(text).unwrap();
        Self {
            admission: Admission::default(),
            node: Node::default(),
            room: room.map(|(name, text)| (name.to_owned(), quantity(text))).into(),
            pressures: Pressures::none(),
            free_cpus: None,
            swap: None,
        }
    }

    fn look<T>(&mut self, ask: impl FnOnce(&mut Admission, Surroundings<'_>) -> T) -> T {
        let Self { admission, node, room, pressures, free_cpus, swap } = self;
        let (free_cpus, swap, devices) = (*free_cpus, *swap, BTreeMap::new());
        let here = Surroundings { node, room, devices: &devices, free_cpus, pressures, is_going_down: false, swap };
        ask(admission, here)
    }

    fn admit(&mut self, uid: &str, pod: &Pod, is_known: bool) -> Verdict {
        self.look(|admission, here| admission.admit(uid, pod, is_known, here))
    }

    /// Who was told what, after a pod has asked for this.
    fn want(&mut self, uid: &str, pod: &Arc<Pod>, seconds: i64) -> Vec<(String, Option<Pending>)> {
        self.admission.want(uid, pod, Timestamp::from_second(seconds).unwrap());
        self.retry()
    }

    fn retry(&mut self) -> Vec<(String, Option<Pending>)> {
        self.look(Admission::retry).into_iter().map(|own| (own.uid, own.pending)).collect()
    }
}

fn pod(cpu: &str, memory: &str, more: Value) -> Arc<Pod> {
    let resources = json!({"requests": {"cpu": cpu, "memory": memory}});
    let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    more.as_object().into_iter().flatten().for_each(|(key, value)| pod["spec"][key] = value.clone());
    Arc::new(from_value(pod).unwrap())
}

fn plain(cpu: &str) -> Arc<Pod> {
    pod(cpu, "1Mi", json!({}))
}

fn given(uid: &str) -> (String, Option<Pending>) {
    (uid.to_owned(), None)
}

fn deferred(message: &str) -> Option<Pending> {
    Some(Pending::Deferred(message.to_owned()))
}

fn cpu(pod: &Pod) -> i64 {
    api::pod::requests(pod.spec.as_ref().unwrap())["cpu"].milli()
}

#[test]
fn what_does_not_fit_now_waits_until_somebody_leaves_or_shrinks() {
    let mut place = Place::new();
    for uid in ["a", "b", "c"] {
        place.admit(uid, &plain("1"), false);
    }
    let wanted = plain("3");
    let lacks = "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000";
    assert_eq!(place.want("a", &wanted, 1), [("a".to_owned(), deferred(lacks))]);
    assert_eq!(cpu(&place.admission.given("a", &wanted)), 1000, "it has what it had");
    assert_eq!(place.retry(), [], "that is no news");
    // What it waits for is nobody's yet.
    assert_eq!(place.admit("d", &plain("1"), false), Verdict::Admitted);
    assert!(place.admission.release("d"));
    assert!(place.admission.release("b"));
    assert_eq!(place.retry(), [given("a")]);
    assert_eq!((cpu(&place.admission.given("a", &wanted)), place.admission.pending("a")), (3000, None));
    let lacks = "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000";
    assert_eq!(place.want("c", &plain("2"), 2), [("c".to_owned(), deferred(lacks))]);
    assert_eq!(place.want("a", &plain("2"), 3), [given("a"), given("c")], "who shrinks is asked first");
    assert_eq!(place.want("c", &plain("2000m"), 4), [], "that is as much, written otherwise");
}

#[test]
fn turns_go_by_priority_then_class_then_time() {
    let mut place = Place::new();
    let guaranteed = |cpu: &str| {
        let amounts = json!({"cpu": cpu, "memory": "1Mi"});
        let container = json!({"name": "c", "resources": {"requests": amounts, "limits": amounts}});
        pod("1", "1Mi", json!({"containers": [container]}))
    };
    let high = |cpu: &str| pod(cpu, "1Mi", json!({"priority": 9}));
    place.admit("filler", &plain("2"), false);
    for (uid, pod) in [("late", plain("0")), ("early", plain("0")), ("sure", guaranteed("100m")), ("high", high("0"))] {
        place.admit(uid, &pod, false);
    }
    for (uid, pod, at) in
        [("late", plain("3"), 5), ("early", plain("3"), 4), ("sure", guaranteed("3100m"), 6), ("high", high("3"), 7)]
    {
        assert!(matches!(&place.want(uid, &pod, at)[..], [(own, Some(Pending::Deferred(_)))] if own == uid), "{uid}");
    }
    let mut order = Vec::new();
    let mut leaving = "filler".to_owned();
    for _ in 0..4 {
        place.admission.release(&leaving);
        let told = place.retry();
        leaving = told.iter().find(|(_, pending)| pending.is_none()).expect("somebody is given it").0.clone();
        order.push(leaving.clone());
    }
    assert_eq!(order, ["high", "sure", "early", "late"]);
}

#[test]
fn what_can_never_be_given_is_told_and_holds_up_nobody() {
    let infeasible = |message: &str| Some(Pending::Infeasible(message.to_owned()));
    let mut place = Place::new();
    place.admit("a", &plain("1"), false);
    let message = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000";
    assert_eq!(place.want("a", &plain("5"), 1), [("a".to_owned(), infeasible(message))]);
    let both = pod("5", "2Gi", json!({}));
    let message = "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824";
    assert_eq!(place.want("a", &both, 1), [("a".to_owned(), infeasible(message))]);
    assert_eq!(place.want("a", &plain("1"), 2), []);
    assert_eq!(place.admission.pending("a"), None, "it was taken back");

    let whole = |cpu: &str, memory: &str| {
        let amounts = json!({"cpu": cpu, "memory": memory});
        let container = json!({"name": "c", "resources": {"requests": amounts, "limits": amounts}});
        pod("1", "1Mi", json!({"containers": [container]}))
    };
    place.free_cpus = Some(4);
    place.admit("whole", &whole("1", "1Mi"), false);
    let message = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    assert_eq!(place.want("whole", &whole("2", "1Mi"), 3), [("whole".to_owned(), infeasible(message))]);
    assert_eq!(place.want("whole", &whole("1", "2Mi"), 3), [given("whole")], "memory is another matter");

    place.swap = Some(Machine { total: 1 << 30, allocatable: 1 << 30, swap: 1 << 30, page: 4096 });
    let message = "In-place resize of containers with swap is not supported.";
    assert_eq!(place.want("a", &pod("1", "2Mi", json!({})), 4), [("a".to_owned(), infeasible(message))]);
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let resources = json!({"requests": {"cpu": "1", "memory": "2Mi"}});
    let restarts = json!({"containers": [{"name": "c", "resources": resources, "resizePolicy": policy}]});
    assert_eq!(place.want("a", &pod("1", "1Mi", restarts), 5), [given("a")], "what is restarted has swapped nothing");
}

#[test]
fn an_agent_that_comes_back_knows_what_pods_were_given() {
    let mut before = Place::new();
    for uid in ["a", "b"] {
        before.admit(uid, &plain("2"), false);
    }
    let mut place = Place::new();
    place.admission = Admission::remember(before.admission.allocations());
    // Meanwhile somebody asked for more.
    let wanted = plain("3");
    place.admit("a", &wanted, true);
    place.admit("b", &plain("2"), true);
    assert_eq!(cpu(&place.admission.given("a", &wanted)), 2000);
    assert!(matches!(&place.want("a", &wanted, 1)[..], [(_, Some(Pending::Deferred(_)))]));
    assert!(place.admission.release("b"));
    assert_eq!(place.retry(), [given("a")]);
}

#[test]
fn a_pod_that_is_being_deleted_is_given_nothing_more() {
    let mut place = Place::new();
    place.admit("a", &plain("1"), false);
    let mut going = (*plain("2")).clone();
    going.metadata.deletion_timestamp = Some(from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let going = Arc::new(going);
    assert_eq!(place.want("a", &going, 1), []);
    assert_eq!((cpu(&place.admission.given("a", &going)), place.admission.pending("a")), (1000, None));
}
