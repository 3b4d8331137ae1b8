//! Lines 299 to 301: resources of containers that run.

use e2e::api::{Patch, condition};
use e2e::machine;
use e2e::need;
use serde_json::{Value, json};

use crate::{Pods, container, pod, restarts, status};

fn with(name: &str, resources: Value) -> Value {
    let mut own = container(name, "exec sleep 600");
    own["resources"] = resources;
    own
}

fn amounts(cpu: [&str; 2], memory: [&str; 2]) -> Value {
    json!({"requests": {"cpu": cpu[0], "memory": memory[0]}, "limits": {"cpu": cpu[1], "memory": memory[1]}})
}

/// What the kernel lets a container have: microseconds of processor time in 100 milliseconds, bytes of memory; version 2
/// has both of cpu.max in one file.
fn limits(uid: &str, id: &str) -> (String, String) {
    let read = |file: &str| {
        let output = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*/pod{uid}/{id}/{file}")])
            .output()
            .expect("find runs");
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let quota = read("cpu.cfs_quota_us").or_else(|| Some(read("cpu.max")?.split(' ').next()?.to_owned()));
    let memory = read("memory.limit_in_bytes").or_else(|| read("memory.max"));
    (quota.expect("a quota"), memory.expect("a limit"))
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("a uid")
}

/// Whether the status says that every container has what its spec says, and nothing is under way.
fn is_settled(pod: &Value) -> bool {
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    let has = |own: &Value| {
        let status = status(pod, own["name"].as_str().expect("a name"));
        status["resources"] == own["resources"] && status["allocatedResources"] == own["resources"]["requests"]
    };
    containers.iter().all(has) && condition(pod, "PodResizeInProgress").is_null()
}

#[tokio::test]
async fn c299_six_containers_are_resized_at_once() {
    need!(machine::root());
    let pods = Pods::new("resize-six").await;
    let small = || amounts(["10m", "20m"], ["20Mi", "40Mi"]);
    let names = ["c1", "c2", "c3", "c4", "c5", "c6"];
    let mut containers: Vec<Value> = names.iter().map(|name| with(name, small())).collect();
    // Nothing is said of the last ones: limits and requests are added.
    containers[4]["resources"] = json!({"requests": {"cpu": "10m", "memory": "20Mi"}});
    containers[5]["resources"] = json!({"requests": {"cpu": "10m"}});
    pods.create(pod("p", &containers)).await;
    pods.ready("p").await;
    let wanted = [
        ("c1", amounts(["15m", "30m"], ["20Mi", "40Mi"])),
        ("c2", amounts(["10m", "20m"], ["30Mi", "60Mi"])),
        ("c3", amounts(["5m", "15m"], ["15Mi", "30Mi"])),
        ("c4", amounts(["20m", "40m"], ["15Mi", "30Mi"])),
        ("c5", amounts(["10m", "20m"], ["20Mi", "40Mi"])),
        ("c6", json!({"requests": {"cpu": "20m", "memory": "20Mi"}, "limits": {"memory": "40Mi"}})),
    ];
    let patch: Vec<Value> =
        wanted.iter().map(|(name, resources)| json!({"name": name, "resources": resources})).collect();
    let path = format!("{}/resize", pods.path("p"));
    pods.api.patch(&path, Patch::Strategic, json!({"spec": {"containers": patch}})).await.ok();
    let pod = pods.until("p", "all of them have it", is_settled).await;
    for (name, resources) in &wanted {
        assert_eq!((&status(&pod, name)["resources"], restarts(&pod, name)), (resources, 0), "{name}");
    }
    let of = |name: &str| limits(uid(&pod), &format!("{name}.0"));
    let mib = |count: u64| (count << 20).to_string();
    assert_eq!(of("c1"), ("3000".into(), mib(40)));
    assert_eq!(of("c2"), ("2000".into(), mib(60)));
    assert_eq!(of("c3"), ("1500".into(), mib(30)));
    assert_eq!(of("c4"), ("4000".into(), mib(30)));
    assert_eq!(of("c5"), ("2000".into(), mib(40)));
    assert_eq!(of("c6").1, mib(40));
}

#[tokio::test]
async fn c300_amounts_that_mean_the_same_are_reported_as_asked() {
    need!(machine::root());
    let pods = Pods::new("resize-same").await;
    pods.create(pod("p", &[with("c", amounts(["2m", "10m"], ["20Mi", "40Mi"]))])).await;
    pods.ready("p").await;
    let less = json!({"spec": {"containers": [{"name": "c", "resources": amounts(["1m", "5m"], ["20Mi", "40Mi"])}]}});
    pods.api.patch(&format!("{}/resize", pods.path("p")), Patch::Strategic, less).await.ok();
    let pod = pods.until("p", "it has it", is_settled).await;
    assert_eq!(status(&pod, "c")["resources"]["requests"]["cpu"], "1m");
    assert_eq!(restarts(&pod, "c"), 0);
}

#[tokio::test]
async fn c301_a_pod_is_resized_by_replacing_it() {
    need!(machine::root());
    let pods = Pods::new("resize-put").await;
    pods.create(pod("p", &[with("c", amounts(["10m", "20m"], ["20Mi", "40Mi"]))])).await;
    pods.ready("p").await;
    let path = format!("{}/resize", pods.path("p"));
    // The agent writes the status meanwhile.
    let more = |pod: &mut Value| {
        pod["spec"]["containers"][0]["resources"] = amounts(["20m", "40m"], ["20Mi", "40Mi"]);
    };
    pods.api.edit(&path, more).await;
    let is_seen = |pod: &Value| pod["status"]["observedGeneration"] == pod["metadata"]["generation"];
    let pod = pods.until("p", "it has it, and says so", |pod| is_settled(pod) && is_seen(pod)).await;
    assert_eq!(limits(uid(&pod), "c.0").0, "4000");
}

#[tokio::test]
async fn a_resize_may_want_a_restart_or_more_than_there_is() {
    need!(machine::root());
    let pods = Pods::new("resize-else").await;
    let mut own = with("c", amounts(["10m", "20m"], ["20Mi", "40Mi"]));
    own["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    pods.create(pod("p", &[own])).await;
    pods.ready("p").await;
    let path = format!("{}/resize", pods.path("p"));
    let to = |resources: Value| json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
    let huge = to(json!({"requests": {"cpu": "4000"}, "limits": {"cpu": "4000"}}));
    pods.api.patch(&path, Patch::Strategic, huge).await.ok();
    let pod = pods.until("p", "that is refused", |pod| !condition(pod, "PodResizePending").is_null()).await;
    assert_eq!(condition(&pod, "PodResizePending")["reason"], "Infeasible");
    assert_eq!(status(&pod, "c")["resources"]["limits"]["cpu"], "20m", "it has what it had");
    let more = to(amounts(["10m", "20m"], ["30Mi", "60Mi"]));
    pods.api.patch(&path, Patch::Strategic, more).await.ok();
    let is_over = |pod: &Value| is_settled(pod) && condition(pod, "PodResizePending").is_null();
    pods.until("p", "it is restarted, and nothing is left to do", |pod| restarts(pod, "c") == 1 && is_over(pod)).await;
    pods.api.event("p", "Killing", "Container c resize requires restart").await;
    let pod = pods.ready("p").await;
    assert_eq!(limits(uid(&pod), "c.1").1, (60 << 20).to_string());
}

#[tokio::test]
async fn a_limit_below_what_is_used_is_tried_until_less_is_used() {
    need!(machine::root());
    let pods = Pods::new("resize-tight").await;
    let script = "dd if=/dev/zero of=/dev/shm/held bs=1M count=40 && touch /tmp/full && \
                  until [ -e /tmp/free ]; do sleep 1; done; rm /dev/shm/held; exec sleep 600";
    let mut own = container("c", script);
    own["resources"] = amounts(["10m", "100m"], ["10Mi", "100Mi"]);
    own["readinessProbe"] = json!({"exec": {"command": ["cat", "/tmp/full"]}, "periodSeconds": 1});
    own["volumeMounts"] = json!([{"name": "labels", "mountPath": "/labels"}]);
    // What lets go is a label, so that nothing but the time asks the agent again.
    let looks = json!(["sh", "-c", "grep -q yes /labels/free && touch /tmp/free; true"]);
    own["livenessProbe"] = json!({"exec": {"command": looks}, "periodSeconds": 1});
    let mut wanted = pod("p", &[own]);
    let free = json!({"path": "free", "fieldRef": {"fieldPath": "metadata.labels['free']"}});
    wanted["spec"]["volumes"] = json!([{"name": "labels", "downwardAPI": {"items": [free]}}]);
    pods.create(wanted).await;
    pods.ready("p").await;
    let less =
        json!({"spec": {"containers": [{"name": "c", "resources": amounts(["10m", "100m"], ["10Mi", "20Mi"])}]}});
    pods.api.patch(&format!("{}/resize", pods.path("p")), Patch::Strategic, less).await.ok();
    let is_told = |pod: &Value| condition(pod, "PodResizeInProgress")["reason"] == "Error";
    let refused = pods.until("p", "it uses more than that", is_told).await;
    let message = condition(&refused, "PodResizeInProgress")["message"].as_str().expect("a message").to_owned();
    assert!(message.starts_with("c: attempting to set container memory limit (20971520) below current"), "{message}");
    pods.api.patch(&pods.path("p"), Patch::Strategic, json!({"metadata": {"labels": {"free": "yes"}}})).await.ok();
    let pod = pods.until("p", "it has it", is_settled).await;
    assert_eq!(limits(uid(&pod), "c.0").1, (20 << 20).to_string());
    assert_eq!(restarts(&pod, "c"), 0);
}
