//! DaemonSets: lines 107 to 113, and what they leave out.

use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::scene::{Scene, name_of, template, uids};

fn set(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template(name)}});
    change(&mut set["spec"]);
    set
}

#[tokio::test]
async fn c111_every_node_has_a_pod_and_one_that_is_deleted_comes_again() {
    need!(machine::root());
    let scene = Scene::new("ds-simple").await;
    scene.make("daemonsets", &set("d", |_| {})).await;
    let before = scene.ready("d", 1).await;
    assert_eq!(before[0]["spec"]["nodeName"], "node-1");
    scene.api.delete(&scene.pod(name_of(&before[0])), Value::Null).await.ok();
    let other = |pods: &[Value]| pods.len() == 1 && uids(pods) != uids(&before);
    scene.until_pods("d", "another one comes", other).await;
    scene.ready("d", 1).await;
    scene.until("daemonsets", "d", "it is told", |set| set["status"]["numberAvailable"] == 1).await;
}
