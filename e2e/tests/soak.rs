//! Pods come and go by the dozen: what they leave behind on the machine and in the server is nothing.
//! `hack/soak` runs it with thousands.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::machine::{self, Traces};
use e2e::need;
use nix::unistd::Pid;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(120);
/// To ask about all pods costs as much as some of them: it is done seldom, so that it is not what is measured.
const PACE: Duration = Duration::from_millis(500);
/// Events go soon, so that they are not taken for a leak.
const EVENT_TTL: &str = "5";
/// What a server may grow by over a soak: caches and the allocator's slack, not something for each pod.
const GROWTH: u64 = 24 << 20;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What only containers that run have: probes of which one takes too long and one fails, or hooks and a probe that fails.
fn extras(sort: usize) -> Value {
    let second = |mut probe: Value| {
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(1000);
        probe
    };
    match sort % 4 {
        2 => json!({"readinessProbe": second(json!({"exec": {"command": ["true"]}})),
            "livenessProbe": second(json!({"exec": {"command": ["sh", "-c", "sleep 900 & sleep 901"]}}))}),
        3 => json!({"livenessProbe": second(json!({"tcpSocket": {"port": 9}})),
            "lifecycle": {"postStart": {"exec": {"command": ["true"]}}, "preStop": {"sleep": {"seconds": 900}}}}),
        _ => json!({}),
    }
}

/// Pods of every sort: some end by themselves, one fails and is started again, most run until they are deleted.
fn pod(name: &str, sort: usize) -> Value {
    let (command, policy) = match sort % 4 {
        0 => ("exit 0", "Never"),
        1 => ("echo failing; exit 1", "OnFailure"),
        _ => ("while :; do date; sleep 1000; done", "Always"),
    };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"soak": "yes"}}, "spec": {
        "restartPolicy": policy, "terminationGracePeriodSeconds": if sort % 4 == 3 { 1 } else { 0 },
        "initContainers": [{"name": "before", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["touch", "/work/made"], "volumeMounts": [{"name": "work", "mountPath": "/work"}]}],
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", command], "volumeMounts": [{"name": "work", "mountPath": "/work"},
                {"name": "settings", "mountPath": "/settings"}]}],
        "volumes": [{"name": "work", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}}]}});
    if let Some(extras) = extras(sort).as_object() {
        pod["spec"]["containers"][0].as_object_mut().expect("a container").extend(extras.clone());
    }
    pod
}

fn round(client: &Client, first: usize, count: usize) {
    let items: Vec<Value> = (first..first + count).map(|n| pod(&format!("soak-{n}"), n)).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    client.run_with(&["apply", "-f", "-"], &list.to_string()).ok();
    eventually("every pod came up", LONG, || {
        std::thread::sleep(PACE);
        let pods = client.get(&["pods", "-l", "soak=yes"]);
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let is_up = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let was_started = status["state"]["running"].is_object()
                || status["state"]["terminated"].is_object()
                || status["lastState"]["terminated"].is_object();
            let is_probed = pod["spec"]["containers"][0]["readinessProbe"].is_object();
            was_started && pod["status"]["phase"] != "Pending" && (!is_probed || status["ready"] == true)
        };
        (pods.len() == count && pods.iter().all(is_up)).then_some(())
    });
    client.run(&["delete", "pods", "-l", "soak=yes", "--timeout=120s"]).ok();
}

/// What one instance holds, in numbers and names that must not grow.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    on_the_machine: Traces,
    descriptors: usize,
    threads: usize,
    files: BTreeSet<String>,
    events: usize,
}

fn files_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_below(&path, found);
        }
        found.insert(path.display().to_string());
    }
}

fn held(cluster: &Cluster, instance: &str) -> Held {
    let server = format!("/proc/{}", cluster.server_pid());
    let count = |what: &str| std::fs::read_dir(format!("{server}/{what}")).map_or(0, Iterator::count);
    let mut files = BTreeSet::new();
    files_below(&cluster.data_dir().join("agent"), &mut files);
    files_below(&Path::new("/run/gantry").join(instance), &mut files);
    let events = cluster.gantry().get(&["events", "-A"]);
    Held {
        on_the_machine: Traces::of(instance, &cluster.data_dir()),
        descriptors: count("fd"),
        threads: count("task"),
        files,
        events: events["items"].as_array().map_or(0, Vec::len),
    }
}

fn memory(server: Pid) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{server}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
}

#[test]
fn what_comes_and_goes_leaves_nothing() {
    need!(machine::root());
    need!(machine::program("nft").map(drop));
    need!(machine::program("ip").map(drop));
    let (total, at_once) = (number("GANTRY_SOAK_PODS", 60), number("GANTRY_SOAK_AT_ONCE", 20));
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let cluster = Cluster::start_with(&[&image], &["--event-ttl", EVENT_TTL]);
    let instance = machine::instance(&cluster.data_dir());
    let client = cluster.gantry();
    client.run(&["create", "configmap", "settings", "--from-literal=a=1"]).ok();

    // The first round makes what is made once: threads of the pools, caches, parents of cgroups.
    round(&client, 0, at_once);
    let quiet = |what: &str| {
        eventually(what, LONG, || {
            let held = held(&cluster, &instance);
            (held.events == 0 && held.on_the_machine.namespaces.is_empty()).then_some(held)
        })
    };
    let before = quiet("the first round is over");
    let memory_before = memory(cluster.server_pid());

    let started = Instant::now();
    let mut done = at_once;
    while done < total {
        let count = at_once.min(total - done);
        round(&client, done, count);
        done += count;
        if done % (total / 10).max(1) < at_once {
            println!("after {done} pods: {} KiB", memory(cluster.server_pid()) >> 10);
        }
    }
    let took = started.elapsed();
    let mut after = quiet("the last round is over");
    // Idle connections and idle threads of the blocking pool go by themselves, after seconds.
    eventually("the server is as quiet as it was", LONG, || {
        after = held(&cluster, &instance);
        (after.descriptors <= before.descriptors && after.threads <= before.threads).then_some(())
    });
    assert_eq!(after.on_the_machine, before.on_the_machine);
    assert_eq!(after.files, before.files);
    let grown = memory(cluster.server_pid()).saturating_sub(memory_before);
    println!(
        "{} pods in {:.1} s, {:.1} a second; the server's memory grew from {} by {} KiB",
        total - at_once,
        took.as_secs_f64(),
        (total - at_once) as f64 / took.as_secs_f64(),
        memory_before >> 10,
        grown >> 10
    );
    assert!(grown <= GROWTH, "the server grew by {} KiB", grown >> 10);
}
