//! The defaults of built-in kinds (the `SetDefaults_*` functions of Kubernetes 1.37), filled in after decoding.
mod pod;
mod service;
mod workload;

use crate::resource::Resource;
use crate::tree::{child, fill, fill_text, list_mut, text};
use serde_json::{Map, Value, json};

/// Fills in defaults. Doing it twice changes nothing.
pub fn default(resource: &Resource, object: &mut Value) {
    if !object.is_object() {
        return;
    }
    if let Some(custom) = &resource.custom {
        crate::custom::fill_defaults(&custom.node, object);
        return;
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => pod::pod(object),
        ("", "podtemplates") => pod::template(object, "template"),
        ("", "replicationcontrollers") => workload::replication_controller(object),
        ("apps", "deployments") => workload::deployment(object),
        ("apps", "replicasets") => workload::replica_set(object),
        ("apps", "statefulsets") => workload::stateful_set(object),
        ("apps", "daemonsets") => workload::daemon_set(object),
        ("batch", "jobs") => workload::job(object),
        ("batch", "cronjobs") => workload::cron_job(object),
        ("autoscaling", "horizontalpodautoscalers") => workload::autoscaler(object, &resource.version),
        ("", "services") => service::service(object),
        ("", "endpoints") => service::endpoints(object),
        ("discovery.k8s.io", "endpointslices") => service::endpoint_slice(object),
        ("networking.k8s.io", "ingresses") => service::ingress(object),
        ("networking.k8s.io", "networkpolicies") => service::network_policy(object),
        ("", "namespaces") => namespace(object),
        ("", "secrets") => secret(object),
        ("", "nodes") => node(object),
        ("", "persistentvolumes") => persistent_volume(object),
        ("", "persistentvolumeclaims") => claim(object),
        ("", "limitranges") => limit_range(object),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => binding(object),
        ("storage.k8s.io", "storageclasses") => {
            fill_text(object, "reclaimPolicy", "Delete");
            fill_text(object, "volumeBindingMode", "Immediate");
        }
        ("storage.k8s.io", "csidrivers") => csi_driver(object),
        ("resource.k8s.io", "resourceclaims") => device_requests(object, &["spec", "devices", "requests"]),
        ("resource.k8s.io", "resourceclaimtemplates") => {
            device_requests(object, &["spec", "spec", "devices", "requests"]);
        }
        ("scheduling.k8s.io", "priorityclasses") => fill_text(object, "preemptionPolicy", "PreemptLowerPriority"),
        ("scheduling.k8s.io", "podgroups") => {
            if let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) {
                fill(spec, "disruptionMode", json!({"single": {}}));
            }
        }
        ("policy", "poddisruptionbudgets") => {}
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            webhooks(object, resource.plural == "mutatingwebhookconfigurations");
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies" | "mutatingadmissionpolicies") => {
            if let Some(spec) = object.get_mut("spec") {
                fill_text(spec, "failurePolicy", "Fail");
                match_resources(spec, "matchConstraints");
            }
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings") => {
            if let Some(spec) = object.get_mut("spec") {
                match_resources(spec, "matchResources");
            }
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => custom_resource_definition(object),
        ("apiregistration.k8s.io", "apiservices") => {
            if let Some(service) = object.get_mut("spec").and_then(|s| s.get_mut("service")) {
                fill(service, "port", 443);
            }
        }
        ("certificates.k8s.io", "podcertificaterequests") => {
            if let Some(spec) = object.get_mut("spec") {
                fill(spec, "maxExpirationSeconds", 86_400);
            }
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            if let Some(spec) = object.get_mut("spec") {
                fill(spec, "usages", json!(["digital signature", "key encipherment"]));
            }
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => {
            if let Some(spec) = child(object, "spec")
                && spec.get("matchingPrecedence").is_none_or(|p| p == 0)
            {
                spec["matchingPrecedence"] = 1000.into();
            }
        }
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => priority_level(object),
        _ => {}
    }
}

fn namespace(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        fill(spec, "finalizers", json!([api::well_known::FINALIZER_KUBERNETES]));
    }
    let name = text(object, &["metadata", "name"]).unwrap_or_default().to_owned();
    if !name.is_empty()
        && let Some(labels) = child(object, "metadata").and_then(|m| child(m, "labels"))
    {
        labels[api::well_known::LABEL_METADATA_NAME] = name.into();
    }
}

/// The type, and `stringData` folded into `data`.
fn secret(object: &mut Value) {
    use base64::Engine as _;
    fill_text(object, "type", "Opaque");
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|map| map.remove("stringData")) else { return };
    if let Some(data) = child(object, "data") {
        for (key, value) in plain {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            data[&key] = base64::engine::general_purpose::STANDARD.encode(bytes).into();
        }
    }
}

fn node(object: &mut Value) {
    child(object, "spec");
    let capacity = object.get("status").and_then(|s| s.get("capacity")).cloned();
    if let (Some(capacity), Some(status)) = (capacity, object.get_mut("status")) {
        fill(status, "allocatable", capacity);
    }
}

fn persistent_volume(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill_text(spec, "volumeMode", "Filesystem");
        pod::volume_source(spec);
        if let Some(claim) = spec.get_mut("claimRef") {
            fill_text(claim, "kind", "PersistentVolumeClaim");
            fill_text(claim, "apiVersion", "v1");
        }
    }
}

fn claim(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        claim_spec(spec);
    }
}

/// Also used by the claim templates of pods and stateful sets.
fn claim_spec(spec: &mut Value) {
    fill_text(spec, "volumeMode", "Filesystem");
}

fn limit_range(object: &mut Value) {
    for limit in list_mut(object, &["spec", "limits"]) {
        if limit["type"] != "Container" {
            continue;
        }
        let max = limit.get("max").and_then(Value::as_object).cloned().unwrap_or_default();
        for (key, from) in [("default", max), ("defaultRequest", Map::new())] {
            let mut values = limit.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
            for (name, value) in from {
                values.entry(name).or_insert(value);
            }
            if key == "defaultRequest" {
                for source in ["default", "min"] {
                    for (name, value) in limit.get(source).and_then(Value::as_object).into_iter().flatten() {
                        values.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
            }
            if !values.is_empty() {
                limit[key] = Value::Object(values);
            }
        }
    }
}

const RBAC: &str = "rbac.authorization.k8s.io";

fn binding(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef") {
        fill_text(role, "apiGroup", RBAC);
    }
    for subject in list_mut(object, &["subjects"]) {
        if matches!(text(subject, &["kind"]), Some("User" | "Group")) {
            fill_text(subject, "apiGroup", RBAC);
        }
    }
}

fn csi_driver(object: &mut Value) {
    if let Some(spec) = child(object, "spec") {
        fill(spec, "attachRequired", true);
        fill(spec, "podInfoOnMount", false);
        fill(spec, "storageCapacity", false);
        fill_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        fill(spec, "volumeLifecycleModes", json!(["Persistent"]));
        fill(spec, "requiresRepublish", false);
        fill(spec, "seLinuxMount", false);
    }
}

fn webhooks(object: &mut Value, mutating: bool) {
    for hook in list_mut(object, &["webhooks"]) {
        fill_text(hook, "failurePolicy", "Fail");
        fill_text(hook, "matchPolicy", "Equivalent");
        fill(hook, "namespaceSelector", json!({}));
        fill(hook, "objectSelector", json!({}));
        fill(hook, "timeoutSeconds", 10);
        if mutating {
            fill_text(hook, "reinvocationPolicy", "Never");
        }
        if let Some(service) = hook.get_mut("clientConfig").and_then(|c| c.get_mut("service")) {
            fill(service, "port", 443);
        }
        for rule in list_mut(hook, &["rules"]) {
            fill_text(rule, "scope", "*");
        }
    }
}

fn match_resources(spec: &mut Value, key: &str) {
    let Some(resources) = spec.get_mut(key) else { return };
    fill_text(resources, "matchPolicy", "Equivalent");
    fill(resources, "namespaceSelector", json!({}));
    fill(resources, "objectSelector", json!({}));
    for part in ["resourceRules", "excludeResourceRules"] {
        for rule in list_mut(resources, &[part]) {
            fill_text(rule, "scope", "*");
        }
    }
}

fn custom_resource_definition(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    if let Some(names) = child(spec, "names") {
        let kind = text(names, &["kind"]).unwrap_or_default().to_owned();
        if !kind.is_empty() {
            fill_text(names, "singular", &kind.to_lowercase());
            fill_text(names, "listKind", &format!("{kind}List"));
        }
    }
    if let Some(conversion) = child(spec, "conversion") {
        fill_text(conversion, "strategy", "None");
        if let Some(service) =
            conversion.get_mut("webhook").and_then(|w| w.get_mut("clientConfig")).and_then(|c| c.get_mut("service"))
        {
            fill(service, "port", 443);
        }
    }
}

fn priority_level(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else { return };
    if let Some(limited) = spec.get_mut("limited") {
        fill(limited, "nominalConcurrencyShares", 30);
        fill(limited, "lendablePercent", 0);
        if let Some(queuing) = limited.get_mut("limitResponse").and_then(|r| r.get_mut("queuing")) {
            for (key, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                fill(queuing, key, value);
            }
        }
    }
    if let Some(exempt) = spec.get_mut("exempt") {
        fill(exempt, "nominalConcurrencyShares", 0);
        fill(exempt, "lendablePercent", 0);
    }
}

/// One device for each request that says nothing else.
fn device_requests(object: &mut Value, path: &[&str]) {
    let wish = |wish: &mut Value| {
        fill_text(wish, "allocationMode", "ExactCount");
        if wish["allocationMode"] == "ExactCount" {
            fill(wish, "count", 1);
        }
        for toleration in list_mut(wish, &["tolerations"]) {
            fill_text(toleration, "operator", "Equal");
        }
    };
    for request in list_mut(object, path) {
        if let Some(exactly) = request.get_mut("exactly").filter(|exactly| exactly.is_object()) {
            wish(exactly);
        }
        list_mut(request, &["firstAvailable"]).iter_mut().for_each(wish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

    fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
        let version = Table::builtin().preferred(group);
        let resource = Table::builtin().find(group, version, plural).unwrap();
        default(resource, &mut object);
        let once = object.clone();
        default(resource, &mut object);
        assert_eq!(once, object, "defaulting is idempotent");
        object
    }

    #[test]
    fn a_pod_gets_what_kubectl_shows() {
        let pod = defaulted(
            "",
            "pods",
            json!({"spec": {"containers": [{"name": "c", "image": "busybox", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}}, "readinessProbe": {"httpGet": {"port": 80}}}, {"name": "d", "image": "a/b:1@sha256:ab"}], "volumes": [{"name": "v"}, {"name": "s", "secret": {}}]}}),
        );
        let spec = &pod["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(spec["containers"][1]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(spec["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(spec["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert_eq!(
            spec["containers"][0]["readinessProbe"]["httpGet"],
            json!({"port": 80, "path": "/", "scheme": "HTTP"})
        );
        assert_eq!(
            spec["volumes"],
            json!([{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"defaultMode": 420}}])
        );
        assert_eq!(spec["enableServiceLinks"], true);
    }

    #[test]
    fn workloads_services_secrets_namespaces() {
        let deployment = defaulted("apps", "deployments", json!({"spec": {"template": {"spec": {"containers": []}}}}));
        assert_eq!(
            deployment["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(deployment["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        let service = defaulted("", "services", json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        let secret = defaulted("", "secrets", json!({"stringData": {"a": "hi"}}));
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGk="}}));
        let namespace = defaulted("", "namespaces", json!({"metadata": {"name": "x"}}));
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    }
}
