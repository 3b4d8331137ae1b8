//! Groups of pods: who stands for a gang in the queue, what is told of a group, and a gang's way to its nodes.
//!
//! One pod of a gang stands in the queue; the others are held. What the decision gives goes out in one batch. A binding that
//! fails gives back that pod only, as in Kubernetes: others are bound by then, and `minCount` counts them when it is tried
//! again.
use super::news::Step;
use super::{Driver, is_awaited};
use crate::gang::{self, GangError, Placement, Verdict};
use crate::group::{self, CONDITION, GroupFacts, GroupKey, Policy, Readiness, Told};
use crate::metrics::Ended;
use crate::pod::{PodFacts, PodKey, Shape};
use crate::preempt::Victim;
use crate::record::{GroupNotice, Notice};
use api::well_known::CONDITION_DISRUPTED;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use kube::runtime::watcher::Event;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long a group may gather its pods before people are told that some are missing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Groups whose pods are held, and when people are told why.
pub(super) type Untold = HashMap<GroupKey, Instant>;

impl Driver {
    /// The group of a pod that is placed together with others, if it is.
    pub(super) fn gang_of(&self, pod: &PodFacts) -> Option<&GroupFacts> {
        let group = self.snapshot.groups.get(pod.shape.group.as_deref()?)?;
        matches!(group.policy, Policy::Gang { .. }).then_some(group)
    }

    /// Something of a group changed: its pods are held, or one stands for all, or each for itself. `helps` says whether
    /// the change may let a gang fit that does not.
    pub(super) fn gather(&mut self, group: &GroupKey, helps: bool) {
        let (waiting, now) = (self.queue.of_group(group), Instant::now());
        if waiting.is_empty() {
            self.untold.remove(group);
            return;
        }
        match group::readiness(&self.snapshot, group, &waiting) {
            Readiness::Waits(..) => {
                for pod in &waiting {
                    self.queue.retire(&pod.key);
                }
                self.untold.entry(Arc::clone(group)).or_insert(now + PATIENCE);
            }
            Readiness::OneByOne => {
                self.untold.remove(group);
                for pod in &waiting {
                    self.queue.release(&pod.key, now);
                }
            }
            Readiness::Together => {
                self.untold.remove(group);
                let standing = waiting.iter().filter(|pod| self.queue.stands(&pod.key)).map(|pod| Arc::clone(&pod.key));
                let standing: Vec<PodKey> = standing.collect();
                // One that is tried anyway, else the gang would wait for an event that has been.
                let leader = standing.iter().find(|key| self.queue.is_tried(key)).or(standing.first()).cloned();
                for key in standing.iter().filter(|key| leader.as_ref() != Some(key)) {
                    self.queue.retire(key);
                }
                match leader {
                    Some(leader) if helps => self.queue.move_one(&leader, now),
                    Some(_) => {}
                    None => self.queue.release(&waiting[0].key, now),
                }
            }
        }
    }

    /// The group of a pod, if any, looks again.
    pub(super) fn gather_for(&mut self, shape: &Shape, helps: bool) {
        if let Some(group) = &shape.group {
            self.gather(group, helps);
        }
    }

    /// A pod may fit now. Of a gang who stands for it is tried, once nobody is left whom any of them waits for.
    pub(super) fn try_again(&mut self, key: &PodKey) {
        let now = Instant::now();
        let gang = self.queue.get(key).and_then(|pod| self.gang_of(pod)).map(|group| Arc::clone(&group.key));
        let Some(gang) = gang else { return self.queue.move_one(key, now) };
        let waiting = self.queue.of_group(&gang);
        if waiting.iter().any(|pod| is_awaited(&self.snapshot, pod)) {
            return;
        }
        // Who is held stays so.
        for pod in &waiting {
            self.queue.move_one(&pod.key, now);
        }
    }

    /// Decides about the gang that a popped pod stands for.
    pub(super) fn schedule_gang(&mut self, leader: &Arc<PodFacts>, group: &GroupFacts, since: Instant) {
        let mut waiting = self.queue.of_group(&group.key);
        waiting.push(Arc::clone(leader));
        group::sort(&mut waiting);
        if group::readiness(&self.snapshot, &group.key, &waiting) != Readiness::Together {
            self.queue.retire(&leader.key);
            return self.gather(&group.key, false);
        }
        let verdict = gang::decide(&mut self.decider, &mut self.snapshot, group, &waiting);
        match verdict {
            Verdict::Bind { placements, left, error } => {
                self.tell_group(&group.key, true, "Scheduled", "");
                for placement in &placements {
                    self.queue.take(&placement.pod.key);
                }
                for Placement { pod, node, work } in placements {
                    tracing::debug!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %node, ?work, "bind with its gang");
                    self.assume(&pod, &node);
                    match work.is_empty() {
                        true => self.spawn_binding(pod, node, since),
                        false => {
                            self.snapshot.assume(&node, &work);
                            self.spawn_preparation(pod, node, since, work);
                        }
                    }
                }
                if let Some(error) = error {
                    for pod in left.iter().filter(|pod| !is_awaited(&self.snapshot, pod)).cloned().collect::<Vec<_>>() {
                        self.renounce(&pod.key);
                    }
                    self.gang_unfit(&left, since, &error);
                }
            }
            Verdict::Preempt(all, error) => {
                for (pod, preemption) in all {
                    let (node, victims) = (&preemption.node, &preemption.victims);
                    tracing::debug!(hop = "schedule", kind = "Pod", object = &*pod.key, uid = &*pod.uid, %node, ?victims, "preempt with its gang");
                    self.preempt(&pod, preemption);
                }
                self.tell_group(&group.key, false, "Unschedulable", &format!("waiting for preemption: {error}"));
                self.gang_unfit(&waiting, since, &error);
            }
            Verdict::Unfit(error) => {
                tracing::debug!(hop = "schedule", kind = "PodGroup", object = &*group.key, uid = &*group.uid, %error, "the gang does not fit");
                if !waiting.iter().any(|pod| is_awaited(&self.snapshot, pod)) {
                    for pod in &waiting {
                        self.renounce(&pod.key);
                    }
                }
                for pod in &waiting {
                    self.give_back(pod, &error.first);
                }
                self.tell_group(&group.key, false, "Unschedulable", &error.to_string());
                self.gang_unfit(&waiting, since, &error);
            }
        }
    }

    /// The first of these pods stands in its line for all of them from now on.
    fn gang_unfit(&mut self, waiting: &[Arc<PodFacts>], since: Instant, error: &GangError) {
        let Some((first, rest)) = waiting.split_first() else { return };
        let mut others: Vec<Arc<Shape>> = Vec::new();
        for pod in rest {
            self.queue.retire(&pod.key);
            if pod.shape != first.shape && !others.contains(&pod.shape) {
                others.push(Arc::clone(&pod.shape));
            }
        }
        self.queue.take(&first.key);
        let is_nominated = self.snapshot.nomination(&first.key).is_some();
        self.queue.unfit_gang(&first.key, error.causes, is_nominated, others, Instant::now());
        let message = error.to_string();
        for pod in waiting {
            self.metrics.attempted(Ended::unschedulable(pod), since.elapsed().as_secs_f64());
            self.notices.send(Notice::Unfit(Arc::clone(pod), message.clone()));
        }
    }

    /// Says of groups whose patience is over why their pods are held.
    pub(super) fn tell_groups(&mut self, now: Instant) {
        let due: Vec<GroupKey> =
            self.untold.iter().filter(|(_, at)| **at <= now).map(|(key, _)| Arc::clone(key)).collect();
        for key in due {
            self.untold.remove(&key);
            let waiting = self.queue.of_group(&key);
            let Readiness::Waits(reason, message) = group::readiness(&self.snapshot, &key, &waiting) else { continue };
            self.tell_group(&key, false, reason, &message);
            for pod in waiting {
                if pod.told.as_deref() != Some(message.as_str()) {
                    self.notices.send(Notice::Unfit(pod, message.clone()));
                }
            }
        }
    }

    /// News of a group.
    pub(super) fn group_news(&mut self, event: Event<PodGroup>) {
        match self.watched.groups.step(event) {
            Step::Keep(group) => {
                let group = GroupFacts::new(group);
                let key = Arc::clone(&group.key);
                if self.snapshot.set_group(group) {
                    self.gather(&key, true);
                }
            }
            Step::Forget(key) => self.group_gone(&key.into()),
            Step::Retain(seen) => {
                for key in self.snapshot.groups.beside(&seen) {
                    self.group_gone(&key);
                }
            }
            Step::Begin => {}
        }
    }

    fn group_gone(&mut self, key: &GroupKey) {
        self.snapshot.remove_group(key);
        self.gather(key, false);
    }

    /// Writes the condition of a group, unless it says so already. Once true it stays true.
    fn tell_group(&mut self, key: &GroupKey, is_scheduled: bool, reason: &str, message: &str) {
        let Some(group) = self.snapshot.groups.get_mut(key) else { return };
        let earlier = group.told.as_ref();
        if earlier.is_some_and(|told| told.is_scheduled || (told.reason == reason && told.message == message)) {
            return;
        }
        let since = earlier.filter(|told| told.is_scheduled == is_scheduled).map(|told| told.since.clone());
        let since = since.unwrap_or_else(now);
        let condition = json!({
            "type": CONDITION, "status": if is_scheduled { "True" } else { "False" }, "reason": reason,
            "message": message, "lastTransitionTime": since, "observedGeneration": group.generation,
        });
        // What finds no room among what is to be told is told the next time.
        if self.notices.send_of_group(GroupNotice { key: Arc::clone(key), uid: group.uid.clone(), condition }) {
            group.told = Some(Told { is_scheduled, reason: reason.to_owned(), message: message.to_owned(), since });
        }
    }

    /// Says of the groups of these victims that leave whole that they do.
    pub(super) fn tell_whole_groups(&self, victims: &[Victim], preemptor: &PodFacts) {
        let mut told: Vec<&GroupKey> = Vec::new();
        let placed = victims.iter().filter_map(|victim| self.snapshot.placed(&victim.key));
        for group in placed.filter_map(|(_, placed)| self.snapshot.whole_group(placed)) {
            let Some(facts) = self.snapshot.groups.get(group).filter(|_| !told.contains(&group)) else { continue };
            told.push(group);
            let profile = &preemptor.shape.profile.name;
            let condition = json!({
                "type": CONDITION_DISRUPTED, "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{profile}: preempting to accommodate a higher priority pod"),
                "lastTransitionTime": now(), "observedGeneration": facts.generation,
            });
            self.notices.send_of_group(GroupNotice { key: Arc::clone(group), uid: facts.uid.clone(), condition });
        }
    }
}

/// Now, as `lastTransitionTime` has it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
