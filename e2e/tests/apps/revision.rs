//! ControllerRevisions: line 101, and how many are kept.

use e2e::api::Patch;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::daemonset::set;
use crate::scene::{Scene, name_of};

fn seconds(seconds: u32) -> Value {
    json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": seconds}}}})
}

impl Scene {
    async fn until_revisions(&self, count: usize) -> Vec<Value> {
        let what = format!("there are {count} revisions");
        let path = format!("{}?labelSelector=app=d", self.apps("controllerrevisions"));
        self.api.until_all(&path, &what, |all| all.len() == count).await
    }
}

#[tokio::test]
async fn c101_lifecycle_of_a_controller_revision() {
    need!(machine::root());
    let scene = Scene::new("revision").await;
    let made = scene.make("daemonsets", &set("d", |_| {})).await;
    scene.ready("d", 1).await;
    let first = scene.until_revisions(1).await.remove(0);
    let path = format!("{}/{}", scene.apps("controllerrevisions"), name_of(&first));
    assert_eq!(
        (&first["revision"], &first["metadata"]["ownerReferences"][0]["uid"]),
        (&json!(1), &made["metadata"]["uid"])
    );
    assert_eq!(first["data"]["spec"]["template"]["$patch"], "replace");
    let label = json!({"metadata": {"labels": {name_of(&first): "patched"}}});
    let patched = scene.api.patch(&path, Patch::Merge, label).await.ok();
    assert_eq!(patched["metadata"]["labels"][name_of(&first)], "patched");
    let everywhere = scene.api.get("/apis/apps/v1/controllerrevisions").await.ok();
    assert!(
        everywhere["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|other| other["metadata"]["uid"] == first["metadata"]["uid"])
    );
    let other = json!({"data": {"spec": {"template": {"metadata": {"name": "other"}}}}});
    let said = scene.api.patch(&path, Patch::Merge, other).await.refused(422);
    assert!(said.contains("data") && said.contains("immutable"), "{said}");

    // One that somebody makes belongs to the set as well; the one it replaces may go.
    let mut second = json!({"data": first["data"], "revision": 2, "metadata": {"name": "d-made-by-hand",
        "labels": first["metadata"]["labels"], "ownerReferences": first["metadata"]["ownerReferences"]}});
    second["metadata"]["labels"]["controller-revision-hash"] = "made-by-hand".into();
    scene.make("controllerrevisions", &second).await;
    scene.until_revisions(2).await;
    scene.api.delete(&path, Value::Null).await.ok();
    scene.api.until_gone(&path).await;
    let mut kept = scene.until_revisions(1).await.remove(0);
    assert_eq!((name_of(&kept), &kept["revision"]), ("d-made-by-hand", &json!(2)));
    kept["metadata"]["labels"]["updated"] = "yes".into();
    let path = format!("{}/d-made-by-hand", scene.apps("controllerrevisions"));
    assert_eq!(scene.api.put(&path, kept).await.ok()["metadata"]["labels"]["updated"], "yes");

    // The next template gets the next number.
    scene.patch("daemonsets", "d", seconds(0)).await;
    let all = scene.until_revisions(2).await;
    let newest = all.iter().find(|revision| revision["revision"] == 3).expect("revision 3");
    assert_eq!(newest["data"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 0);
    scene
        .api
        .delete(&format!("{}?labelSelector=updated=yes", scene.apps("controllerrevisions")), Value::Null)
        .await
        .ok();
    assert_eq!(scene.until_revisions(1).await[0]["revision"], 3);
}

#[tokio::test]
async fn old_revisions_go_and_one_in_use_is_made_again() {
    need!(machine::root());
    let scene = Scene::new("revision-limit").await;
    scene.make("daemonsets", &set("d", |spec| spec["revisionHistoryLimit"] = 1.into())).await;
    scene.ready("d", 1).await;
    for n in 2..5 {
        scene.patch("daemonsets", "d", seconds(n)).await;
        let updated = |set: &Value| {
            let status = &set["status"];
            status["observedGeneration"] == n && status["updatedNumberScheduled"] == 1 && status["numberAvailable"] == 1
        };
        scene.until("daemonsets", "d", "it is updated", updated).await;
    }
    let numbers = |all: &[Value]| {
        let mut numbers: Vec<i64> = all.iter().filter_map(|revision| revision["revision"].as_i64()).collect();
        numbers.sort_unstable();
        numbers
    };
    let path = scene.apps("controllerrevisions");
    let kept = scene.api.until_all(&path, "the newest two are kept", |all| numbers(all) == [3, 4]).await;
    let newest = kept.iter().find(|revision| revision["revision"] == 4).unwrap();
    scene.api.delete(&format!("{path}/{}", name_of(newest)), Value::Null).await.ok();
    let again = |all: &[Value]| {
        all.iter()
            .any(|other| name_of(other) == name_of(newest) && other["metadata"]["uid"] != newest["metadata"]["uid"])
    };
    scene.api.until_all(&path, "it is made again", again).await;
    scene.ready("d", 1).await;
}
