//! The server is killed at seeded random moments of a rollout; nothing that was acknowledged is lost, and no
//! container is lost, doubled or restarted. `hack/kill --count 50` runs it at length.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const PODS: usize = 20;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_rollout_survives_kills() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let seed = number("GANTRY_KILL_SEED", 1);
    let count = number("GANTRY_KILL_COUNT", 5);
    println!("seed {seed}, {count} kills");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    client.run_with(&["apply", "-f", "-"], &manifest(0).to_string()).ok();
    client.run(&["rollout", "status", "deployment/rolled", "--timeout=120s"]).ok();

    let acknowledged = Writer::start(client.clone());
    for kill in 1..=count {
        let before = processes(&client);
        client.run_with(&["apply", "-f", "-"], &manifest(kill).to_string()).ok();
        std::thread::sleep(Duration::from_millis(random.random_range(0..2500)));
        cluster.kill_server();
        // What runs while nobody governs: no container may end, none may start.
        let orphaned = machine_processes(&before);
        cluster.start_server();
        let after = machine_processes(&orphaned);
        let live = pods(&client);
        for (uid, containers) in &orphaned {
            let removed = live.get(uid).is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string());
            if !removed {
                assert_eq!(after.get(uid), Some(containers), "kill {kill}: pod {uid} kept its processes");
            }
        }
    }
    client.run(&["rollout", "status", "deployment/rolled", "--timeout=120s"]).ok();
    let written = acknowledged.stop();
    assert!(!written.is_empty(), "the client wrote nothing");
    let stored: BTreeSet<String> = names(&client.get(&["configmaps", "-l", "kill=yes"]));
    let lost: Vec<&String> = written.iter().filter(|name| !stored.contains(*name)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");

    // The rollout ended at the last template, each container once and never restarted.
    eventually("only pods of the last template are left", Duration::from_secs(60), || {
        (pods(&client).len() == PODS).then_some(())
    });
    for (uid, pod) in pods(&client) {
        assert_eq!(pod["metadata"]["annotations"]["round"], count.to_string());
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], 0, "{pod}");
        let processes = machine::container_processes(&uid);
        assert_eq!(processes.len(), 1, "pod {uid} runs one instance: {processes:?}");
    }
}

/// A Deployment whose template differs from round to round.
fn manifest(round: u64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rolled", "namespace": "default"},
        "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "rolled"}},
            "template": {"metadata": {"labels": {"app": "rolled"}, "annotations": {"round": round.to_string()}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox",
                    "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000000"]}]}}}})
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

fn names(list: &Value) -> BTreeSet<String> {
    items(list).iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

fn pods(client: &Client) -> BTreeMap<String, Value> {
    let list = client.get(&["pods", "-l", "app=rolled"]);
    items(&list).into_iter().map(|pod| (pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), pod)).collect()
}

type Processes = BTreeMap<String, BTreeMap<String, BTreeSet<i32>>>;

fn processes(client: &Client) -> Processes {
    pods(client).into_keys().map(|uid| (uid.clone(), machine::container_processes(&uid))).collect()
}

/// The same pods, as the machine has them now; pods without processes are left out.
fn machine_processes(of: &Processes) -> Processes {
    let all = of.keys().map(|uid| (uid.clone(), machine::container_processes(uid)));
    all.filter(|(_, containers)| containers.values().any(|pids| !pids.is_empty())).collect()
}

/// A client that writes all the time and remembers what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Writer {
    fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            let started = Instant::now();
            let mut number = 0u32;
            while !told.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(1800) {
                number += 1;
                let name = format!("written-{number}");
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": name, "namespace": "default", "labels": {"kill": "yes"}}});
                let said = client.run_with(&["apply", "-f", "-"], &map.to_string());
                if said.code == 0 {
                    acknowledged.push(name);
                } else {
                    // The server is being killed: the next try tells.
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            acknowledged
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer ends")
    }
}
