//! PodDisruptionBudgets and what they stand against: lines 122 to 126.

use e2e::api::{Answer, Api, Patch, SOON, condition};
use serde_json::{Value, json};

use crate::batch::{api, container, until_count};
use crate::scene::name_of;

fn budget(name: &str, spec: Value) -> Value {
    let mut budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "labels": {"of": name}}, "spec": {"selector": {"matchLabels": {"app": "a"}}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        budget["spec"][key] = value.clone();
    }
    budget
}

fn budgets(api: &Api) -> String {
    api.path("policy/v1", "poddisruptionbudgets")
}

fn path(api: &Api, name: &str) -> String {
    format!("{}/{name}", budgets(api))
}

/// Pods of nobody that run until they are told to end.
async fn pods(api: &Api, count: usize) -> Vec<Value> {
    let all = api.path("v1", "pods");
    for index in 0..count {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{index}"),
            "labels": {"app": "a"}}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [container("c", "sleep 1000")]}});
        api.post(&all, pod).await.ok();
    }
    let ready = |pods: &[Value]| pods.iter().filter(|pod| condition(pod, "Ready")["status"] == "True").count() == count;
    api.until_all(&all, "pods are ready", ready).await
}

/// The budget once the controller has looked at it as it is now.
async fn observed(api: &Api, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let seen = |budget: &Value| budget["status"]["observedGeneration"] == budget["metadata"]["generation"];
    api.until_within(SOON, &path(api, name), what, |budget| seen(budget) && fits(&budget["status"])).await
}

async fn evict(api: &Api, pod: &str) -> Answer {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    api.post(&format!("{}/{pod}/eviction", api.path("v1", "pods")), body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn c122_budgets_are_listed_everywhere_and_deleted_together() {
    let (one, other) = (api("budget-list-a").await, api("budget-list-b").await);
    let label = one.namespace.clone();
    for (api, names) in [(&one, &["a", "b"][..]), (&other, &["c"])] {
        for name in names {
            let mut wanted = budget(name, json!({"minAvailable": 1}));
            wanted["metadata"]["labels"] = json!({"listed": label});
            api.post(&budgets(api), wanted).await.ok();
        }
    }
    let everywhere = format!("/apis/policy/v1/poddisruptionbudgets?labelSelector=listed={label}");
    let all = until_count(&one, &everywhere, "all three", 3).await;
    let mut names: Vec<&str> = all.iter().map(name_of).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(until_count(&one, &budgets(&one), "those of one namespace", 2).await.len(), 2);
    one.delete(&format!("{}?labelSelector=listed={label}", budgets(&one)), Value::Null).await.ok();
    let left = until_count(&one, &everywhere, "that of the other is left", 1).await;
    assert_eq!(left[0]["metadata"]["namespace"], other.namespace);
}

#[tokio::test(flavor = "multi_thread")]
async fn c123_an_eviction_waits_for_its_budget() {
    e2e::need!(e2e::machine::root());
    let api = api("budget-evict").await;
    pods(&api, 3).await;
    api.post(&budgets(&api), budget("b", json!({"minAvailable": 3}))).await.ok();
    observed(&api, "b", "nothing is allowed", |status| {
        status["currentHealthy"] == 3 && status["disruptionsAllowed"] == 0
    })
    .await;
    let said = evict(&api, "p0").await;
    assert_eq!(said.body["details"]["causes"][0]["reason"], "DisruptionBudget", "{:#}", said.body);
    assert_eq!(said.refused(429), "Cannot evict pod as it would violate the pod's disruption budget.");
    api.patch(&path(&api, "b"), Patch::Merge, json!({"spec": {"minAvailable": 2}})).await.ok();
    observed(&api, "b", "one is allowed", |status| status["disruptionsAllowed"] == 1).await;
    evict(&api, "p0").await.ok();
    api.until_gone(&format!("{}/p0", api.path("v1", "pods"))).await;
    observed(&api, "b", "it is seen", |status| status["currentHealthy"] == 2 && status["disruptionsAllowed"] == 0)
        .await;
    evict(&api, "p1").await.refused(429);
    api.delete(&path(&api, "b"), Value::Null).await.ok();
    api.until_gone(&path(&api, "b")).await;
    evict(&api, "p1").await.ok();
    api.until_gone(&format!("{}/p1", api.path("v1", "pods"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c124_the_life_of_a_budget() {
    let api = api("budget-life").await;
    let made = api.post(&budgets(&api), budget("b", json!({"minAvailable": "1%"}))).await.ok();
    assert_eq!(made["spec"]["minAvailable"], "1%");
    let mut new = observed(&api, "b", "it is seen", |_| true).await;
    new["spec"]["minAvailable"] = json!("2%");
    // The controller writes the status meanwhile.
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let updated = api.put(&path(&api, "b"), new).await.ok();
    assert_eq!((&updated["spec"]["minAvailable"], &updated["metadata"]["generation"]), (&json!("2%"), &json!(2)));
    observed(&api, "b", "the update is seen", |_| true).await;
    let patch = json!({"spec": {"minAvailable": "3%"}});
    let patched = api.patch(&path(&api, "b"), Patch::Strategic, patch).await.ok();
    assert_eq!(patched["spec"]["minAvailable"], "3%");
    observed(&api, "b", "the patch is seen", |_| true).await;
    api.delete(&path(&api, "b"), Value::Null).await.ok();
    api.get(&path(&api, "b")).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn c125_a_budget_tells_what_it_allows() {
    e2e::need!(e2e::machine::root());
    let api = api("budget-status").await;
    api.post(&budgets(&api), budget("b", json!({"minAvailable": 1}))).await.ok();
    let alone = observed(&api, "b", "it is seen", |status| status["expectedPods"] == 0).await;
    assert_eq!(condition(&alone, "DisruptionAllowed")["reason"], "InsufficientPods");
    pods(&api, 2).await;
    let seen = observed(&api, "b", "one may go", |status| status["disruptionsAllowed"] == 1).await;
    let status = &seen["status"];
    assert_eq!(
        (&status["currentHealthy"], &status["desiredHealthy"], &status["expectedPods"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_eq!(condition(&seen, "DisruptionAllowed")["status"], "True");
    assert_eq!(condition(&seen, "DisruptionAllowed")["reason"], "SufficientPods");
}

#[tokio::test(flavor = "multi_thread")]
async fn c126_the_status_of_a_budget_is_written_by_itself() {
    e2e::need!(e2e::machine::root());
    let api = api("budget-write").await;
    api.post(&budgets(&api), budget("b", json!({"minAvailable": 1}))).await.ok();
    pods(&api, 1).await;
    observed(&api, "b", "it is seen", |status| status["currentHealthy"] == 1).await;
    let status = format!("{}/status", path(&api, "b"));
    let said = json!({"type": "E2E", "status": "True", "reason": "Told", "message": "by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let both = |budget: &mut Value| {
        budget["spec"]["minAvailable"] = json!(7);
        budget["status"]["conditions"].as_array_mut().expect("conditions").push(said.clone());
    };
    let updated = api.edit(&status, both).await;
    assert_eq!(condition(&updated, "E2E")["reason"], "Told");
    assert_eq!(updated["spec"]["minAvailable"], 1, "the spec is not written by this path");
    let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({"status": {"disruptedPods": {"p0": now}}});
    let patched = api.patch(&status, Patch::Merge, patch).await.ok();
    assert_eq!(patched["status"]["disruptedPods"]["p0"], now);
    let read = api.get(&status).await.ok();
    assert_eq!(name_of(&read), "b");
    // Whoever writes, the controller says what is so.
    let wrong = json!({"status": {"currentHealthy": 9}});
    api.patch(&status, Patch::Merge, wrong).await.ok();
    let right = observed(&api, "b", "it is put right", |status| status["currentHealthy"] == 1).await;
    assert_eq!(right["spec"]["minAvailable"], 1);
}
