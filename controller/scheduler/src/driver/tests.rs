//! Which waiting pods are woken, and what late answers leave alone. Nobody answers what is written.
use super::devices::DeviceNews;
use super::news::News;
use super::*;
use serde_json::{Value, json};
use watcher::Event;

/// A driver that has listed everything there is: nothing.
pub(super) fn driver() -> Driver {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let mut driver = Driver::new(Config { client, metrics: Metrics::default(), settings: Settings::default() });
    driver.pod_event(Event::InitDone);
    driver.node_event(Event::InitDone);
    for listed in [
        News::Claim(Box::new(Event::InitDone)),
        News::Volume(Box::new(Event::InitDone)),
        News::Class(Box::new(Event::InitDone)),
        News::Budget(Box::new(Event::InitDone)),
        News::Namespace(Box::new(Event::InitDone)),
        News::Limits(Box::new(Event::InitDone)),
        News::Driver(Box::new(Event::InitDone)),
        News::Capacity(Box::new(Event::InitDone)),
        News::Devices(DeviceNews::Claim(Box::new(Event::InitDone))),
        News::Devices(DeviceNews::Slice(Box::new(Event::InitDone))),
        News::Devices(DeviceNews::Class(Box::new(Event::InitDone))),
        News::Devices(DeviceNews::Rule(Box::new(Event::InitDone))),
        News::Group(Box::new(Event::InitDone)),
    ] {
        driver.news(listed);
    }
    driver
}

pub(super) fn add_node(driver: &mut Driver, name: &str, spec: Value) {
    add_node_of(driver, name, spec, json!({"cpu": "4", "memory": "4Gi", "pods": "10"}));
}

fn add_node_of(driver: &mut Driver, name: &str, spec: Value, size: Value) {
    let node =
        json!({"metadata": {"name": name, "labels": {"host": name}}, "spec": spec, "status": {"allocatable": size}});
    driver.node_event(Event::Apply(serde_json::from_value(node).unwrap()));
}

/// A pod that waits. Its uid is its name.
pub(super) fn pod(name: &str, priority: i32, cpu: &str) -> Value {
    json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

pub(super) fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn with_uid(uid: &str, mut pod: Value) -> Value {
    pod["metadata"]["uid"] = json!(uid);
    pod
}

fn terminating(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// A pod that is on no node with pods of an app.
fn apart_from(app: &str, mut pod: Value) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "host",
        "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}});
    pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([term]);
    pod
}

pub(super) fn tell(driver: &mut Driver, pod: &Value) {
    driver.pod_event(Event::Apply(serde_json::from_value(pod.clone()).unwrap()));
}

pub(super) fn tell_gone(driver: &mut Driver, pod: &Value) {
    driver.pod_event(Event::Delete(serde_json::from_value(pod.clone()).unwrap()));
}

fn tell_namespace(driver: &mut Driver, labels: Value) {
    let namespace = serde_json::from_value(json!({"metadata": {"name": "d", "labels": labels}})).unwrap();
    driver.news(News::Namespace(Box::new(Event::Apply(namespace))));
}

/// How many pods are tried next, or once their backoff is over.
fn woken(driver: &Driver) -> usize {
    let (active, backoff, _) = driver.queue.counts(0);
    active + backoff
}

fn is_placed(driver: &Driver, key: &str) -> bool {
    driver.snapshot.placed_uid(key).is_some()
}

fn is_nominated(driver: &Driver, key: &str) -> bool {
    driver.snapshot.nomination(key).is_some()
}

/// Node `a`, which was emptied for `claimant`, and `low`, which tolerates anything and waits because of that claim.
fn claimed() -> Driver {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    let victim = on("a", pod("victim", 1, "4"));
    tell(&mut driver, &victim);
    tell(&mut driver, &pod("claimant", 10, "4"));
    let mut low = pod("low", 1, "1");
    low["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    tell(&mut driver, &low);
    driver.schedule();
    assert!(is_nominated(&driver, "d/claimant"));
    tell_gone(&mut driver, &victim);
    assert_eq!(woken(&driver), 1, "only the claimant");
    driver
}

#[tokio::test]
async fn a_claim_that_is_given_up_wakes_who_waits_for_it() {
    let mut driver = claimed();
    tell(&mut driver, &on("a", pod("strong", 20, "1")));
    driver.schedule();
    assert!(!is_nominated(&driver, "d/claimant") && is_placed(&driver, "d/low"));
}

#[tokio::test]
async fn a_claim_that_is_displaced_wakes_who_waits_for_it() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_namespace(&mut driver, json!({}));
    tell(&mut driver, &on("a", pod("victim", 1, "4")));
    tell(&mut driver, &apart_from("guest", pod("claimant", 5, "3")));
    driver.schedule();
    tell(&mut driver, &pod("guest", 1, "0"));
    driver.schedule();
    assert!(is_nominated(&driver, "d/claimant") && !is_placed(&driver, "d/guest"));
    tell(&mut driver, &pod("strong", 10, "3"));
    driver.schedule();
    assert!(is_nominated(&driver, "d/strong") && is_placed(&driver, "d/guest"));
}

/// Whether somebody is on the way out of a node.
fn is_emptied(driver: &Driver, node: &str) -> bool {
    driver.snapshot.is_emptied(driver.snapshot.slot(node).unwrap(), i32::MAX)
}

#[tokio::test]
async fn nodes_are_emptied_a_few_at_a_time_and_only_while_somebody_waits_for_them() {
    let mut driver = driver();
    for number in 0..20 {
        let node = format!("n{number:02}");
        add_node(&mut driver, &node, json!({}));
        tell(&mut driver, &on(&node, pod(&format!("victim-{number}"), 1, "4")));
        tell(&mut driver, &pod(&format!("claimant-{number}"), 10, "4"));
    }
    while driver.schedule() {}
    let at_once = driver.emptying.len();
    assert!(at_once < 18 && at_once + driver.to_empty.len() == 20);
    let node_of = |driver: &Driver, key: &str| {
        let slot = driver.snapshot.nomination(key).unwrap();
        driver.snapshot.at(slot).unwrap().name.clone()
    };
    // Who was decided last; of another one the node is waited for by a pod that counts on its victim's leaving.
    let (gone, kept) = ("d/claimant-19", "d/claimant-18");
    let (gone_node, kept_node) = (node_of(&driver, gone), node_of(&driver, kept));
    assert!(is_emptied(&driver, &gone_node) && is_emptied(&driver, &kept_node));
    let mut strong = pod("strong", 20, "4");
    strong["spec"]["nodeSelector"] = json!({"host": *kept_node});
    tell(&mut driver, &strong);
    driver.schedule();
    assert!(is_nominated(&driver, "d/strong") && !is_nominated(&driver, kept));
    tell_gone(&mut driver, &pod("claimant-19", 10, "4"));
    tell_gone(&mut driver, &pod("claimant-18", 10, "4"));
    // Of those under way nobody comes back.
    driver.emptying.detach_all();
    driver.empty_next();
    assert!(driver.to_empty.is_empty());
    assert!(!is_emptied(&driver, &gone_node), "nobody waits for it");
    assert!(is_emptied(&driver, &kept_node));
}

#[tokio::test]
async fn a_claim_that_moves_to_another_node_wakes_who_waits_for_it() {
    let mut driver = claimed();
    tell(&mut driver, &on("b", pod("other", 1, "4")));
    add_node(&mut driver, "b", json!({}));
    add_node(&mut driver, "a", json!({"taints": [{"key": "k", "effect": "NoSchedule"}]}));
    driver.schedule();
    assert_eq!(driver.snapshot.nomination("d/claimant"), driver.snapshot.slot("b"));
    assert!(is_placed(&driver, "d/low"));
}

#[tokio::test]
async fn a_waiting_pod_that_is_deleted_wakes_who_waits_for_its_claim() {
    let mut driver = claimed();
    tell(&mut driver, &terminating(pod("claimant", 10, "4")));
    driver.schedule();
    assert!(is_placed(&driver, "d/low"));
}

#[tokio::test]
async fn a_pod_that_is_deleted_before_it_is_bound_gives_its_place_back() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    let first = pod("first", 1, "4");
    tell(&mut driver, &first);
    driver.schedule();
    assert!(is_placed(&driver, "d/first"));
    tell(&mut driver, &terminating(first));
    assert!(!is_placed(&driver, "d/first"));
}

#[tokio::test]
async fn a_placed_pod_that_takes_less_wakes_who_waits_for_room() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell(&mut driver, &on("a", pod("big", 10, "4")));
    tell(&mut driver, &pod("waits", 1, "2"));
    driver.schedule();
    assert_eq!(woken(&driver), 0);
    tell(&mut driver, &on("a", pod("big", 10, "1")));
    assert_eq!(woken(&driver), 1);
}

#[tokio::test]
async fn a_victim_that_begins_to_end_wakes_nobody() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    let victim = on("a", pod("victim", 1, "4"));
    tell(&mut driver, &victim);
    tell(&mut driver, &pod("claimant", 10, "4"));
    driver.schedule();
    tell(&mut driver, &terminating(victim));
    assert_eq!(woken(&driver), 0, "in vain it would only lengthen the backoff");
}

#[tokio::test]
async fn who_leaves_wakes_whom_the_node_is_emptied_for_and_nobody_like_it() {
    let mut driver = driver();
    for node in ["a", "b"] {
        add_node(&mut driver, node, json!({}));
        for n in 0..4 {
            tell(&mut driver, &on(node, pod(&format!("low-{node}-{n}"), 1, "900m")));
        }
    }
    for name in ["high-0", "high-1"] {
        let mut high = pod(name, 10, "3");
        high["metadata"]["labels"] = json!({});
        tell(&mut driver, &high);
    }
    while driver.schedule() {}
    let slots = ["d/high-1", "d/high-0"].map(|key| driver.snapshot.nomination(key).unwrap());
    assert_ne!(slots[0], slots[1]);
    for slot in slots {
        let node = driver.snapshot.at(slot).unwrap().name.clone();
        let pods = driver.snapshot.pods_at(slot).iter();
        let victims: Vec<PodKey> =
            pods.filter(|placed| driver.snapshot.is_leaving(placed)).map(|placed| Arc::clone(&placed.key)).collect();
        assert_eq!(victims.len(), 3);
        for (left, key) in victims.iter().enumerate() {
            assert_eq!(woken(&driver), 0, "after {left}");
            tell_gone(&mut driver, &on(&node, pod(&key[2..], 1, "900m")));
        }
        // At once: nobody was tried in vain, so there is nothing to back off from.
        assert_eq!(driver.queue.counts(0).0, 1);
        driver.schedule();
    }
    assert!(is_placed(&driver, "d/high-0") && is_placed(&driver, "d/high-1"));
}

#[tokio::test]
async fn another_pod_of_the_same_name_wakes_who_waits_for_the_room_of_the_first() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell(&mut driver, &on("a", with_uid("1", pod("same", 10, "4"))));
    tell(&mut driver, &pod("waits", 1, "1"));
    driver.schedule();
    tell(&mut driver, &with_uid("2", pod("same", 10, "1")));
    assert_eq!(woken(&driver), 2);
}

#[tokio::test]
async fn a_late_answer_leaves_another_pod_of_the_same_name_alone() {
    for is_bound in [false, true] {
        let mut driver = driver();
        add_node(&mut driver, "a", json!({}));
        let first = with_uid("1", pod("same", 1, "1"));
        tell(&mut driver, &first);
        driver.schedule();
        tell(&mut driver, &with_uid("2", pod("same", 1, "1")));
        driver.schedule();
        assert!(driver.queue.is_in_hand("d/same"));
        let result = if is_bound { Ok(()) } else { Err(kube::Error::LinesCodecMaxLineLengthExceeded) };
        let pod = Arc::new(PodFacts::new(serde_json::from_value(first).unwrap()));
        driver.bound(Bound { pod, node: "a".into(), since: Instant::now(), result, prepared: Vec::new() });
        assert!(driver.queue.is_in_hand("d/same"), "it is tried again only after its own answer");
        assert!(is_placed(&driver, "d/same") && driver.first_seen.contains_key("d/same"));
    }
}

#[tokio::test]
async fn who_makes_room_for_itself_wakes_the_next_that_is_like_it() {
    // More than are looked at in one line.
    const ROOM: usize = 20;
    let mut driver = driver();
    for n in 0..ROOM {
        tell(&mut driver, &on("a", pod(&format!("victim-{n}"), 1, "2")));
    }
    let mut names: Vec<String> = (0..=ROOM).map(|n| format!("d/like-{n}")).collect();
    for (second, key) in names.iter().enumerate() {
        let mut like = pod(&key[2..], 10, "2");
        like["metadata"]["labels"] = json!({});
        like["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{second:02}Z"));
        tell(&mut driver, &like);
    }
    while driver.schedule() {}
    let size = json!({"cpu": (2 * ROOM).to_string(), "memory": "4Gi", "pods": "110"});
    add_node_of(&mut driver, "a", json!({}), size);
    while driver.schedule() {}
    names.retain(|key| is_nominated(&driver, key));
    assert_eq!(names.len(), ROOM, "as many as there is room for");
    assert_eq!(woken(&driver), 0, "and then nobody is tried any more");
}

#[tokio::test]
async fn news_of_a_namespace_wake_only_if_its_labels_changed() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_namespace(&mut driver, json!({}));
    tell(&mut driver, &on("a", pod("other", 1, "1")));
    tell(&mut driver, &apart_from("other", pod("waits", 1, "1")));
    driver.schedule();
    tell_namespace(&mut driver, json!({}));
    assert_eq!(woken(&driver), 0);
    tell_namespace(&mut driver, json!({"team": "t"}));
    assert_eq!(woken(&driver), 1);
}

/// A pod of a group.
pub(super) fn of(group: &str, mut pod: Value) -> Value {
    pod["spec"]["schedulingGroup"] = json!({"podGroupName": group});
    pod
}

pub(super) fn tell_group(driver: &mut Driver, name: &str, policy: Value) {
    let group = json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "spec": {"schedulingPolicy": policy, "priority": 1}});
    driver.news(News::Group(Box::new(Event::Apply(serde_json::from_value(group).unwrap()))));
}

fn gang_of(min_count: usize) -> Value {
    json!({"gang": {"minCount": min_count}})
}

/// How many of these are placed.
fn placed(driver: &Driver, names: &[&str]) -> usize {
    names.iter().filter(|name| is_placed(driver, &format!("d/{name}"))).count()
}

const THREE: [&str; 3] = ["g0", "g1", "g2"];

fn tell_gang(driver: &mut Driver, cpu: &str) {
    for name in THREE {
        tell(driver, &of("g", pod(name, 1, cpu)));
    }
}

#[tokio::test]
async fn a_gang_waits_for_its_group_and_its_pods_and_goes_whole() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell(&mut driver, &of("g", pod("g0", 1, "1")));
    while driver.schedule() {}
    tell_group(&mut driver, "g", gang_of(3));
    while driver.schedule() {}
    tell(&mut driver, &of("g", pod("g1", 1, "1")));
    while driver.schedule() {}
    assert_eq!((placed(&driver, &THREE), woken(&driver)), (0, 0));
    let waiting = driver.queue.of_group("d/g");
    let said = crate::group::readiness(&driver.snapshot, "d/g", &waiting);
    let crate::group::Readiness::Waits("Unschedulable", said) = said else { panic!("{said:?}") };
    assert!(said.ends_with("2 of 3 exist"), "{said}");
    tell(&mut driver, &of("g", pod("g2", 1, "1")));
    assert_eq!(woken(&driver), 1, "one stands for all");
    while driver.schedule() {}
    assert_eq!((placed(&driver, &THREE), driver.binding.len()), (3, 3), "in one batch");
    assert!(driver.untold.is_empty());
}

#[tokio::test]
async fn a_gang_that_does_not_fit_holds_nothing_and_starts_whole_when_room_comes() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_group(&mut driver, "g", gang_of(3));
    tell_gang(&mut driver, "2");
    while driver.schedule() {}
    assert_eq!((placed(&driver, &THREE), woken(&driver)), (0, 0));
    tell(&mut driver, &pod("other", 1, "4"));
    driver.schedule();
    assert!(is_placed(&driver, "d/other"), "nothing was kept for the gang");
    add_node(&mut driver, "b", json!({}));
    assert_eq!(woken(&driver), 1, "it is woken once");
    while driver.schedule() {}
    assert_eq!(placed(&driver, &THREE), 0, "two would fit");
    tell_gone(&mut driver, &on("a", pod("other", 1, "4")));
    driver.queue.advance(Instant::now() + Duration::from_secs(60));
    while driver.schedule() {}
    assert_eq!(placed(&driver, &THREE), 3);
}

#[tokio::test]
async fn two_gangs_do_not_wait_for_each_other() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    for (group, names) in [("g", ["g0", "g1"]), ("h", ["h0", "h1"])] {
        tell_group(&mut driver, group, gang_of(2));
        for name in names {
            tell(&mut driver, &of(group, pod(name, 1, "2")));
        }
    }
    while driver.schedule() {}
    assert_eq!((placed(&driver, &["g0", "g1"]), placed(&driver, &["h0", "h1"])), (2, 0));
}

#[tokio::test]
async fn a_pod_more_than_the_minimum_goes_when_it_can() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_group(&mut driver, "g", gang_of(2));
    tell_gang(&mut driver, "2");
    while driver.schedule() {}
    assert_eq!(placed(&driver, &THREE), 2);
    for name in &THREE[..2] {
        let bound = driver.queue.get(&format!("d/{name}")).cloned().expect("it waits for its answer");
        driver.bound(Bound {
            pod: bound,
            node: "a".into(),
            since: Instant::now(),
            result: Ok(()),
            prepared: Vec::new(),
        });
        tell(&mut driver, &on("a", of("g", pod(name, 1, "2"))));
    }
    assert_eq!(woken(&driver), 0, "what was decided is no news");
    add_node(&mut driver, "b", json!({}));
    driver.schedule();
    assert_eq!(placed(&driver, &THREE), 3);
}

#[tokio::test]
async fn a_binding_that_fails_gives_back_that_pod_and_counts_the_others() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_group(&mut driver, "g", gang_of(3));
    tell_gang(&mut driver, "1");
    while driver.schedule() {}
    let pod = driver.queue.get("d/g1").cloned().expect("it waits for its answer");
    let result = Err(kube::Error::LinesCodecMaxLineLengthExceeded);
    driver.bound(Bound { pod, node: "a".into(), since: Instant::now(), result, prepared: Vec::new() });
    assert_eq!((placed(&driver, &THREE), woken(&driver)), (2, 1));
    driver.queue.advance(Instant::now() + Duration::from_secs(60));
    driver.schedule();
    assert_eq!(placed(&driver, &THREE), 3);
}

#[tokio::test]
async fn a_gang_preempts_once_and_goes_when_all_have_left() {
    let mut driver = driver();
    for node in ["a", "b"] {
        add_node(&mut driver, node, json!({}));
        tell(&mut driver, &on(node, pod(&format!("victim-{node}"), 0, "4")));
    }
    tell_group(&mut driver, "g", gang_of(3));
    tell_gang(&mut driver, "2");
    driver.schedule();
    assert!(THREE.iter().all(|name| is_nominated(&driver, &format!("d/{name}"))));
    tell_gone(&mut driver, &on("a", pod("victim-a", 0, "4")));
    assert_eq!(woken(&driver), 0, "others are still on their way out");
    tell_gone(&mut driver, &on("b", pod("victim-b", 0, "4")));
    assert_eq!(woken(&driver), 1);
    driver.schedule();
    assert_eq!(placed(&driver, &THREE), 3);
}

#[tokio::test]
async fn pods_of_a_basic_group_go_one_by_one() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_gang(&mut driver, "2");
    while driver.schedule() {}
    assert_eq!(placed(&driver, &THREE), 0, "the group is not there");
    tell_group(&mut driver, "g", json!({"basic": {}}));
    while driver.schedule() {}
    assert_eq!(placed(&driver, &THREE), 2);
}

#[tokio::test]
async fn pods_of_another_priority_than_their_group_s_are_not_tried() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    tell_group(&mut driver, "g", gang_of(1));
    tell(&mut driver, &of("g", pod("g0", 2, "1")));
    while driver.schedule() {}
    let said = crate::group::readiness(&driver.snapshot, "d/g", &driver.queue.of_group("d/g"));
    let crate::group::Readiness::Waits("SchedulerError", said) = said else { panic!("{said:?}") };
    assert!(said.ends_with("got 2 and 1"), "{said}");
    assert_eq!(placed(&driver, &THREE), 0);
}

#[tokio::test]
async fn what_helps_any_pod_of_a_gang_wakes_it() {
    let mut driver = driver();
    let fillers = [("a", "w", "1"), ("b", "x", "3"), ("b", "y", "1")];
    for (node, name, cpu) in fillers {
        add_node(&mut driver, node, json!({}));
        tell(&mut driver, &on(node, pod(name, 1, cpu)));
    }
    tell_group(&mut driver, "g", gang_of(2));
    tell(&mut driver, &of("g", pod("g0", 1, "3")));
    tell(&mut driver, &of("g", pod("g1", 1, "1")));
    while driver.schedule() {}
    assert_eq!((placed(&driver, &["g0", "g1"]), woken(&driver)), (0, 0));
    tell_gone(&mut driver, &on("b", pod("y", 1, "1")));
    assert_eq!(woken(&driver), 1, "the one that stands for the gang has no use for that room, the other has");
    while driver.schedule() {}
    assert_eq!(placed(&driver, &["g0", "g1"]), 2);
}

#[tokio::test]
async fn what_a_claim_gives_back_wakes_who_waits_for_devices() {
    let mut driver = driver();
    add_node(&mut driver, "a", json!({}));
    let named = |name: &str| json!({"namespace": "d", "name": name, "uid": name});
    let requests = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "all"}}]}});
    let claim = |name: &str, status: Value| {
        let claim = json!({"metadata": named(name), "spec": requests, "status": status});
        News::Devices(DeviceNews::Claim(Box::new(Event::Apply(serde_json::from_value(claim).unwrap()))))
    };
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.com", "nodeName": "a",
        "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "only"}]}});
    let slice =
        || News::Devices(DeviceNews::Slice(Box::new(Event::Apply(serde_json::from_value(slice.clone()).unwrap()))));
    let class = serde_json::from_value(json!({"metadata": {"name": "all"}, "spec": {}})).unwrap();
    driver.news(News::Devices(DeviceNews::Class(Box::new(Event::Apply(class)))));
    driver.news(slice());
    let given = json!({"allocation": {"devices": {"results":
        [{"request": "r", "driver": "d.com", "pool": "a", "device": "only"}]}}});
    driver.news(claim("theirs", given.clone()));
    driver.news(claim("mine", json!({})));
    let mut waits = pod("waits", 1, "1");
    waits["spec"]["resourceClaims"] = json!([{"name": "c", "resourceClaimName": "mine"}]);
    tell(&mut driver, &waits);
    driver.schedule();
    assert!(!is_placed(&driver, "d/waits"));
    driver.news(claim("other", json!({})));
    driver.news(claim("theirs", given));
    assert_eq!(woken(&driver), 0, "news of claims that it does not name, and nothing came free");
    driver.news(claim("theirs", json!({})));
    assert_eq!(woken(&driver), 1);
    driver.schedule();
    assert!(is_placed(&driver, "d/waits"), "it has the device now");
    // Another one waits until somebody tells of a device.
    let mut second = pod("second", 1, "1");
    second["spec"]["resourceClaims"] = json!([{"name": "c", "resourceClaimName": "other"}]);
    tell(&mut driver, &second);
    driver.schedule();
    assert!(!is_placed(&driver, "d/second"), "that device is on its way to the first");
    driver.news(slice());
    assert_eq!(woken(&driver), 1);
}
