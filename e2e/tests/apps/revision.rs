//! ControllerRevisions: line 101, and how many are kept.

use e2e::api::Patch;
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::daemonset::set;
use crate::scene::{Scene, name_of, uids};

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
    let kept = scene.until_revisions(1).await.remove(0);
    assert_eq!((name_of(&kept), &kept["revision"]), ("d-made-by-hand", &json!(2)));
    let path = format!("{}/d-made-by-hand", scene.apps("controllerrevisions"));
    let updated = scene.api.edit(&path, |kept| kept["metadata"]["labels"]["updated"] = "yes".into()).await;
    assert_eq!(updated["metadata"]["labels"]["updated"], "yes");

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

/// Pods and revisions of a set that is deleted without them are the next set's, and nothing is restarted.
async fn orphans_are_taken(scene: &Scene, plural: &str, object: &Value, app: &str, count: usize) {
    let made = scene.make(plural, object).await;
    let before = scene.ready(app, count).await;
    let path = format!("{}/{app}", scene.apps(plural));
    scene.api.delete(&path, json!({"propagationPolicy": "Orphan"})).await.ok();
    scene.api.until_gone(&path).await;
    let is_free = |objects: &[Value]| {
        objects.iter().all(|one| one["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty))
    };
    assert_eq!(uids(&scene.until_pods(app, "nobody owns them", is_free).await), uids(&before));
    let next = scene.make(plural, object).await;
    assert_ne!(next["metadata"]["uid"], made["metadata"]["uid"]);
    let is_taken = |objects: &[Value]| {
        objects.iter().all(|one| one["metadata"]["ownerReferences"][0]["uid"] == next["metadata"]["uid"])
    };
    assert_eq!(uids(&scene.until_pods(app, "the next set owns them", is_taken).await), uids(&before));
    let revisions = format!("{}?labelSelector=app={app}", scene.apps("controllerrevisions"));
    let what = "their revision too, and there is no other";
    scene.api.until_all(&revisions, what, |all| all.len() == 1 && is_taken(all)).await;
    assert_eq!(uids(&scene.still(app).await), uids(&before));
}

#[tokio::test]
async fn a_set_takes_over_what_another_one_left() {
    need!(machine::root());
    let scene = Scene::new("orphans").await;
    orphans_are_taken(&scene, "daemonsets", &set("d", |_| {}), "d", 1).await;
    let stateful = crate::statefulset::set("web", 2, |_| {});
    orphans_are_taken(&scene, "statefulsets", &stateful, "web", 2).await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_counted_and_another_one_found() {
    need!(machine::root());
    let scene = Scene::new("collision").await;
    let stateful = crate::statefulset::set("web", 1, |_| {});
    for (plural, app, object) in [("daemonsets", "d", set("d", |_| {})), ("statefulsets", "web", stateful)] {
        let revisions = format!("{}?labelSelector=app={app}", scene.apps("controllerrevisions"));
        scene.make(plural, &object).await;
        let first = scene.api.until_all(&revisions, "a revision", |all| all.len() == 1).await.remove(0);
        scene.api.delete(&format!("{}/{app}", scene.apps(plural)), Value::Null).await.ok();
        scene.api.until_all(&revisions, "it goes with its set", <[Value]>::is_empty).await;
        // Somebody has the name that the template leads to.
        let stranger = json!({"metadata": {"name": name_of(&first)}, "data": {"other": "things"}, "revision": 1});
        scene.make("controllerrevisions", &stranger).await;
        scene.until_pods(app, "its pods go", <[Value]>::is_empty).await;
        scene.make(plural, &object).await;
        scene.until(plural, app, "the collision is counted", |set| set["status"]["collisionCount"] == 1).await;
        scene.ready(app, 1).await;
        let other = scene.api.until_all(&revisions, "another revision", |all| all.len() == 1).await.remove(0);
        assert!(name_of(&other) != name_of(&first) && other["data"] == first["data"]);
    }
}
