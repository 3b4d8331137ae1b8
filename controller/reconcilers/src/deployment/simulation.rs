//! Rollouts played to their end against a simulated cluster: the bounds hold at every step.
use super::bounds::{bounds, wanted};
use super::plan::{Plan, plan, replicas};
use super::revision::revision;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    clock: i64,
}

impl World {
    fn new(count: i32, strategy: Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"replicas": count, "selector": {"matchLabels": {"a": "b"}}, "strategy": strategy,
                     "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "1"}]}}},
        }));
        Self { deployment: deployment.unwrap(), sets: Vec::new(), clock: 1000 }
    }

    fn image(&mut self, image: &str) {
        let spec = &mut self.deployment.spec;
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }

    fn resize(&mut self, count: i32) {
        self.deployment.spec.replicas = Some(count);
    }

    /// One run of the reconciler, its writes taken in.
    fn run(&mut self) -> Plan {
        self.clock += 1;
        let now = jiff::Timestamp::from_second(self.clock).unwrap();
        let old_pods = self.sets.iter().any(|s| {
            !super::revision::is_current(&self.deployment, s) && s.status.as_ref().is_some_and(|s| s.replicas > 0)
        });
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let plan = plan(&self.deployment, &sets, old_pods, now);
        for draft in &plan.drafts {
            let mut set = draft.set.clone();
            if draft.is_missing {
                set.metadata.creation_timestamp = Some(Time(now));
                set.metadata.uid = Some(format!("{}-{}", self.clock, self.sets.len()));
                self.sets.push(set);
            } else if let Some(known) = self.sets.iter_mut().find(|known| known.metadata.uid == set.metadata.uid) {
                *known = set;
            }
        }
        self.sets.retain(|set| !plan.delete.contains(set.metadata.name.as_ref().unwrap()));
        self.deployment.status = Some(plan.status.clone());
        plan
    }

    /// One ReplicaSet gets what it asks for; new pods become available only where `ready`.
    fn pods(&mut self, which: usize, ready: bool) {
        let count = self.sets.len().max(1);
        if let Some(set) = self.sets.get_mut(which % count) {
            let asked = replicas(set);
            let old = set.status.clone().unwrap_or_default();
            let available = if ready { asked } else { old.available_replicas.unwrap_or_default().min(asked) };
            set.status = Some(ReplicaSetStatus {
                replicas: asked,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(|set| super::plan::available(set).min(replicas(set))).sum()
    }

    fn finish(&mut self) {
        for round in 0..500 {
            self.run();
            for which in 0..self.sets.len() {
                self.pods(which, true);
            }
            let status = self.deployment.status.clone().unwrap();
            if super::conditions::is_complete(&self.deployment, &status) {
                return;
            }
            assert!(round < 499, "the rollout does not end: {status:?}");
        }
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let conditions = self.deployment.status.as_ref().unwrap().conditions.clone().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c.type_.as_deref() == Some(type_)).unwrap();
        (found.status.unwrap_or_default(), found.reason.unwrap_or_default())
    }

    fn current(&self) -> &ReplicaSet {
        self.sets.iter().find(|set| super::revision::is_current(&self.deployment, set)).unwrap()
    }
}

#[test]
fn revisions_go_forward_and_back() {
    let mut world = World::new(3, json!({}));
    world.finish();
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    world.image("2");
    world.finish();
    assert_eq!((world.sets.len(), revision(&world.current().metadata)), (2, 2));
    world.image("1");
    world.finish();
    assert_eq!(world.sets.len(), 2, "going back uses the old ReplicaSet");
    let current = world.current();
    assert_eq!(revision(&current.metadata), 3);
    assert_eq!(current.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn history_is_limited() {
    let mut world = World::new(1, json!({}));
    world.deployment.spec.revision_history_limit = Some(2);
    for image in 0..6 {
        world.image(&image.to_string());
        world.finish();
        world.run();
    }
    assert_eq!(world.sets.len(), 3);
    assert_eq!(world.run().revision, 6);
}

#[test]
fn recreate_never_mixes() {
    let mut world = World::new(4, json!({"type": "Recreate"}));
    world.finish();
    world.image("2");
    for _ in 0..3 {
        world.run();
        assert_eq!(world.total(), 0);
    }
    world.finish();
    assert_eq!((world.total(), world.sets.len()), (4, 2));
}

#[test]
fn a_paused_rollout_stands_still_but_scales() {
    let mut world = World::new(4, json!({}));
    world.finish();
    world.deployment.spec.paused = Some(true);
    world.image("2");
    world.run();
    assert_eq!((world.sets.len(), world.condition("Progressing").1.as_str()), (1, "DeploymentPaused"));
    world.resize(6);
    world.run();
    assert_eq!(world.total(), 6);
    world.deployment.spec.paused = None;
    world.finish();
    assert_eq!(world.sets.len(), 2);
}

#[test]
fn what_does_not_come_up_times_out() {
    let mut world = World::new(2, json!({}));
    world.deployment.spec.progress_deadline_seconds = Some(60);
    let plan = world.run();
    assert_eq!(plan.next, Some(61));
    world.pods(0, false);
    world.run();
    world.run();
    assert_eq!(world.condition("Available"), ("False".into(), "MinimumReplicasUnavailable".into()));
    world.clock += 100;
    world.run();
    assert_eq!(world.condition("Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    world.finish();
    assert_eq!(world.condition("Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
}

#[test]
fn scaling_in_the_middle_is_proportional() {
    let mut world = World::new(10, json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}));
    world.finish();
    world.image("2");
    for _ in 0..4 {
        world.run();
        world.pods(0, true);
    }
    let sizes: Vec<i32> = world.sets.iter().map(replicas).collect();
    assert_eq!(sizes, [8, 5]);
    world.resize(15);
    world.run();
    let sizes: Vec<i32> = world.sets.iter().map(replicas).collect();
    assert_eq!(sizes, [11, 7], "the example of the Kubernetes documentation");
}

proptest! {
    #[test]
    fn bounds_hold_to_the_end(
        count in 0i32..12,
        surge in 0i32..4,
        unavailable in 0i32..4,
        steps in prop::collection::vec((any::<usize>(), any::<bool>(), 0u8..20), 0..60),
    ) {
        let mut world = World::new(count, json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}));
        world.finish();
        let bounds = bounds(&world.deployment);
        let mut images = 1;
        for (which, ready, chance) in steps {
            if chance == 0 {
                images += 1;
                world.image(&format!("v{images}"));
            }
            world.run();
            let goal = wanted(&world.deployment);
            prop_assert!(world.total() <= goal + bounds.surge, "{} pods for {goal}", world.total());
            prop_assert!(world.available() >= goal - bounds.unavailable, "{} available of {goal}", world.available());
            world.pods(which, ready);
        }
        world.finish();
        prop_assert_eq!(world.total(), count);
    }
}
