//! What a Job's pods amount to: pure.
use super::facts::{Outcome, RunFacts};
use super::policy::{Verdict, judge};
use crate::pod::{Phase, PodFacts};
use api::indexes::Indexes;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

/// The spec of a Job; no Job is served without one.
pub(super) fn spec_of(job: &Job) -> &JobSpec {
    static NONE: LazyLock<JobSpec> = LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&NONE)
}

/// The numbers and switches of a spec.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    pub(super) spec: &'a JobSpec,
    pub(super) parallelism: u32,
    pub(super) completions: Option<u32>,
    pub(super) is_indexed: bool,
    pub(super) backoff_limit: u32,
    /// Failures that an index may have, where indexes fail for themselves.
    pub(super) limit_per_index: Option<u32>,
    /// A pod is replaced when it has ended, not when it begins to end.
    pub(super) waits_for_end: bool,
    pub(super) is_suspended: bool,
    pub(super) is_deleting: bool,
}

impl<'a> Shape<'a> {
    pub(super) fn new(job: &'a Job) -> Self {
        let spec = spec_of(job);
        let number = |value: Option<i32>| value.map(|value| u32::try_from(value).unwrap_or(0));
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let waits = spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some();
        Self {
            spec,
            parallelism: number(spec.parallelism).unwrap_or(1),
            completions: number(spec.completions),
            is_indexed,
            backoff_limit: number(spec.backoff_limit).unwrap_or(6),
            limit_per_index: number(spec.backoff_limit_per_index).filter(|_| is_indexed),
            waits_for_end: waits,
            is_suspended: spec.suspend == Some(true),
            is_deleting: job.metadata.deletion_timestamp.is_some(),
        }
    }

    /// The index that a pod is for, if there is such a one.
    pub(super) fn index(&self, pod: &PodFacts) -> Option<u32> {
        let index = pod.run.as_ref()?.index?;
        (index < self.completions.unwrap_or(0)).then_some(index)
    }

    /// Whether a pod is of those that are counted.
    fn is_valid(&self, pod: &PodFacts) -> bool {
        !self.is_indexed || self.index(pod).is_some()
    }

    /// Failed, or on its way to be gone without a chance to end well.
    pub(super) fn has_failed(&self, pod: &PodFacts) -> bool {
        match pod.run.as_ref().and_then(|run| run.outcome) {
            Some(outcome) => outcome == Outcome::Failed,
            None => pod.is_deleting && (!self.waits_for_end || pod.phase == Phase::Pending),
        }
    }

    pub(super) fn judge(&self, pod: &PodFacts) -> Verdict {
        judge(self.spec.pod_failure_policy.as_ref(), pod)
    }

    /// Whether a failed pod takes its index along.
    fn fails_index(&self, pod: &PodFacts, limit: u32) -> bool {
        match self.judge(pod) {
            Verdict::FailIndex => true,
            Verdict::Ignore => false,
            Verdict::Count | Verdict::FailJob(_) => pod.run.as_ref().is_some_and(|run| run.failures >= limit),
        }
    }
}

/// The sum.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) active: Vec<Arc<PodFacts>>,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    /// What the status says, with those whose finalizer has gone since.
    pub(super) counted_succeeded: i32,
    pub(super) counted_failed: i32,
    /// Those in the status whose finalizer is still there.
    pub(super) uncounted_succeeded: Vec<String>,
    pub(super) uncounted_failed: Vec<String>,
    /// All successes and failures there are, told or not.
    pub(super) succeeded: u32,
    pub(super) failed: u32,
    /// Indexes that the status says have succeeded, and with those that have since.
    pub(super) told_indexes: Indexes,
    pub(super) succeeded_indexes: Indexes,
    /// Where indexes fail for themselves.
    pub(super) failed_indexes: Option<Indexes>,
}

/// The facts of a pod that is still to be counted.
fn tracked(pod: &PodFacts) -> Option<&RunFacts> {
    pod.run.as_deref().filter(|run| run.is_tracked)
}

/// Whether it is still to be counted.
pub(super) fn is_tracked(pod: &PodFacts) -> bool {
    tracked(pod).is_some()
}

impl Tally {
    /// `pods` are those of the Job.
    pub(super) fn new(shape: &Shape<'_>, status: &JobStatus, pods: &[Arc<PodFacts>]) -> Self {
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let held: HashSet<&str> = pods.iter().filter(|pod| is_tracked(pod)).map(|pod| &*pod.uid).collect();
        let has_finalizer = |uid: &String| held.contains(uid.as_str());
        let (succeeded, gone_succeeded): (Vec<String>, Vec<String>) =
            uncounted.succeeded.unwrap_or_default().into_iter().partition(has_finalizer);
        let (failed, gone_failed): (Vec<String>, Vec<String>) =
            uncounted.failed.unwrap_or_default().into_iter().partition(has_finalizer);
        let sum = |told: Option<i32>, more: usize| {
            told.unwrap_or_default().saturating_add(i32::try_from(more).unwrap_or(i32::MAX))
        };
        let counted_succeeded = sum(status.succeeded, gone_succeeded.len());
        let counted_failed = sum(status.failed, gone_failed.len());
        let known: HashSet<&str> = succeeded.iter().chain(&failed).map(String::as_str).collect();
        let fresh = |pod: &&Arc<PodFacts>| is_tracked(pod) && shape.is_valid(pod) && !known.contains(&*pod.uid);
        let has_succeeded = |pod: &PodFacts| tracked(pod).is_some_and(|run| run.outcome == Some(Outcome::Succeeded));
        let new_succeeded = pods.iter().filter(|pod| fresh(pod) && has_succeeded(pod)).count();
        let new_failed =
            pods.iter().filter(|pod| fresh(pod) && shape.has_failed(pod) && shape.judge(pod).counts()).count();
        let total =
            |counted: i32, known: usize, new: usize| u32::try_from(sum(Some(counted), known + new)).unwrap_or(0);

        let end = shape.completions.unwrap_or(0);
        let told = |text: &Option<String>| Indexes::lenient(text.as_deref().unwrap_or_default(), end);
        let told_indexes = if shape.is_indexed { told(&status.completed_indexes) } else { Indexes::default() };
        let told_failed =
            if shape.limit_per_index.is_some() { told(&status.failed_indexes) } else { Indexes::default() };
        // Who was told to have failed, because it was being deleted, has: that it ended well after all comes too late.
        let is_told_failed = |pod: &PodFacts| failed.iter().any(|uid| **uid == *pod.uid);
        let since = pods.iter().filter(|pod| shape.is_indexed && has_succeeded(pod) && !is_told_failed(pod));
        // An index that has failed has done so for good.
        let since = since.filter_map(|pod| shape.index(pod)).filter(|index| !told_failed.contains(*index));
        let succeeded_indexes = told_indexes.union(&since.collect());
        let failed_indexes = shape.limit_per_index.map(|limit| {
            let since = pods.iter().filter(|pod| is_tracked(pod) && shape.has_failed(pod));
            let since = since.filter(|pod| shape.fails_index(pod, limit)).filter_map(|pod| shape.index(pod));
            // An index that has succeeded by another pod has not failed.
            let since: Vec<u32> = since.filter(|index| !succeeded_indexes.contains(*index)).collect();
            told_failed.union(&since.into_iter().collect())
        });
        let active: Vec<_> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
        let is_going = |pod: &&Arc<PodFacts>| pod.is_deleting && pod.phase != Phase::Ended;
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        Self {
            ready: count(active.iter().filter(|pod| pod.ready_since.is_some()).count()),
            terminating: count(pods.iter().filter(is_going).count()),
            active,
            counted_succeeded,
            counted_failed,
            succeeded: match shape.is_indexed {
                true => succeeded_indexes.count(),
                false => total(counted_succeeded, succeeded.len(), new_succeeded),
            },
            failed: total(counted_failed, failed.len(), new_failed),
            uncounted_succeeded: succeeded,
            uncounted_failed: failed,
            told_indexes,
            succeeded_indexes,
            failed_indexes,
        }
    }
}
