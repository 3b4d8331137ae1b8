//! A node looks after itself: what runs short is told, and one pod after the other is evicted until there is enough.

use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// What the pods below fork, each.
const PROCESSES: u64 = 1000;

fn apply(client: &Client, object: &Value) {
    client.run_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn get(client: &Client, what: &[&str]) -> Value {
    let said = client.run(&[&["get", "-o", "json"], what].concat());
    serde_json::from_str(&said.out).unwrap_or(Value::Null)
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|condition| condition["type"] == kind).unwrap_or(Value::Null)
}

fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).expect("procfs").trim().parse().expect("a number")
}

/// Process ids that are left, as the node counts them.
fn left() -> u64 {
    let limit = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let loadavg = std::fs::read_to_string("/proc/loadavg").expect("procfs");
    let running = loadavg.split_whitespace().nth(3).and_then(|field| field.split_once('/')).expect("proc(5)").1;
    limit - running.parse::<u64>().expect("a number")
}

/// A pod of so many processes that tolerates a node that says it lacks them.
fn forks(name: &str, class: &str) -> Value {
    let script = format!("for i in $(seq {PROCESSES}); do sleep 1d & done; echo done; wait");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"priorityClassName": class,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}})
}

#[test]
fn who_matters_least_goes_first_when_process_ids_run_out() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the image");
    // One pod fits, two do not.
    let threshold = format!("--eviction-hard=pid.available<{}", left() - PROCESSES * 3 / 2);
    let mut cluster = Cluster::start_with(&[&image], &[&threshold]);
    let client = cluster.gantry();
    for (name, value) in [("low", 1), ("high", 1000)] {
        apply(
            &client,
            &json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}),
        );
    }
    apply(&client, &forks("matters", "high"));
    eventually("the first pod has forked", SOON, || {
        client.run(&["logs", "matters"]).out.contains("done").then_some(())
    });
    apply(&client, &forks("little", "low"));
    eventually("the other pod is evicted", SOON, || {
        (get(&client, &["pod", "little"])["status"]["phase"] == "Failed").then_some(())
    });

    let evicted = get(&client, &["pod", "little"]);
    assert_eq!(evicted["status"]["reason"], "Evicted");
    let message = evicted["status"]["message"].as_str().expect("a message");
    assert!(message.starts_with("The node was low on resource: pids. Threshold quantity: "), "{message}");
    assert!(message.contains("Container c was using 1"), "{message}");
    let disrupted = condition(&evicted, "DisruptionTarget");
    assert_eq!((&disrupted["status"], &disrupted["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    let events = get(&client, &["events", "-A"])["items"].as_array().cloned().unwrap_or_default();
    let told = |reason: &str| events.iter().any(|event| event["reason"] == reason);
    assert!(told("EvictionThresholdMet") && told("NodeHasInsufficientPID") && told("Evicted"), "{events:#?}");
    // The condition stays for a while, so that nobody is sent here at once.
    let node = get(&client, &["nodes"])["items"][0].clone();
    assert_eq!(condition(&node, "PIDPressure")["status"], "True", "{node:#}");
    // Whoever matters more was left alone, and there is enough again.
    assert_eq!(get(&client, &["pod", "matters"])["status"]["phase"], "Running");
    eventually("there is enough again", SOON, || {
        (condition(&get(&client, &["nodes"])["items"][0], "PIDPressure")["status"] == "False").then_some(())
    });
    assert_eq!(get(&client, &["pod", "matters"])["status"]["phase"], "Running");
    cluster.reset(true);
}

#[test]
fn a_threshold_that_cannot_be_read_is_told_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = |flag: &str| {
        let mut command = std::process::Command::new(machine::gantry());
        let output = command.args(["server", flag, "--data-dir"]).arg(dir.path()).output().expect("gantry runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = server("--eviction-hard=memory<100Mi");
    assert!(
        said.contains("error: --eviction-hard: unknown signal \"memory\": expected one of memory.available"),
        "{said}"
    );
    let said = server("--eviction-soft=memory.available<1Gi");
    assert!(said.contains("--eviction-soft-grace-period: memory.available needs one"), "{said}");
}
