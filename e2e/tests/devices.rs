//! Devices of others (dynamic resource allocation): a driver of the tests' own, from the slice that tells of its devices to the
//! container that uses one. The tests write slices, classes and claims, as drivers, administrators and users do.

use e2e::api::{Api, Patch, condition, eventually};
use e2e::cluster::Cluster;
use e2e::dra::{Driver, Mood, NAME};
use e2e::{machine, need};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const GROUP: &str = "resource.k8s.io/v1";

struct Scene {
    cluster: Cluster,
    api: Api,
    cdi: tempfile::TempDir,
}

impl Scene {
    /// A node with a slice of two devices of different models, and a class for all devices of the driver.
    async fn start() -> Self {
        let image = machine::image("busybox").expect("hack/image makes the image");
        let cdi = tempfile::tempdir().expect("a directory");
        let dir = cdi.path().to_str().expect("a path of ours");
        let cluster = Cluster::start_with(&[&image], &["--cdi-spec-dir", dir]);
        let api = Api::fresh(&cluster.kubeconfig(), "devices").await;
        let class = json!({"metadata": {"name": "things"}, "spec": {"selectors":
            [{"cel": {"expression": format!("device.driver == '{NAME}'")}}]}});
        api.post(&format!("/apis/{GROUP}/deviceclasses"), class).await.ok();
        let scene = Self { cluster, api, cdi };
        scene.tell_of_devices().await;
        scene
    }

    async fn tell_of_devices(&self) {
        let device = |name: &str, model: &str, version: &str| {
            json!({"name": name, "attributes": {"model": {"string": model}, "version": {"version": version}},
                "capacity": {"memory": {"value": "16Gi"}}})
        };
        let slice = json!({"metadata": {"name": "node-1-things"}, "spec": {"driver": NAME, "nodeName": "node-1",
            "pool": {"name": "node-1", "generation": 1, "resourceSliceCount": 1},
            "devices": [device("thing-0", "large", "2.1.0"), device("thing-1", "small", "1.0.0")]}});
        self.api.post(&format!("/apis/{GROUP}/resourceslices"), slice).await.ok();
    }

    async fn driver(&self) -> Driver {
        let driver = Driver::start(&self.cluster.data_dir().join("agent/kubelet"), self.cdi.path(), &self.api);
        eventually("it is told that it is registered", async || {
            (driver.count("NotifyRegistrationStatus", "1 ") > 0).then_some(())
        })
        .await;
        driver
    }

    /// What asks for one large device.
    fn large() -> Value {
        let expression = format!(
            "device.attributes['{NAME}'].model == 'large' && device.capacity['{NAME}'].memory.compareTo(quantity('8Gi')) >= 0 \
             && device.attributes['{NAME}'].version.isGreaterThan(semver('2.0.0')) && !('x' in device.attributes['other.com'])"
        );
        json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "things",
            "selectors": [{"cel": {"expression": expression}}]}}]}})
    }

    async fn template(&self) {
        let template = json!({"metadata": {"name": "large"}, "spec": {"spec": Self::large()}});
        self.api.post(&self.api.path(GROUP, "resourceclaimtemplates"), template).await.ok();
    }

    async fn pod(&self, name: &str, claim: Value, script: &str) {
        let container = |name: &str, script: &str, resources: Value| {
            json!({"name": name, "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "resources": resources})
        };
        let mut claim = claim;
        claim["name"] = "own".into();
        let with = json!({"claims": [{"name": "own", "request": "gpu"}]});
        let pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}], "resourceClaims": [claim], "containers": [
                container("c", script, with), container("without", "echo \"<$DEVICE_GPU$CLAIM>\"; ls /library 2>&1; exit 0", json!({}))]}});
        self.api.post(&self.api.path("v1", "pods"), pod).await.ok();
    }

    fn templated() -> Value {
        json!({"resourceClaimTemplateName": "large"})
    }

    async fn until(&self, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.api.until(&self.api.path("v1", "pods"), name, &format!("pod {name}: {what}"), fits).await
    }

    async fn phase(&self, name: &str, phase: &str) -> Value {
        self.until(name, phase, |pod| pod["status"]["phase"] == phase).await
    }

    /// Runs, as far as the container with the device is concerned; answers the name of its claim.
    async fn runs(&self, name: &str) -> String {
        let is_up = |pod: &Value| {
            let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            all.iter().any(|own| own["name"] == "c" && own["state"]["running"].is_object())
        };
        let pod = self.until(name, "its container runs", is_up).await;
        pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().unwrap_or_default().to_owned()
    }

    async fn end(&self, name: &str) {
        let path = format!("{}/{name}", self.api.path("v1", "pods"));
        self.api.delete(&path, json!({})).await.ok();
        self.api.until_gone(&path).await;
    }

    fn claims(&self) -> String {
        self.api.path(GROUP, "resourceclaims")
    }

    async fn claim(&self, name: &str) -> Value {
        self.api.get(&format!("{}/{name}", self.claims())).await.ok()
    }

    /// The claim goes, with its pod.
    async fn claim_gone(&self, name: &str) {
        self.api.until_gone(&format!("{}/{name}", self.claims())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_one_pods_at_a_time_from_its_slice_to_its_container() {
    need!(machine::root());
    let mut scene = Scene::start().await;
    let driver = scene.driver().await;
    let api = scene.api.clone();
    // The pod comes first: it waits for the template.
    let look = "echo $DEVICE_GPU $CLAIM; cat /library/version; id -G; dd if=/dev/test bs=4 count=1 2>/dev/null | wc -c; \
        touch /library/x 2>&1; sleep 1d";
    scene.pod("first", Scene::templated(), look).await;
    api.event("first", "FailedResourceClaimCreation", "\"large\" not found").await;
    scene.template().await;
    let own = scene.runs("first").await;
    assert!(own.starts_with("first-own-"), "{own}");
    let log = api.log_with("first", "c", "Read-only file system", 1).await;
    assert!(log.starts_with(&format!("thing-0 {own}\n7\n")) && log.contains("4711") && log.contains("\n4\n"), "{log}");
    let log = api.log_with("first", "without", "No such file", 1).await;
    assert!(log.starts_with("<>\n"), "another container has nothing of it: {log}");

    let claim = scene.claim(&own).await;
    let (status, uid) = (&claim["status"], api.get(&format!("{}/first", api.path("v1", "pods"))).await.ok());
    let uid = uid["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let result = &status["allocation"]["devices"]["results"][0];
    assert_eq!(
        (&result["request"], &result["driver"], &result["pool"], &result["device"]),
        (&json!("gpu"), &json!(NAME), &json!("node-1"), &json!("thing-0"))
    );
    let only = json!([{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]);
    assert_eq!(status["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"], only);
    assert_eq!(
        (&status["reservedFor"][0]["resource"], &status["reservedFor"][0]["uid"]),
        (&json!("pods"), &json!(uid))
    );
    assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], uid.as_str());
    assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/pod-claim-name"], "own");

    // Nothing is left of what it asks for: the second waits, and people can read why.
    scene.pod("second", Scene::templated(), "echo $DEVICE_GPU; exit 0").await;
    let told = |pod: &Value| pod["status"]["conditions"][0]["reason"] == "Unschedulable";
    let waits = scene.until("second", "it waits", |pod| {
        told(pod)
            && pod["status"]["conditions"][0]["message"].as_str().is_some_and(|why| why.contains("cannot allocate"))
    });
    let message = waits.await["status"]["conditions"][0]["message"].as_str().expect("a message").to_owned();
    assert!(message.starts_with("0/1 nodes are available: 1 cannot allocate all claims."), "{message}");
    api.event("second", "FailedScheduling", "cannot allocate all claims").await;
    let why = scene.cluster.gantry().run(&["why", "second", "-n", &api.namespace]);
    assert!(why.out.contains("cannot allocate all claims"), "{}{}", why.out, why.err);

    // The first ends: its device is taken back once, before the second gets it.
    scene.end("first").await;
    scene.claim_gone(&own).await;
    let pod = scene.phase("second", "Succeeded").await;
    let next = pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().expect("a claim").to_owned();
    assert_eq!(api.log("second", "c").await, "thing-0\n");
    assert_eq!((driver.count("NodePrepareResources", &own), driver.count("NodeUnprepareResources", &own)), (1, 1));
    let order: Vec<String> = driver.calls().into_iter().map(|(method, name)| format!("{method} {name}")).collect();
    let at = |call: String| order.iter().position(|own| *own == call).expect("it was called");
    assert!(at(format!("NodeUnprepareResources {own}")) < at(format!("NodePrepareResources {next}")), "{order:?}");
    // A pod that has ended by itself gives its device back as well, before anybody hears that it has ended.
    assert_eq!((driver.count("NodePrepareResources", &next), driver.count("NodeUnprepareResources", &next)), (1, 1));
    scene.claim_gone(&next).await;
    assert!(std::fs::read_dir(scene.cdi.path()).expect("a directory").next().is_none(), "no file is left");

    // One claim that several pods share: prepared once, taken back with the last.
    api.post(&scene.claims(), json!({"metadata": {"name": "shared"}, "spec": Scene::large()})).await.ok();
    for name in ["a", "b"] {
        scene.pod(name, json!({"resourceClaimName": "shared"}), "echo $DEVICE_GPU; sleep 1d").await;
        scene.runs(name).await;
        assert_eq!(api.log_with(name, "c", "thing", 1).await, "thing-0\n");
    }
    assert_eq!(scene.claim("shared").await["status"]["reservedFor"].as_array().map(Vec::len), Some(2));
    assert_eq!(driver.count("NodePrepareResources", "shared"), 1);
    api.delete(&format!("{}/shared", scene.claims()), json!({})).await.ok();
    scene.end("a").await;
    assert_eq!(driver.count("NodeUnprepareResources", "shared"), 0, "the other still has it");
    assert!(scene.claim("shared").await["metadata"]["deletionTimestamp"].is_string(), "and its claim stays so long");
    scene.end("b").await;
    assert_eq!(driver.count("NodeUnprepareResources", "shared"), 1);
    scene.claim_gone("shared").await;
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_away_or_fails_is_waited_for() {
    need!(machine::root());
    let mut scene = Scene::start().await;
    scene.template().await;
    let api = scene.api.clone();
    scene.pod("patient", Scene::templated(), "echo $DEVICE_GPU; sleep 1d").await;
    let absent = format!("DRA driver {NAME} is not registered");
    api.event("patient", "FailedPrepareDynamicResources", &absent).await;
    let driver = scene.driver().await;
    let own = scene.runs("patient").await;
    assert_eq!(api.log_with("patient", "c", "thing", 1).await, "thing-0\n");

    // The driver goes: what it prepared cannot be taken back, and the pod waits. It comes back.
    drop(driver);
    api.delete(&format!("{}/patient", api.path("v1", "pods")), json!({})).await.ok();
    api.event("patient", "FailedUnprepareDynamicResources", &absent).await;
    let held = scene.claim(&own).await;
    assert_eq!(held["status"]["reservedFor"].as_array().map(Vec::len), Some(1), "its device is not free");
    let driver = scene.driver().await;
    api.until_gone(&format!("{}/patient", api.path("v1", "pods"))).await;
    assert_eq!(driver.count("NodeUnprepareResources", &own), 1);

    // It says no, and then names a device that no file knows.
    driver.set(Mood::Refusing("the device is on fire".into()));
    scene.pod("stubborn", Scene::templated(), "echo $DEVICE_GPU; sleep 1d").await;
    api.event("stubborn", "FailedPrepareDynamicResources", "the device is on fire").await;
    driver.set(Mood::Forgetful);
    let is_waiting = |pod: &Value| {
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.iter().any(|own| own["state"]["waiting"]["reason"] == "CreateContainerError")
    };
    let pod = scene.until("stubborn", "its container cannot be made", is_waiting).await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(message.contains("-thing-0-lost") && message.contains("not found in"), "{message}");
    driver.set(Mood::Well);
    scene.end("stubborn").await;

    // An agent that is killed when a claim is prepared and no container is started goes on.
    scene.cluster.kill_server();
    scene.cluster.environment = vec![("GANTRY_FAILPOINT", "claims:prepared".to_owned())];
    scene.cluster.start_server();
    let before = |driver: &Driver| driver.calls().len();
    let calls = before(&driver);
    scene.api = api.seen_by(&scene.cluster.kubeconfig()).await;
    scene.pod("survivor", Scene::templated(), "echo $DEVICE_GPU; sleep 1d").await;
    scene.cluster.ended("the agent is killed when the claim is prepared");
    assert!(before(&driver) > calls);
    scene.cluster.environment.clear();
    scene.cluster.start_server();
    scene.api = api.seen_by(&scene.cluster.kubeconfig()).await;
    let own = scene.runs("survivor").await;
    assert_eq!(scene.api.log_with("survivor", "c", "thing", 1).await, "thing-0\n");
    scene.end("survivor").await;
    assert_eq!(driver.count("NodeUnprepareResources", &own), 1);
    scene.claim_gone(&own).await;

    // What a driver told of its devices goes some time after it.
    drop(driver);
    let slices = format!("/apis/{GROUP}/resourceslices");
    scene.api.until_all(&slices, "the slice of a driver that is gone goes", <[Value]>::is_empty).await;
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_of_a_device_ends_the_pods_that_do_not_tolerate_it() {
    need!(machine::root());
    let mut scene = Scene::start().await;
    let _driver = scene.driver().await;
    let api = scene.api.clone();
    let tolerations = json!([{"key": "maintenance", "operator": "Exists", "effect": "NoExecute"},
        {"key": "broken", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}]);
    for (name, tolerations) in [("brittle", json!([])), ("patient", tolerations)] {
        let exactly = json!({"deviceClassName": "things", "tolerations": tolerations});
        let claim = json!({"metadata": {"name": name},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}});
        api.post(&scene.claims(), claim).await.ok();
        scene.pod(name, json!({"resourceClaimName": name}), "sleep 1d").await;
        scene.runs(name).await;
    }
    // What a rule would do is told before it does it.
    let rules = format!("/apis/{GROUP}/devicetaintrules");
    let rule = json!({"metadata": {"name": "maintenance"},
        "spec": {"deviceSelector": {"driver": NAME}, "taint": {"key": "maintenance", "effect": "None"}}});
    let made = api.post(&rules, rule).await.ok();
    assert!(made["spec"]["taint"]["timeAdded"].is_string(), "{made}");
    let says = async |reason: &str| {
        let fits = |rule: &Value| condition(rule, "EvictionInProgress")["reason"] == reason;
        let rule = api.until(&rules, "maintenance", &format!("the rule says {reason}"), fits).await;
        condition(&rule, "EvictionInProgress")["message"].as_str().unwrap_or_default().to_owned()
    };
    let tried = says("NoEffect").await;
    assert!(tried.starts_with("Selects 2 devices of") && tried.contains("1 pod in 1 namespace would"), "{tried}");

    // It does: a finalizer keeps the pod's object for a look at it.
    let (brittle, patient) = (api.path("v1", "pods") + "/brittle", api.path("v1", "pods") + "/patient");
    let finalizers = |all: Value| json!({"metadata": {"finalizers": all}});
    api.patch(&brittle, Patch::Merge, finalizers(json!(["e2e.gantry.dev/look"]))).await.ok();
    let evicting = json!({"spec": {"taint": {"effect": "NoExecute"}}});
    api.patch(&format!("{rules}/maintenance"), Patch::Merge, evicting).await.ok();
    let leaves = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
    let evicted = scene.until("brittle", "it leaves", leaves).await;
    assert_eq!(condition(&evicted, "DisruptionTarget")["reason"], "DeletionByDeviceTaintManager");
    api.event("brittle", "DeviceTaintManagerEviction", "Marking for deletion").await;
    api.patch(&brittle, Patch::Merge, finalizers(json!([]))).await.ok();
    api.until_gone(&brittle).await;
    assert_eq!(says("Completed").await, "Evicted since the control plane started: 1 pod.");

    // A driver taints its devices itself. Who bears with it for a while leaves then; times are whole seconds.
    assert!(!leaves(&api.get(&patient).await.ok()));
    let began = Instant::now();
    let tainted = |slice: &mut Value| {
        for device in slice["spec"]["devices"].as_array_mut().into_iter().flatten() {
            device["taints"] = json!([{"key": "broken", "effect": "NoExecute"}]);
        }
    };
    api.edit(&format!("/apis/{GROUP}/resourceslices/node-1-things"), tainted).await;
    scene.until("patient", "it leaves", leaves).await;
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    api.until_gone(&patient).await;
    scene.cluster.reset(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_for_several_is_given_in_parts_when_its_driver_is_ready() {
    need!(machine::root());
    let mut scene = Scene::start().await;
    let _driver = scene.driver().await;
    let api = scene.api.clone();
    api.edit(&format!("/apis/{GROUP}/resourceslices/node-1-things"), |slice| {
        let device = &mut slice["spec"]["devices"][0];
        device["allowMultipleAllocations"] = true.into();
        device["capacity"]["memory"]["requestPolicy"] =
            json!({"default": "1Gi", "validRange": {"min": "1Gi", "step": "5Gi"}});
        device["bindingConditions"] = json!(["attached"]);
        device["bindingFailureConditions"] = json!(["broken"]);
    })
    .await;
    // 10 GiB are not on a step: 11 are taken, and 5 of 16 are left.
    for (name, amount) in [("large", "10Gi"), ("small", "1Gi"), ("other", "2Gi")] {
        let exactly = json!({"deviceClassName": "things", "capacity": {"requests": {"memory": amount}},
            "selectors": [{"cel": {"expression": "device.allowMultipleAllocations"}}]});
        let claim = json!({"metadata": {"name": name},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}});
        api.post(&scene.claims(), claim).await.ok();
    }
    // The driver's word about the one device of a claim.
    let says = async |claim: &str, condition: &str| {
        let path = format!("{}/{claim}/status", scene.claims());
        api.edit(&path, |claim| {
            let mut device = json!({});
            for key in ["driver", "pool", "device", "shareID"] {
                device[key] = claim["status"]["allocation"]["devices"]["results"][0][key].clone();
            }
            device["conditions"] = json!([{"type": condition, "status": "True", "reason": "Test", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            claim["status"]["devices"] = json!([device]);
        })
        .await
    };
    let given = async |claim: &str, but: &Value| {
        let share = |claim: &Value| claim["status"]["allocation"]["devices"]["results"][0]["shareID"].clone();
        let fits = |claim: &Value| share(claim).is_string() && share(claim) != *but;
        let claim = api.until(&scene.claims(), claim, "it has its share", fits).await;
        claim["status"]["allocation"]["devices"]["results"][0].clone()
    };
    for (name, want) in [("large", "11Gi"), ("small", "1Gi")] {
        scene.pod(name, json!({"resourceClaimName": name}), "sleep 1d").await;
        let own = given(name, &Value::Null).await;
        assert_eq!((&own["device"], &own["consumedCapacity"]["memory"]), (&json!("thing-0"), &json!(want)));
    }
    let pods = api.path("v1", "pods");
    assert_eq!(
        api.get(&format!("{pods}/large")).await.ok()["spec"]["nodeName"],
        Value::Null,
        "it waits for the driver"
    );
    says("large", "attached").await;
    scene.runs("large").await;
    // What cannot be had is taken back, and tried again.
    let first = given("small", &Value::Null).await;
    says("small", "broken").await;
    given("small", &first["shareID"]).await;
    says("small", "attached").await;
    scene.runs("small").await;
    // 6 GiB would be taken, 4 are left, until the large one goes.
    scene.pod("other", json!({"resourceClaimName": "other"}), "sleep 1d").await;
    api.event("other", "FailedScheduling", "cannot allocate all claims").await;
    scene.end("large").await;
    given("other", &Value::Null).await;
    says("other", "attached").await;
    scene.runs("other").await;
    scene.cluster.reset(true);
}
