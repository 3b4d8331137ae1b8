//! A DaemonSet played against a simulated cluster: events in any order, caches that lag, runs that end between any two
//! writes. Every decision is judged by what the controller could see; in the end every node has what belongs to it.
use super::place::{self, Fitness};
use super::plan::{Cause, Plan, Scene, places, plan};
use super::status::status;
use crate::node::NodeFacts;
use crate::pod::{Phase, PodFacts};
use api::well_known::LABEL_CONTROLLER_REVISION_HASH;
use k8s_openapi::api::apps::v1::DaemonSet;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

struct World {
    set: DaemonSet,
    nodes: BTreeMap<String, Arc<NodeFacts>>,
    /// What is, by uid.
    pods: BTreeMap<u32, PodFacts>,
    /// What the controller knows of it.
    cache: BTreeMap<u32, PodFacts>,
    template: u32,
    made: u32,
    clock: i64,
    unavailable: usize,
    surge: usize,
}

fn hash(template: u32) -> String {
    format!("r{template}")
}

impl World {
    fn new(unavailable: usize, surge: usize) -> Self {
        let strategy =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}});
        let set = serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy,
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}},
        }));
        let mut world = Self {
            set: set.unwrap(),
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            cache: BTreeMap::new(),
            template: 1,
            made: 0,
            clock: 1000,
            unavailable,
            surge,
        };
        for n in 0..4 {
            world.node(n, json!([]));
        }
        world
    }

    fn node(&mut self, n: i32, taints: Value) {
        let node = json!({"metadata": {"name": format!("n{n}")}, "spec": {"taints": taints}});
        self.nodes.insert(format!("n{n}"), Arc::new(NodeFacts::new(serde_json::from_value(node).unwrap())));
    }

    fn with_scene<R>(&self, look: impl FnOnce(&Scene<'_>) -> R) -> R {
        let pods: Vec<Arc<PodFacts>> = self.cache.values().cloned().map(Arc::new).collect();
        let nodes: Vec<Arc<NodeFacts>> = self.nodes.values().cloned().collect();
        let own = hash(self.template);
        let now = jiff::Timestamp::from_second(self.clock).unwrap();
        look(&Scene { set: &self.set, nodes: &nodes, pods: &pods, hashes: &[&own], wait: &|_| None, now })
    }

    /// One run that ends after so many writes. What it writes is in the cache, or the whole cache is read anew.
    fn run(&mut self, writes: usize) {
        self.clock += 1;
        let plan = self.with_scene(|scene| {
            let plan = plan(scene);
            judge(self, scene, &plan);
            plan
        });
        for (pod, _) in plan.delete.iter().take(writes) {
            let uid: u32 = pod.uid.parse().unwrap();
            for known in [&mut self.pods, &mut self.cache] {
                if let Some(pod) = known.get_mut(&uid) {
                    pod.is_deleting = true;
                }
            }
        }
        for node in plan.create.iter().take(writes.saturating_sub(plan.delete.len())) {
            self.create(node);
        }
        if writes < plan.delete.len() + plan.create.len() {
            self.cache = self.pods.clone();
        }
    }

    fn create(&mut self, node: &str) {
        self.made += 1;
        let mut pod = place::pod(&self.set, &self.set.spec.template, &hash(self.template), node);
        pod.metadata.name = Some(format!("d-{}", self.made));
        pod.metadata.uid = Some(self.made.to_string());
        let pod = PodFacts { created: self.clock, ..PodFacts::new(pod) };
        assert_eq!(pod.label(LABEL_CONTROLLER_REVISION_HASH), Some(&*hash(self.template)));
        self.cache.insert(self.made, pod.clone());
        self.pods.insert(self.made, pod);
    }

    fn agent(&mut self, uid: u32, event: u8) {
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        match event {
            0 if pod.phase != Phase::Ended => {
                pod.node = pod.meant_for.clone();
                (pod.phase, pod.ready_since) = (Phase::Running, Some(self.clock));
            }
            1 => pod.ready_since = None,
            2 => (pod.phase, pod.ready_since, pod.has_failed) = (Phase::Ended, None, true),
            3 if pod.is_deleting => drop(self.pods.remove(&uid)),
            4 => pod.is_deleting = true,
            _ => {}
        }
    }

    fn deliver(&mut self, uid: u32) {
        match self.pods.get(&uid) {
            Some(pod) => drop(self.cache.insert(uid, pod.clone())),
            None => drop(self.cache.remove(&uid)),
        }
    }

    fn finish(&mut self) {
        for _ in 0..200 {
            // Who is on a node that is gone goes with it.
            let nodes = &self.nodes;
            self.pods.retain(|_, pod| pod.node.as_deref().is_none_or(|node| nodes.contains_key(node)));
            self.cache = self.pods.clone();
            self.run(usize::MAX);
            for uid in self.pods.keys().copied().collect::<Vec<_>>() {
                let event = if self.pods[&uid].is_deleting { 3 } else { 0 };
                self.agent(uid, event);
            }
            self.cache = self.pods.clone();
            if self.with_scene(|scene| plan(scene) == Plan::default()) {
                return;
            }
        }
        panic!("it does not end: {} pods", self.pods.len());
    }

    /// Every node has what belongs to it, and nothing else is there.
    fn check(&self) {
        self.with_scene(|scene| {
            let mut wanted = 0;
            for place in places(scene) {
                match place.fitness {
                    Fitness::Wanted => {
                        wanted += 1;
                        assert_eq!(place.pods.len(), 1, "{}", place.name);
                    }
                    Fitness::Kept => assert!(place.pods.len() <= 1, "{}", place.name),
                    Fitness::Unfit => assert!(place.pods.is_empty(), "{}", place.name),
                }
                assert!(place.pods.iter().all(|pod| scene.is_updated(pod) || place.fitness == Fitness::Kept));
            }
            let (status, next) = status(scene, None);
            assert_eq!((status.desired_number_scheduled, status.number_available), (wanted, Some(wanted)));
            assert_eq!((status.updated_number_scheduled, next), (Some(wanted), None));
        });
    }

    fn uids(&self) -> Vec<u32> {
        self.pods.keys().copied().collect()
    }
}

/// Whether a plan is right, by what was known.
fn judge(world: &World, scene: &Scene<'_>, plan: &Plan) {
    let places = places(scene);
    let at = |name: &str| places.iter().find(|place| place.name == name);
    let going: Vec<&str> = plan.delete.iter().map(|(pod, _)| &*pod.uid).collect();
    for node in &plan.create {
        let place = at(node).unwrap();
        assert_eq!(place.fitness, Fitness::Wanted);
        let staying = place.pods.iter().filter(|pod| !pod.is_deleting).count();
        assert!(place.pods.is_empty() || (world.surge > 0 && staying <= 1), "a second pod on {node}");
    }
    let mut costs = 0;
    for (pod, cause) in &plan.delete {
        let place = pod.place().and_then(at);
        let others =
            place.iter().flat_map(|place| &place.pods).filter(|other| !other.is_deleting && other.uid != pod.uid);
        let others: Vec<_> = others.filter(|other| !going.contains(&&*other.uid)).collect();
        let has_other = others.iter().any(|other| scene.is_available(other));
        match cause {
            Cause::Ended => assert!(pod.phase == Phase::Ended),
            Cause::Misplaced => {
                let is_fit = place.is_some_and(|place| place.fitness != Fitness::Unfit);
                assert!(!is_fit || place.unwrap().pods.len() > 1, "{} is where it belongs", pod.name());
            }
            Cause::Updated => {
                assert!(!scene.is_updated(pod), "{} is new", pod.name());
                let is_wanted = place.is_some_and(|place| place.fitness == Fitness::Wanted);
                assert!(is_wanted || !others.is_empty(), "{} would have no successor", pod.name());
                costs += usize::from(scene.is_available(pod) && !has_other);
            }
        }
    }
    if costs > 0 {
        let available = |pods: &[&Arc<PodFacts>]| pods.iter().any(|pod| !pod.is_deleting && scene.is_available(pod));
        let wanted = places.iter().filter(|place| place.fitness == Fitness::Wanted);
        let missing = wanted.filter(|place| !available(&place.pods)).count();
        assert!(world.surge == 0 && missing + costs <= world.unavailable, "{costs} more of {missing} unavailable");
    }
}

#[test]
fn a_rollback_touches_only_what_the_update_did() {
    let mut world = World::new(1, 0);
    world.finish();
    world.check();
    let before = world.uids();
    world.template = 2;
    world.run(usize::MAX);
    world.finish_one_deletion();
    world.run(usize::MAX);
    world.template = 1;
    world.finish();
    world.check();
    assert_eq!(world.uids().iter().filter(|uid| before.contains(uid)).count(), 3);
}

impl World {
    fn finish_one_deletion(&mut self) {
        let gone = self.pods.iter().find(|(_, pod)| pod.is_deleting).map(|(uid, _)| *uid).unwrap();
        self.agent(gone, 3);
        self.deliver(gone);
    }
}

#[test]
fn on_delete_replaces_nothing_by_itself() {
    let mut world = World::new(1, 0);
    world.set.spec.update_strategy = serde_json::from_value(json!({"type": "OnDelete"})).unwrap();
    world.finish();
    let before = world.uids();
    world.template = 2;
    world.finish();
    assert_eq!(world.uids(), before);
    world.agent(before[0], 4);
    world.finish();
    assert_eq!(world.uids()[..3], before[1..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_every_node_has_its_pod(
        unavailable in 1usize..4,
        surge in 0usize..3,
        events in prop::collection::vec((0u8..14, 0i32..8), 0..120),
    ) {
        let mut world = World::new(if surge > 0 { 0 } else { unavailable }, surge);
        for (event, which) in events {
            let nth = world.pods.keys().nth(usize::try_from(which).unwrap()).copied().unwrap_or_default();
            match event {
                0..=4 => world.agent(nth, event),
                5 => world.node(which, json!([])),
                6 => world.node(which, json!([{"key": "own", "effect": "NoSchedule"}])),
                7 => world.node(which, json!([{"key": "own", "effect": "NoExecute"}])),
                8 => drop(world.nodes.remove(&format!("n{which}"))),
                9 => world.template += 1,
                10 => world.deliver(nth),
                11 => world.cache = world.pods.clone(),
                // The run is over after so many writes.
                _ => world.run(usize::try_from(which).unwrap()),
            }
        }
        world.finish();
        world.check();
        let before = world.uids();
        world.finish();
        prop_assert_eq!(before, world.uids());
    }
}
