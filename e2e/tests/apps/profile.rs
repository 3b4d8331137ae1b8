//! Profiles of the scheduler: a server of its own with a configuration, and nodes without machines.

use std::process::Command;

use e2e::api::Api;
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::{Value, json};

use crate::hollow::Hollow;

const CONFIG: &str = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaderElect: false}
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy: {type: MostAllocated, resources: [{name: cpu}, {name: memory}]}
";

fn pod(hollow: &Hollow, name: &str, scheduler: &str) -> Value {
    let requests = json!({"cpu": "1", "memory": "1Gi"});
    let mut pod = json!({"metadata": {"name": name, "labels": {"app": scheduler}}, "spec": {
        "terminationGracePeriodSeconds": 1, "schedulerName": scheduler,
        "containers": [{"name": "c", "image": "busybox", "resources": {"requests": requests}}]}});
    hollow.only(&mut pod, false);
    pod
}

/// The nodes of so many pods of a profile.
async fn nodes(api: &Api, scheduler: &str, count: usize) -> Vec<String> {
    let path = format!("{}?labelSelector=app={scheduler}", api.path("v1", "pods"));
    let node = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
    let all = |pods: &[Value]| pods.iter().filter_map(node).count() == count;
    let pods = api.until_all(&path, &format!("{count} pods of {scheduler} have nodes"), all).await;
    pods.iter().filter_map(node).collect()
}

#[tokio::test]
async fn one_profile_packs_and_another_spreads() {
    need!(machine::root());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("scheduler.yaml");
    std::fs::write(&file, CONFIG).expect("a file");
    let flag = format!("--scheduler-config={}", file.display());
    let cluster = Cluster::start_with(&[], &["--disable-agent", &flag]);
    let api = Api::fresh(&cluster.kubeconfig(), "profile").await;
    let hollow = Hollow::new(&api, 3).await;
    let pods = api.path("v1", "pods");
    for n in 0..3 {
        for scheduler in ["packing", "default-scheduler", "stranger"] {
            api.post(&pods, pod(&hollow, &format!("{scheduler}-{n}"), scheduler)).await.ok();
        }
        // One after the other, so that each sees where the last one went.
        nodes(&api, "packing", n + 1).await;
        nodes(&api, "default-scheduler", n + 1).await;
    }
    let distinct = |mut nodes: Vec<String>| {
        nodes.sort();
        nodes.dedup();
        nodes.len()
    };
    assert_eq!(distinct(nodes(&api, "packing", 3).await), 1);
    assert!(distinct(nodes(&api, "default-scheduler", 3).await) > 1);
    let event = api.event("packing-0", "Scheduled", "Successfully assigned").await;
    assert_eq!(event["reportingComponent"], "packing");
    nodes(&api, "stranger", 0).await;
    let alone = api.get(&format!("{pods}/stranger-0")).await.ok();
    assert!(alone["spec"]["nodeName"].is_null() && alone["status"]["conditions"].is_null(), "{alone}");
    hollow.end().await;
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_before_anything_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("scheduler.yaml");
    std::fs::write(&file, CONFIG.replace("scoringStrategy", "scoring")).expect("a file");
    let said = Command::new(machine::gantry())
        .args(["server", "--disable-agent", "--scheduler-config", &file.display().to_string()])
        .args(["--data-dir", &dir.path().join("data").display().to_string()])
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    let want = "profiles[1].pluginConfig[0].args.scoring: unknown field `scoring`";
    assert!(!said.status.success() && text.contains(want), "{text}");
}
