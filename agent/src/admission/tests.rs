use std::sync::Arc;

use api::pod::CRITICAL_PRIORITY;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, from_value, json};

use super::*;
use crate::eviction::Limits;
use crate::pressure::Sample;

impl Admission {
    /// Takes a pod in, or says why not.
    pub(super) fn admit(&mut self, uid: &str, pod: &Pod, is_known: bool, here: Surroundings<'_>) -> Verdict {
        let verdict = self.consider(uid, pod, is_known, here);
        self.conclude(uid, pod, is_known, &verdict);
        verdict
    }
}

/// A node of 2 processors, 1 GiB and 3 pods.
struct Place {
    node: Node,
    room: Amounts,
    devices: BTreeMap<String, Amount>,
    free_cpus: Option<usize>,
    pressures: Pressures,
    is_going_down: bool,
}

impl Place {
    fn new() -> Self {
        let node = json!({"metadata": {"name": "n", "labels": {"disk": "fast"}}, "status": {"allocatable": {
            "cpu": "64", "example.com/counted": "2", "example.com/device": "9"}}});
        let room = [("cpu", "2"), ("memory", "1Gi"), ("ephemeral-storage", "10Gi"), ("pods", "3")];
        Self {
            node: from_value(node).unwrap(),
            room: room.map(|(name, text)| (name.to_owned(), Quantity::parse(text).unwrap())).into(),
            devices: [("example.com/device".to_owned(), Amount { all: 2, usable: 1 })].into(),
            free_cpus: None,
            pressures: Pressures::none(),
            is_going_down: false,
        }
    }

    fn short_of(sample: Sample) -> Self {
        let mut own = Self::new();
        own.pressures.take(&Limits::default().met(&sample), Timestamp::UNIX_EPOCH);
        own
    }

    fn here(&self) -> Surroundings<'_> {
        let Self { node, room, devices, free_cpus, pressures, is_going_down } = self;
        let (free_cpus, is_going_down) = (*free_cpus, *is_going_down);
        Surroundings { node, room, devices, free_cpus, pressures, is_going_down, swap: None }
    }

    /// What becomes of a pod on a node that nobody else is on.
    fn alone(&self, pod: &Pod) -> Verdict {
        Admission::default().admit("u", pod, false, self.here())
    }
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Refused(failure) => failure.reason,
        Verdict::Admitted => "admitted".into(),
        Verdict::AdmittedAfter(leaving) => format!("after {}", leaving.join(" ")),
    }
}

fn with(mut spec: Value) -> Pod {
    spec["containers"][0]["name"] = json!("c");
    from_value(json!({"spec": spec})).unwrap()
}

fn asking(resource: &str, amount: &str) -> Pod {
    with(json!({"containers": [{"resources": {"requests": {resource: amount}}}]}))
}

fn port(address: &str, protocol: &str) -> Pod {
    let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": address, "protocol": protocol});
    with(json!({"containers": [{"ports": [port]}]}))
}

#[test]
fn what_there_is_not_enough_of_is_named() {
    let place = Place::new();
    for (resource, amount, told) in [
        ("cpu", "3", "OutOfcpu"),
        ("memory", "2Gi", "OutOfmemory"),
        ("ephemeral-storage", "11Gi", "OutOfephemeral-storage"),
        ("example.com/counted", "3", "OutOfexample.com/counted"),
        ("example.com/device", "2", "UnexpectedAdmissionError"),
        ("hugepages-2Mi", "2Mi", "OutOfhugepages-2Mi"),
        ("example.com/unknown", "9", "admitted"),
        ("cpu", "2", "admitted"),
    ] {
        assert_eq!(reason(place.alone(&asking(resource, amount))), told, "{amount} of {resource}");
    }
    let Verdict::Refused(failure) = place.alone(&asking("cpu", "3")) else { panic!("it is too large") };
    let told = "Pod was rejected: Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000";
    assert_eq!(failure.message, told);
}

#[test]
fn pods_count_until_they_are_gone_and_who_was_here_before_is_not_asked_again() {
    let (place, mut own) = (Place::new(), Admission::default());
    let admit = |own: &mut Admission, uid: &str, amount: &str, is_known| {
        reason(own.admit(uid, &asking("cpu", amount), is_known, place.here()))
    };
    assert_eq!(admit(&mut own, "a", "1500m", true), "admitted");
    assert_eq!(admit(&mut own, "b", "1", false), "OutOfcpu");
    assert_eq!(admit(&mut own, "b", "1", true), "admitted", "it was here before");
    assert_eq!(admit(&mut own, "c", "0", false), "admitted", "it asks for nothing that is short");
    assert_eq!(admit(&mut own, "d", "0", false), "OutOfpods");
    own.release("a");
    assert_eq!(admit(&mut own, "d", "1", false), "admitted");
    own.want("d", &Arc::new(asking("cpu", "500m")), Timestamp::UNIX_EPOCH);
    own.want("b", &Arc::new(asking("cpu", "99")), Timestamp::UNIX_EPOCH);
    assert_eq!(own.retry(place.here()).len(), 2);
    own.release("c");
    assert_eq!(admit(&mut own, "e", "500m", false), "admitted", "one was made smaller, and one cannot grow so far");
    let ended: Pod = from_value(json!({"status": {"phase": "Succeeded"}})).unwrap();
    assert_eq!(own.admit("f", &ended, false, place.here()), Verdict::Admitted);
    own.release("e");
    assert_eq!(admit(&mut own, "g", "500m", false), "admitted", "what has ended takes no place");
}

#[test]
fn processors_that_a_container_is_to_have_for_itself_are_to_be_left() {
    let mut place = Place::new();
    let limits = json!({"cpu": "2", "memory": "1Mi"});
    let whole = with(json!({"containers": [{"resources": {"limits": limits, "requests": limits}}]}));
    assert_eq!(reason(place.alone(&whole)), "admitted");
    place.free_cpus = Some(1);
    let Verdict::Refused(failure) = place.alone(&whole) else { panic!("one is too few") };
    assert_eq!(failure.reason, "UnexpectedAdmissionError");
    assert!(failure.message.contains("to satisfy request: requested=2, available=1"), "{}", failure.message);
    assert_eq!(reason(place.alone(&asking("cpu", "2"))), "admitted", "it shares");
}

#[test]
fn ports_are_one_pods_until_that_is_gone() {
    let (place, mut own) = (Place::new(), Admission::default());
    let mut admit = |uid: &str, address: &str, protocol: &str| {
        let verdict = reason(own.admit(uid, &port(address, protocol), false, place.here()));
        if uid == "c" {
            own.release("a");
            own.release("c");
        }
        verdict
    };
    assert_eq!(admit("a", "", "TCP"), "admitted");
    assert_eq!(admit("b", "127.0.0.1", "TCP"), "NodePorts");
    assert_eq!(admit("a", "", "TCP"), "admitted", "it has them already");
    assert_eq!(admit("c", "", "UDP"), "admitted");
    assert_eq!(admit("b", "127.0.0.1", "TCP"), "admitted");
    assert_eq!(admit("d", "127.0.0.2", "TCP"), "admitted");
    assert_eq!(admit("e", "0.0.0.0", "TCP"), "NodePorts");
}

#[test]
fn a_node_that_is_not_what_was_asked_for_is_told() {
    let mut place = Place::new();
    let plain = || json!({"containers": [{}]});
    let spec = |key: &str, value: Value| {
        let mut spec = plain();
        spec[key] = value;
        with(spec)
    };
    assert_eq!(reason(place.alone(&spec("nodeSelector", json!({"disk": "fast"})))), "admitted");
    assert_eq!(reason(place.alone(&spec("nodeSelector", json!({"disk": "slow"})))), "NodeAffinity");
    let other = json!({"kubernetes.io/os": "windows"});
    assert_eq!(reason(place.alone(&spec("nodeSelector", other))), "PodOSSelectorNodeLabelDoesNotMatch");
    assert_eq!(reason(place.alone(&spec("os", json!({"name": "windows"})))), "PodOSNotSupported");
    let taint = |effect: &str| from_value(json!({"taints": [{"key": "k", "effect": effect}]})).unwrap();
    place.node.spec = Some(taint("NoSchedule"));
    assert_eq!(reason(place.alone(&with(plain()))), "admitted", "that is the scheduler's business");
    place.node.spec = Some(taint("NoExecute"));
    assert_eq!(reason(place.alone(&with(plain()))), "TaintToleration");
    assert_eq!(reason(place.alone(&spec("tolerations", json!([{"operator": "Exists"}])))), "admitted");
    assert_eq!(reason(place.alone(&from_file(with(plain())))), "admitted");
    place.is_going_down = true;
    assert_eq!(reason(place.alone(&with(plain()))), "NodeShutdown");
}

fn from_file(mut pod: Pod) -> Pod {
    let annotations = [("kubernetes.io/config.source".to_owned(), "file".to_owned())];
    pod.metadata.annotations = Some(annotations.into());
    pod
}

#[test]
fn a_node_that_runs_short_refuses_whom_it_could_not_keep() {
    let memory = Sample { memory_bytes: Some(1), ..Sample::default() };
    let short_of_memory = Place::short_of(memory);
    let best_effort = || json!({"containers": [{}]});
    let mut tolerant = best_effort();
    tolerant["tolerations"] = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
    let mut critical = best_effort();
    critical["priority"] = json!(CRITICAL_PRIORITY);
    let Verdict::Refused(failure) = short_of_memory.alone(&with(best_effort())) else { panic!("it asks for nothing") };
    assert_eq!(
        (&*failure.reason, &*failure.message),
        ("Evicted", "Pod was rejected: The node had condition: [MemoryPressure]. ")
    );
    assert_eq!(reason(short_of_memory.alone(&with(tolerant.clone()))), "admitted");
    assert_eq!(reason(short_of_memory.alone(&with(critical.clone()))), "admitted");
    assert_eq!(reason(short_of_memory.alone(&from_file(with(best_effort())))), "admitted");
    assert_eq!(reason(short_of_memory.alone(&asking("memory", "1Mi"))), "admitted");
    let short_of_both = Place::short_of(Sample { pids: Some(1), ..memory });
    assert_eq!(reason(short_of_both.alone(&asking("memory", "1Mi"))), "Evicted");
    assert_eq!(reason(short_of_both.alone(&with(tolerant))), "Evicted");
    assert_eq!(reason(short_of_both.alone(&with(critical))), "admitted");
}

#[test]
fn a_critical_pod_gets_its_place_from_others_and_nobody_leaves_in_vain() {
    let (place, mut own) = (Place::new(), Admission::default());
    own.admit("plain", &asking("cpu", "1500m"), false, place.here());
    let critical = |cpu: &str, selector: Value| {
        let container = json!({"resources": {"requests": {"cpu": cpu}}});
        with(json!({"priority": CRITICAL_PRIORITY, "nodeSelector": selector, "containers": [container]}))
    };
    let refused = own.admit("c", &critical("1", json!({"disk": "slow"})), false, place.here());
    assert_eq!(reason(refused), "NodeAffinity");
    let Verdict::Refused(failure) = own.admit("c", &critical("3", json!({})), false, place.here()) else {
        panic!("not even the whole node is enough")
    };
    assert_eq!(failure.reason, "UnexpectedAdmissionError");
    assert!(failure.message.ends_with("to reclaim resources: [(res: cpu, q: 1000), ]"), "{}", failure.message);
    assert_eq!(reason(own.admit("c", &critical("1", json!({})), false, place.here())), "after plain");
    assert_eq!(
        reason(own.admit("more", &critical("1500m", json!({})), false, place.here())),
        "UnexpectedAdmissionError"
    );
    assert_eq!(reason(own.admit("from-file", &from_file(asking("cpu", "1")), false, place.here())), "admitted");
}
