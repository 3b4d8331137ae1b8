//! RuntimeClass: a pod of a class gets the class's overhead, node selector and tolerations.
//! Kubernetes documentation, "Runtime Class"; messages of plugin/pkg/admission/runtimeclass.

use controller_object::status::{About, Status};
use serde_json::{Value, json};

use crate::admit::Attributes;
use crate::registry::names;

fn class(attributes: &Attributes<'_>, pod: &Value) -> Result<Option<Value>, Status> {
    let wanted = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str).filter(|name| !name.is_empty());
    let Some(wanted) = wanted else { return Ok(None) };
    match attributes.state.registry.peek("node.k8s.io", "v1", "runtimeclasses", None, wanted) {
        Some(class) => Ok(Some(class)),
        None => {
            let detail = format!("pod rejected: RuntimeClass {wanted:?} not found");
            Err(Status::forbidden(About::resource(attributes.resource, names(pod).1), &detail))
        }
    }
}

pub(super) fn mutate(attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let Some(class) = class(attributes, pod)? else { return Ok(()) };
    merge(&class, pod).map_err(|detail| Status::forbidden(About::resource(attributes.resource, names(pod).1), &detail))
}

/// A pod has its overhead from its class, and from nowhere else.
pub(super) fn validate(attributes: &Attributes<'_>, pod: &Value) -> Result<(), Status> {
    if !attributes.creates("", "pods") {
        return Ok(());
    }
    let refuse = |detail: &str| Err(Status::forbidden(About::resource(attributes.resource, names(pod).1), detail));
    let own = pod.pointer("/spec/overhead").filter(|own| own.as_object().is_some_and(|map| !map.is_empty()));
    match (own, class(attributes, pod)?) {
        (Some(_), None) => refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (Some(own), Some(class)) if class.pointer("/overhead/podFixed") != Some(own) => {
            refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        }
        _ => Ok(()),
    }
}

fn merge(class: &Value, pod: &mut Value) -> Result<(), String> {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    if let Some(fixed) = class.pointer("/overhead/podFixed").filter(|fixed| !fixed.is_null()) {
        match spec.get("overhead").filter(|own| own.as_object().is_some_and(|map| !map.is_empty())) {
            Some(own) if own != fixed => {
                return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
            }
            _ => drop(spec.insert("overhead".into(), fixed.clone())),
        }
    }
    let wanted = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).cloned().unwrap_or_default();
    if !wanted.is_empty() {
        let own = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        for (key, value) in wanted {
            match own.get(&key) {
                Some(other) if *other != value => {
                    return Err(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                        value.as_str().unwrap_or_default(),
                        other.as_str().unwrap_or_default()
                    ));
                }
                _ => own[key] = value,
            }
        }
    }
    let wanted = class.pointer("/scheduling/tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    if !wanted.is_empty()
        && let Some(own) = spec.entry("tolerations").or_insert_with(|| json!([])).as_array_mut()
    {
        for toleration in wanted.into_iter().filter(|one| !one.is_null()) {
            if !own.contains(&toleration) {
                own.push(toleration);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_adds_what_it_says_and_conflicts_are_named() {
        let class = json!({"overhead": {"podFixed": {"cpu": "10m"}}, "scheduling": {
            "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        let mut pod = json!({"spec": {"nodeSelector": {"c": "d"}}});
        merge(&class, &mut pod).unwrap();
        let expected = json!({"spec": {"overhead": {"cpu": "10m"}, "nodeSelector": {"a": "b", "c": "d"},
            "tolerations": [{"key": "k", "operator": "Exists"}]}});
        assert_eq!(pod, expected);
        merge(&class, &mut pod).unwrap();
        assert_eq!(pod, expected);
        let mut other = json!({"spec": {"nodeSelector": {"a": "x"}}});
        assert_eq!(
            merge(&class, &mut other),
            Err("conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = x".into())
        );
        let mut heavier = json!({"spec": {"overhead": {"cpu": "20m"}}});
        assert!(merge(&class, &mut heavier).is_err());
    }
}
