//! Defaults of pods and pod templates.
use crate::tree::{child, fill, fill_text, list_mut, text};
use serde_json::{Map, Value, json};

/// A pod; its containers' limits become requests too.
pub(super) fn pod(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    for part in ["containers", "initContainers"] {
        for container in list_mut(spec, &[part]) {
            requests_from_limits(container);
        }
    }
    if spec.get("resources").is_some() {
        requests_from_limits(spec);
    }
    fill(spec, "enableServiceLinks", true);
    if spec["hostNetwork"] == true {
        for part in ["containers", "initContainers"] {
            for container in list_mut(spec, &[part]) {
                for port in list_mut(container, &["ports"]) {
                    if let Some(number) = port.get("containerPort").cloned() {
                        fill(port, "hostPort", number);
                    }
                }
            }
        }
    }
    pod_spec(spec);
}

fn requests_from_limits(holder: &mut Value) {
    let Some(resources) = holder.get_mut("resources") else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let mut requests = resources.get("requests").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, quantity) in limits {
        requests.entry(name).or_insert(quantity);
    }
    resources["requests"] = Value::Object(requests);
}

/// The pod template under `key`.
pub(super) fn template(object: &mut Value, key: &str) {
    if let Some(spec) = object.get_mut(key).and_then(|template| child(template, "spec")) {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", Map::new());
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill_text(spec, "schedulerName", "default-scheduler");
    // The older name of the field is kept in step, as every server does.
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        if let Some(name) = text(spec, &[from]).map(str::to_owned)
            && !name.is_empty()
        {
            fill_text(spec, to, &name);
        }
    }
    for part in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list_mut(spec, &[part]) {
            self::container(container);
        }
    }
    for volume in list_mut(spec, &["volumes"]) {
        if volume.as_object().is_some_and(|v| v.keys().all(|k| k == "name")) {
            volume["emptyDir"] = json!({});
        }
        volume_source(volume);
    }
    for constraint in list_mut(spec, &["topologySpreadConstraints"]) {
        fill_text(constraint, "nodeAffinityPolicy", "Honor");
        fill_text(constraint, "nodeTaintsPolicy", "Ignore");
    }
}

fn container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    fill(container, "resources", Map::new());
    fill_text(container, "terminationMessagePath", "/dev/termination-log");
    fill_text(container, "terminationMessagePolicy", "File");
    let image = text(container, &["image"]).unwrap_or_default();
    let policy = if pulls_always(image) { "Always" } else { "IfNotPresent" };
    fill_text(container, "imagePullPolicy", policy);
    for port in list_mut(container, &["ports"]) {
        fill_text(port, "protocol", "TCP");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            self::probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) =
            container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)).and_then(|h| h.get_mut("httpGet"))
        {
            http_get(get);
        }
    }
    for variable in list_mut(container, &["env"]) {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|f| f.get_mut("fieldRef")) {
            fill_text(field, "apiVersion", "v1");
        }
    }
    if let Some(context) = container.get_mut("securityContext")
        && context.get("capabilities").is_some_and(|c| c.as_object().is_some_and(Map::is_empty))
    {
        context["capabilities"] = json!({});
    }
}

/// Without a tag or digest, or with the tag `latest`, the image may change.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    matches!(last.split_once(':'), None | Some((_, "latest")))
}

fn http_get(get: &mut Value) {
    fill_text(get, "path", "/");
    fill_text(get, "scheme", "HTTP");
}

fn probe(probe: &mut Value) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(key).is_none_or(|v| v == 0)
            && let Some(map) = probe.as_object_mut()
        {
            map.insert(key.to_owned(), value.into());
        }
    }
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        fill(grpc, "service", "");
    }
}

/// 0644
const FILE_MODE: i64 = 0o644;

/// Volume sources in pods and persistent volumes.
pub(super) fn volume_source(volume: &mut Value) {
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            fill(source, "defaultMode", FILE_MODE);
        }
    }
    for path in [&["downwardAPI"][..], &["projected"][..]] {
        let Some(source) = path.iter().try_fold(&mut *volume, |v, key| v.get_mut(*key)) else { continue };
        for item in list_mut(source, &["items"]) {
            field_reference(item);
        }
        for part in list_mut(source, &["sources"]) {
            if let Some(token) = part.get_mut("serviceAccountToken") {
                fill(token, "expirationSeconds", 3600);
            }
            if let Some(certificate) = part.get_mut("podCertificate") {
                fill(certificate, "maxExpirationSeconds", 86_400);
            }
            for item in list_mut(part, &["downwardAPI", "items"]) {
                field_reference(item);
            }
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        fill(path, "type", "");
    }
    if let Some(iscsi) = volume.get_mut("iscsi") {
        fill_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = volume.get_mut("rbd") {
        fill_text(rbd, "pool", "rbd");
        fill_text(rbd, "user", "admin");
        fill_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = volume.get_mut("azureDisk") {
        fill_text(disk, "cachingMode", "ReadWrite");
        fill_text(disk, "kind", "Shared");
        fill_text(disk, "fsType", "ext4");
        fill(disk, "readOnly", false);
    }
    if let Some(scale) = volume.get_mut("scaleIO") {
        fill_text(scale, "storageMode", "ThinProvisioned");
        fill_text(scale, "fsType", "xfs");
    }
    if let Some(spec) =
        volume.get_mut("ephemeral").and_then(|e| e.get_mut("volumeClaimTemplate")).and_then(|t| t.get_mut("spec"))
    {
        super::claim_spec(spec);
    }
    if let Some(image) = volume.get_mut("image") {
        let policy =
            if pulls_always(text(image, &["reference"]).unwrap_or_default()) { "Always" } else { "IfNotPresent" };
        fill_text(image, "pullPolicy", policy);
    }
}

fn field_reference(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef") {
        fill_text(field, "apiVersion", "v1");
    }
}
