//! Conditions of a Job: pure.
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
pub(super) const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub(super) const SUSPENDED: &str = "Suspended";

/// The condition that ended it: `Complete` or `Failed`.
pub(crate) fn finish_of(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    held(status, COMPLETE).or_else(|| held(status, FAILED))
}

/// Whether it has come to its end.
pub(crate) fn is_finished(job: &Job) -> bool {
    finish_of(job).is_some()
}

/// A condition that is true.
pub(super) fn held<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

/// Says it; tells whether that is new.
pub(super) fn set(
    status: &mut JobStatus,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let wanted = if holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let condition = JobCondition {
        type_: kind.to_owned(),
        status: wanted.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|known| known.type_ == kind) {
        Some(known) if known.status == wanted => return false,
        Some(known) => *known = condition,
        None if !holds => {
            if conditions.is_empty() {
                status.conditions = None;
            }
            return false;
        }
        None => conditions.push(condition),
    }
    true
}
