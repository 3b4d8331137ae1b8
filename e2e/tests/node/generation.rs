//! Lines 305 to 307: which generation of a pod the node has seen.

use e2e::api::{Patch, condition};
use e2e::machine;
use e2e::need;
use serde_json::json;

use crate::{Pods, container, pod};

#[tokio::test]
async fn c307_every_update_of_the_spec_is_observed() {
    need!(machine::root());
    let pods = Pods::new("generation").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    let fresh = pods.ready("p").await;
    assert_eq!((&fresh["metadata"]["generation"], &fresh["status"]["observedGeneration"]), (&json!(1), &json!(1)));
    let changes = [
        json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"key": "a", "operator": "Exists"}}]),
        json!([{"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 3000}]),
        json!([{"op": "replace", "path": "/spec/activeDeadlineSeconds", "value": 2000}]),
    ];
    for (generation, change) in (2..).zip(changes) {
        let patched = pods.api.patch(&pods.path("p"), Patch::Json, change).await.ok();
        assert_eq!(patched["metadata"]["generation"], generation);
        let seen =
            pods.until("p", "it is observed", |pod| pod["status"]["observedGeneration"] == json!(generation)).await;
        assert_eq!(condition(&seen, "Ready")["observedGeneration"], generation);
    }
    let labelled =
        pods.api.patch(&pods.path("p"), Patch::Merge, json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert_eq!(labelled["metadata"]["generation"], 4, "only the spec counts");
}

#[tokio::test]
async fn c306_five_hundred_updates_are_observed_in_the_end() {
    need!(machine::root());
    let pods = Pods::new("generation-many").await;
    let mut own = pod("p", &[container("c", "exec sleep 600")]);
    own["spec"]["activeDeadlineSeconds"] = json!(20_000);
    pods.create(own).await;
    pods.ready("p").await;
    for update in 1..500 {
        let change = json!({"spec": {"activeDeadlineSeconds": 20_000 - update}});
        pods.api.patch(&pods.path("p"), Patch::Merge, change).await.ok();
    }
    let pod = pods.until("p", "all is observed", |pod| pod["status"]["observedGeneration"] == 500).await;
    assert_eq!(pod["metadata"]["generation"], 500);
}

#[tokio::test]
async fn c305_a_generation_is_not_the_clients_and_a_graceful_delete_counts() {
    need!(machine::root());
    let pods = Pods::new("generation-delete").await;
    let script = "trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done";
    let mut own = pod("p", &[container("c", script)]);
    own["metadata"]["generation"] = json!(100);
    own["spec"]["terminationGracePeriodSeconds"] = json!(30);
    pods.create(own).await;
    let fresh = pods.ready("p").await;
    assert_eq!(fresh["metadata"]["generation"], 1);
    let mut events = pods.watch("p").await;
    pods.delete("p").await;
    let going = events.until("it is going", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(going["metadata"]["generation"], 2);
    events.until("that is observed", |pod| pod["status"]["observedGeneration"] == 2).await;
    pods.api.until_gone(&pods.path("p")).await;
}
