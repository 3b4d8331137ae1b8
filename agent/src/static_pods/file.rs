//! A file becomes a pod of this node. Pure.

use api::pod::CRITICAL_PRIORITY;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Where a pod comes from; absent or `api` for one that somebody made at the API server.
const SOURCE: &str = "kubernetes.io/config.source";
/// The uid that the pod has here.
const HASH: &str = "kubernetes.io/config.hash";
/// When it was read first.
const SEEN: &str = "kubernetes.io/config.seen";

/// Whether a file of this machine makes it.
pub(crate) fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE)).is_some_and(|source| source != "api")
}

/// A pod of the API server comes from no file of this machine, whatever it says of itself.
pub(crate) fn is_of_api(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(SOURCE);
    }
}

/// Whether the node does not do without it: it is made from a file, or its priority is that of the system
/// (Kubernetes documentation, "Guaranteed Scheduling For Critical Add-On Pods").
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    priority >= CRITICAL_PRIORITY || is_static(pod)
}

/// The pod of a manifest: named after the node too, bound to it, with a uid that any change of the file changes.
pub(super) fn pod(file: &str, text: &str, node: &str) -> Result<Pod, String> {
    let value = api::yaml::document(text).map_err(|error| error.to_string())?;
    let kind = (value["apiVersion"].as_str(), value["kind"].as_str());
    if kind != (Some("v1"), Some("Pod")) {
        return Err("expected one object of apiVersion v1 and kind Pod".into());
    }
    let uid = hex::encode(&Sha256::digest(format!("{node}\0{file}\0{value}"))[..16]);
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let name = format!("{name}-{}", node.to_lowercase());
    if let Some(why) = api::name::rfc1123_subdomain(&name).into_iter().next() {
        return Err(format!("metadata.name: {name:?}: {why}"));
    }
    let spec = pod.spec.as_mut().ok_or("spec: required")?;
    check(spec)?;
    spec.node_name = Some(node.to_owned());
    // It is here, whatever the node is said to be.
    let always =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Toleration::default() };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&always) {
        tolerations.push(always);
    }
    let metadata = &mut pod.metadata;
    metadata.name = Some(name);
    metadata.namespace.get_or_insert_with(|| "default".into());
    metadata.uid = Some(uid.clone());
    metadata.creation_timestamp = None;
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), uid);
    annotations.insert(SOURCE.into(), "file".into());
    annotations.insert(SEEN.into(), Timestamp::now().to_string());
    pod.status = None;
    Ok(pod)
}

/// What needs the API server cannot be had.
fn check(spec: &PodSpec) -> Result<(), String> {
    if spec.containers.is_empty() {
        return Err("spec.containers: at least one is required".into());
    }
    let value = serde_json::to_value(spec).map_err(|error| error.to_string())?;
    match reference(&value, "spec") {
        Some(field) => Err(format!("{field}: a static pod cannot refer to other objects of the API")),
        None => Ok(()),
    }
}

/// The first field that refers to another object of the API.
fn reference(value: &Value, path: &str) -> Option<String> {
    const FIELDS: [&str; 13] = [
        "serviceAccountName",
        "serviceAccount",
        "secret",
        "secretRef",
        "secretKeyRef",
        "configMap",
        "configMapRef",
        "configMapKeyRef",
        "persistentVolumeClaim",
        "ephemeral",
        "serviceAccountToken",
        "clusterTrustBundle",
        "podCertificate",
    ];
    match value {
        Value::Object(all) => all.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            let refers = FIELDS.contains(&key.as_str()) && value.as_str() != Some("");
            if refers { Some(path) } else { reference(value, &path) }
        }),
        Value::Array(all) => {
            all.iter().enumerate().find_map(|(index, value)| reference(value, &format!("{path}[{index}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn a_file_is_a_pod_of_this_node() {
        let own = pod("/d/web.yaml", POD, "Shop-1").unwrap();
        assert_eq!(
            (own.metadata.name.as_deref(), own.metadata.namespace.as_deref()),
            (Some("web-shop-1"), Some("default"))
        );
        assert!(is_static(&own) && own.spec.unwrap().node_name.as_deref() == Some("Shop-1"));
        let uid = |file: &str, text: &str| pod(file, text, "n").unwrap().metadata.uid.unwrap();
        assert_eq!(uid("a", POD), uid("a", &POD.replace("name: web}", "name: web} # said otherwise")));
        assert_ne!(uid("a", POD), uid("b", POD));
        assert_ne!(uid("a", POD), uid("a", &POD.replace("image: i", "image: j")));
    }

    #[test]
    fn a_pod_of_the_api_server_is_no_file_s_and_no_more_critical_for_saying_so() {
        let mut claims = pod("/d/web.yaml", POD, "n").unwrap();
        assert!(is_critical(&claims));
        is_of_api(&mut claims);
        assert!(!is_static(&claims) && !is_critical(&claims));
        claims.spec.as_mut().unwrap().priority = Some(CRITICAL_PRIORITY);
        assert!(is_critical(&claims));
    }

    #[test]
    fn what_cannot_be_a_static_pod_is_told_by_field() {
        for (text, said) in [
            ("kind: Pod", "apiVersion v1 and kind Pod".to_owned()),
            (&*POD.replace("Pod", "Service"), "kind Pod".to_owned()),
            (&*POD.replace("web", "Web_"), "metadata.name".to_owned()),
            (&*POD.replace("[{name: c, image: i}]", "[]"), "spec.containers".to_owned()),
            (
                &*POD.replace("image: i}", "envFrom: [{secretRef: {name: s}}]}"),
                "spec.containers[0].envFrom[0].secretRef".to_owned(),
            ),
            (&*POD.replace("spec: {", "spec: {serviceAccountName: x, "), "spec.serviceAccountName".to_owned()),
        ] {
            let told = pod("f", text, "n").unwrap_err();
            assert!(told.contains(&said), "{told}");
        }
    }
}
