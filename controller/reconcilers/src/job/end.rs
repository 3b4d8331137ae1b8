//! Whether a Job comes to its end, and why: pure.
use super::conditions::{FAILURE_TARGET, SUCCESS_CRITERIA_MET, held};
use super::policy::{Verdict, met};
use super::tally::{Shape, Tally};
use crate::pod::{Phase, PodFacts};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobStatus;
use std::sync::Arc;

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) is_failure: bool,
    pub(super) reason: String,
    pub(super) message: String,
    /// A status says so already.
    pub(super) is_told: bool,
}

impl End {
    fn new(is_failure: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { is_failure, reason: reason.to_owned(), message: message.into(), is_told: false }
    }

    fn failure(reason: &str, message: impl Into<String>) -> Option<Self> {
        Some(Self::new(true, reason, message))
    }
}

/// Decides; what is once told stays.
pub(super) fn end(
    shape: &Shape<'_>,
    status: &JobStatus,
    tally: &Tally,
    pods: &[Arc<PodFacts>],
    now: Timestamp,
) -> Option<End> {
    for (kind, is_failure) in [(SUCCESS_CRITERIA_MET, false), (FAILURE_TARGET, true)] {
        if let Some(told) = held(status, kind) {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            return Some(End { is_told: true, ..End::new(is_failure, &text(&told.reason), text(&told.message)) });
        }
    }
    let failed_by_policy = pods.iter().filter(|pod| shape.has_failed(pod)).find_map(|pod| match shape.judge(pod) {
        Verdict::FailJob(message) => Some(message),
        Verdict::Count | Verdict::Ignore | Verdict::FailIndex => None,
    });
    if let Some(message) = failed_by_policy {
        return End::failure("PodFailurePolicy", message);
    }
    if tally.failed > shape.backoff_limit || has_restarted_too_often(shape, pods) {
        return End::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline_left(shape, status, now) == Some(0) {
        return End::failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some(failed) = &tally.failed_indexes {
        let most = shape.spec.max_failed_indexes.map(|most| u32::try_from(most).unwrap_or(0));
        if most.is_some_and(|most| failed.count() > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return End::failure("MaxFailedIndexesExceeded", message);
        }
        if !failed.is_empty() && failed.union(&tally.succeeded_indexes).count() >= shape.completions.unwrap_or(0) {
            return End::failure("FailedIndexes", "Job has failed indexes");
        }
    }
    if shape.is_indexed {
        let policy = shape.spec.success_policy.as_ref();
        if let Some(message) = met(policy, shape.completions.unwrap_or(0), &tally.succeeded_indexes) {
            return Some(End::new(false, "SuccessPolicy", message));
        }
    }
    let is_enough = match shape.completions {
        Some(completions) => tally.succeeded >= completions,
        // Any success says that the work is done; the others are left to finish.
        None => tally.succeeded > 0,
    };
    (is_enough && tally.active.is_empty())
        .then(|| End::new(false, "CompletionsReached", "Reached expected number of succeeded pods"))
}

/// Where containers are restarted in their pods, restarts are failures.
fn has_restarted_too_often(shape: &Shape<'_>, pods: &[Arc<PodFacts>]) -> bool {
    let policy = shape.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let alive = pods.iter().filter(|pod| matches!(pod.phase, Phase::Pending | Phase::Running));
    let restarts: i64 = alive.filter_map(|pod| pod.run.as_ref()).map(|run| i64::from(run.restarts)).sum();
    restarts >= i64::from(shape.backoff_limit.max(1))
}

/// Milliseconds until it has been active for too long.
pub(super) fn deadline_left(shape: &Shape<'_>, status: &JobStatus, now: Timestamp) -> Option<i64> {
    let seconds = shape.spec.active_deadline_seconds.filter(|_| !shape.is_suspended)?;
    let begun = status.start_time.as_ref()?.0.as_millisecond();
    Some(begun.saturating_add(seconds.saturating_mul(1000)).saturating_sub(now.as_millisecond()).max(0))
}
