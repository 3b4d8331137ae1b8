//! CronJobs: lines 102 to 106, and what else people expect of them. The clock takes its minutes; the tests wait beside
//! each other.

use e2e::api::{Api, Patch, SOON, condition};
use e2e::client::{Client, eventually};
use serde_json::{Value, json};

use crate::batch::{LATER, api, container, until_count};
use crate::scene::name_of;

const EVERY_MINUTE: &str = "*/1 * * * *";

fn cron(name: &str, schedule: &str, script: &str, spec: Value) -> Value {
    let pod = json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 1,
        "containers": [container("c", script)]});
    let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"labels": {"of": name}},
            "spec": {"template": {"spec": pod}}}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        cron["spec"][key] = value.clone();
    }
    cron
}

fn crons(api: &Api) -> String {
    api.path("batch/v1", "cronjobs")
}

fn path(api: &Api, name: &str) -> String {
    format!("{}/{name}", crons(api))
}

fn jobs_of(api: &Api, name: &str) -> String {
    format!("{}?labelSelector=of={name}", api.path("batch/v1", "jobs"))
}

async fn create(api: &Api, cron: Value) -> Value {
    api.post(&crons(api), cron).await.ok()
}

fn active(cron: &Value) -> Vec<&str> {
    let all = cron["status"]["active"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|one| one["name"].as_str()).collect()
}

/// The CronJob once so many Jobs are active by its status.
async fn with_active(api: &Api, name: &str, count: usize) -> Value {
    api.until_within(LATER, &path(api, name), "its jobs are active", |cron| active(cron).len() == count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn c102_a_suspended_one_makes_no_jobs() {
    e2e::need!(e2e::machine::root());
    let api = api("cron-suspended").await;
    create(&api, cron("still", EVERY_MINUTE, "sleep 300", json!({"suspend": true}))).await;
    create(&api, cron("goes", EVERY_MINUTE, "sleep 300", json!({}))).await;
    with_active(&api, "goes", 1).await;
    api.until_within(LATER, &path(&api, "goes"), "a second time has come", |cron| active(cron).len() == 2).await;
    let jobs = api.get(&jobs_of(&api, "still")).await.ok();
    assert_eq!(jobs["items"], json!([]));
    let still = api.get(&path(&api, "still")).await.ok();
    assert_eq!((active(&still).len(), &still["status"]["lastScheduleTime"]), (0, &Value::Null));
    // It makes up for what it has missed.
    api.patch(&path(&api, "still"), Patch::Merge, json!({"spec": {"suspend": false}})).await.ok();
    until_count(&api, &jobs_of(&api, "still"), "it goes on", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c103_forbid_waits_for_the_job_before() {
    e2e::need!(e2e::machine::root());
    let api = api("cron-forbid").await;
    create(&api, cron("c", EVERY_MINUTE, "sleep 300", json!({"concurrencyPolicy": "Forbid"}))).await;
    let first = with_active(&api, "c", 1).await;
    let path = format!("{}?fieldSelector=involvedObject.name=c", api.path("v1", "events"));
    let mut events = api.watch(&path).await;
    loop {
        let told = events.within(LATER).await.expect("the next time comes").1;
        if told["reason"] == "JobAlreadyActive" {
            break;
        }
    }
    let jobs = until_count(&api, &jobs_of(&api, "c"), "there is one job", 1).await;
    assert_eq!(active(&first), [name_of(&jobs[0])]);
    let cron = api.get(&crate::cronjob::path(&api, "c")).await.ok();
    assert_eq!(active(&cron), active(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn c104_replace_ends_the_job_before() {
    e2e::need!(e2e::machine::root());
    let api = api("cron-replace").await;
    create(&api, cron("c", EVERY_MINUTE, "sleep 300", json!({"concurrencyPolicy": "Replace"}))).await;
    let first = with_active(&api, "c", 1).await;
    let other = |cron: &Value| active(cron).len() == 1 && active(cron) != active(&first);
    let second = api.until_within(LATER, &path(&api, "c"), "another takes its place", other).await;
    let jobs = until_count(&api, &jobs_of(&api, "c"), "the one before is gone", 1).await;
    assert_eq!(active(&second), [name_of(&jobs[0])]);
    api.event("c", "SuccessfulDelete", &format!("Deleted job {}", active(&first)[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c105_allow_has_several_at_once() {
    e2e::need!(e2e::machine::root());
    let api = api("cron-allow").await;
    create(&api, cron("c", EVERY_MINUTE, "sleep 300", json!({"concurrencyPolicy": "Allow"}))).await;
    let cron = with_active(&api, "c", 2).await;
    let jobs = until_count(&api, &jobs_of(&api, "c"), "both jobs", 2).await;
    for job in &jobs {
        let due = &job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
        let due: k8s_openapi::jiff::Timestamp = due.as_str().expect("a time").parse().expect("RFC 3339");
        assert_eq!((due.as_second() % 60, name_of(job)), (0, &*format!("c-{}", due.as_second() / 60)));
        assert_eq!(job["metadata"]["ownerReferences"][0]["uid"], cron["metadata"]["uid"]);
        api.event("c", "SuccessfulCreate", &format!("Created job {}", name_of(job))).await;
        let begun = &job["metadata"]["creationTimestamp"];
        let begun: k8s_openapi::jiff::Timestamp = begun.as_str().expect("a time").parse().expect("RFC 3339");
        // A slow machine takes its time; whoever looks only every now and then takes longer.
        assert!(begun.as_second() - due.as_second() <= 20, "made at {begun}, due at {due}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c106_cronjobs_have_every_verb() {
    let api = api("cron-verbs").await;
    let groups = api.get("/apis").await.ok();
    let batch = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "batch").unwrap();
    assert!(batch["versions"].as_array().unwrap().iter().any(|version| version["groupVersion"] == "batch/v1"));
    let resources = api.get("/apis/batch/v1").await.ok();
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"cronjobs") && names.contains(&"cronjobs/status"), "{names:?}");

    let label = api.namespace.clone();
    for name in ["a", "b", "c"] {
        let mut wanted = cron(name, "0 0 1 1 *", "true", json!({"suspend": true}));
        wanted["metadata"]["labels"] = json!({"verbs": label});
        let made = create(&api, wanted).await;
        assert_eq!(
            (&made["spec"]["concurrencyPolicy"], &made["spec"]["failedJobsHistoryLimit"]),
            (&json!("Allow"), &json!(1))
        );
    }
    let selected = format!("labelSelector=verbs={label}");
    assert_eq!(name_of(&api.get(&path(&api, "a")).await.ok()), "a");
    for path in [format!("{}?{selected}", crons(&api)), format!("/apis/batch/v1/cronjobs?{selected}")] {
        assert_eq!(api.get(&path).await.ok()["items"].as_array().unwrap().len(), 3);
    }
    let mut events = api.watch(&format!("{}?fieldSelector=metadata.name=a", crons(&api))).await;
    assert_eq!(events.told().await, ("ADDED".into(), "a".into()));
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let patched = api.patch(&path(&api, "a"), Patch::Merge, patch).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let mut new = patched.clone();
    new["metadata"]["annotations"]["updated"] = json!("true");
    new["spec"]["schedule"] = json!("0 0 2 1 *");
    let updated = api.put(&path(&api, "a"), new).await.ok();
    assert_eq!(
        (&updated["metadata"]["annotations"]["updated"], &updated["spec"]["schedule"]),
        (&json!("true"), &json!("0 0 2 1 *"))
    );
    for _ in 0..2 {
        assert_eq!(events.told().await, ("MODIFIED".into(), "a".into()));
    }

    let status = format!("{}/status", path(&api, "a"));
    let time = "2026-01-01T00:00:00Z";
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "spec": {"schedule": "@daily"},
        "status": {"lastScheduleTime": time}});
    let patched = api.patch(&status, Patch::Merge, patch).await.ok();
    assert_eq!(
        (&patched["status"]["lastScheduleTime"], &patched["spec"]["schedule"]),
        (&json!(time), &json!("0 0 2 1 *"))
    );
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    let mut new = api.get(&status).await.ok();
    new["status"]["lastSuccessfulTime"] = json!(time);
    let updated = api.put(&status, new).await.ok();
    assert_eq!(updated["status"]["lastSuccessfulTime"], time);
    assert_eq!(api.get(&status).await.ok()["status"], updated["status"]);

    api.delete(&path(&api, "a"), Value::Null).await.ok();
    api.get(&path(&api, "a")).await.refused(404);
    api.delete(&format!("{}?{selected}", crons(&api)), Value::Null).await.ok();
    until_count(&api, &format!("{}?{selected}", crons(&api)), "none is left", 0).await;
}

/// A Job as `kubectl create job --from=cronjob/c` makes it.
fn by_hand(cron: &Value, name: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {"of": "c"},
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"],
            "uid": cron["metadata"]["uid"], "controller": true}]},
        "spec": cron["spec"]["jobTemplate"]["spec"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn old_jobs_go() {
    e2e::need!(e2e::machine::root());
    let api = api("cron-history").await;
    let spec = json!({"suspend": true, "successfulJobsHistoryLimit": 1});
    let made = create(&api, cron("c", "@yearly", "true", spec)).await;
    let jobs = api.path("batch/v1", "jobs");
    // By their names they would stand the other way round.
    for name in ["b-older", "a-newer"] {
        api.post(&jobs, by_hand(&made, name)).await.ok();
        let ends = |job: &Value| condition(job, "Complete")["status"] == "True";
        api.until_within(SOON, &format!("{jobs}/{name}"), "it ends", ends).await;
        // Jobs that begin in the same second go by their names.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    let left = until_count(&api, &jobs_of(&api, "c"), "the older one is gone", 1).await;
    assert_eq!(name_of(&left[0]), "a-newer");
    api.event("c", "UnexpectedJob", "b-older").await;
    api.event("c", "SuccessfulDelete", "Deleted job b-older").await;
    let cron = path(&api, "c");
    api.until_within(SOON, &cron, "it knows when", |cron| cron["status"]["lastSuccessfulTime"].is_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_checked_at_the_door() {
    let api = api("cron-refused").await;
    let refused = |cron: Value| {
        let api = api.clone();
        async move { api.post(&crons(&api), cron).await.refused(422) }
    };
    let message = refused(cron("c", "* * * *", "true", json!({}))).await;
    assert!(
        message.contains("spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4"),
        "{message}"
    );
    let message = refused(cron("c", "61 * * * *", "true", json!({}))).await;
    assert!(message.contains("spec.schedule: Invalid value: \"61 * * * *\""), "{message}");
    let message = refused(cron("c", "@daily", "true", json!({"timeZone": "Europe/Nowhere"}))).await;
    assert!(message.contains("spec.timeZone: Invalid value: \"Europe/Nowhere\": unknown time zone"), "{message}");
    create(&api, cron("c", "@daily", "true", json!({"timeZone": "Asia/Kolkata"}))).await;
}

/// What people do by hand, with the client of this program and with Kubernetes' own.
async fn by_hand_with(client: &Client, namespace: &str) {
    let run = |words: &[&str]| client.run(&[&["-n", namespace], words].concat()).ok();
    run(&["create", "cronjob", "c", "--image=busybox", "--schedule=0 0 1 1 *", "--", "true"]);
    let shown = run(&["get", "cronjob", "c", "--no-headers"]);
    let cells: Vec<&str> = shown.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells[..6], ["c", "0 0 1 1 *", "<none>", "False", "0", "<none>"], "{shown}");
    let pull = json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [
        {"name": "c", "imagePullPolicy": "IfNotPresent"}]}}}}}});
    run(&["patch", "cronjob", "c", "-p", &pull.to_string()]);
    run(&["create", "job", "now", "--from=cronjob/c"]);
    let waited = run(&["wait", "--for=condition=complete", "job/now", "--timeout=60s"]);
    assert!(waited.contains("condition met"), "{waited}");
    let shown = run(&["get", "job", "now", "--no-headers"]);
    assert!(shown.contains("Complete") && shown.contains("1/1"), "{shown}");
    // Events are told after what they are about.
    let wanted =
        ["Controlled By:", "CronJob/c", "0 Active (0 Ready) / 1 Succeeded / 0 Failed", "SuccessfulCreate", "Completed"];
    eventually(&format!("{wanted:?} in the description"), SOON, || {
        let described = run(&["describe", "job", "now"]);
        wanted.iter().all(|wanted| described.contains(wanted)).then_some(())
    });
    let described = run(&["describe", "cronjob", "c"]);
    for wanted in ["0 0 1 1 *", "Concurrency Policy:", "Allow", "Active Jobs:"] {
        assert!(described.contains(wanted), "no {wanted:?} in {described}");
    }
    run(&["delete", "cronjob", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_made_and_looked_at_by_hand() {
    e2e::need!(e2e::machine::root());
    let api = api("cron-by-hand").await;
    let kubeconfig = e2e::shared::kubeconfig(&crate::scene::IMAGES);
    by_hand_with(&Client::new(&e2e::machine::gantry(), &kubeconfig), &api.namespace).await;
    until_count(&api, &api.path("batch/v1", "jobs"), "the job goes with its owner", 0).await;
    e2e::need!(e2e::machine::modern_kubectl());
    let kubectl = e2e::machine::program("kubectl").expect("just looked for");
    by_hand_with(&Client::new(&kubectl, &kubeconfig), &api.namespace).await;
}
