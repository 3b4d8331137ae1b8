//! Lines 271 and 309: who is restarted, and for how long a pod may be active.

use e2e::api::{Patch, condition};
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, restarts, status};

/// Fails at its first start, succeeds at the next.
const SECOND_TIME: &str = "[ -e /data/x ] && exit 0; touch /data/x; exit 1";

fn ends(name: &str, policy: &str, script: &str) -> Value {
    let mut own = container("c", script);
    own["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let mut pod = pod(name, &[own]);
    pod["spec"]["restartPolicy"] = json!(policy);
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    pod
}

#[tokio::test]
async fn c271_a_container_that_exits_is_restarted_by_its_policy() {
    need!(machine::root());
    let pods = Pods::new("policies").await;
    pods.create(ends("always", "Always", SECOND_TIME)).await;
    pods.create(ends("on-failure", "OnFailure", SECOND_TIME)).await;
    pods.create(ends("never", "Never", SECOND_TIME)).await;
    let never = pods.ended("never").await;
    assert_eq!((never["status"]["phase"].as_str(), restarts(&never, "c")), (Some("Failed"), 0));
    assert_eq!(condition(&never, "Ready")["reason"], "PodFailed");
    let again = pods.ended("on-failure").await;
    assert_eq!((again["status"]["phase"].as_str(), restarts(&again, "c")), (Some("Succeeded"), 1));
    assert_eq!(status(&again, "c")["state"]["terminated"]["reason"], "Completed");
    let always = pods.until("always", "it waits to run a third time", |pod| restarts(pod, "c") >= 2).await;
    assert_eq!(always["status"]["phase"], "Running");
}

#[tokio::test]
async fn a_container_has_a_policy_and_rules_of_its_own() {
    need!(machine::root());
    let pods = Pods::new("own-policy").await;
    let mut own = ends("p", "Always", "[ -e /data/x ] && exit 7; touch /data/x; exit 42");
    let container = &mut own["spec"]["containers"][0];
    container["restartPolicy"] = json!("Never");
    container["restartPolicyRules"] = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    pods.create(own).await;
    let pod = pods.ended("p").await;
    assert_eq!((pod["status"]["phase"].as_str(), restarts(&pod, "c")), (Some("Failed"), 1));
    assert_eq!(status(&pod, "c")["state"]["terminated"]["exitCode"], 7);
}

#[tokio::test]
async fn c309_an_active_deadline_may_be_set_on_a_live_pod() {
    need!(machine::root());
    let pods = Pods::new("deadline").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    pods.ready("p").await;
    let patch = json!({"spec": {"activeDeadlineSeconds": 3}});
    pods.api.patch(&pods.path("p"), Patch::Merge, patch).await.ok();
    let has_ended =
        |pod: &Value| pod["status"]["phase"] == "Failed" && status(pod, "c")["state"]["terminated"].is_object();
    let pod = pods.until("p", "its time is over", has_ended).await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(pod["status"]["message"], message);
    pods.api.event("p", "DeadlineExceeded", message).await;
}
