//! A node looks after itself: what runs short is told, and one pod after the other is evicted until there is enough.

use std::time::Duration;

use e2e::api::condition;
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
    // The condition stays for a while, so that nobody is sent here at once.
    eventually("the node says that it runs short", SOON, || {
        (condition(&get(&client, &["nodes"])["items"][0], "PIDPressure")["status"] == "True").then_some(())
    });
    for reason in ["EvictionThresholdMet", "NodeHasInsufficientPID", "Evicted"] {
        eventually(&format!("the event {reason}"), SOON, || {
            let events = get(&client, &["events", "-A"]);
            events["items"].as_array()?.iter().any(|event| event["reason"] == reason).then_some(())
        });
    }
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
    let said = server("--cpu-manager-policy=static");
    assert!(said.contains("--reserved-cpus is needed"), "{said}");
    let said = server("--cpu-manager-policy-options=full-pcpus-only=true");
    assert!(said.contains("the policy none has no options"), "{said}");
    let said = server("--cpu-manager-policy-options=full-pcpus=true");
    assert!(said.contains("unknown CPU Manager Policy option: \"full-pcpus\""), "{said}");
    let said = server("--topology-manager-policy=strict");
    assert!(said.contains("single-numa-node"), "{said}");
    let said = server("--reserved-cpus=1-");
    assert!(said.contains("--reserved-cpus: \"1-\": expected processors such as 0-1,4"), "{said}");
    let said = server("--eviction-soft=memory.available<1Gi");
    assert!(said.contains("--eviction-soft-grace-period: memory.available needs one"), "{said}");
}

#[test]
fn pods_of_files_run_and_have_mirrors() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the image");
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    let dir = cluster.data_dir().join("agent/manifests");
    let manifest = |text: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - {{name: c, image: busybox, command: [sh, -c, 'echo {text}; exec sleep 1d']}}\n"
        )
    };
    std::fs::write(dir.join("web.yaml"), manifest("one")).expect("a file");
    let node = get(&client, &["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let name = format!("web-{node}");
    let running = |what: &str| {
        eventually(what, SOON, || {
            let pod = get(&client, &["pod", &name]);
            (pod["status"]["phase"] == "Running" && condition(&pod, "Ready")["status"] == "True").then_some(pod)
        })
    };
    let container =
        |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("an id").to_owned();
    let first = running("the pod of the file runs");
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    eventually("it prints", SOON, || (client.run(&["logs", &name]).out == "one\n").then_some(()));
    assert_eq!(client.run(&["exec", &name, "--", "echo", "inside"]).out, "inside\n");

    // Whoever deletes the mirror deletes nothing else.
    client.run(&["delete", "pod", &name]).ok();
    let again = running("the mirror is back");
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(container(&again), container(&first), "it ran on");

    // Neither does an agent that is killed.
    cluster.kill_server();
    cluster.start_server();
    assert_eq!(container(&running("the pod is still there")), container(&first), "it ran on");

    std::fs::write(dir.join(".new"), manifest("two")).expect("a file");
    std::fs::rename(dir.join(".new"), dir.join("web.yaml")).expect("the same directory");
    eventually("the new pod runs", SOON, || (client.run(&["logs", &name]).out == "two\n").then_some(()));
    eventually("the new pod is told", SOON, || {
        (container(&running("the new pod is there")) != container(&first)).then_some(())
    });

    let wrong =
        manifest("three").replace("command", "envFrom: [{secretRef: {name: s}}], command").replace("web", "other");
    std::fs::write(dir.join("other.yaml"), wrong).expect("a file");
    eventually("the node says what is wrong", SOON, || {
        let events = get(&client, &["events", "-A"])["items"].as_array().cloned().unwrap_or_default();
        let is_it = |event: &&Value| event["reason"] == "InvalidStaticPod";
        let said = events.iter().find(is_it)?["message"].as_str()?.to_owned();
        assert!(
            said.contains("other.yaml: spec.containers[0].envFrom[0].secretRef: a static pod cannot refer"),
            "{said}"
        );
        Some(())
    });

    std::fs::remove_file(dir.join("web.yaml")).expect("it is there");
    eventually("the pod is gone", SOON, || (client.run(&["get", "pod", &name]).code != 0).then_some(()));
    cluster.reset(true);
}

#[test]
fn a_node_that_is_short_or_full_refuses_and_gives_critical_pods_the_place_of_others() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the image");
    // It says that it is short of memory, and evicts nobody for that for an hour.
    let soft = ["--eviction-soft=memory.available<100%", "--eviction-soft-grace-period=memory.available=1h"];
    let full = ["--max-pods=2", "--node-cidr-mask-size=26"];
    let mut cluster = Cluster::start_with(&[&image], &[soft, full].concat());
    let client = cluster.gantry();
    eventually("the node has addresses for its pods", SOON, || {
        let range = get(&client, &["nodes"])["items"][0]["spec"]["podCIDR"].as_str().map(str::to_owned);
        range.filter(|range| range.ends_with("/26"))
    });
    let node = get(&client, &["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let pod = |name: &str, requests: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": node,
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox",
                "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1d"], "resources": {"requests": requests}}]}})
    };
    let refused = |name: &str| {
        eventually(&format!("{name} is refused"), SOON, || {
            let pod = get(&client, &["pod", name]);
            (pod["status"]["phase"] == "Failed").then_some(pod)
        })
    };
    let runs = |name: &str| {
        eventually(&format!("{name} runs"), SOON, || {
            (get(&client, &["pod", name])["status"]["phase"] == "Running").then_some(())
        });
    };
    apply(&client, &pod("modest", json!({})));
    let status = refused("modest")["status"].clone();
    let told = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(told)));
    apply(&client, &pod("first", json!({"memory": "1Mi"})));
    runs("first");
    apply(&client, &pod("large", json!({"memory": "2Mi", "cpu": "100m"})));
    runs("large");
    apply(&client, &pod("third", json!({"memory": "1Mi"})));
    assert_eq!(refused("third")["status"]["reason"], "OutOfpods");

    // A pod of a file matters more than any that asks for less.
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: file}\nspec: {terminationGracePeriodSeconds: 1, containers: \
        [{name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, 1d]}]}\n";
    std::fs::write(cluster.data_dir().join("agent/manifests/file.yaml"), manifest).expect("a file");
    runs(&format!("file-{node}"));
    let left = refused("first");
    assert_eq!(
        (&left["status"]["reason"], &left["status"]["message"]),
        (&json!("Preempting"), &json!("Preempted in order to admit critical pod"))
    );
    assert_eq!(condition(&left, "DisruptionTarget")["reason"], "TerminationByKubelet");
    assert_eq!(get(&client, &["pod", "large"])["status"]["phase"], "Running", "one was enough, and it asks for more");
    cluster.reset(true);
}

#[test]
fn a_container_has_whole_processors_for_itself_until_its_pod_ends() {
    need!(machine::root());
    if std::thread::available_parallelism().map_or(1, usize::from) != 2 {
        println!("skipped: the test is written for a machine of two processors");
        return;
    }
    let image = machine::image("busybox").expect("hack/image makes the image");
    let mut cluster = Cluster::start_with(&[&image], &["--cpu-manager-policy=static", "--reserved-cpus=0"]);
    let client = cluster.gantry();
    let node = get(&client, &["nodes"])["items"][0].clone();
    assert_eq!((&node["status"]["capacity"]["cpu"], &node["status"]["allocatable"]["cpu"]), (&json!("2"), &json!("1")));
    let pod = |name: &str, limits: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
            "nodeName": node["metadata"]["name"], "containers": [{"name": "c", "image": "busybox",
                "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1d"], "resources": {"limits": limits}}]}})
    };
    // As the kernel tells any process of the container.
    let runs_on = |name: &str, cpus: &str| {
        eventually(&format!("{name} runs on {cpus}"), SOON, || {
            let said = client.run(&["exec", name, "--", "grep", "Cpus_allowed_list", "/proc/self/status"]).out;
            (said.split_whitespace().nth(1) == Some(cpus)).then_some(())
        });
    };
    apply(&client, &pod("shares", json!({})));
    runs_on("shares", "0-1");
    let whole = json!({"cpu": "1", "memory": "32Mi"});
    apply(&client, &pod("alone", whole.clone()));
    runs_on("alone", "1");
    runs_on("shares", "0");
    apply(&client, &pod("late", whole.clone()));
    let late = eventually("nothing is left for another", SOON, || {
        let late = get(&client, &["pod", "late"]);
        (late["status"]["phase"] == "Failed").then_some(late)
    });
    assert_eq!(late["status"]["reason"], "UnexpectedAdmissionError");
    let message = late["status"]["message"].as_str().expect("a message");
    assert!(message.contains("not enough cpus available to satisfy request: requested=1, available=0"), "{message}");
    cluster.kill_server();
    cluster.start_server();
    runs_on("alone", "1");
    runs_on("shares", "0");
    apply(&client, &pod("new", json!({})));
    runs_on("new", "0");
    client.run(&["delete", "pod", "alone"]).ok();
    runs_on("shares", "0-1");
    apply(&client, &pod("next", whole));
    runs_on("next", "1");
    cluster.reset(true);
}

#[test]
fn a_resize_waits_until_there_is_room_for_it_and_nobody_else_gets_that() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the image");
    let mut cluster = Cluster::start_with(&[&image], &[]);
    let client = cluster.gantry();
    let allocatable = get(&client, &["nodes"])["items"][0]["status"]["allocatable"]["cpu"].clone();
    let allocatable = allocatable.as_str().expect("an amount");
    let milli = |amount: &str| match amount.strip_suffix('m') {
        Some(milli) => milli.parse::<u32>().expect("a number"),
        None => amount.parse::<u32>().expect("a number") * 1000,
    };
    let all = milli(allocatable);
    let pod = |name: &str, cpu: u32| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1d"],
                "resources": {"requests": {"cpu": format!("{cpu}m")}}}]}})
    };
    let until = |name: &str, what: &str, is_so: &dyn Fn(&Value) -> bool| {
        eventually(&format!("{name} {what}"), SOON, || Some(get(&client, &["pod", name])).filter(is_so))
    };
    let runs = |pod: &Value| pod["status"]["phase"] == "Running";
    for (name, cpu) in [("fills", all - 600), ("grows", 500)] {
        apply(&client, &pod(name, cpu));
        until(name, "runs", &runs);
    }
    let more = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}).to_string();
    client.run(&["patch", "pod", "grows", "--subresource=resize", "-p", &more]).ok();
    let is_deferred = |pod: &Value| condition(pod, "PodResizePending")["reason"] == "Deferred";
    let waits = until("grows", "waits", &is_deferred);
    let lacks = format!("Node didn't have enough resource: cpu, requested: 1000, used: {}, capacity: {all}", all - 600);
    assert_eq!(condition(&waits, "PodResizePending")["message"], json!(lacks));
    let has = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        [&status["allocatedResources"]["cpu"], &status["resources"]["requests"]["cpu"]].map(|own| own.clone())
    };
    assert_eq!(has(&waits), ["500m", "500m"]);
    // What it waits for is kept for it, by the scheduler too.
    apply(&client, &pod("late", 50));
    until("late", "has no place", &|pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable");
    cluster.kill_server();
    cluster.start_server();
    let shares = || {
        let uid = waits["metadata"]["uid"].as_str().expect("a uid");
        let find = ["/sys/fs/cgroup", "-path", &format!("*/pod{uid}/c.0/cpu.[sw][he][ai]*")];
        let found = std::process::Command::new("find").args(find).output().expect("find runs");
        let paths = String::from_utf8_lossy(&found.stdout).into_owned();
        let files = paths.lines().filter(|path| path.ends_with("cpu.shares") || path.ends_with("cpu.weight"));
        files.map(number).next().expect("a weight")
    };
    let before = shares();
    let still = until("grows", "waits", &is_deferred);
    assert_eq!(has(&still), ["500m", "500m"], "the agent that came back knows what it has");
    assert_eq!(still["status"]["containerStatuses"][0]["restartCount"], 0);
    for field in ["user", "stopSignal"] {
        let of = |pod: &Value| pod["status"]["containerStatuses"][0][field].clone();
        assert!(!of(&waits).is_null() && of(&waits) == of(&still), "{field}: {}", of(&still));
    }
    client.run(&["delete", "pod", "fills"]).ok();
    let is_done = |pod: &Value| has(pod) == ["1", "1"] && condition(pod, "PodResizePending").is_null();
    until("grows", "has what it asked for", &is_done);
    until("late", "runs", &runs);
    assert!(shares() > before, "the kernel was told");
    for reason in ["ResizeDeferred", "ResizeStarted", "ResizeCompleted"] {
        let field = format!("reason={reason}");
        eventually(&format!("an event {reason}"), SOON, || {
            let said = client.run(&["get", "events", "--field-selector", &field, "-o", "name"]).out;
            (!said.trim().is_empty()).then_some(())
        });
    }
    cluster.reset(true);
}

#[test]
fn memory_is_protected_and_slowed_down_where_cgroups_can_do_it_and_refused_by_flag_elsewhere() {
    need!(machine::root());
    let flags = ["--memory-qos", "--memory-reservation-policy=TieredReservation", "--swap-behavior=LimitedSwap"];
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let dir = tempfile::tempdir().expect("a directory");
        for flag in flags {
            let mut command = std::process::Command::new(machine::gantry());
            let output = command.args(["server", flag, "--data-dir"]).arg(dir.path()).output().expect("gantry runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(&flag.replacen('=', " ", 1)), "{said}");
            assert!(said.contains("needs cgroup v2"), "{said}");
        }
        return;
    }
    let image = machine::image("busybox").expect("hack/image makes the image");
    let mut cluster = Cluster::start_with(&[&image], &flags);
    let client = cluster.gantry();
    let pod = |name: &str, resources: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1d"],
                "resources": resources}]}})
    };
    apply(&client, &pod("burst", json!({"requests": {"memory": "32Mi"}, "limits": {"memory": "64Mi"}})));
    apply(&client, &pod("sure", json!({"limits": {"memory": "16Mi", "cpu": "100m"}})));
    // The container sees its own group as the root.
    let says = |name: &str, file: &str| {
        eventually(&format!("{file} of {name}"), SOON, || {
            let said = client.run(&["exec", name, "--", "cat", &format!("/sys/fs/cgroup/{file}")]);
            (said.code == 0).then(|| said.out.trim().to_owned())
        })
    };
    let mebibytes = |count: u64| (count << 20).to_string();
    // 32 Mi and nine tenths of the way to 64 Mi, in whole pages.
    let high = ((32u64 << 20) as f64 + (32u64 << 20) as f64 * 0.9) as u64 / 4096 * 4096;
    assert_eq!((says("burst", "memory.high"), says("burst", "memory.low")), (high.to_string(), mebibytes(32)));
    assert_eq!((says("sure", "memory.high"), says("sure", "memory.min")), ("max".to_owned(), mebibytes(16)));
    assert_eq!((says("burst", "memory.min"), says("sure", "memory.low")), ("0".to_owned(), "0".to_owned()));
    assert_eq!(says("sure", "memory.swap.max"), "0");
    cluster.reset(true);
}

#[test]
fn a_fork_bomb_a_flood_of_logs_and_a_greedy_pod_harm_themselves_only() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the image");
    let mut cluster = Cluster::start_with(&[&image], &["--pod-max-pids=200"]);
    let client = cluster.gantry();
    let pod = |name: &str, script: &str, limits: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never", "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}], "resources": limits,
            "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}]}})
    };
    let before = left();
    apply(&client, &pod("bomb", "bomb() { bomb | bomb & }; bomb; sleep 1d", json!({})));
    apply(&client, &pod("flood", "yes flood", json!({})));
    // The pod as a whole has the limit, no container has.
    let limits = json!({"limits": {"memory": "48Mi"}});
    apply(&client, &pod("greedy", "head -c 200m /dev/zero | tail | wc -c", limits));
    let phase = |name: &str| get(&client, &["pod", name])["status"]["phase"].as_str().unwrap_or_default().to_owned();
    eventually("the greedy pod is ended", SOON, || {
        (phase("greedy") == "Failed" || phase("greedy") == "Succeeded").then_some(())
    });
    let said = client.run(&["logs", "greedy"]).out;
    assert!(!said.contains("209715200"), "it had all it wanted: {said}");
    eventually("the others run", SOON, || (phase("bomb") == "Running" && phase("flood") == "Running").then_some(()));
    std::thread::sleep(Duration::from_secs(10));
    assert!(before.saturating_sub(left()) < 1000, "{before} process ids were left, now {}", left());
    // A node that is harmed runs nothing more.
    apply(&client, &pod("well", "echo fine", json!({})));
    eventually("another pod runs", SOON, || (phase("well") == "Succeeded").then_some(()));
    assert_eq!(client.run(&["logs", "well"]).out, "fine\n");
    let logs = cluster.data_dir().join("agent/log/pods");
    let bytes: u64 = walk(&logs)
        .iter()
        .filter(|path| path.to_string_lossy().contains("flood"))
        .map(|path| path.metadata().map_or(0, |own| own.len()))
        .sum();
    assert!(bytes > 1 << 20 && bytes < 120 << 20, "{bytes} bytes of logs");
    for name in ["bomb", "flood"] {
        client.run(&["delete", "pod", name]).ok();
    }
    eventually("their processes are gone", SOON, || (before.saturating_sub(left()) < 100).then_some(()));
    cluster.reset(true);
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn pods_of_a_machine_that_goes_down_end_in_their_time_and_the_critical_ones_last() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the image");
    let flags = ["--shutdown-grace-period=8", "--shutdown-grace-period-critical-pods=4"];
    let mut cluster = Cluster::start_with(&[&image], &flags);
    let client = cluster.gantry();
    let notes = tempfile::tempdir().expect("a directory");
    let pod = |name: &str, class: Value| {
        let script = format!(
            "trap 'cut -d\" \" -f1 /proc/uptime > /notes/{name}; sleep 1; exit' TERM; echo up; while true; do sleep 0.1; done"
        );
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "kube-system"}, "spec": {
            "priorityClassName": class, "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [{"name": "v", "hostPath": {"path": notes.path()}}],
            "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/notes"}]}]}})
    };
    apply(&client, &pod("critical", json!("system-cluster-critical")));
    apply(&client, &pod("plain", Value::Null));
    for name in ["critical", "plain"] {
        let logs = || client.run(&["-n", "kube-system", "logs", name]).out.contains("up").then_some(());
        eventually("it runs", SOON, logs);
    }
    // The machine says nothing: pods are left alone.
    let programs = tempfile::tempdir().expect("a directory");
    let systemctl = programs.path().join("systemctl");
    std::fs::write(&systemctl, "#!/bin/sh\necho running\n").expect("a file");
    std::fs::set_permissions(&systemctl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    cluster.programs = Some(programs.path().to_owned());
    cluster.stop_server();
    cluster.start_server();
    cluster.stop_server();
    assert!(!notes.path().join("plain").exists(), "the service stops, not the machine");
    cluster.start_server();
    std::fs::write(&systemctl, "#!/bin/sh\n[ \"$1\" = is-system-running ] && echo stopping\n").expect("a file");
    cluster.stop_server();
    let at = |name: &str| -> f64 {
        std::fs::read_to_string(notes.path().join(name)).expect("it was told").trim().parse().expect("a time")
    };
    assert!(at("critical") - at("plain") >= 1.0, "the plain one was over first: {} {}", at("plain"), at("critical"));

    std::fs::write(&systemctl, "#!/bin/sh\necho running\n").expect("a file");
    cluster.start_server();
    for name in ["critical", "plain"] {
        let told = eventually(&format!("{name} is told to have ended"), SOON, || {
            let told = get(&client, &["-n", "kube-system", "pod", name]);
            (told["status"]["phase"] == "Failed").then_some(told)
        });
        assert_eq!(told["status"]["reason"], "Terminated", "{told:#}");
        assert_eq!(condition(&told, "DisruptionTarget")["reason"], "TerminationByKubelet");
    }
    eventually("the node is ready again", SOON, || {
        (condition(&get(&client, &["nodes"])["items"][0], "Ready")["status"] == "True").then_some(())
    });
    cluster.reset(true);
}
