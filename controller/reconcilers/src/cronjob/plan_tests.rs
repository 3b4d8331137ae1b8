use super::*;
use serde_json::{Value, json};

const EPOCH: &str = "2026-11-26T10:00:00Z";

fn cron(spec: Value, status: Value) -> CronJob {
    let mut object = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "creationTimestamp": EPOCH},
        "spec": {"schedule": "*/10 * * * *", "jobTemplate": {"spec": {"template": {}}}}, "status": status});
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// A Job; `end` is Complete, Failed or nothing.
fn job(name: &str, end: &str, begun: &str) -> Arc<Job> {
    let conditions = if end.is_empty() { json!([]) } else { json!([{"type": end, "status": "True"}]) };
    let done = if end == "Complete" { json!(begun) } else { Value::Null };
    let job = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "annotations":
            {"batch.kubernetes.io/cronjob-scheduled-timestamp": begun}},
        "spec": {"template": {}}, "status": {"conditions": conditions, "startTime": begun, "completionTime": done}}));
    Arc::new(job.unwrap())
}

fn active(jobs: &[&str]) -> Value {
    json!({"active": jobs.iter().map(|uid| json!({"uid": uid, "name": uid})).collect::<Vec<_>>(),
        "lastScheduleTime": EPOCH})
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn decide(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(cron, jobs, Some(&TimeZone::UTC), at(now))
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.notices.iter().map(|notice| notice.reason).collect()
}

fn created(plan: &Plan) -> Option<Timestamp> {
    plan.create.as_ref().map(|draft| draft.time)
}

#[test]
fn a_job_is_made_when_its_time_has_come() {
    let cron = cron(json!({}), json!({}));
    let early = decide(&cron, &[], "2026-11-26T10:09:59.900Z");
    assert_eq!((early.create, early.next), (None, Some(at("2026-11-26T10:10:00Z"))));
    let due = decide(&cron, &[], "2026-11-26T10:10:00.004Z");
    assert_eq!((created(&due), due.next), (Some(at("2026-11-26T10:10:00Z")), Some(at("2026-11-26T10:20:00Z"))));
    let made = job("c-1", "", "2026-11-26T10:10:00Z");
    let status = made_status(&due, &made);
    assert_eq!(status.last_schedule_time, Some(Time(at("2026-11-26T10:10:00Z"))));
    assert_eq!(status.active.unwrap()[0].uid.as_deref(), Some("c-1"));
}

fn made_status(plan: &Plan, job: &Job) -> CronJobStatus {
    made(plan.status.clone(), plan.create.as_ref().unwrap(), job)
}

#[test]
fn a_crash_between_job_and_status_makes_no_second_one() {
    let cron = cron(json!({}), json!({}));
    let plan = decide(&cron, &[job("c-1", "", "2026-11-26T10:10:00Z")], "2026-11-26T10:10:05Z");
    assert_eq!((plan.create, plan.notices), (None, vec![]));
    assert_eq!(plan.status.active.unwrap().len(), 1);
    assert_eq!(plan.status.last_schedule_time, Some(Time(at("2026-11-26T10:10:00Z"))));
}

#[test]
fn what_was_missed_is_made_up_for_once() {
    let many = decide(&cron(json!({"schedule": "* * * * *"}), json!({})), &[], "2026-11-26T15:00:30Z");
    assert_eq!((created(&many), reasons(&many)), (Some(at("2026-11-26T15:00:00Z")), vec!["TooManyMissedTimes"]));
    let some = decide(&cron(json!({}), json!({})), &[], "2026-11-26T15:05:00Z");
    assert_eq!((created(&some), reasons(&some)), (Some(at("2026-11-26T15:00:00Z")), vec![]));
    let late = cron(json!({"startingDeadlineSeconds": 60}), json!({}));
    let late = decide(&late, &[], "2026-11-26T15:05:00Z");
    assert_eq!((created(&late), reasons(&late)), (None, vec!["MissSchedule"]));
    assert_eq!(late.notices[0].message, "Missed scheduled time to start a job: Thu, 26 Nov 2026 15:00:00 +0000");
    let spec = json!({"schedule": "* * * * *", "startingDeadlineSeconds": 200});
    let bounded = decide(&cron(spec, json!({})), &[], "2026-11-26T15:00:30Z");
    assert_eq!((created(&bounded), reasons(&bounded)), (Some(at("2026-11-26T15:00:00Z")), vec![]));
}

#[test]
fn policies_say_what_a_running_job_means() {
    let running = [job("a", "", EPOCH)];
    let with = |policy: &str| cron(json!({"concurrencyPolicy": policy}), active(&["a"]));
    let now = "2026-11-26T10:10:00Z";
    let allow = decide(&with("Allow"), &running, now);
    assert_eq!(allow.create.as_ref().unwrap().replaced, []);
    let forbid = decide(&with("Forbid"), &running, now);
    assert_eq!((&forbid.create, reasons(&forbid)), (&None, vec!["JobAlreadyActive"]));
    let replace = decide(&with("Replace"), &running, now);
    assert_eq!(replace.create.as_ref().unwrap().replaced[0].uid.as_deref(), Some("a"));
    assert_eq!(made_status(&replace, &job("b", "", now)).active.unwrap()[0].uid.as_deref(), Some("b"));
    // What was forbidden begins when the other one has ended.
    let ended = decide(&with("Forbid"), &[job("a", "Failed", EPOCH)], "2026-11-26T10:15:00Z");
    assert_eq!((created(&ended), reasons(&ended)), (Some(at(now)), vec!["SawCompletedJob"]));
    assert_eq!(ended.notices[0].message, "Saw completed job: a, condition: Failed");
}

#[test]
fn history_is_kept_by_kind_and_age() {
    let jobs = [
        job("a", "Complete", "2026-11-26T09:10:00Z"),
        job("b", "Failed", "2026-11-26T09:20:00Z"),
        job("c", "Complete", "2026-11-26T09:30:00Z"),
        job("d", "Failed", "2026-11-26T09:40:00Z"),
        job("e", "", "2026-11-26T09:50:00Z"),
    ];
    let spec = json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0, "suspend": true});
    let plan = decide(&cron(spec, active(&["e", "gone"])), &jobs, EPOCH);
    let deleted: Vec<_> = plan.delete.iter().filter_map(|job| job.metadata.name.as_deref()).collect();
    assert_eq!(deleted, ["a", "b", "d"]);
    assert_eq!(plan.status.last_successful_time, Some(Time(at("2026-11-26T09:30:00Z"))));
    assert_eq!(plan.status.active.as_ref().unwrap().len(), 1);
    assert_eq!(reasons(&plan), ["MissingJob"]);
}

#[test]
fn what_cannot_be_made_is_told() {
    let now = "2026-11-26T10:10:00Z";
    let suspended = decide(&cron(json!({"suspend": true}), json!({})), &[], now);
    assert_eq!((suspended.create, suspended.next), (None, None));
    assert_eq!(reasons(&decide(&cron(json!({"schedule": "x"}), json!({})), &[], now)), ["UnparseableSchedule"]);
    assert_eq!(reasons(&decide(&cron(json!({"schedule": "0 0 31 2 *"}), json!({})), &[], now)), ["InvalidSchedule"]);
    assert_eq!(reasons(&plan(&cron(json!({}), json!({})), &[], None, at(now))), ["UnknownTimeZone"]);
    let mut manual = Job::clone(&job("m", "", EPOCH));
    manual.metadata.annotations = None;
    let unexpected = decide(&cron(json!({"concurrencyPolicy": "Forbid"}), json!({})), &[Arc::new(manual)], now);
    assert_eq!(reasons(&unexpected), ["UnexpectedJob"]);
    assert!(unexpected.create.is_some(), "what others made does not stand in the way");
}
