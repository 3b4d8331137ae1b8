//! The environment of a container: literal values, references, and `$(VAR)`. Pure.
//! Kubernetes documentation, "Define Dependent Environment Variables".

use std::collections::BTreeMap;

use agent_pod::protocol::Failure;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

/// What references may name, fetched beforehand. Absent objects are absent here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    pub(crate) secrets: BTreeMap<String, Secret>,
}

/// The names of ConfigMaps and Secrets that a container's environment needs.
pub(crate) fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        config_maps.extend(source.config_map_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
    }
    (config_maps, secrets)
}

/// What the downward API knows of the place the pod runs in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) node_name: String,
    pub(crate) host_ip: String,
    pub(crate) pod_ips: Vec<String>,
    /// What the node has for pods: what a container that has no limit is told.
    pub(crate) allocatable: Allocatable,
    /// Variables that tell where Services are; all others win over them.
    pub(crate) service_links: BTreeMap<String, String>,
}

/// What a node has for pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Allocatable {
    pub(crate) milli_cpu: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes.
    pub(crate) ephemeral_storage: i64,
}

fn config_error(message: String) -> Failure {
    Failure { reason: "CreateContainerConfigError".into(), message }
}

/// All variables in order; later ones override earlier ones, and may use them.
pub(crate) fn variables(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    place: &Place,
) -> Result<Vec<(String, String)>, Failure> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match all.iter_mut().find(|(own, _)| *own == name) {
        Some(entry) => entry.1 = value,
        None => all.push((name, value)),
    };
    let mut known: BTreeMap<String, String> = place.service_links.clone();
    for (name, value) in &place.service_links {
        set(name.clone(), value.clone());
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let pairs = match (&source.config_map_ref, &source.secret_ref) {
            (Some(reference), _) => match sources.config_maps.get(&reference.name) {
                Some(map) => text_of_map(map),
                None if reference.optional == Some(true) => vec![],
                None => return Err(config_error(format!("configmap {:?} not found", reference.name))),
            },
            (None, Some(reference)) => match sources.secrets.get(&reference.name) {
                Some(secret) => text_of_secret(secret),
                None if reference.optional == Some(true) => vec![],
                None => return Err(config_error(format!("secret {:?} not found", reference.name))),
            },
            (None, None) => vec![],
        };
        for (key, value) in pairs {
            let name = format!("{prefix}{key}");
            known.insert(name.clone(), value.clone());
            set(name, value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &known)),
            (None, Some(source)) => value_from(pod, container, source, sources, place)?,
            (None, None) => Some(String::new()),
        };
        // An optional reference to nothing sets nothing.
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            set(variable.name.clone(), value);
        }
    }
    Ok(all)
}

fn text_of_map(map: &ConfigMap) -> Vec<(String, String)> {
    map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn text_of_secret(secret: &Secret) -> Vec<(String, String)> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned())).collect()
}

fn value_from(
    pod: &Pod,
    container: &Container,
    source: &k8s_openapi::api::core::v1::EnvVarSource,
    sources: &Sources,
    place: &Place,
) -> Result<Option<String>, Failure> {
    if let Some(reference) = &source.config_map_key_ref {
        let value =
            sources.config_maps.get(&reference.name).and_then(|map| map.data.as_ref()?.get(&reference.key).cloned());
        return found(value, reference.optional, || match sources.config_maps.contains_key(&reference.name) {
            true => format!("couldn't find key {} in ConfigMap {}", reference.key, reference.name),
            false => format!("configmap {:?} not found", reference.name),
        });
    }
    if let Some(reference) = &source.secret_key_ref {
        let value = sources.secrets.get(&reference.name).and_then(|secret| {
            let bytes = secret.data.as_ref()?.get(&reference.key)?;
            Some(String::from_utf8_lossy(&bytes.0).into_owned())
        });
        return found(value, reference.optional, || match sources.secrets.contains_key(&reference.name) {
            true => format!("couldn't find key {} in Secret {}", reference.key, reference.name),
            false => format!("secret {:?} not found", reference.name),
        });
    }
    if let Some(reference) = &source.field_ref {
        let value = field(pod, &reference.field_path, place);
        return found(value, None, || format!("fieldRef {:?} is not supported", reference.field_path));
    }
    if let Some(reference) = &source.resource_field_ref {
        let target = reference.container_name.as_deref().unwrap_or(&container.name);
        let divisor = reference.divisor.as_ref().map(|quantity| quantity.0.as_str());
        let value = resource(pod, target, &reference.resource, divisor, place.allocatable);
        return found(value, None, || format!("resourceFieldRef {:?} is not supported", reference.resource));
    }
    Err(config_error("valueFrom: expected one of configMapKeyRef, secretKeyRef, fieldRef, resourceFieldRef".into()))
}

fn found(
    value: Option<String>,
    optional: Option<bool>,
    message: impl FnOnce() -> String,
) -> Result<Option<String>, Failure> {
    match (value, optional) {
        (Some(value), _) => Ok(Some(value)),
        (None, Some(true)) => Ok(None),
        (None, _) => Err(config_error(message())),
    }
}

/// A field of the pod, as the downward API names them.
pub(crate) fn field(pod: &Pod, path: &str, place: &Place) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels") {
        return Some(metadata.labels.as_ref().and_then(|labels| labels.get(key).cloned()).unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations") {
        return Some(metadata.annotations.as_ref().and_then(|all| all.get(key).cloned()).unwrap_or_default());
    }
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => Some(lines(metadata.labels.as_ref())),
        "metadata.annotations" => Some(lines(metadata.annotations.as_ref())),
        "spec.nodeName" => Some(place.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" | "status.hostIPs" => Some(place.host_ip.clone()),
        "status.podIP" => Some(place.pod_ips.first().cloned().unwrap_or_default()),
        "status.podIPs" => Some(place.pod_ips.join(",")),
        _ => None,
    }
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let pairs = map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    pairs.collect::<Vec<_>>().join("\n")
}

/// A container's request or limit in units of a divisor, rounded up. A limit that is not set is what the node has.
pub(crate) fn resource(
    pod: &Pod,
    container: &str,
    name: &str,
    divisor: Option<&str>,
    allocatable: Allocatable,
) -> Option<String> {
    let containers = pod.spec.as_ref()?.containers.iter();
    let resources =
        containers.chain(pod.spec.as_ref()?.init_containers.iter().flatten()).find(|own| own.name == container)?;
    let resources = resources.resources.clone().unwrap_or_default();
    let (of, name) = name.split_once('.')?;
    let list = match of {
        "limits" => resources.limits,
        "requests" => resources.requests,
        _ => return None,
    };
    let amount = match list.unwrap_or_default().get(name) {
        Some(quantity) => api::quantity::Quantity::parse(&quantity.0).ok()?.milli(),
        None => match (of, name) {
            ("limits", "cpu") => allocatable.milli_cpu,
            ("limits", "memory") => allocatable.memory.saturating_mul(1000),
            ("limits", "ephemeral-storage") => allocatable.ephemeral_storage.saturating_mul(1000),
            _ => 0,
        },
    };
    let divisor = match divisor.filter(|text| !text.is_empty() && *text != "0") {
        Some(text) => api::quantity::Quantity::parse(text).ok()?.milli(),
        None => 1000,
    };
    (divisor > 0).then(|| amount.saturating_add(divisor - 1).div_euclid(divisor).to_string())
}

/// Replaces `$(NAME)` where NAME is known; `$$` is a dollar sign.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    expand_with(text, |name| known.get(name).cloned().unwrap_or_else(|| format!("$({name})")))
}

/// The same where every name must be known; the failure is the first that is not.
pub(crate) fn expand_known(text: &str, known: &BTreeMap<String, String>) -> Result<String, String> {
    let mut missing = None;
    let expanded = expand_with(text, |name| {
        known.get(name).cloned().unwrap_or_else(|| {
            missing.get_or_insert_with(|| name.to_owned());
            String::new()
        })
    });
    missing.map_or(Ok(expanded), Err)
}

fn expand_with(text: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            out.push_str(&value(name));
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn variables_override_refer_and_expand() {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{
            "name": "c", "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}},
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "m"}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(X_k)-$(NONE)-$$(A)"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
                {"name": "A", "value": "2"}]}]}}))
        .unwrap();
        let map: ConfigMap = from_value(json!({"data": {"k": "v"}})).unwrap();
        let mut sources = Sources::default();
        sources.config_maps.insert("m".into(), map);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let all = variables(&pod, container, &sources, &Place::default()).unwrap();
        let get = |name: &str| all.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        assert_eq!(get("B"), Some("1-v-$(NONE)-$(A)"));
        assert_eq!((get("A"), get("N"), get("L"), get("O")), (Some("2"), Some("p"), Some("b"), None));
        assert_eq!((get("M"), get("C")), (Some("64"), Some("1")));
        let node = Allocatable { milli_cpu: 1500, memory: 64 << 20, ephemeral_storage: 0 };
        let of = |name: &str| resource(&pod, "c", name, None, node);
        assert_eq!((of("limits.cpu").as_deref(), of("requests.cpu").as_deref()), (Some("1"), Some("0")));
        let bare: Pod = from_value(json!({"spec": {"containers": [{"name": "c"}]}})).unwrap();
        let of = |name: &str| resource(&bare, "c", name, None, node);
        assert_eq!((of("limits.cpu").as_deref(), of("limits.memory").as_deref()), (Some("2"), Some("67108864")));
        sources.config_maps.clear();
        let error = variables(&pod, container, &sources, &Place::default()).unwrap_err();
        assert_eq!(error.message, "configmap \"m\" not found");
    }
}
