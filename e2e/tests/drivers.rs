//! Storage of others: a driver of the tests' own, which registers with the node. The tests play its provisioner and its
//! attacher, as its sidecars would, or the server does, where it was told to.

use e2e::api::{Api, Patch, eventually};
use e2e::cluster::Cluster;
use e2e::devices::{CDI_KIND, Plugin};
use e2e::driver::controller::{Controller, DEADLINE_EXCEEDED, OUT_OF_RANGE, RESOURCE_EXHAUSTED};
use e2e::driver::{BLOCK_BYTES, Driver, NAME, has_device};
use e2e::{machine, need};
use serde_json::{Value, json};

const GIBIBYTE: u64 = 1 << 30;

struct Scene {
    cluster: Cluster,
    api: Api,
    backing: tempfile::TempDir,
}

impl Scene {
    async fn start(csi_driver: Value) -> Self {
        Self::start_with(csi_driver, &[]).await
    }

    async fn start_with(csi_driver: Value, flags: &[&str]) -> Self {
        let image = machine::image("busybox").expect("hack/image makes the image");
        let cluster = Cluster::start_with(&[&image], flags);
        let api = Api::fresh(&cluster.kubeconfig(), "drivers").await;
        let object = json!({"metadata": {"name": NAME}, "spec": csi_driver});
        api.post("/apis/storage.k8s.io/v1/csidrivers", object).await.ok();
        Self { cluster, api, backing: tempfile::tempdir().expect("a directory") }
    }

    async fn driver(&self) -> Driver {
        let driver = Driver::start(&self.cluster.data_dir().join("agent/kubelet"), self.backing.path());
        let has_it = |node: &Value| node["spec"]["drivers"][0]["name"] == NAME;
        self.api.until("/apis/storage.k8s.io/v1/csinodes", "node-1", "the driver is registered", has_it).await;
        eventually("it is told so", async || driver.calls("NotifyRegistrationStatus").first().cloned()).await;
        driver
    }

    async fn pod(&self, name: &str, script: &str, volume: Value) {
        let pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "securityContext": {"fsGroup": 4242}, "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
            "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/data"}]}], "volumes": [volume]}});
        self.api.post(&self.api.path("v1", "pods"), pod).await.ok();
    }

    async fn phase(&self, name: &str, phase: &str) -> Value {
        let what = format!("pod {name} is {phase}");
        self.api.until(&self.api.path("v1", "pods"), name, &what, |pod| pod["status"]["phase"] == phase).await
    }

    async fn delete(&self, pod: &str) {
        self.api.delete(&format!("{}/{pod}", self.api.path("v1", "pods")), json!({})).await.ok();
    }

    async fn gone(&self, pod: &str) {
        self.api.until_gone(&format!("{}/{pod}", self.api.path("v1", "pods"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_driver_lives_from_its_claim_to_its_end() {
    need!(machine::root());
    let mut scene =
        Scene::start(json!({"attachRequired": true, "podInfoOnMount": true, "fsGroupPolicy": "File"})).await;
    let driver = scene.driver().await;
    let api = scene.api.clone();
    let node = api.get("/api/v1/nodes/node-1").await.ok();
    assert_eq!(
        node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"],
        format!("{{\"{NAME}\":\"machine-7\"}}")
    );
    assert_eq!(node["metadata"]["labels"]["topology.test.example.com/rack"], "r1");
    let csi_node = api.get("/apis/storage.k8s.io/v1/csinodes/node-1").await.ok();
    assert_eq!(csi_node["spec"]["drivers"][0]["allocatable"]["count"], 5);
    assert_eq!(csi_node["spec"]["drivers"][0]["topologyKeys"], json!(["topology.test.example.com/rack"]));

    // A claim waits for its pod, then for the provisioner, which is told where the pod is to run.
    let class = json!({"metadata": {"name": "theirs"}, "provisioner": NAME, "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true});
    api.post("/apis/storage.k8s.io/v1/storageclasses", class).await.ok();
    let claims = api.path("v1", "persistentvolumeclaims");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "theirs", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    api.post(&claims, claim).await.ok();
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    let script = "echo hello > /data/greeting; stat -c %g /data; cat /data/context; echo; sleep 1d";
    scene.pod("first", script, volume.clone()).await;
    let annotation = |claim: &Value, key: &str| claim["metadata"]["annotations"][key].as_str().map(str::to_owned);
    let asked = api
        .until(&claims, "c", "the provisioner is asked", |claim| {
            annotation(claim, "volume.kubernetes.io/selected-node").as_deref() == Some("node-1")
                && annotation(claim, "volume.kubernetes.io/storage-provisioner").as_deref() == Some(NAME)
        })
        .await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"key": "opens"}});
    api.post(&api.path("v1", "secrets"), secret).await.ok();
    let secret = json!({"namespace": api.namespace, "name": "s"});
    let made = json!({"metadata": {"name": "pv-theirs", "annotations": {"pv.kubernetes.io/provisioned-by": NAME}}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "theirs",
        "persistentVolumeReclaimPolicy": "Delete",
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": api.namespace, "name": "c", "uid": asked["metadata"]["uid"]},
        "csi": {"driver": NAME, "volumeHandle": "vol-1", "fsType": "ext4", "volumeAttributes": {"pool": "fast"},
            "nodeStageSecretRef": secret, "nodePublishSecretRef": secret}}});
    api.post("/api/v1/persistentvolumes", made).await.ok();

    // The node waits for the attacher.
    let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
    let all = api.until_all(attachments, "an attachment is asked for", |all| !all.is_empty()).await;
    let (spec, name) = (&all[0]["spec"], all[0]["metadata"]["name"].as_str().expect("a name").to_owned());
    assert_eq!((&spec["attacher"], &spec["nodeName"]), (&json!(NAME), &json!("node-1")));
    assert_eq!(spec["source"]["persistentVolumeName"], "pv-theirs");
    scene.api.event("first", "FailedMount", "to attach volume \"vol-1\"").await;
    assert!(driver.calls("NodeStageVolume").is_empty(), "nothing is staged before it is attached");
    let status = json!({"status": {"attached": true, "attachmentMetadata": {"device": "sdz"}}});
    api.patch(&format!("{attachments}/{name}/status"), Patch::Merge, status).await.ok();
    let pod = scene.phase("first", "Running").await;

    let staged = driver.calls("NodeStageVolume")[0].clone();
    assert_eq!((staged.volume.as_str(), staged.fs_type.as_str(), staged.access_mode), ("vol-1", "ext4", 1));
    assert_eq!(staged.publish_context["device"], "sdz");
    assert_eq!((staged.secrets["key"].as_str(), staged.volume_context["pool"].as_str()), ("opens", "fast"));
    assert!(
        staged.path.contains(&format!("plugins/kubernetes.io/csi/{NAME}/")) && staged.path.ends_with("/globalmount")
    );
    let published = driver.calls("NodePublishVolume")[0].clone();
    let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert!(
        published.path.ends_with(&format!("pods/{uid}/volumes/kubernetes.io~csi/pv-theirs/mount")),
        "{}",
        published.path
    );
    assert_eq!(published.secrets["key"], "opens");
    // The last that the driver is told.
    let log = api.log_with("first", "c", "pool=fast", 1).await;
    assert!(log.starts_with("4242\n"), "files are the group's: {log}");
    assert!(
        log.contains("csi.storage.k8s.io/pod.name=first") && log.contains(&uid) && log.contains("ephemeral=false"),
        "{log}"
    );
    let uses = |node: &Value| node["status"]["volumesInUse"] == json!([format!("kubernetes.io/csi/{NAME}^vol-1")]);
    api.until("/api/v1/nodes", "node-1", "the node says what it uses", uses).await;

    // It has grown: the driver is told by the next pod, and the claim says so.
    let larger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    api.patch(&format!("{claims}/c"), Patch::Merge, larger).await.ok();
    api.patch("/api/v1/persistentvolumes/pv-theirs", Patch::Merge, json!({"spec": {"capacity": {"storage": "2Gi"}}}))
        .await
        .ok();
    scene.pod("second", "cat /data/greeting; sleep 1d", volume).await;
    scene.phase("second", "Running").await;
    assert_eq!(api.log_with("second", "c", "hello", 1).await, "hello\n", "both have the volume");
    let grown = driver.calls("NodeExpandVolume");
    assert_eq!(grown.iter().map(|call| call.required_bytes).collect::<Vec<_>>(), [2 * GIBIBYTE]);
    let has_grown = |claim: &Value| claim["status"]["capacity"]["storage"] == "2Gi";
    api.until(&claims, "c", "the claim says so", has_grown).await;

    // The last pod's end is the volume's; meanwhile another agent has come.
    scene.delete("second").await;
    scene.gone("second").await;
    assert_eq!((driver.calls("NodeUnpublishVolume").len(), driver.calls("NodeUnstageVolume").len()), (1, 0));
    scene.cluster.kill_server();
    scene.cluster.start_server();
    let registered = |driver: &Driver| driver.calls("NotifyRegistrationStatus").len();
    eventually("it registers with the new agent", async || (registered(&driver) == 2).then_some(())).await;
    scene.api = scene.api.seen_by(&scene.cluster.kubeconfig()).await;
    let api = scene.api.clone();
    assert_eq!(scene.phase("first", "Running").await["metadata"]["uid"], uid.as_str());
    let node = api.get("/api/v1/nodes/node-1").await.ok();
    assert_eq!(node["status"]["volumesInUse"].as_array().map(Vec::len), Some(1), "a new agent says so before all else");

    // A driver that is away cannot let go: the pod waits, and people are told.
    drop(driver);
    let none = |node: &Value| node["spec"]["drivers"].as_array().is_none_or(Vec::is_empty);
    api.until("/apis/storage.k8s.io/v1/csinodes", "node-1", "the driver is gone", none).await;
    scene.delete("first").await;
    scene.api.event("first", "FailedUnMount", "the driver is not registered here").await;
    let pod = scene.api.get(&format!("{}/first", scene.api.path("v1", "pods"))).await.ok();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.get(attachments).await.ok()["items"].as_array().map(Vec::len), Some(1), "it is in use");
    let driver = scene.driver().await;
    scene.gone("first").await;
    assert_eq!((driver.calls("NodeUnpublishVolume").len(), driver.calls("NodeUnstageVolume").len()), (1, 1));
    api.until_all(attachments, "nothing is attached", <[Value]>::is_empty).await;
    let free = |node: &Value| node["status"]["volumesInUse"].as_array().is_none_or(Vec::is_empty);
    api.until("/api/v1/nodes", "node-1", "the node uses nothing", free).await;
    assert_eq!(std::fs::read_to_string(scene.backing.path().join("vol-1/greeting")).expect("it is kept"), "hello\n");
    scene.cluster.reset(true);
}

const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const VOLUMES: &str = "/api/v1/persistentvolumes";

fn claim_of(name: &str, class: &str, size: &str, source: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "dataSource": source, "resources": {"requests": {"storage": size}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_the_server_calls_itself_needs_no_sidecars() {
    need!(machine::root());
    let sockets = tempfile::tempdir().expect("a directory");
    let socket = sockets.path().join("controller.sock");
    let flag = format!("--csi-controller={NAME}={}", socket.display());
    let mut scene = Scene::start_with(json!({"attachRequired": true, "fsGroupPolicy": "File"}), &[&flag]).await;
    let driver = scene.driver().await;
    let api = scene.api.clone();
    let secret = json!({"metadata": {"name": "key-of-c"}, "stringData": {"key": "opens"}});
    api.post(&api.path("v1", "secrets"), secret).await.ok();
    let mut parameters = json!({"pool": "fast", "csi.storage.k8s.io/fstype": "ext4"});
    for own in ["provisioner", "controller-publish", "controller-expand", "node-stage"] {
        parameters[format!("csi.storage.k8s.io/{own}-secret-name")] = "key-of-${pvc.name}".into();
        parameters[format!("csi.storage.k8s.io/{own}-secret-namespace")] = "${pvc.namespace}".into();
    }
    let class = json!({"metadata": {"name": "ours"}, "provisioner": NAME, "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true, "parameters": parameters});
    api.post(CLASSES, class).await.ok();
    // A driver that nobody opted in waits for its own sidecars.
    let other = "other.example.com";
    api.post(CLASSES, json!({"metadata": {"name": "theirs"}, "provisioner": other})).await.ok();
    let claims = api.path("v1", "persistentvolumeclaims");
    api.post(&claims, claim_of("alone", "theirs", "1Gi", Value::Null)).await.ok();
    let alone = json!({"metadata": {"name": "alone"}, "spec": {"attacher": other, "nodeName": "node-1",
        "source": {"persistentVolumeName": "any"}}});
    api.post(ATTACHMENTS, alone).await.ok();

    // Nobody answers yet; then there is no room where the pod is to run: the scheduler chooses again.
    api.post(&claims, claim_of("c", "ours", "1Gi", Value::Null)).await.ok();
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    scene.pod("first", "echo hello > /data/greeting; sync; sleep 1d", volume.clone()).await;
    api.event("c", "ProvisioningFailed", &format!("driver {NAME} does not answer at")).await;
    let controller = Controller::start(&socket, scene.backing.path());
    controller.refuse("CreateVolume", RESOURCE_EXHAUSTED, false);
    for _ in 0..4 {
        controller.refuse("CreateVolume", DEADLINE_EXCEEDED, true);
    }
    let made = async || (controller.calls("CreateVolume").len() >= 3).then_some(());
    eventually("it is asked again, and answers too late", made).await;
    // The volume is there, and nobody but its name tells of it: also another server finds it.
    scene.cluster.kill_server();
    controller.heal();
    scene.cluster.start_server();
    scene.api = scene.api.seen_by(&scene.cluster.kubeconfig()).await;
    let api = scene.api.clone();
    let pod = scene.phase("first", "Running").await;
    assert_eq!(controller.volumes().len(), 1, "{:?}", controller.volumes());
    let created = controller.calls("CreateVolume").pop().expect("it was called");
    let claim = api.get(&format!("{claims}/c")).await.ok();
    let name = format!("pvc-{}", claim["metadata"]["uid"].as_str().expect("a uid"));
    assert_eq!(
        (created.volume.as_str(), created.required_bytes, created.fs_type.as_str()),
        (name.as_str(), GIBIBYTE, "ext4")
    );
    assert_eq!(json!(created.parameters), json!({"pool": "fast"}));
    assert_eq!(json!(created.preferred), json!([{"topology.test.example.com/rack": "r1"}]));
    assert_eq!((created.secrets["key"].as_str(), created.access_mode), ("opens", 1));
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let held = api.get(&format!("{VOLUMES}/{name}")).await.ok();
    assert_eq!(held["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], NAME);
    assert_eq!(held["metadata"]["annotations"]["volume.kubernetes.io/provisioner-deletion-secret-name"], "key-of-c");
    for finalizer in ["external-provisioner.volume.kubernetes.io/finalizer", "external-attacher/test-example-com"] {
        let all = held["metadata"]["finalizers"].as_array().expect("finalizers");
        assert!(all.iter().any(|own| own == finalizer), "{finalizer} is not among {all:?}");
    }
    assert_eq!(held["spec"]["csi"]["volumeAttributes"], json!({"pool": "fast"}));
    let terms = &held["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!((&terms["key"], &terms["values"]), (&json!("topology.test.example.com/rack"), &json!(["r1"])));

    // It is attached by the driver's name of the node, and the node is told what came of it.
    let attached = controller.calls("ControllerPublishVolume").pop().expect("it was called");
    assert_eq!((attached.node.as_str(), attached.secrets["key"].as_str()), ("machine-7", "opens"));
    let staged = driver.calls("NodeStageVolume")[0].clone();
    assert_eq!((staged.publish_context["device"].as_str(), staged.secrets["key"].as_str()), ("sdq", "opens"));
    assert_eq!(staged.volume, controller.volumes()[0].id);
    let is_ours = |own: &&Value| own["spec"]["attacher"] == NAME;
    let all = api.until_all(ATTACHMENTS, "they are there", |all| all.len() == 2).await;
    let own = all.iter().find(is_ours).expect("ours");
    assert_eq!(own["status"], json!({"attached": true, "attachmentMetadata": {"device": "sdq"}}));
    assert_eq!(own["metadata"]["annotations"]["csi.alpha.kubernetes.io/node-id"], "machine-7");

    // More than there can be is taken back; what can be grows, the node's part with the next pod.
    controller.refuse("ControllerExpandVolume", OUT_OF_RANGE, false);
    let ask = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    api.patch(&format!("{claims}/c"), Patch::Merge, ask("9Gi")).await.ok();
    let state = |claim: &Value| claim["status"]["allocatedResourceStatuses"]["storage"].as_str().map(str::to_owned);
    let is = |word: &'static str| move |claim: &Value| state(claim).as_deref() == Some(word);
    api.until(&claims, "c", "it cannot be", is("ControllerResizeInfeasible")).await;
    api.patch(&format!("{claims}/c"), Patch::Merge, ask("2Gi")).await.ok();
    let grown = api.until(&claims, "c", "the node's turn", is("NodeResizePending")).await;
    assert_eq!(grown["status"]["conditions"][0]["type"], "FileSystemResizePending");
    let call = controller.calls("ControllerExpandVolume").pop().expect("it was called");
    assert_eq!((call.required_bytes, call.secrets["key"].as_str()), (2 * GIBIBYTE, "opens"));
    assert_eq!(api.get(&format!("{VOLUMES}/{name}")).await.ok()["spec"]["capacity"]["storage"], "2Gi");
    scene.pod("second", "cat /data/greeting; sleep 1d", volume).await;
    scene.phase("second", "Running").await;
    let claim = api.until(&claims, "c", "it has grown", |claim| claim["status"]["capacity"]["storage"] == "2Gi").await;
    assert_eq!(state(&claim), None);
    assert!(claim["status"]["conditions"].as_array().is_none_or(Vec::is_empty), "{}", claim["status"]);

    // The end of the claim is the volume's, once it is attached nowhere.
    for pod in ["first", "second"] {
        scene.delete(pod).await;
        scene.gone(pod).await;
    }
    controller.refuse("DeleteVolume", DEADLINE_EXCEEDED, false);
    api.delete(&format!("{claims}/c"), json!({})).await.ok();
    api.until_gone(&format!("{VOLUMES}/{name}")).await;
    assert_eq!(controller.volumes(), []);
    let methods = controller.methods();
    let last = |method: &str| methods.iter().rposition(|own| own == method).expect("it was called");
    assert!(last("ControllerUnpublishVolume") < last("DeleteVolume"), "{methods:?}");
    assert_eq!(
        controller.calls("DeleteVolume").last().map(|call| call.secrets["key"].clone()).as_deref(),
        Some("opens")
    );
    assert!(std::fs::read_dir(scene.backing.path()).expect("a directory").next().is_none(), "data is left");
    let left = api.until_all(ATTACHMENTS, "only that of the other driver is left", |all| all.len() == 1).await;
    assert_eq!((&left[0]["status"]["attached"], &left[0]["metadata"]["finalizers"]), (&json!(false), &Value::Null));
    api.event("alone", "ExternalProvisioning", other).await;
    let alone = api.get(&format!("{claims}/alone")).await.ok();
    assert_eq!((&alone["status"]["phase"], &alone["spec"]["volumeName"]), (&json!("Pending"), &Value::Null));
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_wait_until_the_driver_has_room_for_their_volumes() {
    need!(machine::root());
    let sockets = tempfile::tempdir().expect("a directory");
    let socket = sockets.path().join("controller.sock");
    let flag = format!("--csi-controller={NAME}={}", socket.display());
    let mut scene = Scene::start_with(json!({"attachRequired": false, "storageCapacity": true}), &[&flag]).await;
    let _driver = scene.driver().await;
    let controller = Controller::start(&socket, scene.backing.path());
    controller.has_room(GIBIBYTE);
    let api = scene.api.clone();
    let class = |name: &str| {
        json!({"metadata": {"name": name}, "provisioner": NAME, "volumeBindingMode": "WaitForFirstConsumer",
            "parameters": {"pool": name, "csi.storage.k8s.io/fstype": "ext4"}})
    };
    api.post(CLASSES, class("ours")).await.ok();
    let told = "/apis/storage.k8s.io/v1/namespaces/kube-system/csistoragecapacities";
    let says = |all: &[Value], bytes: u64| {
        let of_ours = all.iter().find(|own| own["storageClassName"] == "ours");
        of_ours.is_some_and(|own| own["capacity"].as_str().is_some_and(|told| told.parse() == Ok(bytes)))
    };
    api.until_all(told, "it is told how much room there is", |all| says(all, GIBIBYTE)).await;
    let asked = controller.calls("GetCapacity").pop().expect("it was asked");
    assert_eq!(json!(asked.parameters), json!({"pool": "ours"}));
    assert_eq!(json!(asked.preferred), json!([{"topology.test.example.com/rack": "r1"}]));
    let object = api.get(told).await.ok()["items"][0].clone();
    assert_eq!(object["nodeTopology"], json!({"matchLabels": {"topology.test.example.com/rack": "r1"}}));

    let claims = api.path("v1", "persistentvolumeclaims");
    api.post(&claims, claim_of("c", "ours", "2Gi", Value::Null)).await.ok();
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    scene.pod("p", "sleep 1d", volume).await;
    api.event("p", "FailedScheduling", "node(s) did not have enough free storage").await;
    assert_eq!(controller.calls("CreateVolume").len(), 0, "nobody asks for what cannot be");
    controller.has_room(4 * GIBIBYTE);
    // It is looked again each minute, and when there is another class.
    api.post(CLASSES, class("another")).await.ok();
    scene.phase("p", "Running").await;
    controller.has_room(2 * GIBIBYTE);
    scene.delete("p").await;
    scene.gone("p").await;
    api.delete(&format!("{claims}/c"), json!({})).await.ok();
    api.until_all(told, "a volume that goes leaves room", |all| says(all, 2 * GIBIBYTE)).await;
    api.delete(&format!("{CLASSES}/ours"), json!({})).await.ok();
    api.until_all(told, "nothing is told of a class that is gone", |all| all.len() == 1).await;
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_goes_while_its_volume_is_made_leaves_none_behind() {
    need!(machine::root());
    let sockets = tempfile::tempdir().expect("a directory");
    let socket = sockets.path().join("controller.sock");
    let flag = format!("--csi-controller={NAME}={}", socket.display());
    let mut scene = Scene::start_with(json!({"attachRequired": false}), &[&flag]).await;
    let controller = Controller::start(&socket, scene.backing.path());
    let driver = scene.driver().await;
    let api = scene.api.clone();
    api.post(CLASSES, json!({"metadata": {"name": "ours"}, "provisioner": NAME})).await.ok();
    let claims = api.path("v1", "persistentvolumeclaims");
    for _ in 0..20 {
        controller.refuse("CreateVolume", DEADLINE_EXCEEDED, true);
    }
    api.post(&claims, claim_of("short", "ours", "1Gi", Value::Null)).await.ok();
    api.event("short", "ProvisioningFailed", "CreateVolume").await;
    api.delete(&format!("{claims}/short"), json!({})).await.ok();
    let goes = |claim: &Value| {
        claim["metadata"]["deletionTimestamp"].is_string()
            && claim["metadata"]["finalizers"] == json!(["gantry.io/csi-provisioning"])
    };
    api.until(&claims, "short", "it waits for what was begun", goes).await;
    assert_eq!(controller.volumes().len(), 1);
    controller.heal();
    api.until_gone(&format!("{claims}/short")).await;
    eventually("its volume is removed", async || controller.volumes().is_empty().then_some(())).await;
    api.until_all(VOLUMES, "nothing tells of it", <[Value]>::is_empty).await;

    // What the driver refuses holds nobody, and a snapshot is refused by name.
    let snapshot = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"});
    api.post(&claims, claim_of("of-snapshot", "ours", "1Gi", snapshot)).await.ok();
    api.event("of-snapshot", "ProvisioningFailed", "kind VolumeSnapshot is not supported").await;
    api.delete(&format!("{claims}/of-snapshot"), json!({})).await.ok();
    api.until_gone(&format!("{claims}/of-snapshot")).await;

    // A copy has what its source had; the source stays until the copy is made.
    api.post(&claims, claim_of("source", "ours", "1Gi", Value::Null)).await.ok();
    let is_bound = |claim: &Value| claim["status"]["phase"] == "Bound";
    api.until(&claims, "source", "it has a volume", is_bound).await;
    let volume = |claim: &str| json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}});
    scene.pod("writes", "echo hello > /data/greeting; sync; sleep 1d", volume("source")).await;
    scene.phase("writes", "Running").await;
    let greeting = scene.backing.path().join(controller.volumes()[0].id.clone()).join("greeting");
    eventually("it is written", async || greeting.exists().then_some(())).await;
    let source = json!({"kind": "PersistentVolumeClaim", "name": "source"});
    api.post(&claims, claim_of("copy", "ours", "1Gi", source)).await.ok();
    api.until(&claims, "copy", "it has a volume", is_bound).await;
    scene.pod("reads", "cat /data/greeting; sleep 1d", volume("copy")).await;
    scene.phase("reads", "Running").await;
    assert_eq!(api.log_with("reads", "c", "hello", 1).await, "hello\n");
    let is_free = |claim: &Value| claim["metadata"]["finalizers"] == json!(["kubernetes.io/pvc-protection"]);
    api.until(&claims, "source", "nobody copies it", is_free).await;
    assert!(driver.calls("NodeStageVolume").len() == 2 && controller.calls("ControllerPublishVolume").is_empty());
    for (pod, claim) in [("writes", "source"), ("reads", "copy")] {
        scene.delete(pod).await;
        scene.gone(pod).await;
        api.delete(&format!("{claims}/{claim}"), json!({})).await.ok();
    }
    eventually("their volumes are removed", async || controller.volumes().is_empty().then_some(())).await;
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_the_pods_own_needs_a_driver_that_has_such() {
    need!(machine::root());
    let mut scene =
        Scene::start(json!({"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Persistent"]}))
            .await;
    let volume = json!({"name": "v", "csi": {"driver": NAME, "fsType": "xfs", "volumeAttributes": {"size": "small"}}});
    scene.pod("p", "cat /data/context; sleep 1d", volume).await;
    scene.api.event("p", "FailedMount", "has no volumes of mode Ephemeral").await;
    let modes = json!({"spec": {"volumeLifecycleModes": ["Ephemeral"]}});
    let path = format!("/apis/storage.k8s.io/v1/csidrivers/{NAME}");
    // Its modes never change: it is made anew.
    scene.api.patch(&path, Patch::Merge, modes).await.refused(422);
    scene.api.delete(&path, json!({})).await.ok();
    let object = json!({"metadata": {"name": NAME}, "spec": {"attachRequired": false, "podInfoOnMount": true,
        "volumeLifecycleModes": ["Ephemeral"]}});
    scene.api.post("/apis/storage.k8s.io/v1/csidrivers", object).await.ok();
    scene.api.event("p", "FailedMount", "not found in the list of registered CSI drivers").await;
    let driver = scene.driver().await;
    scene.phase("p", "Running").await;
    assert!(driver.calls("NodeStageVolume").is_empty());
    let published = driver.calls("NodePublishVolume")[0].clone();
    assert!(
        published.volume.starts_with("csi-") && published.path.ends_with("/kubernetes.io~csi/v/mount"),
        "{published:?}"
    );
    assert_eq!((published.fs_type.as_str(), published.volume_context["size"].as_str()), ("xfs", "small"));
    assert_eq!(published.volume_context["csi.storage.k8s.io/ephemeral"], "true");
    scene.delete("p").await;
    scene.gone("p").await;
    assert_eq!(driver.calls("NodeUnpublishVolume")[0].volume, published.volume);
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_a_driver_is_a_device_of_the_pod_and_keeps_its_data() {
    need!(machine::root());
    need!(machine::program("losetup").map(drop));
    let mut scene = Scene::start(json!({"attachRequired": false})).await;
    let driver = scene.driver().await;
    let api = scene.api.clone();
    let bound = json!({"kind": "PersistentVolumeClaim", "namespace": api.namespace, "name": "c"});
    let volume = json!({"metadata": {"name": "raw"}, "spec": {"capacity": {"storage": "4Mi"}, "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Block", "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain", "claimRef": bound,
        "csi": {"driver": NAME, "volumeHandle": "vol-raw"}}});
    api.post("/api/v1/persistentvolumes", volume).await.ok();
    let claim = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "", "volumeName": "raw", "volumeMode": "Block",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Mi"}}}});
    api.post(&api.path("v1", "persistentvolumeclaims"), claim).await.ok();
    let pod = |name: &str, script: &str| {
        json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "containers": [{"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "volumeDevices": [{"name": "v", "devicePath": "/dev/own"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
    };
    let pods = api.path("v1", "pods");
    let script =
        "test -b /dev/own && wc -c < /dev/own && echo kept | dd of=/dev/own conv=fsync 2>/dev/null; echo $?; sleep 1d";
    api.post(&pods, pod("first", script)).await.ok();
    let uid = scene.phase("first", "Running").await["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert_eq!(api.log_with("first", "c", "0", 2).await, format!("{BLOCK_BYTES}\n0\n"));
    let (staged, published) =
        (driver.calls("NodeStageVolume")[0].clone(), driver.calls("NodePublishVolume")[0].clone());
    assert!(staged.is_block && staged.path.ends_with("/kubernetes.io/csi/volumeDevices/staging/raw"), "{staged:?}");
    let place = format!("/kubernetes.io/csi/volumeDevices/publish/raw/{uid}");
    assert!(published.is_block && published.path.ends_with(&place), "{published:?}");

    // The next pod finds what the last one wrote.
    scene.delete("first").await;
    scene.gone("first").await;
    assert_eq!((driver.calls("NodeUnpublishVolume").len(), driver.calls("NodeUnstageVolume").len()), (1, 1));
    api.post(&pods, pod("second", "dd if=/dev/own bs=5 count=1 2>/dev/null; sleep 1d")).await.ok();
    scene.phase("second", "Running").await;
    assert_eq!(api.log_with("second", "c", "kept", 1).await, "kept\n");
    scene.delete("second").await;
    scene.gone("second").await;
    assert!(!has_device(&scene.backing.path().join("vol-raw.image")), "a loop device is left");
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_plugin_are_given_to_one_container_each() {
    need!(machine::root());
    const RESOURCE: &str = "example.com/thing";
    let image = machine::image("busybox").expect("hack/image makes the image");
    let cdi = tempfile::tempdir().expect("a directory");
    let device = |name: &str, variable: &str| format!("- name: {name}\n  containerEdits: {{env: [{variable}]}}\n");
    let devices =
        ["a", "b", "c"].map(|id| device(id, &format!("BY_ID={id}"))).concat() + &device("shared", "SHARED=yes");
    let file = format!("cdiVersion: 0.6.0\nkind: {CDI_KIND}\ndevices:\n{devices}");
    std::fs::write(cdi.path().join("things.yaml"), file).expect("a file");
    let dir = cdi.path().to_str().expect("a path of ours");
    let mut cluster = Cluster::start_with(&[&image], &["--cdi-spec-dir", dir]);
    let kubelet = cluster.data_dir().join("agent/kubelet");
    let plugin = Plugin::start(&kubelet, RESOURCE, &["a", "b", "c"]).await;
    let api = Api::fresh(&cluster.kubeconfig(), "devices").await;
    let counts = |all: &'static str, usable: &'static str| {
        move |node: &Value| {
            node["status"]["capacity"][RESOURCE] == all && node["status"]["allocatable"][RESOURCE] == usable
        }
    };
    api.until("/api/v1/nodes", "node-1", "the node tells of them", counts("3", "3")).await;
    plugin.set("c", false);
    api.until("/api/v1/nodes", "node-1", "one is ill", counts("3", "2")).await;

    let pods = api.path("v1", "pods");
    let container = |name: &str, count: u32, script: &str| {
        json!({"name": name, "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            "resources": {"limits": {RESOURCE: count.to_string()}}})
    };
    let pod = |name: &str, init: Value, own: Value| {
        json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}], "initContainers": init, "containers": own}})
    };
    let look = "echo $GIVEN $BY_ID $SHARED; cat /library/version; dd if=/dev/test bs=4 count=1 2>/dev/null | wc -c; touch /library/x 2>&1; sleep 1d";
    let first = pod("first", json!([container("init", 1, "echo $GIVEN")]), json!([container("c", 1, look)]));
    api.post(&pods, first).await.ok();
    let is_up = |pod: &Value| pod["status"]["phase"] == "Running";
    api.until(&pods, "first", "it runs", is_up).await;
    let log = api.log_with("first", "c", "Read-only file system", 1).await;
    assert!(log.starts_with("a a yes\n7\n4\n"), "{log}");
    assert_eq!(plugin.given(), [["a"], ["a"]], "what the init container had is the container's");
    let second = pod("second", json!([]), json!([container("c", 1, "echo $GIVEN; sleep 1d")]));
    api.post(&pods, second.clone()).await.ok();
    api.until(&pods, "second", "it runs", is_up).await;
    assert_eq!(plugin.given()[2], ["b"]);

    // Nothing is left: the scheduler knows. Another agent remembers who has what.
    let mut third = second;
    third["metadata"]["name"] = "third".into();
    api.post(&pods, third).await.ok();
    let told = |pod: &Value| pod["status"]["conditions"][0]["reason"] == "Unschedulable";
    let waits = api.until(&pods, "third", "it waits", told).await;
    let message = waits["status"]["conditions"][0]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("Insufficient example.com/thing"), "{message}");
    cluster.kill_server();
    cluster.start_server();
    plugin.register().await.expect("it is taken");
    plugin.set("c", true);
    let api = api.seen_by(&cluster.kubeconfig()).await;
    api.until(&pods, "third", "it runs", is_up).await;
    assert_eq!(plugin.given()[3], ["c"]);
    drop(plugin);
    api.until("/api/v1/nodes", "node-1", "nobody answers for them", counts("3", "0")).await;
    cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_other_numa_nodes_are_refused_where_the_node_is_to_see_to_that() {
    need!(machine::root());
    const RESOURCE: &str = "example.com/thing";
    if !std::path::Path::new("/sys/devices/system/node/node0").exists()
        || std::path::Path::new("/sys/devices/system/node/node1").exists()
    {
        println!("skipped: the test is written for a machine of one NUMA node");
        return;
    }
    let image = machine::image("busybox").expect("hack/image makes the image");
    let cdi = tempfile::tempdir().expect("a directory");
    let devices = ["a.1", "b.0", "shared"].map(|id| format!("- name: {id}\n  containerEdits: {{env: [X=y]}}\n"));
    let file = format!("cdiVersion: 0.6.0\nkind: {CDI_KIND}\ndevices:\n{}", devices.concat());
    std::fs::write(cdi.path().join("things.yaml"), file).expect("a file");
    let flags = [
        "--cdi-spec-dir",
        cdi.path().to_str().expect("a path of ours"),
        "--topology-manager-policy=single-numa-node",
        "--topology-manager-scope=pod",
        "--cpu-manager-policy=static",
        "--reserved-cpus=0",
        "--cpu-manager-policy-options=strict-cpu-reservation=true,distribute-cpus-across-numa=true",
    ];
    let mut cluster = Cluster::start_with(&[&image], &flags);
    let kubelet = cluster.data_dir().join("agent/kubelet");
    // The first is near a node that this machine does not have.
    let plugin = Plugin::start(&kubelet, RESOURCE, &["a.1", "b.0"]).await;
    let api = Api::fresh(&cluster.kubeconfig(), "near").await;
    let counts = |node: &Value| node["status"]["allocatable"][RESOURCE] == "2";
    api.until("/api/v1/nodes", "node-1", "the node tells of them", counts).await;
    let pods = api.path("v1", "pods");
    let pod = |name: &str, limits: Value| {
        let container = json!({"name": "c", "image": "busybox", "imagePullPolicy": "Never", "resources": {"limits": limits},
            "command": ["sh", "-c", "grep Cpus_allowed_list: /proc/self/status; echo $GIVEN; exec sleep 1d"]});
        json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}], "containers": [container]}})
    };
    let is_up = |pod: &Value| pod["status"]["phase"] == "Running";
    let whole = json!({RESOURCE: "1", "cpu": "1", "memory": "32Mi"});
    api.post(&pods, pod("near", whole)).await.ok();
    api.until(&pods, "near", "it runs", is_up).await;
    let log = api.log_with("near", "c", "b.0", 1).await;
    assert!(!log.contains("list:\t0"), "it has a processor of its own: {log}");
    api.post(&pods, pod("far", json!({RESOURCE: "1"}))).await.ok();
    let far = api.until(&pods, "far", "it is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(far["status"]["reason"], "TopologyAffinityError");
    let message = "Resources cannot be allocated with Topology locality";
    assert_eq!(far["status"]["message"], format!("Pod was rejected: {message}"));
    api.event("far", "TopologyAffinityError", message).await;
    // Where nothing matters to a pod, any place is good; and reserved processors are the machine's.
    api.post(&pods, pod("plain", json!({}))).await.ok();
    api.until(&pods, "plain", "it runs", is_up).await;
    if std::thread::available_parallelism().map_or(1, usize::from) > 2 {
        let log = api.log_with("plain", "c", "list:", 1).await;
        assert!(!log.contains("list:\t0"), "{log}");
    }
    // What was near is, once it is nobody's; another agent knows whose it is.
    cluster.kill_server();
    cluster.start_server();
    plugin.register().await.expect("it is taken");
    let api = api.seen_by(&cluster.kubeconfig()).await;
    api.until("/api/v1/nodes", "node-1", "the node tells of them", counts).await;
    api.post(&pods, pod("still", json!({RESOURCE: "1"}))).await.ok();
    let still = api.until(&pods, "still", "it is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(still["status"]["reason"], "TopologyAffinityError");
    api.delete(&format!("{pods}/near"), Value::Null).await.ok();
    api.until_gone(&format!("{pods}/near")).await;
    api.post(&pods, pod("next", json!({RESOURCE: "1"}))).await.ok();
    api.until(&pods, "next", "it runs", is_up).await;
    assert_eq!(plugin.given().last().map(Vec::as_slice), Some(&["b.0".to_owned()][..]));
    drop(plugin);
    cluster.reset(true);
}
