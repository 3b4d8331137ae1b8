//! ServiceAccount admission: every pod runs as an account that exists and gets its token mounted.

use api::well_known::ANNOTATION_MIRROR;
use controller_object::status::{About, Status};
use serde_json::{Value, json};

use crate::admit::{Attributes, random_suffix};
use crate::registry::names;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a bit, as upstream: recognisable among requests that users make.
const TOKEN_SECONDS: u64 = 3607;

pub(super) fn admit(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    // The mirror of a static pod has no account; NodeRestriction looks that it names none.
    let annotations = pod["metadata"]["annotations"].as_object();
    if annotations.is_some_and(|all| all.contains_key(ANNOTATION_MIRROR)) {
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        return match account.is_empty() {
            true => Ok(()),
            false => {
                let about = About::resource(attributes.resource, names(pod).1);
                Err(Status::forbidden(about, "a mirror pod may not reference service accounts"))
            }
        };
    }
    let (namespace, pod_name) = names(pod);
    let (namespace, pod_name) = (namespace.unwrap_or("default").to_owned(), pod_name.to_owned());
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    let given = |field: &str| spec.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
    let account = given("serviceAccountName").or(given("serviceAccount")).unwrap_or("default").to_owned();
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.clone().into());
    let Some(live) = attributes.state.registry.peek("", "v1", "serviceaccounts", Some(&namespace), &account) else {
        let detail =
            format!("error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found");
        return Err(Status::forbidden(About::resource(attributes.resource, &pod_name), &detail));
    };
    if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && let Some(secrets) = live.get("imagePullSecrets")
    {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    let automount = spec
        .get("automountServiceAccountToken")
        .or_else(|| live.get("automountServiceAccountToken"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    Ok(())
}

fn mount_token(spec: &mut serde_json::Map<String, Value>) {
    // Containers that somebody added after the first time mount the same volume.
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let mut names = volumes.filter_map(|volume| volume["name"].as_str());
    let known = names.find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = known.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", random_suffix()));
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount["mountPath"] != MOUNT_PATH) {
                mounts.push(json!({"name": name, "mountPath": MOUNT_PATH, "readOnly": true}));
                mounted = true;
            }
        }
    }
    if !mounted || known.is_some() {
        return;
    }
    let namespace =
        json!({"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]});
    let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": namespace},
    ]}});
    if let Some(volumes) = spec.entry("volumes").or_insert_with(|| json!([])).as_array_mut() {
        volumes.push(volume);
    }
}
