//! What a backup holds comes back: under a running server, and after the data directory was lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use e2e::client::{Client, eventually};
use e2e::cluster::Cluster;
use e2e::{machine, need};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// Kind, name and uid of what people made and what follows from it, pods and events aside.
fn objects(client: &Client) -> BTreeMap<String, String> {
    let list = client.get(&["deployments,replicasets,services,configmaps,secrets,serviceaccounts,roles", "-A"]);
    let items = list["items"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let about = |item: &Value| {
        let metadata = &item["metadata"];
        (format!("{} {}/{}", item["kind"], metadata["namespace"], metadata["name"]), text(&metadata["uid"]))
    };
    items.iter().map(about).collect()
}

fn hello_is_ready(client: &Client) {
    client.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn what_was_backed_up_comes_back() {
    need!(machine::root());
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    let mut cluster = Cluster::start(&[&image]);
    let client = cluster.gantry();
    let sample = path(&machine::workspace().join("manifests/sample/hello.yaml"));
    client.run(&["apply", "-f", &sample]).ok();
    client.run(&["create", "configmap", "kept", "--from-literal=a=1"]).ok();
    hello_is_ready(&client);
    let data_dir = path(&cluster.data_dir());
    let dir = tempfile::tempdir().expect("a directory");
    let (running, offline) = (path(&dir.path().join("running")), path(&dir.path().join("offline")));

    // Of a running server, through its API; only for who may do everything.
    let said = client.run(&["backup", &running, "--data-dir", &data_dir]).ok();
    assert!(said.starts_with("backed up ") && said.contains(&running), "{said}");
    let refused = client.run(&["backup", &path(&dir.path().join("x")), "--data-dir", &data_dir, "--as", "eve"]);
    assert!(refused.code == 1 && refused.err.contains("(Forbidden)"), "{refused:?}");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&running).expect("the backup").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the cluster's keys");
    let before = objects(&client);

    // What changed since is undone at once, and clients see it as changes.
    client.run(&["delete", "deployment/hello", "configmap/kept"]).ok();
    client.run(&["create", "configmap", "later", "--from-literal=b=2"]).ok();
    let watch = client.stream(&["get", "configmaps", "-w", "-o", "name"]);
    let refused = client.run(&["restore", &running, "--data-dir", &data_dir]);
    assert!(refused.code == 1 && refused.err.contains("--force"), "{refused:?}");
    let said = client.run(&["restore", &running, "--data-dir", &data_dir, "--force"]).ok();
    assert!(said.contains("restored ") && said.contains("before-restore-"), "{said}");
    watch.wait("the restored configmap", SOON, |line| line == "configmap/kept");
    eventually("the objects are those of the backup", SOON, || (objects(&client) == before).then_some(()));
    hello_is_ready(&client);

    // A damaged file changes nothing, here and below.
    let damaged = path(&dir.path().join("damaged"));
    let mut bytes = std::fs::read(&running).expect("the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).expect("a file");
    let refused = client.run(&["restore", &damaged, "--data-dir", &data_dir, "--force"]);
    assert!(refused.code == 1 && refused.err.contains("the backup"), "{refused:?}");
    let refused = client.run(&["restore", &damaged, "--kubeconfig", &path(&cluster.kubeconfig()), "--force"]);
    assert!(refused.code == 1 && refused.err.contains("(BadRequest)"), "{refused:?}");
    assert_eq!(objects(&client), before);

    // Of a stopped one, from the files.
    cluster.reset(false);
    client.run(&["backup", &offline, "--data-dir", &data_dir]).ok();
    // The directory is lost; the machine gets its images again, and the backup brings the rest.
    std::fs::remove_dir_all(&data_dir).expect("nothing holds it after a reset");
    client.run(&["image", "import", &path(&image), "--data-dir", &data_dir]).ok();
    let refused = client.run(&["restore", &damaged, "--data-dir", &data_dir]);
    assert!(refused.code == 1 && !cluster.data_dir().join("server").exists(), "{refused:?}");
    client.run(&["restore", &offline, "--data-dir", &data_dir]).ok();
    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).expect("the kubeconfig");
    cluster.start_server();
    assert_eq!(objects(&client), before);
    hello_is_ready(&client);
    let authority =
        |text: &str| text.lines().find(|line| line.contains("certificate-authority-data")).map(str::to_owned);
    let now = std::fs::read_to_string(cluster.kubeconfig()).expect("the kubeconfig");
    assert_eq!(authority(&now), authority(&kubeconfig), "clients need no new kubeconfig");
    client.run(&["create", "configmap", "new"]).ok();
    let new = client.get(&["configmap", "new"]);
    let revision: u64 =
        new["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a number");
    assert!(revision > 1_000_000_000, "no revision is given twice");

    // Another cluster's backup cannot go under a running server: its keys are not ours.
    let other = Cluster::start_with(&[], &["--disable-agent"]);
    let foreign = path(&dir.path().join("foreign"));
    other.gantry().run(&["backup", &foreign, "--kubeconfig", &path(&other.kubeconfig())]).ok();
    let refused = client.run(&["restore", &foreign, "--data-dir", &data_dir, "--force"]);
    assert!(refused.code == 1 && refused.err.contains("of another cluster"), "{refused:?}");
}

#[test]
fn a_newer_state_is_refused() {
    need!(machine::root());
    let mut cluster = Cluster::start_with(&[], &["--disable-agent"]);
    cluster.stop_server();
    let version = cluster.data_dir().join("version.json");
    let newer = r#"{"state": 99, "program": "9.0.0"}"#;
    std::fs::write(&version, newer).expect("a file");
    let said = cluster.gantry().run(&["server", "--disable-agent", "--data-dir", &path(&cluster.data_dir())]);
    assert!(said.code == 1 && said.err.contains("has version 99, written by gantry 9.0.0"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&version).expect("as it was"), newer);
    std::fs::remove_file(&version).expect("ours");
}
