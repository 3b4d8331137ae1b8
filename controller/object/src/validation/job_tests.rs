use super::*;

fn told(check: impl Fn(&mut Faults)) -> Vec<String> {
    let mut faults = Faults::default();
    check(&mut faults);
    faults.into_causes().into_iter().map(|cause| cause.describe()).collect()
}

fn with(change: Value) -> Value {
    let labels = json!({"controller-uid": "u", "job-name": "j", "batch.kubernetes.io/controller-uid": "u",
        "batch.kubernetes.io/job-name": "j"});
    let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
        "completionMode": "NonIndexed", "parallelism": 1, "completions": 1,
        "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}},
        "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "dnsPolicy": "Default",
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}]}}}});
    for (key, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(job["spec"].as_object_mut().unwrap().remove(key)),
            value => job["spec"][key] = value.clone(),
        }
    }
    job
}

fn faults(change: Value) -> Vec<String> {
    let job = with(change);
    told(|faults| super::job(&job, faults))
}

#[track_caller]
fn refused(change: Value, wanted: &str) {
    let found = faults(change.clone());
    assert!(found.len() == 1 && found[0].starts_with(wanted), "{change}: {found:?}");
}

fn indexed(change: Value) -> Value {
    let mut spec = json!({"completionMode": "Indexed", "completions": 4});
    spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    spec
}

#[test]
fn good_jobs_pass() {
    let none = Vec::<String>::new();
    assert_eq!(faults(json!({})), none);
    assert_eq!(faults(indexed(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 4}))), none);
    let rules = json!([
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailIndex", "onExitCodes": {"containerName": "c", "operator": "In", "values": [1, 7]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [0, 3]}}]);
    let spec =
        json!({"backoffLimitPerIndex": 1, "podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": rules}});
    assert_eq!(faults(indexed(spec)), none);
    let rules = json!([{"succeededIndexes": "0,2-3", "succeededCount": 3}, {"succeededCount": 1}]);
    assert_eq!(faults(indexed(json!({"successPolicy": {"rules": rules}}))), none);
    assert_eq!(faults(json!({"managedBy": "acme.io/foo"})), none);
    let manual = json!({"manualSelector": true, "selector": {"matchLabels": {"job-name": "j"}}});
    assert_eq!(faults(manual), none);
}

#[test]
fn numbers_and_modes() {
    refused(json!({"parallelism": -1}), "spec.parallelism: Invalid value: -1");
    refused(json!({"completionMode": "Odd"}), "spec.completionMode: Unsupported value");
    refused(json!({"completionMode": "Indexed", "completions": null}), "spec.completions: Required value");
    refused(indexed(json!({"parallelism": 100_001})), "spec.parallelism: Invalid value");
    refused(indexed(json!({"maxFailedIndexes": 1})), "spec.backoffLimitPerIndex: Required value");
    refused(indexed(json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 5})), "spec.maxFailedIndexes: Invalid value");
    refused(json!({"backoffLimitPerIndex": 1}), "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed");
    let many = json!({"completionMode": "Indexed", "completions": 200_000, "backoffLimitPerIndex": 1});
    refused(many, "spec.maxFailedIndexes: Required value");
    refused(json!({"podReplacementPolicy": "Never"}), "spec.podReplacementPolicy: Unsupported value");
    refused(json!({"managedBy": "acme"}), "spec.managedBy: Invalid value");
    let long = json!({"completionMode": "Indexed", "completions": 2});
    let mut job = with(long);
    job["metadata"]["name"] = "j".repeat(62).into();
    job["spec"]["manualSelector"] = true.into();
    assert!(told(|faults| super::job(&job, faults))[0].starts_with("metadata.name: Invalid value"));
}

#[test]
fn selectors_are_made_by_the_server() {
    let other = json!({"selector": {"matchLabels": {"job-name": "j"}}});
    refused(
        other,
        "spec.selector: Invalid value: {\"matchLabels\":{\"job-name\":\"j\"}}: `selector` not auto-generated",
    );
    let mut job = with(json!({}));
    job["spec"]["template"]["metadata"]["labels"]["job-name"] = "other".into();
    let found = told(|faults| super::job(&job, faults));
    assert_eq!(found, ["spec.template.metadata.labels[job-name]: Invalid value: \"other\": must be 'j'"]);
    let manual = json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}});
    refused(manual, "spec.template.metadata.labels: Invalid value");
}

#[test]
fn failure_policies_by_field() {
    let rule = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
    let at = "spec.podFailurePolicy.rules[0]";
    let codes = |codes: Value| rule(json!({"action": "FailJob", "onExitCodes": codes}));
    refused(rule(json!({"action": "Count"})), &format!("{at}: Invalid value"));
    refused(rule(json!({"action": "Odd", "onPodConditions": [{"type": "A"}]})), &format!("{at}.action: Unsupported"));
    refused(rule(json!({"action": "FailIndex", "onPodConditions": [{"type": "A"}]})), &format!("{at}.action: Invalid"));
    refused(codes(json!({"operator": "In", "values": [0]})), &format!("{at}.onExitCodes.values[0]: Invalid value: 0"));
    refused(
        codes(json!({"operator": "In", "values": [2, 1]})),
        &format!("{at}.onExitCodes.values[1]: Invalid value: 1"),
    );
    refused(codes(json!({"operator": "In", "values": [2, 2]})), &format!("{at}.onExitCodes.values[1]: Duplicate"));
    refused(codes(json!({"operator": "In", "values": []})), &format!("{at}.onExitCodes.values: Invalid value"));
    refused(codes(json!({"operator": "Near", "values": [1]})), &format!("{at}.onExitCodes.operator: Unsupported"));
    let stranger = json!({"operator": "In", "values": [1], "containerName": "x"});
    refused(codes(stranger), &format!("{at}.onExitCodes.containerName: Invalid value: \"x\""));
    let restarts = {
        let mut job = with(codes(json!({"operator": "In", "values": [1]})));
        job["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
        told(|faults| super::job(&job, faults))
    };
    assert!(restarts[0].contains("only \"Never\" is supported when podFailurePolicy is specified"), "{restarts:?}");
}

#[test]
fn success_policies_by_field() {
    let rules = |rules: Value| indexed(json!({"successPolicy": {"rules": rules}}));
    refused(rules(json!([])), "spec.successPolicy.rules: Required value");
    refused(rules(json!([{}])), "spec.successPolicy.rules[0]: Required value");
    refused(rules(json!([{"succeededCount": 5}])), "spec.successPolicy.rules[0].succeededCount: Invalid value: 5");
    refused(rules(json!([{"succeededIndexes": "4"}])), "spec.successPolicy.rules[0].succeededIndexes: Invalid value");
    let more = json!([{"succeededIndexes": "0-1", "succeededCount": 3}]);
    refused(rules(more), "spec.successPolicy.rules[0].succeededCount: Invalid value: 3");
    refused(json!({"successPolicy": {"rules": [{"succeededCount": 1}]}}), "spec.successPolicy: Invalid value");
}

#[test]
fn what_may_change_of_a_job() {
    let change = |old: &Value, change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        told(|faults| update(old, &new, faults))
    };
    let (job, none) = (with(indexed(json!({"parallelism": 4}))), Vec::<String>::new());
    assert_eq!(change(&job, &|new| new["spec"]["parallelism"] = 2.into()), none);
    let elastic = change(&job, &|new| {
        new["spec"]["parallelism"] = 2.into();
        new["spec"]["completions"] = 2.into();
    });
    assert_eq!(elastic, none);
    assert_eq!(change(&job, &|new| new["spec"]["completions"] = 2.into()).len(), 1);
    assert_eq!(change(&with(json!({})), &|new| new["spec"]["completions"] = 2.into()).len(), 1);
    let placed = |new: &mut Value| new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert_eq!(change(&job, &placed).len(), 1);
    let mut queued = with(json!({"suspend": true}));
    assert_eq!(change(&queued, &placed), none);
    assert_eq!(change(&queued, &|new| new["spec"]["template"]["spec"]["hostNetwork"] = true.into()).len(), 1);
    queued["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
    assert_eq!(change(&queued, &placed).len(), 1);
}

#[test]
fn cron_jobs_by_field() {
    let of = |change: Value| {
        let template = with(json!({"selector": null}))["spec"].clone();
        let mut cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "@daily", "concurrencyPolicy": "Allow",
            "jobTemplate": {"spec": template}}});
        for (key, value) in change.as_object().unwrap() {
            cron["spec"][key] = value.clone();
        }
        told(|faults| cron_job(&cron, faults))
    };
    assert_eq!(of(json!({"timeZone": "Europe/Berlin", "schedule": "*/5 0-4 * jan,feb MON-FRI"})), Vec::<String>::new());
    for (change, wanted) in [
        (
            json!({"schedule": "* * * *"}),
            "spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4",
        ),
        (json!({"schedule": "TZ=UTC * * * * *"}), "spec.schedule: Invalid value"),
        (json!({"schedule": ""}), "spec.schedule: Required value"),
        (json!({"timeZone": ""}), "spec.timeZone: Invalid value: \"\": must be nil or non-empty string"),
        (json!({"timeZone": "local"}), "spec.timeZone: Invalid value: \"local\": timeZone must be an explicit"),
        (json!({"timeZone": "Mars/Base"}), "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"),
        (json!({"startingDeadlineSeconds": -1}), "spec.startingDeadlineSeconds: Invalid value"),
        (json!({"concurrencyPolicy": "Maybe"}), "spec.concurrencyPolicy: Unsupported value"),
    ] {
        let found = of(change.clone());
        assert!(found.len() == 1 && found[0].starts_with(wanted), "{change}: {found:?}");
    }
}
