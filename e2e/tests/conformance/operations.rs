//! Kinds whose tests ask one thing: that every verb does what it does everywhere.

use e2e::api::{Api, Patch};
use serde_json::{Value, json};

use crate::server::api;

/// What is to be tried.
struct Kind {
    version: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// Everything but the metadata.
    object: Value,
    /// A status to be written, where there is such a path.
    status: Option<Value>,
    /// Finalizers that the server adds keep deleted objects; a test takes them away.
    held: bool,
}

impl Kind {
    fn namespaced(version: &'static str, plural: &'static str, object: Value) -> Self {
        Self { version, plural, namespaced: true, object, status: None, held: false }
    }

    fn cluster(version: &'static str, plural: &'static str, object: Value) -> Self {
        Self { namespaced: false, ..Self::namespaced(version, plural, object) }
    }

    fn status(self, status: Value) -> Self {
        Self { status: Some(status), ..self }
    }

    fn held(self) -> Self {
        Self { held: true, ..self }
    }

    fn collection(&self, api: &Api) -> String {
        match self.namespaced {
            true => api.path(self.version, self.plural),
            false => self.everywhere(),
        }
    }

    fn everywhere(&self) -> String {
        let root = if self.version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/{}", self.version, self.plural)
    }

    fn named(&self, api: &Api, n: usize) -> Value {
        let mut object = self.object.clone();
        let name = match self.plural {
            "ipaddresses" => format!("192.168.{}.{n}", rand::random::<u8>()),
            // A bundle's name begins with its signer.
            "clustertrustbundles" => format!("example.com:signer:{}-{n}", api.namespace),
            _ => format!("{}-{n}", api.namespace),
        };
        for about in ["regarding", "involvedObject"] {
            if object.get(about).is_some() {
                object[about]["namespace"] = api.namespace.as_str().into();
            }
        }
        object["metadata"] = json!({"name": name, "labels": {"of": api.namespace}});
        object
    }
}

async fn discovered(api: &Api, kind: &Kind) {
    let root = kind.everywhere();
    let list = api.get(root.rsplit_once('/').expect("a path").0).await.ok();
    let resources = list["resources"].as_array().expect("resources");
    let found = |name: &str| resources.iter().find(|one| one["name"] == name).cloned();
    let own = found(kind.plural).unwrap_or_else(|| panic!("{} in discovery", kind.plural));
    assert_eq!(own["namespaced"], kind.namespaced);
    for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
        assert!(own["verbs"].as_array().is_some_and(|verbs| verbs.contains(&verb.into())), "{own}");
    }
    if kind.status.is_some() {
        assert!(found(&format!("{}/status", kind.plural)).is_some(), "the status of {}", kind.plural);
    }
}

/// Every verb, the status if there is one, and what a watch tells of it.
async fn operations(kind: Kind) {
    let api = api("verbs").await;
    discovered(&api, &kind).await;
    let path = kind.collection(&api);
    let selected = format!("{path}?labelSelector=of%3D{}", api.namespace);
    let mut events = api.watch(&selected).await;
    let first = api.post(&path, kind.named(&api, 1)).await.ok();
    let name = first["metadata"]["name"].as_str().expect("a name").to_owned();
    let object = format!("{path}/{name}");
    assert_eq!(events.told().await, ("ADDED".to_owned(), name.clone()));
    for n in 2..4 {
        let made = api.post(&path, kind.named(&api, n)).await.ok();
        // A controller may have something to say of the earlier ones.
        let added = async {
            loop {
                let (kind, name) = events.told().await;
                if kind == "ADDED" {
                    return name;
                }
            }
        };
        assert_eq!(added.await, made["metadata"]["name"]);
    }

    let read = api.get(&object).await.ok();
    assert_eq!(read["metadata"]["uid"], first["metadata"]["uid"]);
    let listed = api.get(&selected).await.ok();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3));
    let everywhere = api.get(&format!("{}?labelSelector=of%3D{}", kind.everywhere(), api.namespace)).await.ok();
    assert_eq!(everywhere["items"].as_array().map(Vec::len), Some(3));

    let patched =
        api.patch(&object, Patch::Merge, json!({"metadata": {"annotations": {"patched": "true"}}})).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let updated = api.edit(&object, |object| object["metadata"]["annotations"]["updated"] = "true".into()).await;
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    loop {
        // A controller may have something to say between the two.
        let (told, seen) = events.next("the update").await;
        if told == "MODIFIED" && seen["metadata"]["annotations"]["updated"] == "true" {
            break;
        }
    }

    if let Some(status) = &kind.status {
        statuses(&api, &object, status).await;
    }

    if kind.held {
        let free = json!({"metadata": {"finalizers": null}});
        for item in listed["items"].as_array().expect("items") {
            let name = item["metadata"]["name"].as_str().expect("a name");
            api.patch(&format!("{path}/{name}"), Patch::Merge, free.clone()).await.ok();
        }
    }
    api.delete(&object, Value::Null).await.ok();
    api.until_gone(&object).await;
    api.get(&object).await.refused(404);
    api.delete(&selected, Value::Null).await.ok();
    for item in listed["items"].as_array().expect("items") {
        api.until_gone(&format!("{path}/{}", item["metadata"]["name"].as_str().expect("a name"))).await;
    }
    assert_eq!(api.get(&selected).await.ok()["items"], json!([]));
}

/// GET, PATCH and PUT of a status; what is no status stays as it was.
async fn statuses(api: &Api, object: &str, status: &Value) {
    let path = format!("{object}/status");
    let before = api.get(object).await.ok();
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status});
    let patched = api.patch(&path, Patch::Merge, patch).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    contains(&patched["status"], status);
    assert_eq!(patched["spec"], before["spec"]);
    let read = api.get(&path).await.ok();
    contains(&read["status"], status);
    let both = |object: &mut Value| {
        object["status"] = status.clone();
        object["metadata"]["annotations"]["updatedstatus"] = "true".into();
    };
    let updated = api.edit(&path, both).await;
    contains(&updated["status"], status);
}

#[track_caller]
fn contains(have: &Value, want: &Value) {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            for (key, value) in want {
                contains(have.get(key).unwrap_or(&Value::Null), value);
            }
        }
        (Value::Array(have), Value::Array(want)) => {
            for value in want {
                let fits = |one: &&Value| one["type"] == value["type"];
                contains(have.iter().find(fits).unwrap_or(&Value::Null), value);
            }
        }
        (have, want) => assert_eq!(have, want),
    }
}

fn condition(kind: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": "True", "reason": "E2E", "message": "set by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

macro_rules! kinds {
    ($($name:ident: $kind:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            operations($kind).await;
        }
    )*};
}

const MATCH: fn() -> Value = || {
    json!({"resourceRules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["nothings"]}]})
};

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

kinds! {
    c001_flow_schemas: Kind::cluster("flowcontrol.apiserver.k8s.io/v1", "flowschemas", json!({"spec": {
        "matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
        "distinguisherMethod": {"type": "ByUser"}, "rules": [{"subjects": [{"kind": "User", "user": {"name": "nobody"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "clusterScope": true}]}]}}))
        .status(condition("Dangling"));
    c002_priority_levels: Kind::cluster("flowcontrol.apiserver.k8s.io/v1", "prioritylevelconfigurations", json!({"spec": {
        "type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}}))
        .status(condition("Tested"));
    c066_mutating_policies: Kind::cluster("admissionregistration.k8s.io/v1", "mutatingadmissionpolicies", json!({"spec": {
        "matchConstraints": MATCH(), "reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{metadata: Object.metadata{annotations: {\"a\": \"b\"}}}"}}]}}));
    c067_mutating_policy_bindings: Kind::cluster("admissionregistration.k8s.io/v1", "mutatingadmissionpolicybindings",
        json!({"spec": {"policyName": "none"}}));
    c092_validating_policies: Kind::cluster("admissionregistration.k8s.io/v1", "validatingadmissionpolicies", json!({"spec": {
        "matchConstraints": MATCH(), "validations": [{"expression": "true"}]}}))
        .status(condition("Tested"));
    c093_validating_policy_bindings: Kind::cluster("admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings",
        json!({"spec": {"policyName": "none", "validationActions": ["Deny"]}}));
    c090_storage_version_migrations: Kind::cluster("storagemigration.k8s.io/v1", "storageversionmigrations",
        json!({"spec": {"resource": {"group": "example.com", "resource": "nothings"}}}));
    c163_pod_certificate_requests: Kind::namespaced("certificates.k8s.io/v1", "podcertificaterequests", json!({"spec": {
        "signerName": "example.com/signer", "podName": "p", "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "su",
        "nodeName": "n", "nodeUID": "nu", "maxExpirationSeconds": 86400, "stubPKCS10Request": crate::auth::stub_request()}}))
        .status(condition("Failed"));
    c179_cluster_trust_bundles: Kind::cluster("certificates.k8s.io/v1", "clustertrustbundles",
        json!({"spec": {"signerName": "example.com/signer", "trustBundle": crate::auth::certificate()}}));
    c206_c207_events_of_the_new_group: Kind::namespaced("events.k8s.io/v1", "events", json!({"eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "e2e.example.com/test", "reportingInstance": "one", "action": "Testing", "reason": "Test",
        "type": "Normal", "note": "a note", "regarding": {"kind": "Pod", "name": "p"}}));
    c208_c209_events_of_the_core: Kind::namespaced("v1", "events", json!({"involvedObject": {"kind": "Pod", "name": "p"},
        "reason": "Test", "message": "a message", "type": "Normal", "count": 1}));
    c224_endpoint_slices: Kind::namespaced("discovery.k8s.io/v1", "endpointslices", json!({"addressType": "IPv4",
        "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"]}]}));
    c226_endpoints: Kind::namespaced("v1", "endpoints", json!({"subsets": [{"addresses": [{"ip": "10.0.0.24"}],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}]}));
    c230_ingresses: Kind::namespaced("networking.k8s.io/v1", "ingresses", json!({"spec": {"defaultBackend": {"service":
        {"name": "default-backend", "port": {"number": 80}}}, "rules": [{"host": "foo.bar.com", "http": {"paths": [{"path": "/",
        "pathType": "ImplementationSpecific", "backend": {"service": {"name": "test-backend", "port": {"number": 8080}}}}]}}]}}))
        .status(json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}));
    c231_ingress_classes: Kind::cluster("networking.k8s.io/v1", "ingressclasses", json!({"spec": {"controller": "example.com/controller"}}));
    c240_ip_addresses: Kind::cluster("networking.k8s.io/v1", "ipaddresses", json!({"spec": {"parentRef":
        {"group": "", "resource": "services", "name": "test", "namespace": "default"}}}));
    c295_leases: Kind::namespaced("coordination.k8s.io/v1", "leases", json!({"spec": {"holderIdentity": "holder",
        "leaseDurationSeconds": 30, "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:05.000000Z",
        "leaseTransitions": 0}}));
    c304_pod_templates: Kind::namespaced("v1", "podtemplates", json!({"template": template()}));
    c334_runtime_classes: Kind::cluster("node.k8s.io/v1", "runtimeclasses", json!({"handler": "test"}));
    c356_device_classes: Kind::cluster("resource.k8s.io/v1", "deviceclasses", json!({"spec": {}}));
    c357_device_taint_rules: Kind::cluster("resource.k8s.io/v1", "devicetaintrules", json!({"spec": {
        "taint": {"key": "example.com/taint", "value": "v", "effect": "NoSchedule"}}}));
    c358_resource_claims: Kind::namespaced("resource.k8s.io/v1", "resourceclaims", json!({"spec": {"devices": {"requests":
        [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}));
    c359_resource_claim_templates: Kind::namespaced("resource.k8s.io/v1", "resourceclaimtemplates", json!({"spec": {"spec":
        {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}}));
    c360_resource_slices: Kind::cluster("resource.k8s.io/v1", "resourceslices", json!({"spec": {"driver": "dra.example.com",
        "nodeName": "some-node", "pool": {"name": "pool", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d"}]}}));
    c372_csi_drivers: Kind::cluster("storage.k8s.io/v1", "csidrivers", json!({"spec": {"attachRequired": false,
        "podInfoOnMount": false, "volumeLifecycleModes": ["Ephemeral"]}}));
    c374_csi_nodes: Kind::cluster("storage.k8s.io/v1", "csinodes", json!({"spec": {"drivers": []}}));
    c375_csi_storage_capacities: Kind::namespaced("storage.k8s.io/v1", "csistoragecapacities",
        json!({"storageClassName": "some", "capacity": "1Gi"}));
    c416_c415_persistent_volumes: Kind::cluster("v1", "persistentvolumes", json!({"spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "csi": {"driver": "x.example.com", "volumeHandle": "h"},
        "nodeAffinity": null, "storageClassName": "of-nobody"}}))
        .status(json!({"message": "set by a test", "reason": "E2E"})).held();
    c416_c415_persistent_volume_claims: Kind::namespaced("v1", "persistentvolumeclaims", json!({"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none"}}))
        .status(condition("StatusPatched")).held();
    c454_storage_classes: Kind::cluster("storage.k8s.io/v1", "storageclasses", json!({"provisioner": "example.com/none"}));
    c461_c460_volume_attachments: Kind::cluster("storage.k8s.io/v1", "volumeattachments", json!({"spec": {"attacher": "a.example.com",
        "nodeName": "some-node", "source": {"persistentVolumeName": "pv"}}}))
        .status(json!({"attached": false, "attachmentMetadata": {"a": "b"}}));
    c462_volume_attributes_classes: Kind::cluster("storage.k8s.io/v1", "volumeattributesclasses",
        json!({"driverName": "x.example.com", "parameters": {"a": "b"}}));
    c176_c177_service_accounts: Kind::namespaced("v1", "serviceaccounts", json!({"automountServiceAccountToken": false}));
    c075_c076_c084_resource_quotas: Kind::namespaced("v1", "resourcequotas", json!({"spec": {"hard": {"cpu": "1", "memory": "500Mi"}}}));
    c007_mutating_webhooks_with_conditions: Kind::cluster("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", hooks());
    c008_validating_webhooks_with_conditions: Kind::cluster("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", hooks());
    c106_cron_jobs: Kind::namespaced("batch/v1", "cronjobs", json!({"spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate":
        {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}}}}}))
        .status(json!({"lastScheduleTime": "2026-01-01T00:00:00Z"}));
}

/// Hooks that never match.
fn hooks() -> Value {
    json!({"webhooks": [{"name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:1/"}, "matchConditions": [{"name": "never", "expression": "false"}],
        "rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothings"]}]}]})
}

#[tokio::test]
async fn c241_service_ranges() {
    // Ranges are named freely and held by a controller's finalizer where there is one.
    let kind = Kind::cluster("networking.k8s.io/v1", "servicecidrs", json!({"spec": {"cidrs": ["10.250.16.0/24"]}}));
    operations(kind.status(condition("Tested")).held()).await;
}

#[tokio::test]
async fn c368_priority_classes_change_but_their_value() {
    let api = api("priority").await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let name = format!("{}-high", api.namespace);
    let object = format!("{path}/{name}");
    api.post(path, json!({"metadata": {"name": name}, "value": 100, "description": "before"})).await.ok();
    api.patch(&object, Patch::Merge, json!({"description": "after"})).await.ok();
    let message = api.patch(&object, Patch::Merge, json!({"value": 200})).await.refused(422);
    assert!(message.contains("value: Forbidden") || message.contains("field is immutable"), "{message}");
    let mut whole = api.get(&object).await.ok();
    assert_eq!((&whole["value"], &whole["description"]), (&json!(100), &json!("after")));
    whole["value"] = 300.into();
    api.put(&object, whole).await.refused(422);
    api.delete(&object, Value::Null).await.ok();
}

#[tokio::test]
async fn c249_a_services_status() {
    let api = api("service").await;
    let path = api.path("v1", "services");
    api.post(&path, json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}))
        .await
        .ok();
    statuses(&api, &format!("{path}/s"), &json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}})).await;
    statuses(&api, &format!("{path}/s"), &condition("StatusUpdate")).await;
}

#[tokio::test]
async fn c298_a_node_object() {
    let api = api("node").await;
    let name = format!("{}-node", api.namespace);
    let path = format!("/api/v1/nodes/{name}");
    api.post("/api/v1/nodes", json!({"metadata": {"name": name}, "spec": {"unschedulable": true}})).await.ok();
    let patched = api.patch(&path, Patch::Strategic, json!({"metadata": {"labels": {"e2e": "patched"}}})).await.ok();
    assert_eq!(patched["metadata"]["labels"]["e2e"], "patched");
    // The control plane writes to a new node as well.
    api.edit(&path, |node| node["metadata"]["labels"]["e2e"] = "updated".into()).await;
    let listed = api.get("/api/v1/nodes?labelSelector=e2e%3Dupdated").await.ok();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    api.delete(&path, Value::Null).await.ok();
    api.get(&path).await.refused(404);
}
