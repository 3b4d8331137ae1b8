//! A StatefulSet played against a simulated cluster: events in any order, caches that lag, runs that end between any two
//! writes. Every decision is judged by what the controller could see; in the end everything is as asked.
use super::identity::{ordinal, pod_name};
use super::plan::{Cause, Plan, Scene, Template, is_ordered, ordinals, plan, revision_of};
use super::status::status;
use crate::pod::{Phase, PodFacts};
use api::well_known::{LABEL_CONTROLLER_REVISION_HASH, LABEL_POD_INDEX, LABEL_STATEFULSET_POD_NAME};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

struct World {
    /// What is asked for, and what the controller knows of it.
    set: StatefulSet,
    known: StatefulSet,
    /// What is.
    pods: BTreeMap<String, PodFacts>,
    /// What the controller knows of it.
    cache: BTreeMap<String, PodFacts>,
    template: u32,
    known_template: u32,
    current: String,
    made: u32,
    clock: i64,
}

fn revision(template: u32) -> String {
    format!("web-r{template}")
}

impl World {
    fn new(policy: &str, replicas: i32, most: i32) -> Self {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 1},
            "spec": {"replicas": replicas, "podManagementPolicy": policy, "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": most}}},
        }))
        .unwrap();
        let (pods, cache) = (BTreeMap::new(), BTreeMap::new());
        let (known, current) = (set.clone(), revision(1));
        Self { set, known, pods, cache, template: 1, known_template: 1, current, made: 0, clock: 1000 }
    }

    fn partition(set: &StatefulSet) -> i32 {
        let strategy = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        strategy.and_then(|rolling| rolling.partition).unwrap_or_default()
    }

    fn most(&self) -> usize {
        let strategy = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        match strategy.and_then(|rolling| rolling.max_unavailable.as_ref()) {
            Some(IntOrString::Int(most)) => usize::try_from(*most).unwrap(),
            _ => 1,
        }
    }

    fn set_partition(&mut self, partition: i32) {
        let strategy = self.set.spec.update_strategy.as_mut().and_then(|strategy| strategy.rolling_update.as_mut());
        strategy.unwrap().partition = Some(partition);
    }

    fn with_scene<R>(&self, look: impl FnOnce(&Scene<'_>) -> R) -> R {
        let pods: Vec<Arc<PodFacts>> = self.cache.values().cloned().map(Arc::new).collect();
        let (update, no) = (revision(self.known_template), |_: i32| false);
        look(&Scene {
            set: &self.known,
            pods: &pods,
            current: &self.current,
            update: &update,
            awaits_claims: &no,
            lacks_claims: &no,
            now: jiff::Timestamp::from_second(self.clock).unwrap(),
        })
    }

    /// One run that ends after so many writes.
    fn run(&mut self, mut writes: usize) {
        self.clock += 1;
        let plan = self.with_scene(|scene| {
            let plan = plan(scene);
            judge(self, scene, &plan);
            plan
        });
        let mut may_write = || {
            let may = writes > 0;
            writes = writes.saturating_sub(1);
            may
        };
        for (ordinal, template) in &plan.create {
            if may_write() {
                self.create(*ordinal, *template);
            }
        }
        for (pod, _) in &plan.delete {
            if may_write() {
                self.delete(pod.name(), &pod.uid);
            }
        }
        if may_write() {
            let status = self.with_scene(|scene| status(scene, 0).0);
            self.current = status.current_revision.clone().unwrap();
            self.set.status = Some(status.clone());
            self.known.status = Some(status);
        }
    }

    fn create(&mut self, ordinal: i32, template: Template) {
        let name = pod_name(&self.set, ordinal);
        if !self.pods.contains_key(&name) {
            self.made += 1;
            let own = match template {
                Template::Current => self.current.clone(),
                Template::Update => revision(self.known_template),
            };
            let labels = [
                (LABEL_CONTROLLER_REVISION_HASH, own),
                (LABEL_STATEFULSET_POD_NAME, name.clone()),
                (LABEL_POD_INDEX, ordinal.to_string()),
            ];
            let pod = PodFacts {
                key: Some(format!("d/{name}").into()),
                uid: self.made.to_string().into(),
                labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
                controller: Some(("StatefulSet".into(), "web".into(), "u".into())),
                created: self.clock,
                ..PodFacts::default()
            };
            self.pods.insert(name.clone(), pod);
        }
        // The answer, or what was read after a conflict.
        self.deliver(&name);
    }

    fn delete(&mut self, name: &str, uid: &str) {
        if let Some(pod) = self.pods.get_mut(name).filter(|pod| *pod.uid == *uid) {
            pod.is_deleting = true;
        }
        if let Some(pod) = self.cache.get_mut(name).filter(|pod| *pod.uid == *uid) {
            pod.is_deleting = true;
        }
    }

    fn deliver(&mut self, name: &str) {
        match self.pods.get(name) {
            Some(pod) => drop(self.cache.insert(name.to_owned(), pod.clone())),
            None => drop(self.cache.remove(name)),
        }
    }

    fn deliver_set(&mut self) {
        self.known = self.set.clone();
        self.known_template = self.template;
    }

    fn deliver_all(&mut self) {
        self.cache = self.pods.clone();
        self.deliver_set();
    }

    fn node(&mut self, name: &str, event: u8) {
        let Some(pod) = self.pods.get_mut(name) else { return };
        match event {
            0 if pod.phase != Phase::Ended => {
                (pod.phase, pod.ready_since) = (Phase::Running, Some(self.clock));
            }
            1 => pod.ready_since = None,
            2 => (pod.phase, pod.ready_since, pod.has_failed) = (Phase::Ended, None, true),
            3 if pod.is_deleting => drop(self.pods.remove(name)),
            _ => {}
        }
    }

    /// Everybody does what is due until nothing is left to do.
    fn finish(&mut self) {
        for _ in 0..400 {
            self.deliver_all();
            self.run(usize::MAX);
            for name in self.pods.keys().cloned().collect::<Vec<_>>() {
                let event = if self.pods[&name].is_deleting { 3 } else { 0 };
                self.node(&name, event);
            }
            self.deliver_all();
            let idle = self.with_scene(|scene| plan(scene) == Plan::default());
            if idle {
                self.run(usize::MAX);
                return;
            }
        }
        panic!("it does not end: {:?}", self.pods.keys());
    }

    /// Everything is as asked.
    fn check(&self) {
        let names: Vec<i32> = self.pods.keys().map(|name| ordinal(&self.set, name).unwrap()).collect();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, ordinals(&self.set).collect::<Vec<_>>());
        let start = ordinals(&self.set).start;
        for (name, pod) in &self.pods {
            assert!(pod.ready_since.is_some() && !pod.is_deleting && pod.phase == Phase::Running, "{name}");
            let index = ordinal(&self.set, name).unwrap() - start;
            assert!(
                index < Self::partition(&self.set) || revision_of(pod) == revision(self.template),
                "{name} is out of date"
            );
        }
        let status = self.set.status.clone().unwrap();
        assert_eq!(status.replicas, self.set.spec.replicas.unwrap());
        assert_eq!(status.available_replicas, Some(status.replicas));
        if Self::partition(&self.set) == 0 {
            assert_eq!(status.current_revision, status.update_revision);
        }
    }
}

/// Whether a plan is right, by what was known.
fn judge(world: &World, scene: &Scene<'_>, plan: &Plan) {
    let range = ordinals(scene.set);
    let find = |ordinal: i32| scene.pods.iter().find(|pod| pod.name() == pod_name(scene.set, ordinal));
    let is_fine = |ordinal: i32| find(ordinal).is_some_and(|pod| scene.is_available(pod));
    for (ordinal, template) in &plan.create {
        assert!(range.contains(ordinal) && find(*ordinal).is_none(), "{ordinal} is not to be made");
        let index = ordinal - range.start;
        assert_eq!(*template == Template::Current, index < World::partition(scene.set));
        if is_ordered(scene.set) {
            assert!((range.start..*ordinal).all(is_fine), "{ordinal} comes too early");
        }
    }
    if is_ordered(scene.set) {
        assert!(plan.create.len() + usize::from(!plan.delete.is_empty()) <= 1, "one thing at a time");
    }
    let (mut updated, mut costs) = (Vec::new(), 0);
    for (pod, cause) in &plan.delete {
        let own = ordinal(scene.set, pod.name()).unwrap();
        assert!(!pod.is_deleting, "{} is going already", pod.name());
        match cause {
            Cause::Ended => assert!(pod.phase == Phase::Ended && range.contains(&own)),
            Cause::Scaled => {
                assert!(!range.contains(&own));
                if is_ordered(scene.set) {
                    let others = scene.pods.iter().filter_map(|other| ordinal(scene.set, other.name()));
                    let mut surplus = others.filter(|other| !range.contains(other));
                    assert!(surplus.all(|other| other <= own), "{own} goes before a higher one");
                    assert!(range.clone().all(is_fine), "scaling waits for the others");
                }
            }
            Cause::Updated => {
                assert!(own - range.start >= World::partition(scene.set) && revision_of(pod) != scene.update);
                updated.push(own);
                costs += usize::from(scene.is_available(pod));
            }
        }
    }
    assert!(updated.is_sorted_by(|a, b| a > b), "from the highest down: {updated:?}");
    if costs > 0 {
        let unavailable = range.clone().filter(|ordinal| !is_fine(*ordinal)).count();
        assert!(unavailable + costs <= world.most(), "{costs} more of {unavailable} unavailable");
    }
}

#[test]
fn an_update_goes_down_and_a_rollback_too() {
    let mut world = World::new("OrderedReady", 3, 1);
    world.finish();
    world.check();
    let first: Vec<_> = world.pods.values().map(|pod| pod.uid.clone()).collect();
    world.template = 2;
    world.set_partition(2);
    world.finish();
    world.check();
    assert_eq!(world.pods.values().map(revision_of).collect::<Vec<_>>(), ["web-r1", "web-r1", "web-r2"]);
    assert_eq!(world.current, "web-r1");
    world.template = 1;
    world.finish();
    let kept = world.pods.values().map(|pod| pod.uid.clone()).filter(|uid| first.contains(uid)).count();
    assert_eq!(kept, 2, "the way back touches only what the update did");
    world.set.spec.ordinals = serde_json::from_value(json!({"start": 2})).unwrap();
    world.finish();
    world.check();
}

#[test]
fn a_pod_that_cannot_come_up_holds_an_ordered_rollout_and_not_a_parallel_one() {
    for (policy, wants) in [("OrderedReady", Vec::new()), ("Parallel", vec!["web-2"])] {
        let mut world = World::new(policy, 3, 1);
        world.finish();
        world.template = 2;
        world.deliver_all();
        world.run(usize::MAX);
        world.node("web-2", 3);
        world.deliver_all();
        world.run(usize::MAX);
        // The new pod never becomes ready; the template is put right.
        world.template = 3;
        world.deliver_all();
        world.clock += 1;
        let plan = world.with_scene(plan);
        let going: Vec<&str> = plan.delete.iter().map(|(pod, _)| pod.name()).collect();
        assert_eq!(going, wants, "{policy}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_it_ends_as_asked(
        is_parallel: bool,
        replicas in 0i32..6,
        most in 1i32..4,
        events in prop::collection::vec((0u8..13, 0i32..7), 0..120),
    ) {
        let mut world = World::new(if is_parallel { "Parallel" } else { "OrderedReady" }, replicas, most);
        for (event, which) in events {
            let name = pod_name(&world.set, which);
            match event {
                0..=3 => world.node(&name, event),
                4 => {
                    let uid = world.pods.get(&name).map(|pod| pod.uid.clone());
                    if let Some(pod) = uid.and_then(|_| world.pods.get_mut(&name)) {
                        pod.is_deleting = true;
                    }
                }
                5 => world.set.spec.replicas = Some(which),
                6 => world.template += 1,
                7 => world.set_partition(which),
                8 => world.deliver(&name),
                9 => world.deliver_all(),
                10 => world.deliver_set(),
                // The run is over after so many writes.
                _ => world.run(usize::try_from(which).unwrap()),
            }
        }
        world.finish();
        world.check();
        world.set_partition(0);
        world.finish();
        world.check();
        let before: Vec<_> = world.pods.values().map(|pod| pod.uid.clone()).collect();
        for _ in 0..3 {
            world.run(usize::MAX);
            world.finish();
        }
        prop_assert_eq!(before, world.pods.values().map(|pod| pod.uid.clone()).collect::<Vec<_>>());
    }
}
