//! A namespace with workloads, as a test uses it.

use std::time::Duration;

use e2e::api::{Api, Events, Patch, condition};
use e2e::client::{Client, Said};
use e2e::machine;
use serde_json::{Value, json};

/// What the pods of these tests run.
pub(crate) const IMAGES: [&str; 3] = ["busybox", "echo", "etcd"];
/// So long nothing happens where something would, if it did.
const STILL: Duration = Duration::from_secs(3);

/// A namespace of the shared server.
pub(crate) struct Scene {
    pub(crate) api: Api,
    gantry: Client,
}

impl Scene {
    pub(crate) async fn new(name: &str) -> Self {
        let api = e2e::shared::api(&IMAGES, name).await;
        let gantry = Client::new(&machine::gantry(), &e2e::shared::kubeconfig(&IMAGES));
        Self { api, gantry }
    }

    /// `gantry` in the namespace.
    pub(crate) fn gantry(&self, args: &[&str]) -> Said {
        self.gantry.run(&[&["-n", &self.api.namespace], args].concat())
    }

    /// The stock kubectl in the namespace.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Said {
        let program = machine::program("kubectl").expect("a test that uses it needs it");
        let client = Client::new(&program, &e2e::shared::kubeconfig(&IMAGES));
        client.run(&[&["-n", &self.api.namespace], args].concat())
    }

    /// The path of a collection of group apps.
    pub(crate) fn apps(&self, plural: &str) -> String {
        self.api.path("apps/v1", plural)
    }

    /// The path of a pod.
    pub(crate) fn pod(&self, name: &str) -> String {
        format!("{}/{name}", self.api.path("v1", "pods"))
    }

    /// Makes an object of group apps.
    pub(crate) async fn make(&self, plural: &str, object: &Value) -> Value {
        self.api.post(&self.apps(plural), object.clone()).await.ok()
    }

    /// An object of group apps as it is now.
    pub(crate) async fn get(&self, plural: &str, name: &str) -> Value {
        self.api.get(&format!("{}/{name}", self.apps(plural))).await.ok()
    }

    /// An object of group apps with a merge patch.
    pub(crate) async fn patch(&self, plural: &str, name: &str, patch: Value) -> Value {
        self.api.patch(&format!("{}/{name}", self.apps(plural)), Patch::Merge, patch).await.ok()
    }

    /// An object of group apps once it fits.
    pub(crate) async fn until(&self, plural: &str, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.api.until(&self.apps(plural), name, what, fits).await
    }

    /// The pods with this label `app`, by name.
    pub(crate) async fn pods(&self, app: &str) -> Vec<Value> {
        self.until_pods(app, "the pods", |_| true).await
    }

    /// The same once they fit.
    pub(crate) async fn until_pods(&self, app: &str, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let path = format!("{}?labelSelector=app={app}", self.api.path("v1", "pods"));
        let mut pods = self.api.until_all(&path, what, fits).await;
        pods.sort_by_key(|pod| name_of(pod).to_owned());
        pods
    }

    /// So many pods, all of them ready and none on its way out.
    pub(crate) async fn ready(&self, app: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} pods are ready");
        self.until_pods(app, &what, |pods| pods.len() == count && pods.iter().all(is_ready)).await
    }

    /// The pod is not ready from now on, though it runs.
    pub(crate) fn fail(&self, pod: &str) {
        self.gantry(&["exec", pod, "--", "rm", "/tmp/ready"]).ok();
    }

    /// The pod is ready again.
    pub(crate) fn mend(&self, pod: &str) {
        self.gantry(&["exec", pod, "--", "touch", "/tmp/ready"]).ok();
    }

    /// Waits until this pod is ready, or is not.
    pub(crate) async fn until_ready(&self, pod: &str, wanted: bool) -> Value {
        let what = format!("{pod} is {}ready", if wanted { "" } else { "not " });
        self.api.until(&self.api.path("v1", "pods"), pod, &what, |pod| is_ready(pod) == wanted).await
    }

    /// The pods stay as they are for a while; answers them.
    pub(crate) async fn still(&self, app: &str) -> Vec<Value> {
        let before = self.pods(app).await;
        tokio::time::sleep(STILL).await;
        let after = self.pods(app).await;
        assert_eq!(uids(&before), uids(&after), "nothing comes or goes");
        assert!(after.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()), "nothing is on its way out");
        after
    }
}

/// The next change of an object that fits, as a watch tells it.
pub(crate) async fn changed(events: &mut Events, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let (kind, object) = events.next(what).await;
        if kind == "MODIFIED" && fits(&object) {
            return object;
        }
    }
}

/// A template of pods that are ready while a file is there, and end quickly. That a slow machine takes long to look
/// makes none unready.
pub(crate) fn template(app: &str) -> Value {
    let run = "touch /tmp/ready; trap 'exit 0' TERM; sleep 1000000 & wait";
    json!({"metadata": {"labels": {"app": app}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "c", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", run],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1,
            "timeoutSeconds": 60}}]}})
}

/// An object's name.
pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("an object has a name")
}

/// The names of objects.
pub(crate) fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(name_of).collect()
}

/// The uids of objects.
pub(crate) fn uids(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["uid"].as_str().unwrap_or_default()).collect()
}

/// A label of an object.
pub(crate) fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["labels"][key].as_str().unwrap_or_default()
}

/// A pod that is ready and stays.
pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True" && pod["metadata"]["deletionTimestamp"].is_null()
}
