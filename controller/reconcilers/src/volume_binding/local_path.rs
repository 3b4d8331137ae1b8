//! Volumes that are directories on nodes, as k3s has them, or files that are shown as block devices: what is promised for a
//! claim. Pure. The agent of the node makes them when the first pod comes, and removes them when the volume is deleted.
use api::volume::{Claim, Class};
use api::well_known::{
    ANNOTATION_PROVISIONED_BY, ANNOTATION_STORAGE_DIRECTORY, FINALIZER_LOCAL_PATH, LABEL_HOSTNAME, LABEL_VOLUME_NODE,
    PROVISIONER_LOCAL_PATH,
};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use serde_json::json;

/// What a file name may be long, less what others add.
const NAME_MAX: usize = 200;

/// The volume for a claim on the node that was chosen for it, or why there can be none.
pub(super) fn volume(claim: &Claim, class: &Class, node: Option<&Node>) -> Result<PersistentVolume, String> {
    let Some(chosen) = claim.selected_node.as_deref() else {
        return Err(format!(
            "configuration error, no node was specified: class {:?} needs volumeBindingMode WaitForFirstConsumer",
            class.name
        ));
    };
    if claim.selector.is_some() {
        return Err("spec.selector: claims with a selector are not provisioned".into());
    }
    if let Some(mode) =
        claim.access_modes.iter().find(|mode| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"))
    {
        return Err(format!(
            "spec.accessModes: {mode} is not supported, only ReadWriteOnce and ReadWriteOncePod: the volume is a directory of one node"
        ));
    }
    let node = node.ok_or_else(|| format!("node {chosen:?} not found"))?;
    let metadata = &node.metadata;
    let directory = metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_STORAGE_DIRECTORY));
    let directory = directory.filter(|directory| directory.starts_with('/'));
    let directory = directory.ok_or_else(|| format!("node {chosen:?} has no directory for volumes"))?;
    let hostname = metadata.labels.as_ref().and_then(|all| all.get(LABEL_HOSTNAME));
    let hostname = hostname.ok_or_else(|| format!("node {chosen:?} has no label {LABEL_HOSTNAME}"))?;
    let name = format!("pvc-{}", claim.uid);
    let mut below = format!("{name}_{}_{}", claim.namespace, claim.name);
    below.truncate(NAME_MAX);
    let volume = json!({
        "metadata": {
            "name": name,
            "labels": {LABEL_VOLUME_NODE: chosen},
            "annotations": {ANNOTATION_PROVISIONED_BY: PROVISIONER_LOCAL_PATH},
            "finalizers": [FINALIZER_LOCAL_PATH],
        },
        "spec": {
            "capacity": {"storage": claim.requested.to_string()},
            "accessModes": claim.access_modes,
            "volumeMode": if claim.is_block { "Block" } else { "Filesystem" },
            "storageClassName": class.name,
            "persistentVolumeReclaimPolicy": class.reclaim,
            "mountOptions": class.mount_options,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace,
                "name": claim.name, "uid": claim.uid, "resourceVersion": claim.version},
            "local": {"path": format!("{}/{below}", directory.trim_end_matches('/'))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": LABEL_HOSTNAME, "operator": "In", "values": [hostname]}]}]}},
        },
    });
    serde_json::from_value(volume).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn claim(spec: Value, node: &str) -> Claim {
        let mut whole = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path",
            "resources": {"requests": {"storage": "128Mi"}}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let annotations = json!({"volume.kubernetes.io/selected-node": node});
        let metadata = json!({"namespace": "d", "name": "data", "uid": "1-2", "annotations": annotations});
        Claim::new(serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap())
    }

    fn class() -> Class {
        Class {
            name: "local-path".into(),
            provisioner: PROVISIONER_LOCAL_PATH.into(),
            waits: true,
            reclaim: "Delete".into(),
            can_grow: true,
            mount_options: vec![],
            topologies: vec![],
        }
    }

    #[test]
    fn a_volume_is_a_directory_of_the_chosen_node() {
        let metadata = json!({"name": "n1", "labels": {LABEL_HOSTNAME: "h1"},
            "annotations": {ANNOTATION_STORAGE_DIRECTORY: "/var/lib/gantry/storage"}});
        let node: Node = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        let made = json!(volume(&claim(json!({}), "n1"), &class(), Some(&node)).unwrap());
        assert_eq!(made["spec"]["local"]["path"], "/var/lib/gantry/storage/pvc-1-2_d_data");
        assert_eq!(made["spec"]["capacity"]["storage"], "128Mi");
        assert_eq!(made["metadata"]["labels"][LABEL_VOLUME_NODE], "n1");
        let affinity = made["spec"]["nodeAffinity"].to_string();
        assert!(affinity.contains("\"h1\""), "{affinity}");
        let refused = |spec: Value, node: Option<&Node>, part: &str| {
            let why = volume(&claim(spec, "n1"), &class(), node).unwrap_err();
            assert!(why.contains(part), "{why}");
        };
        refused(json!({"accessModes": ["ReadWriteMany"]}), Some(&node), "spec.accessModes: ReadWriteMany");
        let block = json!(volume(&claim(json!({"volumeMode": "Block"}), "n1"), &class(), Some(&node)).unwrap());
        assert_eq!(block["spec"]["volumeMode"], "Block");
        refused(json!({"selector": {}}), Some(&node), "spec.selector");
        refused(json!({}), None, "node \"n1\" not found");
        refused(json!({}), Some(&Node::default()), "no directory");
        assert!(volume(&claim(json!({}), ""), &class(), Some(&node)).unwrap_err().contains("no node was specified"));
    }
}
