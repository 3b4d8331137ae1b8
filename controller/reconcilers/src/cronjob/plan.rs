//! What a CronJob needs: pure.
use crate::job::{finish_of, is_finished};
use crate::record::{Notice, Severity};
use api::schedule::Schedule;
use api::well_known::ANNOTATION_CRONJOB_SCHEDULED;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

/// A Job to make.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft {
    /// When it was due.
    pub(super) time: Timestamp,
    /// Jobs that go first.
    pub(super) replaced: Vec<ObjectReference>,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What the status is to say, as long as nothing is made.
    pub(super) status: CronJobStatus,
    pub(super) notices: Vec<Notice>,
    /// Finished Jobs that are too many.
    pub(super) delete: Vec<Arc<Job>>,
    pub(super) create: Option<Draft>,
    /// When the next Job is due.
    pub(super) next: Option<Timestamp>,
}

impl Plan {
    fn say(&mut self, severity: Severity, reason: &'static str, message: String) {
        self.notices.push(Notice { severity, reason, message });
    }
}

/// Decides. `jobs` are those of the CronJob; `zone` is that of its schedule, or `None` where nobody knows it.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], zone: Option<&TimeZone>, now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    observe(jobs, &mut plan);
    let spec = &cron.spec;
    forget_old(spec, jobs, &mut plan);
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(zone) = zone else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        plan.say(Severity::Warning, "UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
        return plan;
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    let text = spec.schedule.as_str();
    match text.parse::<Schedule>() {
        Ok(schedule) => start(cron, spec, &schedule, zone, now, &mut plan),
        Err(error) => {
            plan.say(Severity::Warning, "UnparseableSchedule", format!("unparseable schedule: {text:?} : {error}"));
        }
    }
    plan
}

/// When the CronJob has made this Job for; `None` of one that somebody else has made.
fn scheduled(job: &Job) -> Option<Timestamp> {
    job.metadata.annotations.as_ref()?.get(ANNOTATION_CRONJOB_SCHEDULED)?.parse().ok()
}

/// A Job as the status lists it.
pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        ..ObjectReference::default()
    }
}

/// What has become of the Jobs.
fn observe(jobs: &[Arc<Job>], plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let is_listed = active.iter().any(|one| one.uid == job.metadata.uid);
        match finish_of(job) {
            Some(end) => {
                if is_listed {
                    active.retain(|one| one.uid != job.metadata.uid);
                    let message = format!("Saw completed job: {name}, condition: {}", end.type_);
                    plan.say(Severity::Normal, "SawCompletedJob", message);
                }
                if let Some(time) = job.status.as_ref().and_then(|status| status.completion_time.as_ref()) {
                    let last = plan.status.last_successful_time.as_ref().map(|last| last.0);
                    plan.status.last_successful_time = last.max(Some(time.0)).map(Time);
                }
            }
            None if is_listed || job.metadata.deletion_timestamp.is_some() => {}
            None => match scheduled(job) {
                // Made, and not written down: the process has ended between the two.
                Some(_) => active.push(reference(job)),
                None => {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    plan.say(Severity::Warning, "UnexpectedJob", message);
                }
            },
        }
        if let Some(time) = scheduled(job) {
            let last = plan.status.last_schedule_time.as_ref().map(|last| last.0);
            plan.status.last_schedule_time = last.max(Some(time)).map(Time);
        }
    }
    active.retain(|one| {
        let is_there = jobs.iter().any(|job| job.metadata.uid == one.uid);
        if !is_there {
            let message = format!("Active job went missing: {}", one.name.as_deref().unwrap_or_default());
            plan.notices.push(Notice { severity: Severity::Normal, reason: "MissingJob", message });
        }
        is_there
    });
    plan.status.active = (!active.is_empty()).then_some(active);
}

/// Finished Jobs beyond what is to be kept, the oldest first.
fn forget_old(spec: &CronJobSpec, jobs: &[Arc<Job>], plan: &mut Plan) {
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
    {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let has_ended_so = |job: &&Arc<Job>| {
            finish_of(job).is_some_and(|end| end.type_ == kind) && job.metadata.deletion_timestamp.is_none()
        };
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(has_ended_so).cloned().collect();
        ended.sort_by_key(|job| {
            let begun = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
            (begun, job.metadata.name.clone())
        });
        ended.truncate(ended.len().saturating_sub(limit));
        plan.delete.extend(ended);
    }
}

fn start(cron: &CronJob, spec: &CronJobSpec, schedule: &Schedule, zone: &TimeZone, now: Timestamp, plan: &mut Plan) {
    let made = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let last = plan.status.last_schedule_time.as_ref().map_or(made, |time| time.0);
    plan.next = schedule.next(now, zone);
    let Some(due) = schedule.due(last, now, zone) else {
        if plan.next.is_none() {
            let message = format!("invalid schedule: {:?} : it is never due", spec.schedule);
            plan.say(Severity::Warning, "InvalidSchedule", message);
        }
        return;
    };
    // Who says how late a Job may begin does not mind what was missed before that.
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let oldest = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
    if oldest.is_some_and(|oldest| due.latest < oldest) {
        let time = due.latest.strftime("%a, %d %b %Y %H:%M:%S +0000");
        plan.say(Severity::Warning, "MissSchedule", format!("Missed scheduled time to start a job: {time}"));
        return;
    }
    let counts_all = oldest.is_none_or(|oldest| oldest <= last);
    if due.are_too_many && (counts_all || is_missed_often(schedule, oldest, now, zone)) {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.say(Severity::Warning, "TooManyMissedTimes", message.to_owned());
    }
    let active = plan.status.active.clone().unwrap_or_default();
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid".to_owned();
        plan.say(Severity::Normal, "JobAlreadyActive", message);
        return;
    }
    let replaced = if policy == "Replace" { active } else { Vec::new() };
    plan.create = Some(Draft { time: due.latest, replaced });
}

fn is_missed_often(schedule: &Schedule, oldest: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> bool {
    oldest.and_then(|oldest| schedule.due(oldest, now, zone)).is_some_and(|due| due.are_too_many)
}

/// The status once the Job of a draft is there.
pub(super) fn made(mut status: CronJobStatus, draft: &Draft, job: &Job) -> CronJobStatus {
    let mut active = status.active.take().unwrap_or_default();
    active.retain(|one| !draft.replaced.iter().any(|gone| gone.uid == one.uid) && one.uid != job.metadata.uid);
    if !is_finished(job) {
        active.push(reference(job));
    }
    status.active = (!active.is_empty()).then_some(active);
    status.last_schedule_time = Some(Time(draft.time));
    status
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
