//! The agent is killed once at each of these steps of a pod's way up and down: what the pod was to be it becomes all the same,
//! with nothing doubled and nothing left. The points are in `agent/src/failpoint.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::machine::{self, Traces};
use e2e::need;
use e2e::neighbour::Neighbour;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(90);

/// While a pod comes up.
const UP: [&str; 16] = [
    "SetUpVolumes:asked",
    "SetUpVolumes:done",
    "StartSandbox:asked",
    "sandbox:prepared",
    "sandbox:joined",
    "StartSandbox:done",
    "EnsureImage:asked",
    "EnsureImage:done",
    "StartContainer:asked",
    "container:written",
    "container:created",
    "StartContainer:done",
    "RunHook:asked",
    "RunHook:done",
    "Probe:asked",
    "Probe:done",
];

/// While it is taken down.
const DOWN: [&str; 10] = [
    "StopContainer:asked",
    "StopContainer:done",
    "KillContainer:asked",
    "KillContainer:done",
    "StopSandbox:asked",
    "StopSandbox:done",
    "TearDownVolumes:asked",
    "TearDownVolumes:done",
    "Release:asked",
    "Release:done",
];

/// A pod with something of each step: volumes of several sorts, an init container, a hook, a probe, and a program that does not
/// listen to its stop signal.
fn pod(name: &str) -> Value {
    let mounts = json!([{"name": "empty", "mountPath": "/empty"}, {"name": "memory", "mountPath": "/memory"},
        {"name": "settings", "mountPath": "/settings"}]);
    let container = |name: &str, script: &str| {
        json!({"name": name, "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
            "volumeMounts": mounts})
    };
    let mut main = container("c", "trap '' TERM; while :; do sleep 1; done");
    main["lifecycle"] = json!({"postStart": {"exec": {"command": ["touch", "/empty/hooked"]}}});
    main["readinessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/empty/hooked"]}, "periodSeconds": 1, "timeoutSeconds": 60});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
        "initContainers": [container("before", "echo made >> /empty/made")], "containers": [main],
        "volumes": [{"name": "empty", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "settings", "configMap": {"name": "settings"}}]}})
}

struct Scene {
    other: Neighbour,
    client: Client,
    flags: Vec<String>,
}

impl Scene {
    fn start(&mut self, point: Option<&str>) {
        self.other.kill();
        self.other.environment = point.map(|point| ("GANTRY_FAILPOINT", point.to_owned())).into_iter().collect();
        self.other.start("node-2", &self.flags.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn apply(&self, name: &str) {
        self.client.run_with(&["apply", "-f", "-"], &pod(name).to_string()).ok();
    }

    fn ready(&self, name: &str, point: &str) -> Value {
        let said = self.client.run(&["wait", "pod", name, "--for=condition=Ready", "--timeout=90s"]);
        assert_eq!(
            said.code,
            0,
            "{point}: {}\n{}",
            said.err,
            self.client.run(&["get", "pods,events", "-o", "wide"]).out
        );
        self.client.get(&["pod", name])
    }

    /// Ready, each container once.
    fn is_whole(&self, name: &str, point: &str) {
        let pod = self.ready(name, point);
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{point}: {}", pod["status"]);
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let live: BTreeSet<String> = machine::container_processes(uid)
            .into_iter()
            .filter_map(|(container, pids)| (!pids.is_empty()).then_some(container))
            .collect();
        assert_eq!(live.len(), 1, "{point}: one container runs: {live:?}");
        let made = self.client.run(&["exec", name, "--", "cat", "/empty/made"]).ok();
        assert_eq!(made, "made\n", "{point}: the init container ran once");
    }

    fn is_gone(&self, name: &str, point: &str) {
        let said = self.client.run(&["wait", "pod", name, "--for=delete", "--timeout=90s"]);
        assert_eq!(said.code, 0, "{point}: {}\n{}", said.err, self.client.run(&["get", "pods", "-o", "yaml"]).out);
    }
}

#[test]
fn an_agent_that_is_killed_at_any_step_goes_on_where_it_was() {
    need!(machine::root());
    need!(machine::program("nsenter"));
    let image = machine::image("busybox").expect("hack/image makes it");
    let mut other = Neighbour::new();
    let cluster = Cluster::start_at(other.here().into(), &[], &["--disable-agent"]);
    let client = cluster.gantry();
    client.run(&["create", "configmap", "settings", "--from-literal=a=1"]).ok();
    other.join(&cluster, "node-2", &[&image]);
    // A second start needs no token.
    let flags = ["--server", &cluster.url(), "--node-name", "node-2"].map(str::to_owned).to_vec();
    let instance = machine::instance(&other.data_dir("node-2"));
    let mut scene = Scene { other, client, flags };

    // The first pod makes what is made once.
    scene.apply("first");
    scene.is_whole("first", "no point");
    scene.client.run(&["delete", "pod", "first", "--timeout=60s"]).ok();
    let data_dir = scene.other.data_dir("node-2");
    let held = || {
        let Traces { mounts, cgroups, .. } = Traces::of(&instance, &data_dir);
        (mounts, cgroups)
    };
    let before = held();

    for (number, point) in UP.into_iter().enumerate() {
        let name = format!("up-{number}");
        scene.start(Some(point));
        scene.apply(&name);
        scene.other.ended(point);
        scene.start(None);
        scene.is_whole(&name, point);
        scene.client.run(&["delete", "pod", &name, "--timeout=60s"]).ok();
    }
    for (number, point) in DOWN.into_iter().enumerate() {
        let name = format!("down-{number}");
        scene.start(Some(point));
        scene.apply(&name);
        scene.ready(&name, point);
        scene.client.run(&["delete", "pod", &name, "--wait=false"]).ok();
        scene.other.ended(point);
        scene.start(None);
        scene.is_gone(&name, point);
    }
    // Who was killed just after the last word tidies up at its next start, beside other work.
    let mut after = held();
    eventually("nothing is left", LONG, || {
        after = held();
        (after == before).then_some(())
    });
    scene.other.reset("node-2");
}
