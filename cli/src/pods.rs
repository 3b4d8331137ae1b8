//! Which pod and which container of it a command means: `POD`, `deployment/NAME`, the default container.

use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::{screen, target};

/// Names the container to use where nobody does.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod that `POD` or `TYPE/NAME` means.
pub(crate) async fn pick(session: &Session, catalog: &Catalog, word: &str) -> Result<Value, Failure> {
    let pods = catalog.expect("pods")?;
    if !word.contains('/') {
        return session.get(Call::to(pods.object(&session.namespace, word))).await;
    }
    let target = target::one(catalog, word)?;
    let name = target.name.as_deref().unwrap_or_default();
    let object = session.get(Call::to(target.kind.object(&session.namespace, name))).await?;
    if target.kind == pods {
        return Ok(object);
    }
    let select = SelectArgs { selector: Some(pod_selector(target.kind, &object)?), field_selector: None };
    let found = list::objects(session, pods, Some(&session.namespace), &select).await?;
    let count = found.len();
    let Some(best) = found.into_iter().rev().max_by_key(usefulness) else {
        return Err(Failure::error(format!("no pods found for {}/{name}", target.kind.prefix())));
    };
    if count > 1 {
        screen::note(format!("Found {count} pods, using pod/{}", name_of(&best)));
    }
    Ok(best)
}

/// The selector, as text, of the pods that an object stands for.
fn pod_selector(kind: &Kind, object: &Value) -> Result<String, Failure> {
    let selector = object.pointer("/spec/selector");
    let structured = selector.filter(|selector| {
        selector.get("matchLabels").is_some_and(Value::is_object)
            || selector.get("matchExpressions").is_some_and(Value::is_array)
    });
    let text = match (structured, selector.and_then(Value::as_object)) {
        (Some(selector), _) => selector_text(selector),
        // Services and replication controllers have a plain map.
        (None, Some(labels)) => labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(","),
        (None, None) => String::new(),
    };
    match text.is_empty() {
        true => Err(Failure::error(format!("{}/{} selects no pods", kind.prefix(), name_of(object)))),
        false => Ok(text),
    }
}

/// A `LabelSelector` as the query parameter has it.
pub(crate) fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for requirement in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| requirement.get(key).and_then(Value::as_str).unwrap_or_default();
        let values = requirement.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        let key = text("key");
        parts.push(match text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

/// Assigned before not, running before pending, ready before not, younger last.
fn usefulness(pod: &Value) -> (bool, u8, bool, std::cmp::Reverse<String>) {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let phase = match text("/status/phase") {
        "Running" => 3,
        "Succeeded" | "Failed" => 2,
        "Pending" => 1,
        _ => 0,
    };
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready =
        conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let created = text("/metadata/creationTimestamp").to_owned();
    (!text("/spec/nodeName").is_empty(), phase, ready, std::cmp::Reverse(created))
}

/// Names of the containers in the lists of `keys`.
pub(crate) fn containers(pod: &Value, keys: &[&str]) -> Vec<String> {
    let lists = keys.iter().filter_map(|key| pod.get("spec")?.get(*key)?.as_array());
    lists.flatten().filter_map(|container| Some(container.get("name")?.as_str()?.to_owned())).collect()
}

/// The container that is meant; says so where the choice was ours.
pub(crate) fn container(pod: &Value, asked: Option<&str>) -> Result<String, Failure> {
    let all = containers(pod, &["containers", "initContainers", "ephemeralContainers"]);
    if let Some(asked) = asked {
        return match all.iter().any(|name| name == asked) {
            true => Ok(asked.to_owned()),
            false => Err(Failure::error(format!(
                "container {asked} is not valid for pod {} out of: {}",
                name_of(pod),
                all.join(", ")
            ))),
        };
    }
    let annotated = pod.pointer("/metadata/annotations").and_then(|all| all.get(DEFAULT_CONTAINER)?.as_str());
    if let Some(name) = annotated.filter(|name| all.iter().any(|known| known == name)) {
        return Ok(name.to_owned());
    }
    let regular = containers(pod, &["containers"]);
    match all.len() {
        0 => Err(Failure::error(format!("pod {} has no containers", name_of(pod)))),
        1 => Ok(all[0].clone()),
        _ => {
            let name = regular.first().unwrap_or(&all[0]).clone();
            screen::note(format!("Defaulted container \"{name}\" out of: {}", titled(pod).join(", ")));
            Ok(name)
        }
    }
}

/// Container names with what they are, as kubectl lists them.
fn titled(pod: &Value) -> Vec<String> {
    let kinds = [("containers", ""), ("initContainers", " (init)"), ("ephemeralContainers", " (ephem)")];
    let all = kinds
        .iter()
        .flat_map(|(key, mark)| containers(pod, &[key]).into_iter().map(move |name| format!("{name}{mark}")));
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_become_text() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"},
            {"key": "g", "operator": "Exists"}, {"key": "h", "operator": "NotIn", "values": ["i"]}]});
        assert_eq!(selector_text(&selector), "a=b,c in (d,e),!f,g,h notin (i)");
    }

    #[test]
    fn the_container_is_asked_for_annotated_or_the_first() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&pod, None).ok().as_deref(), Some("a"));
        assert_eq!(container(&pod, Some("b")).ok().as_deref(), Some("b"));
        assert!(container(&pod, Some("c")).is_err());
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(container(&pod, None).ok().as_deref(), Some("b"));
    }
}
