//! What a Job needs: pure.
use super::backoff::{self, Backoff};
use super::conditions::{self, COMPLETE, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED, is_finished};
use super::end::{self, End};
use super::facts::Outcome;
use super::tally::{Shape, Tally, is_tracked};
use crate::pod::PodFacts;
use crate::replicaset::plan::{BURST, rank};
use api::indexes::Indexes;
use api::selector::Selector;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// So many uids stand in a status at most: it stays small, and a big Job leaves others their turn.
const UNCOUNTED_MOST: usize = 500;

/// Whose pods are whose.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Claims {
    pub(super) mine: Vec<Arc<PodFacts>>,
    /// Pods without a controller that match.
    pub(super) adopt: Vec<Arc<PodFacts>>,
    /// Pods of ours that do not match any more.
    pub(super) release: Vec<Arc<PodFacts>>,
}

/// Sorts the pods of the namespace.
pub(super) fn claim(job: &Job, selector: &Selector, pods: &[Arc<PodFacts>]) -> Claims {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let mut claims = Claims::default();
    let takes = job.metadata.deletion_timestamp.is_none() && !is_finished(job);
    for pod in pods {
        let matches = selector.matches(&pod.labels);
        match &pod.controller {
            Some((_, _, owner)) if **owner == *uid && (matches || !takes) => claims.mine.push(Arc::clone(pod)),
            Some((_, _, owner)) if **owner == *uid => claims.release.push(Arc::clone(pod)),
            None if matches && takes && !pod.is_deleting => claims.adopt.push(Arc::clone(pod)),
            Some(_) | None => {}
        }
    }
    claims
}

/// A pod to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) index: Option<u32>,
    /// How often the index has failed before, counted and ignored; where indexes fail for themselves.
    pub(super) failures: Option<(u32, u32)>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What the status is to say.
    pub(super) status: JobStatus,
    /// The status must be written before anything else is done.
    pub(super) is_status_first: bool,
    /// Pods that lose the finalizer: the status has them.
    pub(super) count: Vec<Arc<PodFacts>>,
    /// Pods that get the finalizer: they would not be counted otherwise.
    pub(super) track: Vec<Arc<PodFacts>>,
    /// Pods to delete that count as failed then.
    pub(super) delete: Vec<Arc<PodFacts>>,
    /// Pods to delete that never were: they lose the finalizer first.
    pub(super) withdraw: Vec<Arc<PodFacts>>,
    pub(super) create: Vec<Draft>,
    /// In how many milliseconds the plan changes by time alone.
    pub(super) next: Option<i64>,
}

impl Plan {
    /// Nothing is to be done but to write the status.
    pub(super) fn is_idle(&self) -> bool {
        let pods = [&self.count, &self.track, &self.delete, &self.withdraw];
        self.create.is_empty() && pods.iter().all(|pods| pods.is_empty())
    }
}

/// Decides. `pods` are those of the Job.
pub(super) fn plan(job: &Job, pods: &[Arc<PodFacts>], backoff: &Backoff, now: Timestamp) -> Plan {
    let told = job.status.clone().unwrap_or_default();
    if is_finished(job) {
        let count = pods.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        return Plan { status: told, count, ..Plan::default() };
    }
    let shape = Shape::new(job);
    let tally = Tally::new(&shape, &told, pods);
    let end = end::end(&shape, &told, &tally, pods, now);
    let held = last_failures(&shape, &tally, pods);
    let mut plan = Plan { status: told.clone(), ..Plan::default() };

    if end.is_some() {
        // Failed pods may still have to be counted, those that succeed are what they are.
        plan.delete.clone_from(&tally.active);
    } else if !shape.is_deleting {
        manage(&shape, &tally, pods, &held, backoff, now, &mut plan);
        let stays = |pod: &&Arc<PodFacts>| !is_tracked(pod) && !plan.withdraw.iter().any(|other| other.uid == pod.uid);
        plan.track = tally.active.iter().filter(stays).cloned().collect();
    }
    account(&shape, &tally, pods, &held, end.as_ref(), &mut plan);
    tell(&shape, &tally, end.as_ref(), now, &mut plan);
    let is_all_counted = plan.count.is_empty() && !pods.iter().any(|pod| is_tracked(pod));
    let is_quiet = tally.active.is_empty() && tally.terminating == 0;
    if let Some(end) = end.filter(|end| end.is_told && is_all_counted && is_quiet) {
        finish(&end, now, &mut plan.status);
    }
    plan.is_status_first |= is_news(&told, &plan.status);
    let deadline = end::deadline_left(&shape, &plan.status, now).filter(|left| *left > 0);
    plan.next = [plan.next, deadline].into_iter().flatten().min();
    plan
}

/// What must be written before a pod is touched. How many pods are active is told when they are.
fn is_news(told: &JobStatus, new: &JobStatus) -> bool {
    let ends = [COMPLETE, FAILED, FAILURE_TARGET, SUCCESS_CRITERIA_MET];
    told.uncounted_terminated_pods.clone().unwrap_or_default()
        != new.uncounted_terminated_pods.clone().unwrap_or_default()
        || told.succeeded.unwrap_or_default() != new.succeeded.unwrap_or_default()
        || told.failed.unwrap_or_default() != new.failed.unwrap_or_default()
        || told.completed_indexes.as_deref().unwrap_or_default() != new.completed_indexes.as_deref().unwrap_or_default()
        || told.failed_indexes != new.failed_indexes
        || ends.iter().any(|kind| conditions::held(told, kind).is_some() != conditions::held(new, kind).is_some())
}

/// The last failed pod of each index that is to be tried again, where indexes fail for themselves. It keeps its
/// finalizer until its successor is there, which carries on how often the index has failed.
fn last_failures(shape: &Shape<'_>, tally: &Tally, pods: &[Arc<PodFacts>]) -> BTreeMap<u32, Arc<PodFacts>> {
    let mut last: BTreeMap<u32, Arc<PodFacts>> = BTreeMap::new();
    let Some(failed) = &tally.failed_indexes else { return last };
    let running: BTreeSet<u32> = tally.active.iter().filter_map(|pod| shape.index(pod)).collect();
    for pod in pods.iter().filter(|pod| is_tracked(pod) && shape.has_failed(pod)) {
        let Some(index) = shape.index(pod) else { continue };
        if running.contains(&index) || failed.contains(index) || tally.succeeded_indexes.contains(index) {
            continue;
        }
        let known = last.get(&index).map(|known| (failures(known), finished(known)));
        if known.is_none_or(|known| known <= (failures(pod), finished(pod))) {
            last.insert(index, Arc::clone(pod));
        }
    }
    last
}

fn failures(pod: &PodFacts) -> u32 {
    pod.run.as_ref().map_or(0, |run| run.failures.saturating_add(run.ignored_failures))
}

fn finished(pod: &PodFacts) -> i64 {
    pod.run.as_ref().and_then(|run| run.finished).unwrap_or_default()
}

/// As many pods as there is work for.
fn manage(
    shape: &Shape<'_>,
    tally: &Tally,
    pods: &[Arc<PodFacts>],
    held: &BTreeMap<u32, Arc<PodFacts>>,
    backoff: &Backoff,
    now: Timestamp,
    plan: &mut Plan,
) {
    let active = tally.active.len();
    if shape.is_suspended {
        plan.withdraw = tally.active.iter().take(BURST).cloned().collect();
        return;
    }
    let parallelism = usize::try_from(shape.parallelism).unwrap_or(usize::MAX);
    let wanted = match shape.completions {
        Some(completions) => {
            let left = completions.saturating_sub(tally.succeeded);
            usize::try_from(left).unwrap_or(usize::MAX).min(parallelism)
        }
        None if tally.succeeded > 0 => active,
        None => parallelism,
    };
    plan.withdraw = surplus(shape, tally, wanted);
    if !plan.withdraw.is_empty() {
        plan.withdraw.truncate(BURST);
        return;
    }
    let ending = if shape.waits_for_end { usize::try_from(tally.terminating).unwrap_or(0) } else { 0 };
    let missing = wanted.saturating_sub(active).saturating_sub(ending).min(BURST);
    if missing == 0 {
        return;
    }
    let clock = now.as_second();
    if shape.limit_per_index.is_none() {
        let left = backoff.left(clock);
        if left > 0 {
            plan.next = Some(left.saturating_mul(1000));
            return;
        }
    }
    if !shape.is_indexed {
        plan.create = vec![Draft::default(); missing];
        return;
    }
    let has_pod = |pod: &&Arc<PodFacts>| pod.is_active() || (shape.waits_for_end && is_ending(pod));
    let taken: Indexes = pods.iter().filter(has_pod).filter_map(|pod| shape.index(pod)).collect();
    let taken =
        taken.union(&tally.succeeded_indexes).union(tally.failed_indexes.as_ref().unwrap_or(&Indexes::default()));
    for index in taken.absent(shape.completions.unwrap_or(0), missing) {
        let before = held.get(&index);
        let left = before.map_or(0, |pod| {
            let times = usize::try_from(failures(pod)).unwrap_or(usize::MAX).saturating_add(1);
            backoff::left(times, finished(pod), clock)
        });
        if left > 0 {
            let left = left.saturating_mul(1000);
            plan.next = Some(plan.next.map_or(left, |next| next.min(left)));
            continue;
        }
        let failures = shape.limit_per_index.map(|_| before.map_or((0, 0), |pod| failures_after(shape, pod)));
        plan.create.push(Draft { index: Some(index), failures });
    }
}

fn is_ending(pod: &PodFacts) -> bool {
    pod.is_deleting && pod.phase != crate::pod::Phase::Ended
}

/// How often an index has failed once this pod of it has.
fn failures_after(shape: &Shape<'_>, pod: &PodFacts) -> (u32, u32) {
    let (counted, ignored) = pod.run.as_ref().map_or((0, 0), |run| (run.failures, run.ignored_failures));
    match shape.judge(pod).counts() {
        true => (counted.saturating_add(1), ignored),
        false => (counted, ignored.saturating_add(1)),
    }
}

/// Active pods that are too many: of one index all but the best, those of no index, then those that cost least.
fn surplus(shape: &Shape<'_>, tally: &Tally, wanted: usize) -> Vec<Arc<PodFacts>> {
    let ranked = rank(tally.active.iter().collect());
    let (mut surplus, mut rest) = (Vec::new(), Vec::new());
    let mut taken = BTreeSet::new();
    // The best come last.
    for pod in ranked.into_iter().rev() {
        let is_extra = shape.is_indexed && shape.index(&pod).is_none_or(|index| !taken.insert(index));
        if is_extra { &mut surplus } else { &mut rest }.push(pod);
    }
    let more = tally.active.len().saturating_sub(wanted).saturating_sub(surplus.len());
    surplus.extend(rest.into_iter().rev().take(more));
    surplus
}

/// Which pods go into the status now, and which lose their finalizer with that.
fn account(
    shape: &Shape<'_>,
    tally: &Tally,
    pods: &[Arc<PodFacts>],
    held: &BTreeMap<u32, Arc<PodFacts>>,
    end: Option<&End>,
    plan: &mut Plan,
) {
    let mut succeeded = tally.uncounted_succeeded.clone();
    let mut failed = tally.uncounted_failed.clone();
    let known: HashSet<&str> =
        tally.uncounted_succeeded.iter().chain(&tally.uncounted_failed).map(String::as_str).collect();
    let mut done = tally.told_indexes.clone();
    let mut sorted: Vec<&Arc<PodFacts>> = pods.iter().filter(|pod| is_tracked(pod)).collect();
    sorted.sort_by_key(|pod| (shape.index(pod), pod.created));
    let mut new_indexes = Vec::new();
    // Who is deleted because the Job has what it wants has not failed; who is because it cannot have it has.
    let is_failure = |pod: &PodFacts, has_failed: bool| match end {
        Some(end) => end.is_failure || pod.run.as_ref().is_some_and(|run| run.outcome == Some(Outcome::Failed)),
        None => has_failed,
    };
    for pod in sorted {
        let has_succeeded = pod.run.as_ref().is_some_and(|run| run.outcome == Some(Outcome::Succeeded));
        let has_failed = shape.has_failed(pod);
        // What ends with the Job waits for its deletion, so that it is seen as what it becomes.
        let is_over = has_succeeded || has_failed || ((shape.is_deleting || end.is_some()) && pod.is_deleting);
        if !is_over {
            continue;
        }
        let index = shape.index(pod);
        let waits = |index| held.get(&index).is_some_and(|last| last.uid == pod.uid);
        if !has_succeeded && end.is_none() && !shape.is_deleting && index.is_some_and(waits) {
            continue;
        }
        plan.count.push(Arc::clone(pod));
        if known.contains(&*pod.uid) {
            continue;
        }
        if has_succeeded {
            match index {
                Some(index) if shape.is_indexed && tally.succeeded_indexes.contains(index) => new_indexes.push(index),
                Some(_) | None if shape.is_indexed => {}
                Some(_) | None => succeeded.push(pod.uid.to_string()),
            }
        } else if is_failure(pod, has_failed) && (!shape.is_indexed || index.is_some()) && shape.judge(pod).counts() {
            failed.push(pod.uid.to_string());
        }
        if succeeded.len() + failed.len() + new_indexes.len() >= UNCOUNTED_MOST {
            break;
        }
    }
    let status = &mut plan.status;
    done = done.union(&new_indexes.into_iter().collect());
    if shape.is_indexed {
        status.succeeded = number(i32::try_from(done.count()).unwrap_or(i32::MAX));
        status.completed_indexes = Some(done.to_string()).filter(|text| !text.is_empty());
    } else {
        status.succeeded = number(tally.counted_succeeded);
    }
    status.failed = number(tally.counted_failed);
    status.failed_indexes = tally.failed_indexes.as_ref().map(ToString::to_string);
    let some = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
    let uncounted = UncountedTerminatedPods { succeeded: some(succeeded), failed: some(failed) };
    status.uncounted_terminated_pods = Some(uncounted);
}

/// Kubernetes leaves these out where they are nothing.
fn number(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The rest of the status.
fn tell(shape: &Shape<'_>, tally: &Tally, end: Option<&End>, now: Timestamp, plan: &mut Plan) {
    let status = &mut plan.status;
    status.active = number(i32::try_from(tally.active.len()).unwrap_or(i32::MAX));
    status.ready = Some(tally.ready);
    status.terminating = Some(tally.terminating);
    if status.start_time.is_none() && !shape.is_suspended {
        status.start_time = Some(Time(now));
    }
    if let Some(end) = end {
        let kind = if end.is_failure { FAILURE_TARGET } else { SUCCESS_CRITERIA_MET };
        conditions::set(status, kind, true, &end.reason, &end.message, now);
    } else if !shape.is_deleting {
        let (reason, message, begun) = match shape.is_suspended {
            true => ("JobSuspended", "Job suspended", None),
            false => ("JobResumed", "Job resumed", Some(Time(now))),
        };
        if conditions::set(status, SUSPENDED, shape.is_suspended, reason, message, now) {
            // How long it may be active counts anew.
            status.start_time = begun;
        }
    }
}

/// Nothing is left to be done or counted.
fn finish(end: &End, now: Timestamp, status: &mut JobStatus) {
    let kind = if end.is_failure { FAILED } else { COMPLETE };
    conditions::set(status, kind, true, &end.reason, &end.message, now);
    // It may have been suspended when it came to its end.
    status.start_time.get_or_insert(Time(now));
    if !end.is_failure {
        status.completion_time = Some(Time(now));
    }
}
