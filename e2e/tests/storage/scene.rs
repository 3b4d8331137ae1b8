//! A namespace on the shared server, and pods in it.

use std::path::PathBuf;

use e2e::api::Api;
use e2e::client::{Client, Said};
use e2e::machine;
use e2e::shared;
use serde_json::{Value, json};

/// Where the shared server is.
pub(crate) struct Place {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) data_dir: PathBuf,
}

/// A namespace of a test's own.
pub(crate) struct Scene {
    pub(crate) api: Api,
    pub(crate) place: Place,
}

impl Scene {
    pub(crate) async fn new(name: &str) -> Self {
        let kubeconfig = shared::kubeconfig(&["busybox"]);
        let data_dir = kubeconfig.with_file_name("data");
        let place = Place { kubeconfig, data_dir };
        let api = Api::fresh(&place.kubeconfig, name).await;
        Self { api, place }
    }

    /// A collection of the core group.
    pub(crate) fn path(&self, plural: &str) -> String {
        self.api.path("v1", plural)
    }

    /// Makes an object of the core group.
    pub(crate) async fn make(&self, plural: &str, object: Value) -> Value {
        self.api.post(&self.path(plural), object).await.ok()
    }

    /// The pod once its phase is one of these.
    pub(crate) async fn phase(&self, pod: &str, phases: &[&str]) -> Value {
        let is_there = |pod: &Value| phases.contains(&pod["status"]["phase"].as_str().unwrap_or_default());
        self.api.until(&self.path("pods"), pod, &format!("pod {pod} is {phases:?}"), is_there).await
    }

    /// Waits until a pod's only container runs.
    pub(crate) async fn running(&self, pod: &str) -> Value {
        self.phase(pod, &["Running"]).await
    }

    /// What a pod printed once it has ended well.
    pub(crate) async fn said(&self, pod: &str) -> String {
        let ended = self.phase(pod, &["Succeeded", "Failed"]).await;
        let log = self.log(pod).await;
        assert_eq!(ended["status"]["phase"], "Succeeded", "{log}\n{}", ended["status"]);
        log
    }

    pub(crate) async fn log(&self, pod: &str) -> String {
        self.api.log(pod, "c").await
    }

    /// Runs a pod to its end and gives what it printed.
    pub(crate) async fn run(&self, pod: Value) -> String {
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        self.make("pods", pod).await;
        self.said(&name).await
    }

    /// Runs a shell line in a running pod.
    pub(crate) async fn exec(&self, pod: &str, line: &str) -> Said {
        let (client, namespace) = (Client::new(&machine::gantry(), &self.place.kubeconfig), self.api.namespace.clone());
        let (pod, line) = (pod.to_owned(), line.to_owned());
        let run = move || client.run(&["-n", &namespace, "exec", &pod, "--", "sh", "-c", &line]);
        tokio::task::spawn_blocking(run).await.expect("the client ends")
    }

    /// Deletes a pod and waits for its end.
    pub(crate) async fn end(&self, pod: &str) {
        let path = format!("{}/{pod}", self.path("pods"));
        self.api.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
        self.api.until_gone(&path).await;
    }

    /// Where volumes of this node lie.
    pub(crate) fn storage(&self) -> PathBuf {
        self.place.data_dir.join("storage")
    }
}

/// A pod of one container that runs a shell line and ends, with these volumes and mounts. That the machine's disk is short
/// keeps none from running here.
pub(crate) fn pod(name: &str, line: &str, volumes: Value, mounts: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "tolerations": [{"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"}],
        "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", line],
            "volumeMounts": mounts}], "volumes": volumes}})
}
