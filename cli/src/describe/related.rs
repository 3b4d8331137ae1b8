//! What is shown with an object: the ReplicaSets of a Deployment, the pods of a node, the endpoints of a Service.

use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::rollout::progress::revision;

/// Reads the objects that are shown with `object`: those it controls, a node's lease and pods, a Service's
/// endpoints, what limits a namespace, who uses a claim, the Secrets of a ServiceAccount.
pub(crate) async fn of(session: &Session, catalog: &Catalog, object: &Value) -> Result<Vec<Value>, Failure> {
    let name = name_of(object);
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let everything = SelectArgs { selector: None, field_selector: None };
    match object.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "Deployment" => owned(session, catalog, object, "replicasets.apps").await,
        "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" => {
            owned(session, catalog, object, "pods").await
        }
        "Node" => {
            let on_it = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
            let select = SelectArgs { selector: None, field_selector: Some(on_it) };
            let mut all = list::objects(session, catalog.expect("pods")?, None, &select).await?;
            let lease = catalog.expect("leases.coordination.k8s.io")?.object("kube-node-lease", name);
            // A node whose agent never came has none; the page says so.
            all.extend(session.get(Call::to(lease)).await.ok());
            Ok(all)
        }
        "Service" => {
            let select = SelectArgs { selector: Some(format!("{SERVICE_LABEL}={name}")), field_selector: None };
            list::objects(session, catalog.expect("endpointslices.discovery.k8s.io")?, namespace, &select).await
        }
        "Ingress" => {
            let mut all = list::objects(session, catalog.expect("services")?, namespace, &everything).await?;
            let slices = catalog.expect("endpointslices.discovery.k8s.io")?;
            all.extend(list::objects(session, slices, namespace, &everything).await?);
            Ok(all)
        }
        "Namespace" => {
            let mut all = list::objects(session, catalog.expect("resourcequotas")?, Some(name), &everything).await?;
            all.extend(list::objects(session, catalog.expect("limitranges")?, Some(name), &everything).await?);
            Ok(all)
        }
        "PersistentVolumeClaim" => list::objects(session, catalog.expect("pods")?, namespace, &everything).await,
        "ServiceAccount" => list::objects(session, catalog.expect("secrets")?, namespace, &everything).await,
        _ => Ok(Vec::new()),
    }
}

/// The label that ties an EndpointSlice to its Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Those of one kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &'static str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object.get("kind").is_some_and(|is| is == kind))
}

async fn owned(session: &Session, catalog: &Catalog, object: &Value, kind: &str) -> Result<Vec<Value>, Failure> {
    let selector = object.pointer("/spec/selector").map(crate::pods::selector_text);
    let select = SelectArgs { selector, field_selector: None };
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    let mut all = list::objects(session, catalog.expect(kind)?, namespace, &select).await?;
    let uid = object.pointer("/metadata/uid");
    all.retain(|one| {
        let owners = one.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|owner| owner.get("uid") == uid && owner["controller"] == true)
    });
    let key = |one: &Value| {
        let created = one.pointer("/metadata/creationTimestamp").and_then(Value::as_str).unwrap_or_default();
        (created.to_owned(), name_of(one).to_owned())
    };
    all.sort_by_cached_key(key);
    Ok(all)
}

/// The older ReplicaSets and the newest, as kubectl lists them.
pub(crate) fn replica_sets(deployment: &Value, sets: &[Value]) -> (String, String) {
    let line = |set: &&Value| {
        let number = |pointer: &str| set.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        format!("{} ({}/{} replicas created)", name_of(set), number("/status/replicas"), number("/spec/replicas"))
    };
    let (new, old): (Vec<&Value>, Vec<&Value>) = sets.iter().partition(|set| revision(set) == revision(deployment));
    let text = |sets: Vec<&Value>| match sets.is_empty() {
        true => "<none>".to_owned(),
        false => sets.iter().map(line).collect::<Vec<_>>().join(", "),
    };
    (text(old), text(new))
}

/// How many pods are in which phase.
pub(crate) fn phases(pods: &[Value]) -> String {
    let count =
        |phase: &str| pods.iter().filter(|pod| pod.pointer("/status/phase").is_some_and(|is| is == phase)).count();
    format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_set_has_the_revision_of_its_deployment() {
        let set = |name: &str, revision: &str| {
            json!({"metadata": {"name": name, "annotations": {"deployment.kubernetes.io/revision": revision}},
                "spec": {"replicas": 2}, "status": {"replicas": 1}})
        };
        let (old, new) = replica_sets(&set("d", "2"), &[set("a", "1"), set("b", "2")]);
        assert_eq!((old.as_str(), new.as_str()), ("a (1/2 replicas created)", "b (1/2 replicas created)"));
        assert_eq!(
            phases(&[json!({"status": {"phase": "Pending"}})]),
            "0 Running / 1 Waiting / 0 Succeeded / 0 Failed"
        );
    }
}
