//! The revisions of a workload: ReplicaSets of a Deployment, ControllerRevisions of the others.

use serde_json::{Value, json};

use super::progress;
use crate::client::Session;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::list::{self, SelectArgs};
use crate::pods::selector_text;
use crate::workload::Workload;

const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// One revision.
pub(crate) struct Revision {
    pub(crate) number: i64,
    /// What the person said about it.
    pub(crate) cause: Option<String>,
    /// The pod template, as the workload has it.
    pub(crate) template: Value,
}

/// All revisions, the oldest first.
pub(crate) async fn of(
    session: &Session,
    catalog: &Catalog,
    workload: &Workload<'_>,
) -> Result<Vec<Revision>, Failure> {
    let keeper = match workload.kind.kind.as_str() {
        "Deployment" => "replicasets.apps",
        "DaemonSet" | "StatefulSet" => "controllerrevisions.apps",
        other => return Err(Failure::error(format!("no history viewer has been implemented for {other}"))),
    };
    let selector = workload.object.pointer("/spec/selector").map(selector_text);
    let select = SelectArgs { selector, field_selector: None };
    let kept = list::objects(session, catalog.expect(keeper)?, Some(&workload.namespace), &select).await?;
    let uid = workload.object.pointer("/metadata/uid");
    let owned = kept.into_iter().filter(|object| {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|owner| owner.get("uid") == uid && owner["controller"] == true)
    });
    let mut revisions: Vec<Revision> = owned.filter_map(|object| read(&object)).collect();
    revisions.sort_by_key(|revision| revision.number);
    Ok(revisions)
}

fn read(object: &Value) -> Option<Revision> {
    let annotation = |key: &str| Some(object.pointer("/metadata/annotations")?.get(key)?.as_str()?.to_owned());
    let cause = annotation(CHANGE_CAUSE);
    if object["kind"] == "ControllerRevision" {
        let template = object.pointer("/data/spec/template")?.clone();
        return Some(Revision { number: object.get("revision")?.as_i64()?, cause, template });
    }
    let mut template = object.pointer("/spec/template")?.clone();
    // The ReplicaSet's own label is not part of what the Deployment says.
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove("pod-template-hash");
    }
    Some(Revision { number: progress::revision(object)?, cause, template })
}

/// The JSON patch that brings a revision's template back.
pub(crate) fn patch_to(revision: &Revision, workload: &Value) -> Value {
    let mut template = revision.template.clone();
    // A ControllerRevision carries the mark of a strategic merge patch.
    if let Some(map) = template.as_object_mut() {
        map.remove("$patch");
    }
    let mut patch = vec![json!({"op": "replace", "path": "/spec/template", "value": template})];
    if let (Some(cause), true) =
        (&revision.cause, workload.pointer("/metadata/annotations").is_some_and(Value::is_object))
    {
        let path = format!("/metadata/annotations/{}", CHANGE_CAUSE.replace('/', "~1"));
        patch.push(json!({"op": "add", "path": path, "value": cause}));
    }
    Value::Array(patch)
}

/// The revision to go back to: the one asked for, or the one before the last.
pub(crate) fn target(revisions: &[Revision], asked: i64) -> Result<&Revision, Failure> {
    if asked > 0 {
        return revisions
            .iter()
            .find(|revision| revision.number == asked)
            .ok_or_else(|| Failure::error(format!("unable to find specified revision {asked} in history")));
    }
    match revisions {
        [.., before, _] => Ok(before),
        _ => Err(Failure::error("no rollout history found: there is no revision to go back to")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: i64) -> Revision {
        Revision { number, cause: Some("why".into()), template: json!({"a": number, "$patch": "replace"}) }
    }

    #[test]
    fn the_way_back_leads_to_the_revision_before_or_asked_for() {
        let all = [revision(1), revision(4), revision(5)];
        assert_eq!(target(&all, 0).map(|r| r.number).ok(), Some(4));
        assert_eq!(target(&all, 1).map(|r| r.number).ok(), Some(1));
        assert!(target(&all, 2).is_err());
        assert!(target(&all[..1], 0).is_err());
        let patch = patch_to(&all[0], &json!({"metadata": {"annotations": {}}}));
        assert_eq!(patch[0]["value"], json!({"a": 1}));
        assert_eq!(patch[1]["path"], "/metadata/annotations/kubernetes.io~1change-cause");
    }
}
