//! Lines 308, 310, 311, 313 and 314: pods as a whole.

use e2e::api::Patch;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, status};

#[tokio::test]
async fn c308_a_pod_has_its_class_of_service() {
    need!(machine::root());
    let pods = Pods::new("class").await;
    let mut own = container("c", "exec sleep 600");
    let amounts = json!({"cpu": "100m", "memory": "32Mi"});
    own["resources"] = json!({"requests": amounts, "limits": amounts});
    pods.create(pod("p", &[own])).await;
    assert_eq!(pods.ready("p").await["status"]["qosClass"], "Guaranteed");
}

#[tokio::test]
async fn c310_a_pod_comes_and_goes_and_its_watchers_see_it() {
    need!(machine::root());
    let pods = Pods::new("comes").await;
    let mut events = pods.api.watch(&format!("{}?labelSelector=time=now", pods.api.path("v1", "pods"))).await;
    let script = "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done";
    let mut own = pod("p", &[container("c", script)]);
    own["metadata"]["labels"] = json!({"time": "now"});
    own["spec"]["terminationGracePeriodSeconds"] = json!(30);
    pods.create(own).await;
    assert_eq!(events.told().await, ("ADDED".into(), "p".into()));
    pods.ready("p").await;
    pods.delete("p").await;
    let mut last = Value::Null;
    loop {
        let (kind, object) = events.next("its end").await;
        if kind == "DELETED" {
            break;
        }
        if object["metadata"]["deletionTimestamp"].is_string() {
            last = object;
        }
    }
    assert_eq!(last["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(status(&last, "c")["state"]["terminated"].is_object(), "it ended before it was gone: {last:#}");
}

#[tokio::test]
async fn c311_a_pod_that_runs_is_updated() {
    need!(machine::root());
    let pods = Pods::new("updated").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    pods.ready("p").await;
    let labels = json!({"metadata": {"labels": {"time": "later"}}});
    pods.api.patch(&pods.path("p"), Patch::Strategic, labels).await.ok();
    let listed = pods.api.get(&format!("{}?labelSelector=time=later", pods.api.path("v1", "pods"))).await.ok();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["items"][0]["status"]["phase"], "Running");
}

#[tokio::test]
async fn c313_pods_are_deleted_together() {
    need!(machine::root());
    let pods = Pods::new("together").await;
    for name in ["one", "two", "three"] {
        let mut own = pod(name, &[container("c", "exec sleep 600")]);
        own["metadata"]["labels"] = json!({"type": "testing"});
        pods.create(own).await;
    }
    for name in ["one", "two", "three"] {
        pods.ready(name).await;
    }
    let path = format!("{}?labelSelector=type=testing", pods.api.path("v1", "pods"));
    pods.api.delete(&path, json!({"gracePeriodSeconds": 1})).await.ok();
    pods.api.until_all(&path, "they are gone", <[Value]>::is_empty).await;
}

#[tokio::test]
async fn c314_a_pod_knows_its_host() {
    need!(machine::root());
    let pods = Pods::new("host-ip").await;
    pods.create(pod("p", &[container("c", "exec sleep 600")])).await;
    let pod = pods.ready("p").await;
    let host = pod["status"]["hostIP"].as_str().expect("an address");
    assert!(host.parse::<std::net::IpAddr>().is_ok(), "{host}");
    assert_eq!(pod["status"]["hostIPs"][0]["ip"], host);
}
