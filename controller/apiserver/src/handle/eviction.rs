//! POST of an Eviction: a deletion that no PodDisruptionBudget stands against.
//! Kubernetes documentation, "API-initiated Eviction" and "Disruptions".

use std::collections::BTreeMap;

use api::selector::Selector;
use api::well_known::CONDITION_DISRUPTED;
use axum::body::Body;
use bytes::Bytes;
use controller_object::resource::Subresource;
use controller_object::status::{Cause, CauseReason, Status};
use http::{Response, StatusCode};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::Context;
use super::binding::set_condition;
use super::delete::{DeleteOptions, delete_saying};
use crate::registry::{Registry, names};
use crate::reply;

/// One eviction at a time: what a budget still allows is counted from the pods that live, so counting and deleting
/// belong together. This server is the only writer of its store.
static TURN: Mutex<()> = Mutex::const_new(());

/// Why a pod may not be evicted now.
#[derive(Debug, PartialEq)]
enum Obstacle {
    /// A budget, the pods that it needs and those that are healthy.
    Budget { name: String, needed: i64, healthy: i64 },
    /// More than one budget selects the pod.
    Several,
    /// A budget cannot be read.
    Unreadable { name: String, why: String },
}

pub(super) async fn evict(context: &Context, body: &[u8]) -> Result<Response<Body>, Status> {
    let mut eviction = match body.iter().all(u8::is_ascii_whitespace) {
        true => json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": context.name()}}),
        false => context.decode_exchanged(Subresource::Eviction, body)?.object,
    };
    let named = names(&eviction).1;
    if !named.is_empty() && named != context.name() {
        return Err(Status::bad_request(format!(
            "name in URL does not match name in Eviction object: {named:?} and {:?}",
            context.name()
        )));
    }
    context.admit_exchanged(&mut eviction).await?;
    let options = match eviction.get("deleteOptions").filter(|options| !options.is_null()) {
        Some(options) => DeleteOptions::deserialize(options)
            .map_err(|error| Status::bad_request(format!("deleteOptions: {error}")))?,
        None => DeleteOptions::default(),
    };
    let pods = context.on(&context.resource);
    let _turn = TURN.lock().await;
    let registry = &context.state.registry;
    let pod = registry.current(&context.resource, context.namespace(), context.name())?.object;
    if !is_free(&pod) {
        let budgets = registry.list("policy", "v1", "poddisruptionbudgets", context.namespace())?;
        let live = registry.list_of(&context.resource, context.namespace())?;
        let wanted = |owner: &Value| replicas(registry, context.namespace(), owner);
        obstacle(&pod, &budgets, &live, wanted).map_or(Ok(()), |obstacle| Err(refusal(obstacle)))?;
    }
    delete_saying(&pods, context.name(), &options, say_evicted).await?;
    let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(reply::json_bytes(StatusCode::CREATED, Bytes::from(answer.to_string())))
}

/// Whoever counts the pod's failure learns that it was not the pod's own; of one that has ended it is none.
fn say_evicted(pod: &mut Value) {
    if matches!(text_of(pod, "/status/phase"), "Succeeded" | "Failed") {
        return;
    }
    let condition = json!({"type": CONDITION_DISRUPTED, "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": crate::time::now()});
    set_condition(pod, condition);
}

/// Who is in charge of an owner's pods (of a rollout's the Deployment), and how many of them it wants.
fn replicas(registry: &Registry, namespace: Option<&str>, owner: &Value) -> Option<(String, i64)> {
    let text = |key: &str| owner[key].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let plural = match text("kind") {
        "Deployment" => "deployments",
        "ReplicaSet" => "replicasets",
        "StatefulSet" => "statefulsets",
        "ReplicationController" => "replicationcontrollers",
        _ => return None,
    };
    let object = registry.peek(group, version, plural, namespace, text("name"))?;
    let uid = text_of(&object, "/metadata/uid");
    if uid != text("uid") {
        return None;
    }
    let above = controller_of(&object).filter(|above| plural == "replicasets" && above["kind"] == "Deployment");
    let above = above.and_then(|above| replicas(registry, namespace, above));
    above.or_else(|| Some((uid.to_owned(), object.pointer("/spec/replicas")?.as_i64()?)))
}

fn controller_of(object: &Value) -> Option<&Value> {
    let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array)?;
    references.iter().find(|owner| owner["controller"] == true)
}

fn text_of<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// No budget counts a pod that ended, that never started, or that is being deleted.
fn is_free(pod: &Value) -> bool {
    matches!(text_of(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending")
        || pod.pointer("/metadata/deletionTimestamp").is_some()
}

fn is_healthy(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    pod.pointer("/metadata/deletionTimestamp").is_none()
        && conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// What stands against the eviction of a running pod; `wanted` tells how many pods an owner wants.
fn obstacle(
    pod: &Value,
    budgets: &[Value],
    live: &[Value],
    wanted: impl Fn(&Value) -> Option<(String, i64)>,
) -> Option<Obstacle> {
    let mut of_pod = None;
    for budget in budgets {
        let name = names(budget).1.to_owned();
        // A budget without a selector selects nothing, one with an empty selector everything.
        let Some(selector) = budget.pointer("/spec/selector").filter(|selector| !selector.is_null()) else { continue };
        let selector = match Selector::from_value(selector) {
            Ok(selector) => selector,
            Err(error) => return Some(Obstacle::Unreadable { name, why: error.to_string() }),
        };
        if selector.matches(&labels(pod)) && of_pod.replace((budget, selector, name)).is_some() {
            return Some(Obstacle::Several);
        }
    }
    let (budget, selector, name) = of_pod?;
    let unhealthy_policy = text_of(budget, "/spec/unhealthyPodEvictionPolicy");
    if !is_healthy(pod) && unhealthy_policy == "AlwaysAllow" {
        return None;
    }
    let selected: Vec<&Value> = live
        .iter()
        .filter(|one| {
            !matches!(text_of(one, "/status/phase"), "Succeeded" | "Failed") && selector.matches(&labels(one))
        })
        .collect();
    let healthy = count(selected.iter().filter(|one| is_healthy(one)).count());
    let Some(needed) = needed(budget, &selected, wanted) else {
        return Some(Obstacle::Unreadable {
            name,
            why: "minAvailable or maxUnavailable is no number or percentage".into(),
        });
    };
    let may = match is_healthy(pod) {
        true => healthy > needed,
        // An unhealthy pod is no loss while enough others are healthy.
        false => healthy >= needed && needed > 0 || healthy > needed,
    };
    (!may).then_some(Obstacle::Budget { name, needed, healthy })
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How many pods have to stay healthy.
fn needed(budget: &Value, selected: &[&Value], wanted: impl Fn(&Value) -> Option<(String, i64)>) -> Option<i64> {
    let mut owners: BTreeMap<String, i64> = BTreeMap::new();
    let mut expected = 0;
    for pod in selected {
        match controller_of(pod).and_then(&wanted) {
            Some((uid, replicas)) => drop(owners.insert(uid, replicas)),
            None => expected += 1,
        }
    }
    expected += owners.values().sum::<i64>();
    let value = |field: &str| match budget.pointer(&format!("/spec/{field}")) {
        Some(Value::Null) | None => Some(None),
        Some(value) => IntOrString::deserialize(value).ok().map(Some),
    };
    api::disruption::needed(value("minAvailable")?.as_ref(), value("maxUnavailable")?.as_ref(), expected)
}

fn refusal(obstacle: Obstacle) -> Status {
    match obstacle {
        Obstacle::Budget { name, needed, healthy } => {
            let message =
                format!("The disruption budget {name} needs {needed} healthy pods and has {healthy} currently");
            // Clients ask again by themselves where they are told when, and would seem to hang.
            Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
                .with_cause(Cause { reason: CauseReason::DisruptionBudget, message, field: String::new() })
        }
        Obstacle::Several => Status::internal_error(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ),
        Obstacle::Unreadable { name, why } => {
            Status::internal_error(format!("the disruption budget {name} cannot be read: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool) -> Value {
        let ready = if ready { "True" } else { "False" };
        json!({"metadata": {"name": name, "labels": {"app": "a"},
            "ownerReferences": [{"controller": true, "uid": "u", "kind": "ReplicaSet"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn budget(spec: Value) -> Value {
        let mut budget = json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"app": "a"}}}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            budget["spec"][key] = value.clone();
        }
        budget
    }

    #[test]
    fn an_evicted_pod_says_so_unless_it_has_ended() {
        let mut evicted = pod("1", true);
        say_evicted(&mut evicted);
        say_evicted(&mut evicted);
        let conditions = evicted["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[1]["reason"]), (2, &json!("EvictionByEvictionAPI")));
        let mut ended = json!({"status": {"phase": "Failed"}});
        say_evicted(&mut ended);
        assert_eq!(ended["status"].get("conditions"), None);
    }

    #[test]
    fn budgets_are_kept() {
        let live = [pod("1", true), pod("2", true), pod("3", false)];
        let ask = |pod: &Value, spec: Value| obstacle(pod, &[budget(spec)], &live, |_| Some(("u".into(), 3)));
        let blocked = |needed| Some(Obstacle::Budget { name: "b".into(), needed, healthy: 2 });
        assert_eq!(ask(&live[0], json!({"minAvailable": 2})), blocked(2));
        assert_eq!(ask(&live[0], json!({"minAvailable": 1})), None);
        assert_eq!(ask(&live[0], json!({"minAvailable": "34%"})), blocked(2));
        assert_eq!(ask(&live[0], json!({"maxUnavailable": 1})), blocked(2));
        assert_eq!(ask(&live[0], json!({"maxUnavailable": 2})), None);
        assert_eq!(ask(&live[2], json!({"minAvailable": 2})), None, "an unhealthy pod is no loss");
        assert_eq!(ask(&live[2], json!({"minAvailable": 3})), blocked(3));
        assert_eq!(ask(&live[2], json!({"minAvailable": 3, "unhealthyPodEvictionPolicy": "AlwaysAllow"})), None);
        assert!(matches!(ask(&live[0], json!({"minAvailable": "x"})), Some(Obstacle::Unreadable { .. })));
        let two = [budget(json!({"minAvailable": 0})), budget(json!({"minAvailable": 0}))];
        assert_eq!(obstacle(&live[0], &two, &live, |_| None), Some(Obstacle::Several));
        assert_eq!(obstacle(&live[0], &[], &live, |_| None), None);
        assert!(is_free(&json!({"status": {"phase": "Failed"}})) && !is_free(&live[0]));
    }
}
