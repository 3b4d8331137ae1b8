//! Client libraries that nobody here wrote: PyPI's kubernetes, a kopf operator with a kind of its own, npm's
//! client-node, and kube's Controller with server-side apply and finalizers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use e2e::client::eventually;
use e2e::cluster::Cluster;
use e2e::{machine, need};
use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::watcher;
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

fn script(name: &str) -> PathBuf {
    machine::workspace().join("e2e/clients").join(name)
}

/// Installs the libraries of a language, or says why that cannot be.
fn libraries(language: &str, program: &str) -> Result<PathBuf, String> {
    machine::program(program)?;
    let output = Command::new(machine::workspace().join("hack/clients")).arg(language).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        false => Err(format!("hack/clients {language}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn cluster() -> Cluster {
    let image = machine::image("busybox").expect("hack/image makes the sample image");
    Cluster::start(&[&image])
}

/// The parts that a script says are good; it must end well.
#[track_caller]
fn parts(command: &Command) -> Vec<String> {
    // A library that waits for ever is a failure, not a hanging test.
    let mut bounded = Command::new("timeout");
    bounded.arg("300").arg(command.get_program()).args(command.get_args());
    let output = bounded.stdin(Stdio::null()).output().expect("the script runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.lines().filter_map(|line| line.strip_prefix("ok ")).map(str::to_owned).collect()
}

#[test]
fn python_library() {
    need!(machine::root());
    let libraries = libraries("python", "python3");
    need!(libraries.as_ref().map_err(Clone::clone));
    let python = libraries.expect("checked").join("python/bin/python");
    let cluster = cluster();
    let parts = parts(Command::new(python).arg(script("library.py")).arg(cluster.kubeconfig()));
    assert_eq!(parts, ["typed", "generic", "watching", "informed", "applied", "pods"]);
}

#[test]
fn node_library() {
    need!(machine::root());
    let libraries = libraries("node", "npm");
    need!(libraries.as_ref().map_err(Clone::clone));
    let dir = libraries.expect("checked").join("node");
    let cluster = cluster();
    // Modules are looked for beside the script.
    let copy = dir.join("library.mjs");
    std::fs::copy(script("library.mjs"), &copy).expect("a copy");
    let parts = parts(Command::new("node").arg(copy).arg(cluster.kubeconfig()));
    assert_eq!(parts, ["typed", "watch", "informer", "apply", "deployment"]);
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended of itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn kopf_operator() {
    need!(machine::root());
    let libraries = libraries("python", "python3");
    need!(libraries.as_ref().map_err(Clone::clone));
    let kopf = libraries.expect("checked").join("python/bin/kopf");
    let cluster = cluster();
    let client = cluster.gantry();
    client.run(&["apply", "-f", &script("memos.yaml").display().to_string()]).ok();
    client.run(&["wait", "--for=condition=Established", "crd/memos.example.com", "--timeout=60s"]).ok();
    let log = std::fs::File::create(cluster.data_dir().join("kopf.log")).expect("a log");
    let operator = Command::new(kopf)
        .args(["run", "--standalone", "--namespace", "default"])
        .arg(script("memo_operator.py"))
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    let operator = Running(operator.expect("kopf runs"));
    let memo = |text: &str| {
        format!("apiVersion: example.com/v1\nkind: Memo\nmetadata: {{name: first}}\nspec: {{text: {text:?}}}\n")
    };
    client.run_with(&["apply", "-f", "-"], &memo("buy milk")).ok();
    let text = |wanted: &str| {
        eventually("the operator keeps the memo", SOON, || {
            let map = client.run(&["get", "configmap", "memo-first", "-o", "jsonpath={.data.text}"]);
            (map.out == wanted).then_some(())
        });
    };
    text("buy milk");
    client.run_with(&["apply", "-f", "-"], &memo("buy bread")).ok();
    text("buy bread");
    let told = eventually("the operator tells its status", SOON, || {
        let memo = client.get(&["memo", "first"]);
        (memo["status"]["changes"] == 1).then_some(memo)
    });
    assert_eq!(told["metadata"]["finalizers"], json!(["memos.example.com/kopf"]));
    let owner = client.get(&["configmap", "memo-first"]);
    assert_eq!(owner["metadata"]["ownerReferences"][0]["kind"], "Memo");
    let columns = client.run(&["get", "mm"]).ok();
    assert!(columns.contains("TEXT") && columns.contains("buy bread"), "{columns}");
    let refused = client.run_with(&["apply", "-f", "-"], &memo(""));
    assert!(refused.err.contains("spec.text"), "{}", refused.err);
    eventually("the operator's event", SOON, || client.run(&["get", "events"]).out.contains("Kept").then_some(()));
    client.run(&["delete", "memo", "first", "--timeout=60s"]).ok();
    eventually("what it kept is gone", SOON, || {
        (client.run(&["get", "configmap", "memo-first"]).code != 0).then_some(())
    });
    drop(operator);
    client.run(&["delete", "crd", "memos.example.com", "--timeout=60s"]).ok();
}

async fn kube_client(kubeconfig: &Path) -> kube::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.expect("a kubeconfig that can be used")).expect("a client")
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

#[test]
fn kube_controller() {
    need!(machine::root());
    let cluster = Cluster::start_with(&[], &["--disable-agent"]);
    let client = cluster.gantry();
    client.run(&["apply", "-f", &script("memos.yaml").display().to_string()]).ok();
    client.run(&["wait", "--for=condition=Established", "crd/memos.example.com", "--timeout=60s"]).ok();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(control(&cluster.kubeconfig()));
}

fn of(kind: &str, group: &str, version: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource { group: group.into(), version: version.into(), api_version, kind: kind.into(), plural: plural.into() }
}

/// Keeps a ConfigMap for each Memo by server-side apply, and lets a Memo go only after its ConfigMap.
async fn control(kubeconfig: &Path) {
    let client = kube_client(kubeconfig).await;
    let memo_kind = of("Memo", "example.com", "v1", "memos");
    let map_kind = of("ConfigMap", "", "v1", "configmaps");
    let memos: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &memo_kind);
    let maps: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &map_kind);
    let reconcile = {
        let (memos, maps) = (memos.clone(), maps.clone());
        move |memo: Arc<DynamicObject>, _: Arc<()>| {
            let (memos, maps) = (memos.clone(), maps.clone());
            async move {
                let name = format!("memo-{}", memo.metadata.name.as_deref().unwrap_or_default());
                let result = finalizer(&memos, "example.com/kube", memo, |event| async {
                    match event {
                        Event::Apply(memo) => {
                            let owner = json!({"apiVersion": "example.com/v1", "kind": "Memo", "controller": true,
                                "name": memo.metadata.name, "uid": memo.metadata.uid});
                            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                                "metadata": {"name": name, "ownerReferences": [owner]}, "data": {"text": memo.data["spec"]["text"]}});
                            maps.patch(&name, &PatchParams::apply("memo-controller").force(), &Patch::Apply(map))
                                .await?;
                            let status = json!({"status": {"kept": memo.data["spec"]["text"]}});
                            let own = memo.metadata.name.as_deref().unwrap_or_default();
                            memos.patch_status(own, &PatchParams::default(), &Patch::Merge(status)).await?;
                        }
                        Event::Cleanup(_) => drop(maps.delete(&name, &Default::default()).await?),
                    }
                    Ok::<_, kube::Error>(Action::await_change())
                });
                result.await.map_err(|error| Failed(error.to_string()))
            }
        }
    };
    let controller = Controller::new_with(memos.clone(), watcher::Config::default(), memo_kind.clone())
        .owns_with(maps.clone(), map_kind, watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), Arc::new(()))
        .for_each(|done| {
            if let Err(error) = done {
                println!("the controller: {error:?}");
            }
            std::future::ready(())
        });
    let scenario = async {
        let memo: DynamicObject = serde_json::from_value(
            json!({"apiVersion": "example.com/v1", "kind": "Memo", "metadata": {"name": "m"}, "spec": {"text": "one"}}),
        )
        .expect("a memo");
        memos.create(&PostParams::default(), &memo).await.expect("created");
        let text = async |wanted: &str| {
            let fits = |map: Option<&DynamicObject>| map.is_some_and(|map| map.data["data"]["text"] == *wanted);
            kube::runtime::wait::await_condition(maps.clone(), "memo-m", fits).await.expect("watched")
        };
        text("one").await;
        let change = json!({"spec": {"text": "two"}});
        memos.patch("m", &PatchParams::default(), &Patch::Merge(change)).await.expect("patched");
        text("two").await;
        // What somebody else changes in a field of ours is put right.
        let other = json!({"data": {"text": "other"}});
        maps.patch("memo-m", &PatchParams::default(), &Patch::Merge(other)).await.expect("patched");
        text("two").await;
        let told = |memo: Option<&DynamicObject>| memo.is_some_and(|memo| memo.data["status"]["kept"] == "two");
        kube::runtime::wait::await_condition(memos.clone(), "m", told).await.expect("watched");
        memos.delete("m", &Default::default()).await.expect("deleted");
        let gone = |object: Option<&DynamicObject>| object.is_none();
        kube::runtime::wait::await_condition(memos.clone(), "m", gone).await.expect("watched");
        assert!(maps.get_opt("memo-m").await.expect("asked").is_none(), "the finalizer let it go after its ConfigMap");
    };
    let within = tokio::time::timeout(SOON, async {
        tokio::select! {
            () = controller => panic!("the controller goes on"),
            () = scenario => {}
        }
    });
    within.await.expect("in time");
}
