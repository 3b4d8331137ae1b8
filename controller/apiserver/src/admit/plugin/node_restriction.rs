//! NodeRestriction: an agent writes its own node and the status of its own pods, and cannot lift its own taints.
//! Kubernetes documentation, "Admission Controllers", NodeRestriction.

use api::well_known::{ANNOTATION_MIRROR, FINALIZER_LOCAL_PATH};
use controller_object::resource::Subresource;
use controller_object::status::{About, Status};
use serde_json::Value;

use crate::admit::{Attributes, Operation};
use crate::authz::node::references;
use crate::registry::names;

pub(super) fn admit(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let Some(node) = attributes.user.node_name() else { return Ok(()) };
    let name = names(object).1;
    let refuse = |detail: String| Err(Status::forbidden(About::resource(attributes.resource, name), &detail));
    match (attributes.resource.group.as_str(), attributes.resource.plural.as_str(), attributes.subresource) {
        ("", "nodes", _) if name != node => refuse(format!("node {node:?} is not allowed to modify node {name:?}")),
        ("", "nodes", None | Some(Subresource::Status)) => match attributes.old {
            Some(old) if old.pointer("/spec/taints") != object.pointer("/spec/taints") => {
                refuse(format!("node {node:?} is not allowed to modify taints"))
            }
            _ => match changed_label(attributes.old, object) {
                Some(label) => refuse(format!("node {node:?} is not allowed to modify labels: {label}")),
                None => Ok(()),
            },
        },
        ("", "pods", None) if attributes.operation == Operation::Create => match no_mirror(node, attributes, object) {
            Some(why) => refuse(why),
            None => Ok(()),
        },
        ("", "pods", Some(Subresource::Status)) => match wrong_status(node, attributes.old, object) {
            Some(why) => refuse(why),
            None => Ok(()),
        },
        ("", "persistentvolumes", _) => match only_lets_go(attributes.old, object) {
            true => Ok(()),
            false => refuse(format!(
                "node {node:?} may only take the finalizer {FINALIZER_LOCAL_PATH} away from persistent volumes"
            )),
        },
        ("", "serviceaccounts", Some(Subresource::Token)) => token_is_of_own_pod(node, attributes, object),
        ("certificates.k8s.io", "podcertificaterequests", _) => certificate_is_of_own_pod(node, attributes, object),
        ("resource.k8s.io", "resourceslices", _) => {
            let is_own = |slice: &Value| slice["spec"]["nodeName"] == node;
            match is_own(object) && attributes.old.is_none_or(is_own) {
                true => Ok(()),
                false => refuse(
                    "can only create or modify ResourceSlices with the same NodeName as the requesting node".to_owned(),
                ),
            }
        }
        ("storage.k8s.io", "csinodes", _) if name != node => {
            refuse(format!("can only access CSINode with the same name as the requesting node {node:?}"))
        }
        ("coordination.k8s.io", "leases", _) if name != node => {
            refuse(format!("can only access node lease with the same name as the requesting node {node:?}"))
        }
        _ => Ok(()),
    }
}

/// Why a node may not write a status: it is of a pod elsewhere, or says which claims the node may read.
fn wrong_status(node: &str, old: Option<&Value>, new: &Value) -> Option<String> {
    let of_old = |pointer| old.and_then(|old| old.pointer(pointer));
    let claims = "/status/resourceClaimStatuses";
    if of_old("/spec/nodeName").and_then(Value::as_str) != Some(node) {
        return Some(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    (of_old(claims) != new.pointer(claims)).then(|| format!("node {node:?} cannot update resource claim statuses"))
}

/// Whether a change of a volume is nothing but the end of the finalizer for its directory.
fn only_lets_go(old: Option<&Value>, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for moving in ["finalizers", "managedFields", "resourceVersion", "generation"] {
                metadata.remove(moving);
            }
        }
        object
    };
    let finalizers = |object: &Value| -> Vec<Value> {
        let all = object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
        all.filter(|own| *own != FINALIZER_LOCAL_PATH).cloned().collect()
    };
    old.is_some_and(|old| bare(old) == bare(new) && finalizers(old) == finalizers(new))
}

/// A label under `node-restriction.kubernetes.io/` that the node wants to set or change.
fn changed_label(old: Option<&Value>, new: &Value) -> Option<String> {
    let empty = serde_json::Map::new();
    let of = |object: Option<&Value>| {
        object.and_then(|o| o.pointer("/metadata/labels")).and_then(Value::as_object).unwrap_or(&empty).clone()
    };
    let (before, after) = (of(old), of(Some(new)));
    let restricted = |key: &&String| {
        key.split_once('/').is_some_and(|(prefix, _)| {
            prefix == "node-restriction.kubernetes.io" || prefix.ends_with(".node-restriction.kubernetes.io")
        })
    };
    before.keys().chain(after.keys()).filter(restricted).find(|key| before.get(*key) != after.get(*key)).cloned()
}

fn token_is_of_own_pod(node: &str, attributes: &Attributes<'_>, request: &Value) -> Result<(), Status> {
    let refuse = |detail: &str| Err(Status::forbidden(About::resource(attributes.resource, names(request).1), detail));
    let bound = request.pointer("/spec/boundObjectRef");
    let text = |field: &str| bound.and_then(|b| b.get(field)).and_then(Value::as_str);
    if text("kind") != Some("Pod") {
        return refuse("node requested token not bound to a pod");
    }
    let namespace = names(request).0;
    let pod = text("name").and_then(|name| attributes.state.registry.peek("", "v1", "pods", namespace, name));
    let pod_text = |pointer: &str| pod.as_ref().and_then(|pod| pod.pointer(pointer)).and_then(Value::as_str);
    match pod_text("/spec/nodeName") == Some(node) && pod_text("/metadata/uid") == text("uid") {
        true => Ok(()),
        false => refuse("node requested token bound to a pod scheduled on a different node"),
    }
}

/// Why a pod that a node makes is not the mirror of a static pod of its own: one that refers to nothing that its node could
/// read by it.
fn no_mirror(node: &str, attributes: &Attributes<'_>, pod: &Value) -> Option<String> {
    if pod["metadata"]["annotations"][ANNOTATION_MIRROR].is_null() {
        return Some(format!(
            "pod does not have {ANNOTATION_MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let own = attributes.state.registry.peek("", "v1", "nodes", None, node);
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_own = |owner: &Value| {
        owner["kind"] == "Node"
            && owner["name"] == node
            && own.as_ref().is_some_and(|own| own["metadata"]["uid"] == owner["uid"])
    };
    if owners.len() != 1 || !owners.iter().all(is_own) {
        return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    let referred = references(pod).first().map(|(plural, _)| *plural).or_else(|| {
        let says = |field: &&str| !pod["spec"][*field].is_null() && pod["spec"][*field] != "";
        ["serviceAccountName", "resourceClaims"].into_iter().find(says)
    })?;
    Some(format!("node {node:?} can not create pods that reference {referred}"))
}

/// A node asks for certificates of pods that run on it, under their own account.
fn certificate_is_of_own_pod(node: &str, attributes: &Attributes<'_>, request: &Value) -> Result<(), Status> {
    let (namespace, name) = names(request);
    let refuse = |detail: String| Err(Status::forbidden(About::resource(attributes.resource, name), &detail));
    let asked = |field: &str| request["spec"][field].as_str().unwrap_or_default();
    let held = |plural: &str, namespace, name: &str| attributes.state.registry.peek("", "v1", plural, namespace, name);
    let told = |object: &Option<Value>, pointer: &str| -> String {
        let value = object.as_ref().and_then(|object| object.pointer(pointer));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let pod = held("pods", namespace, asked("podName"));
    let account = held("serviceaccounts", namespace, asked("serviceAccountName"));
    let own = held("nodes", None, node);
    for (field, right) in [
        ("nodeName", node.to_owned()),
        ("nodeUID", told(&own, "/metadata/uid")),
        ("podUID", told(&pod, "/metadata/uid")),
        ("serviceAccountName", told(&pod, "/spec/serviceAccountName")),
        ("serviceAccountUID", told(&account, "/metadata/uid")),
    ] {
        if right.is_empty() || asked(field) != right {
            return refuse(format!("spec.{field}: {:?} is not of a pod of node {node:?}", asked(field)));
        }
    }
    if told(&pod, "/spec/nodeName") != node {
        return refuse(format!("pod {:?} does not run on node {node:?}", asked("podName")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_tells_of_its_own_pods_and_not_which_claims_they_have() {
        let pod = |node: &str, phase: &str, claim: Option<&str>| {
            let mut pod = json!({"spec": {"nodeName": node}, "status": {"phase": phase}});
            if let Some(claim) = claim {
                pod["status"]["resourceClaimStatuses"] = json!([{"name": "c", "resourceClaimName": claim}]);
            }
            pod
        };
        let old = pod("n", "Pending", Some("a"));
        assert_eq!(wrong_status("n", Some(&old), &pod("n", "Running", Some("a"))), None);
        assert!(wrong_status("m", Some(&old), &old).is_some_and(|why| why.contains("set to itself")));
        for other in [Some("b"), None] {
            let why = wrong_status("n", Some(&old), &pod("n", "Running", other));
            assert!(why.is_some_and(|why| why.contains("cannot update resource claim statuses")), "{other:?}");
        }
    }

    #[test]
    fn of_a_volume_a_node_takes_its_own_finalizer_away_and_nothing_else() {
        let volume = |finalizers: &[&str], size: &str| {
            json!({"metadata": {"name": "v", "labels": {"a": "b"}, "finalizers": finalizers},
                "spec": {"capacity": {"storage": size}}})
        };
        let other = "kubernetes.io/pv-protection";
        let old = volume(&[other, FINALIZER_LOCAL_PATH], "1Gi");
        assert!(only_lets_go(Some(&old), &volume(&[other], "1Gi")));
        assert!(!only_lets_go(Some(&old), &volume(&[], "1Gi")), "somebody else's finalizer");
        assert!(!only_lets_go(Some(&old), &volume(&[other], "2Gi")) && !only_lets_go(None, &old));
        let mut labelled = volume(&[other], "1Gi");
        labelled["metadata"]["labels"]["a"] = "c".into();
        assert!(!only_lets_go(Some(&old), &labelled));
    }
}
