//! The Job of a CronJob for a time: pure.
use crate::parent::Parent;
use api::well_known::ANNOTATION_CRONJOB_SCHEDULED;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The name of the Job for a time: no time has two.
pub(super) fn name(cron: &CronJob, time: Timestamp) -> String {
    format!("{}-{}", parent(cron).name(), time.as_second().div_euclid(60))
}

/// The Job.
pub(super) fn job(cron: &CronJob, time: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let given = template.metadata.unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(ANNOTATION_CRONJOB_SCHEDULED.to_owned(), shown(time, zone));
    Job {
        metadata: ObjectMeta {
            name: Some(name(cron, time)),
            namespace: cron.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![parent(cron).owner_reference()]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The CronJob as owner.
pub(super) fn parent(cron: &CronJob) -> Parent<'_> {
    Parent { api_version: "batch/v1", kind: "CronJob", metadata: &cron.metadata }
}

/// RFC 3339, with `Z` where the clocks of the zone show the time of UTC.
fn shown(time: Timestamp, zone: &TimeZone) -> String {
    let zoned = time.to_zoned(zone.clone());
    let format = if zoned.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    zoned.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_job_says_whose_it_is_and_when_it_was_due() {
        let cron: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"schedule": "", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}},
                "spec": {"backoffLimit": 3, "template": {}}}},
        }))
        .unwrap();
        let time: Timestamp = "2026-11-26T12:30:00Z".parse().unwrap();
        let berlin = api::schedule::zone("Europe/Berlin").unwrap();
        let made = json!(job(&cron, time, &berlin));
        assert_eq!(made["metadata"]["name"], format!("c-{}", time.as_second() / 60));
        assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
        let annotations =
            json!({"x": "y", "batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-11-26T13:30:00+01:00"});
        assert_eq!(made["metadata"]["annotations"], annotations);
        assert_eq!(
            (&made["metadata"]["ownerReferences"][0]["uid"], &made["spec"]["backoffLimit"]),
            (&json!("u"), &json!(3))
        );
        assert_eq!(shown(time, &TimeZone::UTC), "2026-11-26T12:30:00Z");
    }
}
