//! The agent comes back, or a pod's monitor dies: nothing runs twice, nothing stays behind, nothing hangs.

use std::path::Path;
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// A pod whose containers each add a line with their name to `runs` when they start.
fn pod(name: &str, runs: &Path, policy: &str, containers: &[(&str, &str)]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(container, then)| {
            json!({"name": container, "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", format!("echo {name}-{container} >> /runs/log; {then}")],
                "volumeMounts": [{"name": "runs", "mountPath": "/runs"}]})
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": policy,
        "terminationGracePeriodSeconds": 1, "containers": containers,
        "volumes": [{"name": "runs", "hostPath": {"path": runs}}]}})
}

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn runs(dir: &Path, of: &str) -> usize {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    log.lines().filter(|line| *line == of).count()
}

fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    statuses.into_iter().find(|status| status["name"] == container).unwrap_or(&Value::Null)
}

#[test]
fn nothing_runs_twice_and_nothing_hangs() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    let dir = tempfile::tempdir().expect("a directory");

    // One container ended, the other runs: after a kill the first has still ended, once.
    apply(&client, &pod("two", dir.path(), "Never", &[("ends", "exit 0"), ("stays", "sleep 1000000")]));
    apply(&client, &pod("always", dir.path(), "Always", &[("c", "sleep 1000000")]));
    let mut held = pod("held", dir.path(), "Never", &[("c", "sleep 1000000")]);
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    apply(&client, &held);
    // Its probes count into the log: it must stay ready while nobody can ask it.
    let mut probed = pod("probed", dir.path(), "Always", &[("c", "sleep 1000000")]);
    let ask =
        json!({"exec": {"command": ["sh", "-c", "echo asked >> /runs/log"]}, "periodSeconds": 1, "timeoutSeconds": 60});
    for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
        probed["spec"]["containers"][0][kind] = ask.clone();
    }
    apply(&client, &probed);
    let ready_since = |client: &Client| {
        let pod = client.get(&["pod", "probed"]);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|one| one["type"] == "Ready" && one["status"] == "True");
        ready.map(|ready| ready["lastTransitionTime"].clone())
    };
    let before = eventually("it is ready", SOON, || ready_since(&client));
    eventually("one ended, the others run", SOON, || {
        let two = client.get(&["pod", "two"]);
        let running = |name: &str| client.get(&["pod", name])["status"]["phase"] == "Running";
        let ended = status(&two, "ends")["state"]["terminated"].is_object();
        (ended && status(&two, "stays")["state"]["running"].is_object() && running("always") && running("held"))
            .then_some(())
    });
    cluster.kill_server();
    cluster.start_server();

    let asked = runs(dir.path(), "asked");
    eventually("it is probed again", SOON, || (runs(dir.path(), "asked") >= asked + 4).then_some(()));
    assert_eq!(ready_since(&client), Some(before), "it was ready all the time");
    assert_eq!(runs(dir.path(), "probed-c"), 1);

    // A monitor that dies after it was adopted: its pod gets a new sandbox, visibly.
    let uid = client.get(&["pod", "always"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let monitor = eventually("the monitor of the pod", SOON, || machine::process(&["monitor", &uid]));
    kill(Pid::from_raw(monitor), Signal::SIGKILL).expect("the monitor is ours");
    eventually("the container runs again", SOON, || {
        let pod = client.get(&["pod", "always"]);
        let status = status(&pod, "c");
        (status["restartCount"] == 1 && status["state"]["running"].is_object()).then_some(())
    });
    // It says so once its shell has begun.
    eventually("it has run twice", SOON, || (runs(dir.path(), "always-c") >= 2).then_some(()));
    assert_eq!(runs(dir.path(), "always-c"), 2);
    client.run(&["delete", "pod", "always", "--timeout=60s"]).ok();

    let two = client.get(&["pod", "two"]);
    assert_eq!(status(&two, "ends")["restartCount"], 0, "{two}");
    assert!(status(&two, "ends")["state"]["terminated"].is_object(), "{two}");
    assert_eq!((runs(dir.path(), "two-ends"), runs(dir.path(), "two-stays")), (1, 1));

    // A pod that a finalizer keeps is ended once and not built up again, whoever looks at it.
    client.run(&["delete", "pod", "held", "--wait=false"]).ok();
    eventually("its processes are gone", SOON, || {
        let uid = client.get(&["pod", "held"])["metadata"]["uid"].as_str().map(str::to_owned)?;
        machine::container_processes(&uid).is_empty().then_some(())
    });
    cluster.kill_server();
    cluster.start_server();
    client.run(&["delete", "pod", "two", "--timeout=60s"]).ok();
    assert_eq!(runs(dir.path(), "held-c"), 1);
    assert!(client.get(&["pod", "held"])["metadata"]["deletionTimestamp"].is_string());
    let kubectl = machine::program("kubectl").map(|_| cluster.kubectl());
    let Ok(kubectl) = kubectl else {
        println!("skipped: the end of the finalizer: there is no kubectl to patch with");
        return;
    };
    kubectl.run(&["patch", "pod", "held", "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"]).ok();
    eventually("the pod is gone", SOON, || (client.run(&["get", "pod", "held"]).code == 1).then_some(()));
}
