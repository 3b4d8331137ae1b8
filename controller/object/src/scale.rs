//! The `scale` subresource: the replicas of a workload, seen as `autoscaling/v1` Scale.
use crate::resource::{Resource, Subresource};
use crate::status::{Cause, Status};
use crate::tree::{at, child, fill, integer, text};
use serde_json::{Value, json};

/// The Scale of an object; `None` when its kind has none.
pub fn scale_of(resource: &Resource, object: &Value) -> Option<Value> {
    if !resource.has(Subresource::Scale) {
        return None;
    }
    let paths = resource.custom.as_ref().and_then(|custom| custom.scale.as_ref());
    let count = |path: Option<&Vec<String>>, builtin: [&str; 2]| match path {
        Some(path) => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            integer(object, &path)
        }
        None => integer(object, &builtin),
    };
    let replicas = count(paths.map(|paths| &paths.status_replicas), ["status", "replicas"]).unwrap_or(0);
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {},
        "spec": {}, "status": {"replicas": replicas},
    });
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = at(object, &["metadata", key]) {
            scale["metadata"][key] = value.clone();
        }
    }
    let wanted = count(paths.map(|paths| &paths.spec_replicas), ["spec", "replicas"]);
    if let Some(replicas) = wanted.filter(|n| *n != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    let selector = match paths {
        Some(paths) => {
            let path: Vec<&str> = paths.label_selector.iter().flatten().map(String::as_str).collect();
            text(object, &path).filter(|text| !text.is_empty()).map(str::to_owned)
        }
        None => selector_text(object),
    };
    if let Some(selector) = selector {
        scale["status"]["selector"] = selector.into();
    }
    Some(scale)
}

fn selector_text(object: &Value) -> Option<String> {
    let selector = at(object, &["spec", "selector"])?;
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let wrapped = if structured { selector.clone() } else { json!({"matchLabels": selector}) };
    Some(api::selector::Selector::from_value(&wrapped).ok()?.to_string()).filter(|text| !text.is_empty())
}

/// Sets the replicas that a Scale asks for.
pub fn set_replicas(resource: &Resource, object: &mut Value, scale: &Value) -> Result<(), Status> {
    let name = text(object, &["metadata", "name"]).unwrap_or_default().to_owned();
    let replicas = at(scale, &["spec", "replicas"]).unwrap_or(&Value::Null);
    let count = match replicas {
        Value::Null => 0,
        value => value.as_i64().filter(|n| (0..=i64::from(i32::MAX)).contains(n)).ok_or_else(|| {
            Status::invalid(
                resource,
                &name,
                vec![Cause::invalid("spec.replicas", value, "must be greater than or equal to 0")],
            )
        })?,
    };
    if let Some(paths) = resource.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        let Some((last, parents)) = paths.spec_replicas.split_last() else { return Ok(()) };
        let holder = parents.iter().try_fold(object, |holder, key| child(holder, key));
        if let Some(holder) = holder.and_then(Value::as_object_mut) {
            holder.insert(last.clone(), count.into());
        }
        return Ok(());
    }
    fill(object, "spec", json!({}));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("replicas".to_owned(), count.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Table;

    #[test]
    fn reads_and_writes_replicas() {
        let deployment = Table::builtin().find("apps", "v1", "deployments").unwrap();
        let mut object = json!({"metadata": {"name": "a", "resourceVersion": "5"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2}});
        let scale = scale_of(deployment, &object).unwrap();
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
        set_replicas(deployment, &mut object, &json!({"spec": {"replicas": 7}})).unwrap();
        assert_eq!(object["spec"]["replicas"], 7);
        assert!(set_replicas(deployment, &mut object, &json!({"spec": {"replicas": -1}})).is_err());
        let pods = Table::builtin().find("", "v1", "pods").unwrap();
        assert!(scale_of(pods, &object).is_none());
    }
}
