//! POST of a Binding: the scheduler's decision, taken only if the pod is not bound yet.

use axum::body::Body;
use bytes::Bytes;
use controller_object::resource::Subresource;
use controller_object::status::{About, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::write::{ATTEMPTS, Commit, overtaken};
use crate::admit::Charge;
use crate::registry::{Current, names};
use crate::reply;

pub(super) async fn bind(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let table = context.state.registry.builtin();
    let missing = || Status::internal_error("the table has no pods");
    let mut decoded = context.decode_exchanged(Subresource::Binding, body)?;
    context.admit_exchanged(&mut decoded.object).await?;
    let pods = table.find("", "v1", "pods").ok_or_else(missing)?;
    let (binding, target) = (&decoded.object, &decoded.object["target"]);
    let name = match context.name() {
        "" => names(binding).1,
        name => name,
    };
    let node = target["name"]
        .as_str()
        .filter(|node| !node.is_empty())
        .ok_or_else(|| Status::bad_request("target.name: Required value: the name of the node to bind to"))?;
    if target["kind"].as_str().is_some_and(|kind| !kind.is_empty() && kind != "Node") {
        return Err(Status::bad_request("target.kind: Unsupported value: supported values: \"Node\""));
    }
    for _ in 0..ATTEMPTS {
        let Current { mut object, revision } = context.state.registry.current(pods, context.namespace(), name)?;
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let wanted_uid = binding.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        if !wanted_uid.is_empty() && wanted_uid != text("/metadata/uid") {
            return Err(Status::conflict(
                About::resource(pods, name),
                "the pod was replaced by another of the same name",
            ));
        }
        if object.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(Status::conflict(
                About::resource(pods, name),
                &format!("pod {name} is being deleted, cannot be assigned to a host"),
            ));
        }
        if !text("/spec/nodeName").is_empty() {
            let detail = format!("pod {name} is already assigned to node {:?}", text("/spec/nodeName"));
            return Err(Status::conflict(About::resource(pods, name), &detail));
        }
        object["spec"]["nodeName"] = node.into();
        set_scheduled(&mut object);
        for part in ["annotations", "labels"] {
            for (key, value) in binding["metadata"][part].as_object().into_iter().flatten() {
                object["metadata"][part][key.as_str()] = value.clone();
            }
        }
        let pod_context = context.on(pods);
        match pod_context.commit_update(revision, &mut object, Charge::default()).await? {
            Commit::Done => {
                let body =
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                return Ok(reply::json_bytes(StatusCode::CREATED, Bytes::from(body.to_string())));
            }
            Commit::Overtaken | Commit::QuotaMoved => {}
        }
    }
    Err(overtaken(pods, name))
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": crate::time::now(), "observedGeneration": pod["metadata"]["generation"]});
    set_condition(pod, condition);
}

/// Puts a condition in the place of the one of its type.
pub(super) fn set_condition(pod: &mut Value, condition: Value) {
    let conditions = &mut pod["status"]["conditions"];
    match conditions.as_array_mut() {
        Some(list) => {
            list.retain(|other| other["type"] != condition["type"]);
            list.push(condition);
        }
        None => *conditions = json!([condition]),
    }
}
