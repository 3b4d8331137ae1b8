//! What an object controls: the ReplicaSets of a Deployment, the pods of a ReplicaSet.

use serde_json::Value;

use crate::client::Session;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::rollout::progress::revision;

/// Reads the objects that `object` controls, for the kinds that are shown with them.
pub(crate) async fn of(session: &Session, catalog: &Catalog, object: &Value) -> Result<Vec<Value>, Failure> {
    let kind = match object.get("kind").and_then(Value::as_str) {
        Some("Deployment") => "replicasets.apps",
        Some("ReplicaSet") => "pods",
        _ => return Ok(Vec::new()),
    };
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
