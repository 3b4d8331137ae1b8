//! Pods that name their node themselves, past the scheduler: a node that cannot take one says why, and the pod fails.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod};

#[tokio::test]
async fn a_pod_that_the_node_cannot_take_fails_with_the_reason() {
    need!(machine::root());
    let pods = Pods::new("admission").await;
    let nodes = pods.api.get("/api/v1/nodes").await.ok();
    let node = nodes["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let asks = |resource: &str, amount: &str| json!({"resources": {"requests": {resource: amount}}});
    let slow = json!({"nodeSelector": {"disk": "slow"}});
    let cases: [(&str, Value, Value, &str); 5] = [
        ("cpu", asks("cpu", "9999"), json!({}), "OutOfcpu"),
        ("memory", asks("memory", "999Ti"), json!({}), "OutOfmemory"),
        ("disk", asks("ephemeral-storage", "999Pi"), json!({}), "OutOfephemeral-storage"),
        ("label", json!({}), slow, "NodeAffinity"),
        ("system", json!({}), json!({"os": {"name": "windows"}}), "PodOSNotSupported"),
    ];
    for (name, of_container, of_pod, _) in &cases {
        let mut wanted = pod(name, &[container("c", "sleep 1d")]);
        let all = |target: &mut Value, more: &Value| {
            more.as_object().into_iter().flatten().for_each(|(key, value)| target[key] = value.clone());
        };
        all(&mut wanted["spec"]["containers"][0], of_container);
        all(&mut wanted["spec"], of_pod);
        wanted["spec"]["nodeName"] = json!(node);
        pods.create(wanted).await;
    }
    for (name, _, _, reason) in &cases {
        let refused = pods.ended(name).await;
        assert_eq!((&refused["status"]["phase"], &refused["status"]["reason"]), (&json!("Failed"), &json!(reason)));
        let message = refused["status"]["message"].as_str().expect("a message");
        assert!(message.starts_with("Pod was rejected: "), "{message}");
        pods.api.event(name, reason, message.trim_start_matches("Pod was rejected: ")).await;
    }
    let message = pods.get("cpu").await["status"]["message"].clone();
    let told = "Pod was rejected: Node didn't have enough resource: cpu, requested: 9999000, used: ";
    assert!(message.as_str().is_some_and(|message| message.starts_with(told)), "{message}");
    // Whoever fits is taken.
    let mut fits = pod("fits", &[container("c", "true")]);
    fits["spec"]["nodeName"] = json!(node);
    fits["spec"]["restartPolicy"] = json!("Never");
    pods.create(fits).await;
    assert_eq!(pods.ended("fits").await["status"]["phase"], "Succeeded");
}
