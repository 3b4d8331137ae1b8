//! `metrics.k8s.io`: what nodes and pods use, asked of their agents when a client asks. Nothing is stored.
//! What cannot be had is left out, as metrics-server leaves it out; kubectl says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use controller_object::columns;
use controller_object::resource::Resource;
use controller_object::status::{About, Status};
use futures::StreamExt as _;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::filter::Filter;
use super::{Context, partial_metadata};
use crate::node_proxy;
use crate::reply::{self, Shape};
use crate::route::Verb;

/// The API group.
pub(super) const GROUP: &str = "metrics.k8s.io";
/// An agent that needs longer does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Agents that are asked at once.
const AT_ONCE: usize = 64;

pub(super) async fn answer(context: &Context) -> Result<Response<Body>, Status> {
    let is_pods = context.resource.plural == "pods";
    match context.request.verb {
        Verb::Get => {
            let measured = if is_pods { pods(context).await? } else { nodes(context).await? };
            let object = measured.into_iter().next().ok_or_else(|| not_found(context))?;
            Ok(context.reply(StatusCode::OK, &object, &[]))
        }
        Verb::List => {
            let measured = if is_pods { pods(context).await? } else { nodes(context).await? };
            Ok(list(context, &measured))
        }
        verb => Err(Status::method_not_supported(About::resource(&context.resource, ""), verb.as_str())),
    }
}

fn not_found(context: &Context) -> Status {
    let kind = context.resource.kind.to_lowercase();
    let name = match context.namespace() {
        Some(namespace) => format!("{namespace}/{}", context.name()),
        None => context.name().to_owned(),
    };
    Status::not_found(About { group: GROUP, kind: &kind, name: &name })
}

fn list(context: &Context, items: &[Value]) -> Response<Body> {
    let resource = &context.resource;
    let mut list = match context.negotiated.shape {
        Shape::Object => json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "items": items}),
        Shape::Metadata => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "items": items.iter().map(partial_metadata).collect::<Vec<_>>()}),
        Shape::Table => columns::table(resource, items.to_vec(), crate::time::epoch(), context.include()),
    };
    list["metadata"] = json!({});
    reply::object(StatusCode::OK, &list, context.negotiated.encoding)
}

/// The stored nodes or pods that the request is about.
fn selected(context: &Context, resource: &Arc<Resource>) -> Result<Vec<Value>, Status> {
    let registry = &context.state.registry;
    if let Some(name) = &context.request.name {
        let found = registry.peek("", "v1", &resource.plural, context.namespace(), name);
        return found.map(|object| vec![object]).ok_or_else(|| not_found(context));
    }
    let stored = context.on(resource);
    let filter = Filter::of(&stored)?;
    let objects = registry.list_of(resource, context.namespace())?;
    Ok(objects.into_iter().filter(|object| filter.matches(resource, object)).collect())
}

fn core(context: &Context, plural: &str) -> Result<Arc<Resource>, Status> {
    context.state.registry.builtin().find("", "v1", plural).cloned().ok_or_else(Status::path_not_found)
}

/// The figures of nodes by name; of those that answer.
async fn ask(context: &Context, nodes: Vec<Value>) -> BTreeMap<String, Value> {
    let asked = futures::stream::iter(nodes).map(|node| async move {
        let name = node.pointer("/metadata/name")?.as_str()?.to_owned();
        let figures = tokio::time::timeout(PATIENCE, node_proxy::figures(&context.state, &node)).await;
        match figures.unwrap_or_else(|_| Err(Status::timeout("no answer in time"))) {
            Ok(figures) => Some((name, figures)),
            Err(status) => {
                tracing::warn!(node = name, error = status.message, "asking a node what it uses");
                None
            }
        }
    });
    asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn nodes(context: &Context) -> Result<Vec<Value>, Status> {
    let nodes = selected(context, &core(context, "nodes")?)?;
    let figures = ask(context, nodes.clone()).await;
    let of = |node: &Value| {
        let summary = figures.get(node.pointer("/metadata/name")?.as_str()?)?;
        node_metrics(node, summary)
    };
    Ok(nodes.iter().filter_map(of).collect())
}

async fn pods(context: &Context) -> Result<Vec<Value>, Status> {
    let pods = selected(context, &core(context, "pods")?)?;
    let mut names: Vec<&str> = pods.iter().filter_map(|pod| pod.pointer("/spec/nodeName")?.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let nodes = names.iter().filter_map(|name| context.state.registry.peek("", "v1", "nodes", None, name)).collect();
    let figures = ask(context, nodes).await;
    let of = |pod: &Value| pod_metrics(pod, figures.get(pod.pointer("/spec/nodeName")?.as_str()?)?);
    Ok(pods.iter().filter_map(of).collect())
}

/// What a node used; `None` where its agent does not know yet.
fn node_metrics(node: &Value, summary: &Value) -> Option<Value> {
    let mut object = head("NodeMetrics", &node["metadata"], summary, summary.pointer("/node/cpu/time")?);
    object["usage"] = used(&summary["node"])?;
    Some(object)
}

/// What a pod's running containers used; `None` where one of them has not run for a whole window yet, for the sum
/// would be wrong.
fn pod_metrics(pod: &Value, summary: &Value) -> Option<Value> {
    let own = summary["pods"].as_array()?.iter().find(|own| own["podRef"]["uid"] == pod["metadata"]["uid"])?;
    let containers = own["containers"].as_array().filter(|containers| !containers.is_empty())?;
    let container = |own: &Value| Some(json!({"name": own["name"], "usage": used(own)?}));
    let mut object = head("PodMetrics", &pod["metadata"], summary, own.pointer("/cpu/time")?);
    object["metadata"]["namespace"] = pod["metadata"]["namespace"].clone();
    object["containers"] = containers.iter().map(container).collect::<Option<Vec<_>>>()?.into();
    Some(object)
}

fn head(kind: &str, metadata: &Value, summary: &Value, at: &Value) -> Value {
    let window = summary["window"].as_f64().unwrap_or_default();
    let mut object = json!({"kind": kind, "apiVersion": format!("{GROUP}/v1beta1"),
        "metadata": {"name": metadata["name"], "creationTimestamp": crate::time::now()},
        "timestamp": at, "window": format!("{}s", (window * 1000.0).round() / 1000.0)});
    if metadata["labels"].is_object() {
        object["metadata"]["labels"] = metadata["labels"].clone();
    }
    object
}

/// As metrics-server writes it: nanocores and kibibytes.
fn used(figures: &Value) -> Option<Value> {
    let cpu = figures.pointer("/cpu/usageNanoCores")?.as_u64()?;
    let memory = figures.pointer("/memory/workingSetBytes")?.as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_a_rate_is_left_out() {
        let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "u", "labels": {"x": "y"}}});
        let summary = |cpu: Value| {
            json!({"window": 0.5012, "pods": [{"podRef": {"uid": "u"}, "cpu": {"time": "2026-01-01T00:00:00Z"},
                "containers": [{"name": "c", "cpu": cpu, "memory": {"workingSetBytes": 4097}}]}]})
        };
        let known = pod_metrics(&pod, &summary(json!({"usageNanoCores": 12}))).unwrap();
        assert_eq!(known["containers"], json!([{"name": "c", "usage": {"cpu": "12n", "memory": "4Ki"}}]));
        assert_eq!((&known["window"], &known["metadata"]["labels"]["x"]), (&json!("0.501s"), &json!("y")));
        assert_eq!(pod_metrics(&pod, &summary(json!({}))), None);
        let other = json!({"metadata": {"uid": "v"}});
        assert_eq!(pod_metrics(&other, &summary(json!({"usageNanoCores": 12}))), None, "the name is not enough");
    }
}
