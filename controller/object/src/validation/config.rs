//! Rules of ConfigMaps, Secrets and RBAC.
use super::check::{Faults, is_blank, join};
use crate::resource::Resource;
use crate::status::Cause;
use crate::tree::{at, entries, list, text};
use serde_json::Value;

/// Total of all values.
const MAX_DATA: usize = 1024 * 1024;

pub(super) fn config_map(object: &Value, faults: &mut Faults) {
    let mut total = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in entries(object, &[part]) {
            faults.rule(&format!("{part}[{key}]"), key, api::name::config_key(key));
            total += value.as_str().map_or(0, str::len);
            if part == "binaryData" && at(object, &["data", key]).is_some() {
                let message = "duplicate of key present in data";
                faults.invalid(format!("binaryData[{key}]"), key.as_str(), message);
            }
        }
    }
    if total > MAX_DATA {
        faults.add(Cause::too_long("", MAX_DATA));
    }
}

pub(super) fn secret(object: &Value, faults: &mut Faults) {
    let mut total = 0;
    for (key, value) in entries(object, &["data"]) {
        faults.rule(&format!("data[{key}]"), key, api::name::config_key(key));
        total += value.as_str().map_or(0, |v| v.len() / 4 * 3);
    }
    if total > MAX_DATA {
        faults.add(Cause::too_long("data", MAX_DATA));
    }
    let mut needs = |keys: &[&str]| {
        for key in keys {
            if at(object, &["data", key]).is_none() {
                faults.required(format!("data[{key}]"), "");
            }
        }
    };
    match text(object, &["type"]).unwrap_or_default() {
        "kubernetes.io/tls" => needs(&["tls.crt", "tls.key"]),
        "kubernetes.io/dockerconfigjson" => needs(&[".dockerconfigjson"]),
        "kubernetes.io/dockercfg" => needs(&[".dockercfg"]),
        "kubernetes.io/ssh-auth" => needs(&["ssh-privatekey"]),
        "kubernetes.io/basic-auth"
            if at(object, &["data", "username"]).is_none() && at(object, &["data", "password"]).is_none() =>
        {
            needs(&["username", "password"]);
        }
        "kubernetes.io/service-account-token" => {
            let name = text(object, &["metadata", "annotations", api::well_known::ANNOTATION_SERVICE_ACCOUNT_NAME]);
            if name.is_none_or(str::is_empty) {
                let field = format!("metadata.annotations[{}]", api::well_known::ANNOTATION_SERVICE_ACCOUNT_NAME);
                faults.required(field, "");
            }
        }
        _ => {}
    }
}

pub(super) fn role(resource: &Resource, object: &Value, faults: &mut Faults) {
    for (index, rule) in list(object, &["rules"]).iter().enumerate() {
        let path = format!("rules[{index}]");
        if is_blank(rule.get("verbs")) {
            faults.required(join(&path, "verbs"), "verbs must contain at least one value");
        }
        let urls = list(rule, &["nonResourceURLs"]);
        if !urls.is_empty() {
            if resource.is_namespaced() {
                faults.invalid(
                    join(&path, "nonResourceURLs"),
                    Value::Array(urls.to_vec()),
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|key| !is_blank(rule.get(*key))) {
                faults.invalid(
                    join(&path, "nonResourceURLs"),
                    Value::Array(urls.to_vec()),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if is_blank(rule.get("apiGroups")) {
            faults.required(join(&path, "apiGroups"), "resource rules must supply at least one api group");
        }
        if is_blank(rule.get("resources")) {
            faults.required(join(&path, "resources"), "resource rules must supply at least one resource");
        }
    }
}

pub(super) fn role_binding(resource: &Resource, object: &Value, faults: &mut Faults) {
    let role = &object["roleRef"];
    const GROUP: &str = "rbac.authorization.k8s.io";
    faults.one_of(role, "apiGroup", "roleRef", &[GROUP]);
    let kinds: &[&str] = if resource.is_namespaced() { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    match role.get("kind") {
        Some(kind) if !is_blank(Some(kind)) => faults.one_of(role, "kind", "roleRef", kinds),
        _ => faults.add(Cause::unsupported("roleRef.kind", &"".into(), kinds)),
    }
    match text(role, &["name"]) {
        None | Some("") => faults.required("roleRef.name", ""),
        Some(name) => faults.rule("roleRef.name", name, api::name::path_segment(name)),
    }
    for (index, subject) in list(object, &["subjects"]).iter().enumerate() {
        let path = format!("subjects[{index}]");
        if is_blank(subject.get("name")) {
            faults.required(join(&path, "name"), "");
        }
        match text(subject, &["kind"]).unwrap_or_default() {
            "ServiceAccount" => {
                let name = text(subject, &["name"]).unwrap_or_default();
                if !name.is_empty() {
                    faults.rule(&join(&path, "name"), name, api::name::rfc1123_subdomain(name));
                }
                if !is_blank(subject.get("apiGroup")) {
                    faults.one_of(subject, "apiGroup", &path, &[""]);
                }
                // One that a RoleBinding names without is of the binding's own.
                if !resource.is_namespaced() && is_blank(subject.get("namespace")) {
                    faults.required(join(&path, "namespace"), "");
                }
            }
            "User" | "Group" => faults.one_of(subject, "apiGroup", &path, &[GROUP]),
            other => {
                faults.add(Cause::unsupported(join(&path, "kind"), &other.into(), &["ServiceAccount", "User", "Group"]))
            }
        }
    }
}
