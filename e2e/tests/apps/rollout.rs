//! `rollout` and `scale` of both kinds, as kubectl asks for them and as `gantry` does.

use std::time::Duration;

use e2e::machine;
use e2e::need;
use serde_json::Value;

use crate::scene::{Scene, is_ready, label, uids};
use crate::{daemonset, statefulset};

const REVISION: &str = "controller-revision-hash";

impl Scene {
    /// All pods of the app are others than before, and ready.
    async fn all_new(&self, app: &str, before: &[Value]) -> Vec<Value> {
        let are_new = |pods: &[Value]| {
            pods.len() == before.len()
                && pods.iter().all(is_ready)
                && uids(pods).iter().all(|uid| !uids(before).contains(uid))
        };
        self.until_pods(app, "all pods are new", are_new).await
    }
}

#[tokio::test]
async fn rollouts_are_followed_undone_and_repeated_by_either_client() {
    need!(machine::root());
    need!(machine::modern_kubectl());
    let scene = Scene::new("rollout").await;
    scene.make("statefulsets", &statefulset::set("web", 2, |_| {})).await;
    scene.make("daemonsets", &daemonset::set("d", |_| {})).await;
    for (kind, app, count) in [("statefulset", "web", 2), ("daemonset", "d", 1)] {
        let what = format!("{kind}/{app}");
        let first = scene.ready(app, count).await;
        scene.kubectl(&["set", "env", &what, "TRY=2"]).ok();
        scene.kubectl(&["rollout", "status", &what, "--timeout=60s"]).ok();
        let second = scene.all_new(app, &first).await;
        let history = scene.kubectl(&["rollout", "history", &what]).ok();
        assert_eq!(history, scene.gantry(&["rollout", "history", &what]).ok());
        assert_eq!(history.lines().filter(|line| line.ends_with("<none>")).count(), 2, "{history}");
        let told = scene.kubectl(&["rollout", "history", &what, "--revision=2"]).ok();
        assert!(told.contains("TRY:") && told.contains("busybox"), "{told}");

        let said = scene.kubectl(&["rollout", "undo", &what]).ok();
        assert_eq!(said, format!("{kind}.apps/{app} rolled back\n"));
        let third = scene.all_new(app, &second).await;
        assert_eq!(label(&third[0], REVISION), label(&first[0], REVISION));
        scene.gantry(&["rollout", "status", &what, "--timeout=60s"]).ok();
        scene.gantry(&["rollout", "undo", &what, "--to-revision=2"]).ok();
        let fourth = scene.all_new(app, &third).await;
        assert_eq!(label(&fourth[0], REVISION), label(&second[0], REVISION));
        scene.kubectl(&["rollout", "restart", &what]).ok();
        let fifth = scene.all_new(app, &fourth).await;
        // The time of a restart is told in whole seconds, and one second has one restart.
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.gantry(&["rollout", "restart", &what]).ok();
        scene.gantry(&["rollout", "status", &what, "--timeout=60s"]).ok();
        scene.all_new(app, &fifth).await;
    }
    scene.kubectl(&["scale", "statefulset/web", "--replicas=3"]).ok();
    scene.ready("web", 3).await;
}
