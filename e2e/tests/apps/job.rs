//! Jobs: lines 127 to 140, and what else people expect of them.

use e2e::api::{Api, Patch, SOON, condition};
use serde_json::{Value, json};

use crate::batch::{LATER, api, container, is, until_count};
use crate::scene::name_of;

/// Pods that end when they are told to do so by a short grace.
fn job(name: &str, script: &str, spec: Value) -> Value {
    let pod = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [container("c", script)]});
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"metadata": {"labels": {"of": name}}, "spec": pod}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn path(api: &Api, name: &str) -> String {
    format!("{}/{name}", api.path("batch/v1", "jobs"))
}

fn pods_of(api: &Api, name: &str) -> String {
    format!("{}?labelSelector=job-name={name}", api.path("v1", "pods"))
}

fn pod_path(api: &Api, pod: &Value) -> String {
    format!("{}/{}", api.path("v1", "pods"), name_of(pod))
}

async fn create(api: &Api, job: Value) -> Value {
    api.post(&api.path("batch/v1", "jobs"), job).await.ok()
}

async fn complete(api: &Api, name: &str) -> Value {
    api.until_within(LATER, &path(api, name), "it is complete", |job| is(job, "Complete")).await
}

async fn failed(api: &Api, name: &str) -> Value {
    api.until_within(LATER, &path(api, name), "it has failed", |job| is(job, "Failed")).await
}

async fn running(api: &Api, name: &str, count: usize) -> Vec<Value> {
    let runs = |pods: &[Value]| pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count() == count;
    api.until_all(&pods_of(api, name), "pods run", runs).await
}

/// What a finished Job's status must hold whatever happened: no pod is left that still has to be counted.
#[track_caller]
fn is_settled(job: &Value) {
    let status = &job["status"];
    for field in ["active", "ready", "terminating"] {
        assert_eq!(status[field].as_i64().unwrap_or(0), 0, "{field}: {status:#}");
    }
    assert_eq!(status["uncountedTerminatedPods"], json!({}), "{status:#}");
}

fn owner(pod: &Value) -> &Value {
    &pod["metadata"]["ownerReferences"][0]["uid"]
}

fn is_tracked(pod: &Value) -> bool {
    let all = pod["metadata"]["finalizers"].as_array();
    all.is_some_and(|all| all.iter().any(|one| one == "batch.kubernetes.io/job-tracking"))
}

#[tokio::test(flavor = "multi_thread")]
async fn c127_orphans_are_adopted_and_strangers_released() {
    e2e::need!(e2e::machine::root());
    let api = api("job-adopt").await;
    let made = create(&api, job("j", "sleep 1000", json!({"parallelism": 2, "completions": 4}))).await;
    let uid = &made["metadata"]["uid"];
    let pods = running(&api, "j", 2).await;
    let path = pod_path(&api, &pods[0]);
    let orphaned = api.patch(&path, Patch::Merge, json!({"metadata": {"ownerReferences": null}})).await.ok();
    assert_eq!(owner(&orphaned), &Value::Null);
    let adopted = api.until_within(SOON, &path, "it is adopted", |pod| owner(pod) == uid).await;
    assert_eq!(adopted["metadata"]["uid"], pods[0]["metadata"]["uid"]);
    assert!(adopted["metadata"]["ownerReferences"][0]["controller"] == true && is_tracked(&adopted), "{adopted:#}");
    api.patch(&path, Patch::Merge, json!({"metadata": {"labels": null}})).await.ok();
    let released = api.until_within(SOON, &path, "it is released", |pod| owner(pod).is_null()).await;
    assert!(!is_tracked(&released), "nobody counts it any more: {released:#}");
    // The one that went is replaced.
    until_count(&api, &pods_of(&api, "j"), "another pod takes its place", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c128_disrupted_pods_do_not_count() {
    e2e::need!(e2e::machine::root());
    let api = api("job-disrupted").await;
    let script = "test -e /config/go && exit 0; echo waits; sleep 1000";
    let mut wanted = job(
        "j",
        script,
        json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}}),
    );
    let pod = &mut wanted["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "config", "configMap": {"name": "words", "optional": true}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "config", "mountPath": "/config"}]);
    let made = create(&api, wanted).await;
    assert_eq!(made["spec"]["podReplacementPolicy"], "Failed");
    let first = running(&api, "j", 1).await.remove(0);
    api.log_with(name_of(&first), "c", "waits", 1).await;
    let map = json!({"metadata": {"name": "words"}, "data": {"go": "yes"}});
    api.post(&api.path("v1", "configmaps"), map).await.ok();
    let mut events =
        api.watch(&format!("{}?fieldSelector=metadata.name={}", api.path("v1", "pods"), name_of(&first))).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name_of(&first)}});
    api.post(&format!("{}/eviction", pod_path(&api, &first)), eviction).await.ok();
    let mut last = Value::Null;
    loop {
        let (kind, pod) = events.next("the evicted pod goes").await;
        if kind == "DELETED" {
            break;
        }
        last = pod;
    }
    assert_eq!(condition(&last, "DisruptionTarget")["reason"], "EvictionByEvictionAPI", "{last:#}");
    assert_eq!(last["status"]["phase"], "Failed", "it is seen to have ended: {last:#}");
    let done = complete(&api, "j").await;
    is_settled(&done);
    assert_eq!((&done["status"]["succeeded"], &done["status"]["failed"]), (&json!(1), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn c129_an_exit_code_fails_the_job_early() {
    e2e::need!(e2e::machine::root());
    let api = api("job-fail-early").await;
    let script = "[ $JOB_COMPLETION_INDEX = 1 ] && exit 42; sleep 1000";
    let rule = json!({"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}});
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2, "backoffLimit": 100,
        "podFailurePolicy": {"rules": [rule]}});
    create(&api, job("j", script, spec)).await;
    let job = failed(&api, "j").await;
    for kind in ["FailureTarget", "Failed"] {
        let condition = condition(&job, kind);
        assert_eq!(condition["reason"], "PodFailurePolicy", "{condition:#}");
        let message = condition["message"].as_str().unwrap();
        assert!(
            message.starts_with("Container c for pod ") && message.contains("failed with exit code 42"),
            "{message}"
        );
        assert!(message.ends_with("matching FailJob rule at index 0"), "{message}");
    }
    is_settled(&job);
    assert_eq!(job["status"]["succeeded"], Value::Null);
    api.event("j", "PodFailurePolicy", "exit code 42").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c130_the_status_of_a_job_is_written_by_itself() {
    e2e::need!(e2e::machine::root());
    let api = api("job-status").await;
    create(&api, job("j", "sleep 1000", json!({"parallelism": 2, "completions": 4}))).await;
    running(&api, "j", 2).await;
    let (job, status) = (path(&api, "j"), format!("{}/status", path(&api, "j")));
    api.until_within(SOON, &job, "both are active", |job| job["status"]["active"] == 2).await;
    let said = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "E2E", "message": "by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": "2026-01-01T00:00:00Z"})
    };
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "spec": {"parallelism": 4},
        "status": {"conditions": [said("Patched")]}});
    let patched = api.patch(&status, Patch::Merge, patch).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    assert_eq!(
        (&condition(&patched, "Patched")["reason"], &patched["spec"]["parallelism"]),
        (&json!("E2E"), &json!(2))
    );
    let more = |job: &mut Value| job["status"]["conditions"].as_array_mut().unwrap().push(said("Updated"));
    let updated = api.edit(&status, more).await;
    assert!(is(&updated, "Updated") && is(&updated, "Patched"), "{updated:#}");
    // The controller goes on with the status as it is now.
    let told = api.patch(&job, Patch::Merge, json!({"spec": {"parallelism": 1}})).await.ok();
    assert_eq!(told["spec"]["parallelism"], 1);
    let read = api.until_within(SOON, &job, "one is active", |job| job["status"]["active"] == 1).await;
    assert!(is(&read, "Updated") && is(&read, "Patched"), "{read:#}");
    let read = api.get(&status).await.ok();
    assert!(is(&read, "Updated") && is(&read, "Patched"), "{read:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c131_indexed_pods_know_their_index() {
    e2e::need!(e2e::machine::root());
    let api = api("job-indexed").await;
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2});
    create(&api, job("j", "echo $JOB_COMPLETION_INDEX $(hostname)", spec)).await;
    let job = complete(&api, "j").await;
    is_settled(&job);
    assert_eq!((&job["status"]["completedIndexes"], &job["status"]["succeeded"]), (&json!("0-3"), &json!(4)));
    assert_eq!(condition(&job, "Complete")["reason"], "CompletionsReached");
    let mut pods = api.get(&pods_of(&api, "j")).await.ok()["items"].as_array().unwrap().clone();
    pods.sort_by_key(|pod| name_of(pod).to_owned());
    assert_eq!(pods.len(), 4);
    for (index, pod) in pods.iter().enumerate() {
        let key = "batch.kubernetes.io/job-completion-index";
        assert_eq!(pod["metadata"]["annotations"][key], index.to_string());
        assert_eq!(pod["metadata"]["labels"][key], index.to_string());
        assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"], "j");
        assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"], job["metadata"]["uid"]);
        assert!(name_of(pod).starts_with(&format!("j-{index}-")), "{}", name_of(pod));
        assert_eq!(pod["spec"]["hostname"], format!("j-{index}"));
        assert!(!is_tracked(pod), "it has been counted");
        let log = api.get(&format!("{}/log", pod_path(&api, pod))).await;
        assert_eq!(String::from_utf8_lossy(&log.bytes), format!("{index} j-{index}\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c132_a_job_is_deleted_with_its_pods() {
    e2e::need!(e2e::machine::root());
    let api = api("job-delete").await;
    for policy in ["Foreground", "Background"] {
        create(&api, job("j", "sleep 1000", json!({"parallelism": 2, "completions": 4}))).await;
        running(&api, "j", 2).await;
        api.delete(&path(&api, "j"), json!({"propagationPolicy": policy})).await.ok();
        until_count(&api, &pods_of(&api, "j"), "its pods are gone", 0).await;
        api.until_gone(&path(&api, "j")).await;
    }
    // Without a word on them they stay, and nothing holds them.
    create(&api, job("j", "sleep 1000", json!({"parallelism": 1}))).await;
    let pod = running(&api, "j", 1).await.remove(0);
    let answer = api.delete(&path(&api, "j"), Value::Null).await;
    let warnings = answer.warnings();
    assert!(warnings.iter().any(|text| text.contains("child pods are preserved by default")), "{warnings:?}");
    api.until_gone(&path(&api, "j")).await;
    let free = |pod: &Value| owner(pod).is_null() && !is_tracked(pod);
    api.until_within(SOON, &pod_path(&api, &pod), "it is an orphan and free", free).await;
    api.delete(&pod_path(&api, &pod), Value::Null).await.ok();
    api.until_gone(&pod_path(&api, &pod)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c133_indexes_fail_for_themselves() {
    e2e::need!(e2e::machine::root());
    let api = api("job-per-index").await;
    let script = "case $JOB_COMPLETION_INDEX in 1|3) exit 1;; esac";
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2, "backoffLimitPerIndex": 1});
    create(&api, job("j", script, spec)).await;
    let job = failed(&api, "j").await;
    is_settled(&job);
    assert_eq!(condition(&job, "Failed")["reason"], "FailedIndexes");
    let status = &job["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(4)));
    let pods = api.get(&pods_of(&api, "j")).await.ok()["items"].as_array().unwrap().clone();
    let mut counts: Vec<&str> = pods
        .iter()
        .filter(|pod| pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1")
        .filter_map(|pod| pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"].as_str())
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, ["0", "1"], "each pod knows how often its index had failed");
    api.event("j", "FailedIndexes", "Job has failed indexes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c134_the_life_of_a_job() {
    e2e::need!(e2e::machine::root());
    let api = api("job-life").await;
    let label = api.namespace.clone();
    let mut wanted = job("j", "true", json!({"suspend": true, "completions": 2, "parallelism": 2}));
    wanted["metadata"]["labels"] = json!({"life": label});
    create(&api, wanted).await;
    let suspended = api.until_within(SOON, &path(&api, "j"), "it is suspended", |job| is(job, "Suspended")).await;
    assert_eq!(condition(&suspended, "Suspended")["reason"], "JobSuspended");
    assert_eq!(suspended["status"]["startTime"], Value::Null);
    api.event("j", "Suspended", "Job suspended").await;
    let patch = json!({"spec": {"template": {"metadata": {"labels": {"queue": "fast"}}}}});
    let patched = api.patch(&path(&api, "j"), Patch::Strategic, patch).await.ok();
    assert_eq!(patched["spec"]["template"]["metadata"]["labels"]["queue"], "fast");
    assert!(api.get(&pods_of(&api, "j")).await.ok()["items"].as_array().unwrap().is_empty(), "nothing runs");
    let mut new = api.get(&path(&api, "j")).await.ok();
    new["spec"]["suspend"] = json!(false);
    new["metadata"]["annotations"] = json!({"updated": "true"});
    // The controller writes the status meanwhile.
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let updated = api.put(&path(&api, "j"), new).await.ok();
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    let done = complete(&api, "j").await;
    assert_eq!(condition(&done, "Suspended")["reason"], "JobResumed");
    assert!(done["status"]["startTime"].is_string() && done["status"]["completionTime"].is_string());
    api.event("j", "Resumed", "Job resumed").await;
    api.event("j", "Completed", "Job completed").await;
    let all = api.get(&format!("/apis/batch/v1/jobs?labelSelector=life={label}")).await.ok();
    assert_eq!(all["items"].as_array().unwrap().iter().map(name_of).collect::<Vec<_>>(), ["j"]);
    let selected = format!("{}?labelSelector=life={label}", api.path("batch/v1", "jobs"));
    api.delete(&selected, json!({"propagationPolicy": "Background"})).await.ok();
    until_count(&api, &selected, "they are gone", 0).await;
    until_count(&api, &pods_of(&api, "j"), "and their pods", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c135_an_exit_code_fails_an_index_at_once() {
    e2e::need!(e2e::machine::root());
    let api = api("job-fail-index").await;
    let rule = json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}});
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 3,
        "podFailurePolicy": {"rules": [rule]}});
    create(&api, job("j", "[ $JOB_COMPLETION_INDEX = 0 ] && exit 42 || true", spec)).await;
    let job = failed(&api, "j").await;
    is_settled(&job);
    assert_eq!(condition(&job, "Failed")["reason"], "FailedIndexes");
    let status = &job["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("1"), &json!("0")));
    assert_eq!(status["failed"], 1, "it was not tried again");
    until_count(&api, &pods_of(&api, "j"), "a pod for each index", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c136_containers_that_fail_are_restarted_in_their_pods() {
    e2e::need!(e2e::machine::root());
    let api = api("job-local").await;
    let script = "test -e /data/before && exit 0; touch /data/before; exit 1";
    let mut wanted = job("j", script, json!({"parallelism": 2, "completions": 4}));
    let pod = &mut wanted["spec"]["template"]["spec"];
    pod["restartPolicy"] = json!("OnFailure");
    pod["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    create(&api, wanted).await;
    let job = complete(&api, "j").await;
    is_settled(&job);
    assert_eq!((&job["status"]["succeeded"], &job["status"]["failed"]), (&json!(4), &Value::Null));
    let pods = until_count(&api, &pods_of(&api, "j"), "its pods", 4).await;
    for pod in pods {
        assert_eq!(pod["status"]["phase"], "Succeeded");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1, "{:#}", pod["status"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c137_too_many_failed_indexes_end_the_job() {
    e2e::need!(e2e::machine::root());
    let api = api("job-max-failed").await;
    let spec = json!({"completionMode": "Indexed", "completions": 10, "parallelism": 1, "backoffLimitPerIndex": 0,
        "maxFailedIndexes": 1});
    create(&api, job("j", "exit $(( JOB_COMPLETION_INDEX % 2 ))", spec)).await;
    let job = failed(&api, "j").await;
    is_settled(&job);
    assert_eq!(condition(&job, "Failed")["reason"], "MaxFailedIndexesExceeded");
    assert_eq!(condition(&job, "FailureTarget")["reason"], "MaxFailedIndexesExceeded");
    let status = &job["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")));
    api.event("j", "MaxFailedIndexesExceeded", "maximal number of failed indexes").await;
}

#[track_caller]
fn has_met_its_policy(job: &Value, indexes: &str) {
    is_settled(job);
    for kind in ["SuccessCriteriaMet", "Complete"] {
        assert_eq!(condition(job, kind)["reason"], "SuccessPolicy", "{:#}", job["status"]);
        assert_eq!(condition(job, kind)["message"], "Matched rules at index 0");
    }
    assert_eq!(job["status"]["completedIndexes"], indexes);
    assert_eq!(job["status"]["failed"], Value::Null, "pods that were not needed have not failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn c138_a_success_policy_is_met_when_all_succeed() {
    e2e::need!(e2e::machine::root());
    let api = api("job-success-all").await;
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "successPolicy": {"rules": [{"succeededIndexes": "0,1"}]}});
    create(&api, job("j", "true", spec)).await;
    has_met_its_policy(&complete(&api, "j").await, "0,1");
}

#[tokio::test(flavor = "multi_thread")]
async fn c139_a_number_of_successes_is_enough() {
    e2e::need!(e2e::machine::root());
    let api = api("job-success-count").await;
    let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2,
        "successPolicy": {"rules": [{"succeededCount": 1}]}});
    create(&api, job("j", "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 1000", spec)).await;
    has_met_its_policy(&complete(&api, "j").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn c140_some_indexes_are_enough() {
    e2e::need!(e2e::machine::root());
    let api = api("job-success-indexes").await;
    let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2,
        "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    create(&api, job("j", "[ $JOB_COMPLETION_INDEX = 1 ] || sleep 1000", spec)).await;
    has_met_its_policy(&complete(&api, "j").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_suspended_and_resumed() {
    e2e::need!(e2e::machine::root());
    let api = api("job-suspend").await;
    create(&api, job("j", "sleep 1000", json!({"completions": 2, "parallelism": 2}))).await;
    running(&api, "j", 2).await;
    let suspend = |suspend: bool| json!({"spec": {"suspend": suspend}});
    api.patch(&path(&api, "j"), Patch::Merge, suspend(true)).await.ok();
    until_count(&api, &pods_of(&api, "j"), "its pods go", 0).await;
    let suspended = api.until_within(SOON, &path(&api, "j"), "it is suspended", |job| is(job, "Suspended")).await;
    let status = &suspended["status"];
    assert_eq!(
        (&status["failed"], &status["active"], &status["startTime"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    api.patch(&path(&api, "j"), Patch::Merge, suspend(false)).await.ok();
    running(&api, "j", 2).await;
    let resumed = api.until_within(SOON, &path(&api, "j"), "both are active", |job| job["status"]["active"] == 2).await;
    assert!(!is(&resumed, "Suspended") && resumed["status"]["startTime"].is_string(), "{resumed:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_too_often_or_takes_too_long_ends() {
    e2e::need!(e2e::machine::root());
    let api = api("job-limits").await;
    create(&api, job("fails", "exit 1", json!({"backoffLimit": 1}))).await;
    create(&api, job("hangs", "sleep 1000", json!({"activeDeadlineSeconds": 2, "parallelism": 2, "completions": 2})))
        .await;
    let hangs = failed(&api, "hangs").await;
    is_settled(&hangs);
    assert_eq!(
        (&condition(&hangs, "Failed")["reason"], &hangs["status"]["failed"]),
        (&json!("DeadlineExceeded"), &json!(2))
    );
    until_count(&api, &pods_of(&api, "hangs"), "its pods go", 0).await;
    api.event("hangs", "DeadlineExceeded", "longer than specified deadline").await;
    let fails = failed(&api, "fails").await;
    is_settled(&fails);
    assert_eq!(
        (&condition(&fails, "Failed")["reason"], &fails["status"]["failed"]),
        (&json!("BackoffLimitExceeded"), &json!(2))
    );
    // Between the two lay the back-off.
    let pods = until_count(&api, &pods_of(&api, "fails"), "two pods", 2).await;
    let seconds = |pod: &Value, pointer: &str| {
        let text = pod.pointer(pointer).and_then(Value::as_str).expect("a time");
        text.parse::<k8s_openapi::jiff::Timestamp>().expect("RFC 3339").as_second()
    };
    let mut made: Vec<i64> = pods.iter().map(|pod| seconds(pod, "/metadata/creationTimestamp")).collect();
    made.sort_unstable();
    let ended =
        pods.iter().map(|pod| seconds(pod, "/status/containerStatuses/0/state/terminated/finishedAt")).min().unwrap();
    assert!(made[1] - ended >= 10, "made at {made:?}, the first ended at {ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_some_time_after_its_end() {
    e2e::need!(e2e::machine::root());
    let api = api("job-ttl").await;
    create(&api, job("j", "true", json!({"ttlSecondsAfterFinished": 2}))).await;
    let done = complete(&api, "j").await;
    api.until_gone(&path(&api, "j")).await;
    let ended: k8s_openapi::jiff::Timestamp =
        condition(&done, "Complete")["lastTransitionTime"].as_str().expect("a time").parse().expect("RFC 3339");
    assert!(k8s_openapi::jiff::Timestamp::now().as_second() - ended.as_second() >= 2, "it went too early");
    until_count(&api, &pods_of(&api, "j"), "and its pods", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_controllers_jobs_are_left_alone() {
    e2e::need!(e2e::machine::root());
    let api = api("job-managed").await;
    create(&api, job("theirs", "true", json!({"managedBy": "acme.io/jobs"}))).await;
    create(&api, job("ours", "true", json!({"managedBy": "kubernetes.io/job-controller"}))).await;
    complete(&api, "ours").await;
    let theirs = api.get(&path(&api, "theirs")).await.ok();
    assert_eq!(theirs["status"], json!({}));
    until_count(&api, &pods_of(&api, "theirs"), "it has no pods", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_replaced_when_they_have_ended_where_asked() {
    e2e::need!(e2e::machine::root());
    let api = api("job-replace").await;
    let mut wanted =
        job("j", "trap 'sleep 3; exit 1' TERM; sleep 1000 & wait", json!({"podReplacementPolicy": "Failed"}));
    wanted["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(20);
    create(&api, wanted).await;
    let first = running(&api, "j", 1).await.remove(0);
    // It ends within seconds: both are watched from before.
    let (mut jobs, mut pods) = (api.watch_one(&path(&api, "j")).await, api.watch(&pods_of(&api, "j")).await);
    api.delete(&pod_path(&api, &first), Value::Null).await.ok();
    let ending = jobs.until("it is ending", |job| job["status"]["terminating"] == 1).await;
    assert_eq!((&ending["status"]["active"], &ending["status"]["failed"]), (&Value::Null, &Value::Null));
    let counted = jobs.until("it has failed", |job| job["status"]["failed"] == 1).await;
    assert_eq!(counted["status"]["terminating"], 0);
    let mut has_ended = false;
    loop {
        let (kind, pod) = pods.next("another takes its place").await;
        if name_of(&pod) != name_of(&first) {
            break;
        }
        has_ended |= kind == "DELETED" || pod["status"]["phase"] == "Failed";
    }
    assert!(has_ended, "the other is made when the first one has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indexed_job_grows_and_shrinks() {
    e2e::need!(e2e::machine::root());
    let api = api("job-elastic").await;
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3});
    create(&api, job("j", "sleep 1000", spec)).await;
    running(&api, "j", 3).await;
    let resize = |count: i32| json!({"spec": {"completions": count, "parallelism": count}});
    api.patch(&path(&api, "j"), Patch::Merge, resize(1)).await.ok();
    let left = until_count(&api, &pods_of(&api, "j"), "two go", 1).await;
    assert_eq!(left[0]["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "0");
    api.patch(&path(&api, "j"), Patch::Merge, resize(2)).await.ok();
    running(&api, "j", 2).await;
    let grown = api.until_within(SOON, &path(&api, "j"), "both are active", |job| job["status"]["active"] == 2).await;
    assert_eq!(grown["status"]["failed"], Value::Null);
    let message = api.patch(&path(&api, "j"), Patch::Merge, json!({"spec": {"completions": 5}})).await.refused(422);
    assert!(message.contains("can only be modified in tandem with parallelism"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_jobs_goes() {
    e2e::need!(e2e::machine::root());
    let api = api("job-namespace").await;
    create(&api, job("runs", "sleep 1000", json!({"parallelism": 2, "completions": 2}))).await;
    create(&api, job("ended", "true", json!({}))).await;
    complete(&api, "ended").await;
    running(&api, "runs", 2).await;
    let namespace = format!("/api/v1/namespaces/{}", api.namespace);
    api.delete(&namespace, Value::Null).await.ok();
    api.until_gone(&namespace).await;
}
