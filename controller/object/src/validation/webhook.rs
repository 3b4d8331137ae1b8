//! Rules of webhook configurations, and of the parts that others share: client configurations, rules of requests.
//! admissionregistration.k8s.io/v1; messages of pkg/apis/admissionregistration/validation.
use super::check::{Faults, is_blank, join, selector};
use crate::status::Cause;
use crate::tree::{integer, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const FORM: &str = "; desired format: https://host[/path]";

pub(super) fn configuration(object: &Value, mutates: bool, faults: &mut Faults) {
    let mut names = BTreeSet::new();
    for (index, hook) in list(object, &["webhooks"]).iter().enumerate() {
        let path = format!("webhooks[{index}]");
        webhook(hook, mutates, &path, faults);
        let name = text(hook, &["name"]).unwrap_or_default();
        if !name.is_empty() && !names.insert(name) {
            faults.add(Cause::duplicate(join(&path, "name"), &name.into()));
        }
    }
}

fn webhook(hook: &Value, mutates: bool, path: &str, faults: &mut Faults) {
    qualified_domain(text(hook, &["name"]).unwrap_or_default(), &join(path, "name"), faults);
    for (index, rule) in list(hook, &["rules"]).iter().enumerate() {
        rule_with_operations(rule, &format!("{path}.rules[{index}]"), faults);
    }
    faults.one_of(hook, "failurePolicy", path, &["Fail", "Ignore"]);
    faults.one_of(hook, "matchPolicy", path, &["Equivalent", "Exact"]);
    match hook.get("sideEffects") {
        None | Some(Value::Null) => {
            faults.required(join(path, "sideEffects"), "must specify one of None, NoneOnDryRun")
        }
        Some(_) => faults.one_of(hook, "sideEffects", path, &["None", "NoneOnDryRun"]),
    }
    if let Some(seconds) = integer(hook, &["timeoutSeconds"])
        && !(1..=30).contains(&seconds)
    {
        faults.invalid(join(path, "timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds");
    }
    for key in ["namespaceSelector", "objectSelector"] {
        if let Some(value) = hook.get(key) {
            selector(value, &join(path, key), faults);
        }
    }
    if mutates {
        faults.one_of(hook, "reinvocationPolicy", path, &["IfNeeded", "Never"]);
    }
    client_config(&hook["clientConfig"], &join(path, "clientConfig"), faults);
    super::policy::conditions(hook, false, path, faults);
    review_versions(hook, path, faults);
}

/// A name of at least three parts, which says whose webhook it is.
fn qualified_domain(name: &str, field: &str, faults: &mut Faults) {
    if name.is_empty() {
        return faults.required(field, "");
    }
    let wrong = api::name::rfc1123_subdomain(name);
    if wrong.is_empty() && name.split('.').count() < 3 {
        faults.invalid(field, name, "should be a domain with at least three segments separated by dots");
    }
    faults.rule(field, name, wrong);
}

fn review_versions(hook: &Value, path: &str, faults: &mut Faults) {
    let field = join(path, "admissionReviewVersions");
    let versions: Vec<&str> = list(hook, &["admissionReviewVersions"]).iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        return faults.required(field, &format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
    }
    let mut seen = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match seen.insert(version) {
            true => faults.rule(&field, version, api::name::rfc1035_label(version)),
            false => faults.invalid(field, *version, "duplicate version"),
        }
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        faults.invalid(field, hook["admissionReviewVersions"].clone(), &detail);
    }
}

/// `url` or `service`, of webhooks for admission and for conversion.
pub(super) fn client_config(config: &Value, path: &str, faults: &mut Faults) {
    let present = |key: &str| config.get(key).filter(|value| !value.is_null());
    match (present("url"), present("service")) {
        (Some(url), None) => web_address(url.as_str().unwrap_or_default(), &join(path, "url"), faults),
        (None, Some(service)) => service_reference(service, &join(path, "service"), faults),
        _ => faults.required(path, "exactly one of url or service is required"),
    }
}

fn web_address(url: &str, field: &str, faults: &mut Faults) {
    let Some((scheme, rest)) = url.split_once("://") else {
        faults.invalid(field, "", &format!("'https' is the only allowed URL scheme{FORM}"));
        return faults.invalid(field, "", &format!("host must be specified{FORM}"));
    };
    if scheme != "https" {
        faults.invalid(field, scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        faults.invalid(field, host, &format!("host must be specified{FORM}"));
    }
    let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port);
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) || port.is_some_and(|p| p.parse::<u16>().is_err()) {
        faults.required(field, &format!("url must be a valid URL: parse {url:?}: invalid character or port{FORM}"));
    }
    for (part, message) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            faults.invalid(field, part, message);
        }
    }
}

fn service_reference(service: &Value, path: &str, faults: &mut Faults) {
    for key in ["name", "namespace"] {
        if is_blank(service.get(key)) {
            faults.required(join(path, key), &format!("service {key} is required"));
        }
    }
    if let Some(port) = integer(service, &["port"]) {
        for message in api::name::port_number(port) {
            faults.invalid(join(path, "port"), port, &format!("port is not valid: {message}"));
        }
    }
    let Some(given) = text(service, &["path"]).filter(|given| !given.is_empty() && *given != "/") else { return };
    let field = join(path, "path");
    let Some(steps) = given.strip_prefix('/') else {
        return faults.invalid(field, given, "must start with a '/'");
    };
    for (index, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            faults.invalid(field.clone(), given, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for message in api::name::rfc1123_subdomain(step) {
            faults.invalid(field.clone(), given, &format!("segment[{index}]: {message}"));
        }
    }
}

/// A rule of a webhook or of a policy: operations, groups, versions, resources and scope.
pub(super) fn rule_with_operations(rule: &Value, path: &str, faults: &mut Faults) {
    let words = |key: &str| list(rule, &[key]).iter().filter_map(Value::as_str).collect::<Vec<_>>();
    for (key, what) in [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let given = words(key);
        if given.is_empty() {
            faults.required(join(path, key), "");
        }
        if given.len() > 1 && given.contains(&"*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            faults.invalid(join(path, key), rule[key].clone(), &detail);
        }
    }
    let operations = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    for (index, operation) in words("operations").into_iter().enumerate() {
        if !operations.contains(&operation) {
            faults.add(Cause::unsupported(format!("{path}.operations[{index}]"), &operation.into(), &operations));
        }
    }
    for (index, _) in words("apiVersions").iter().enumerate().filter(|(_, version)| version.is_empty()) {
        faults.required(format!("{path}.apiVersions[{index}]"), "");
    }
    resources(rule, &words("resources"), &join(path, "resources"), faults);
    faults.one_of(rule, "scope", path, &["*", "Cluster", "Namespaced"]);
}

fn resources(rule: &Value, given: &[&str], path: &str, faults: &mut Faults) {
    if given.is_empty() {
        faults.required(path, "");
    }
    let (mut all_below, mut below_all) = (BTreeSet::new(), BTreeSet::new());
    for (index, own) in given.iter().enumerate() {
        let field = format!("{path}[{index}]");
        if own.is_empty() {
            faults.required(field, "");
            continue;
        }
        let Some((resource, sub)) = own.split_once('/') else { continue };
        if all_below.contains(resource) {
            faults.invalid(field.clone(), *own, &format!("if '{resource}/*' is present, must not specify {own}"));
        }
        if below_all.contains(sub) {
            faults.invalid(field, *own, &format!("if '*/{sub}' is present, must not specify {own}"));
        }
        if sub == "*" {
            all_below.insert(resource);
        }
        if resource == "*" {
            below_all.insert(sub);
        }
    }
    if given.len() > 1 && given.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        faults.invalid(path, rule["resources"].clone(), detail);
    }
    if given.contains(&"*") && given.iter().any(|own| *own != "*" && !own.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        faults.invalid(path, rule["resources"].clone(), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::check::Faults;
    use serde_json::json;

    fn told(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"webhooks": [{"name": "a.example.com", "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://h/p"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
        change(&mut object["webhooks"][0]);
        let mut faults = Faults::default();
        configuration(&object, true, &mut faults);
        faults.into_causes().iter().map(Cause::describe).collect()
    }

    #[test]
    fn every_part_of_a_webhook_is_checked() {
        assert_eq!(told(|_| {}), Vec::<String>::new());
        for (pointer, value, message) in [
            (
                "/name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
            ),
            (
                "/sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "/admissionReviewVersions",
                json!([]),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                "/admissionReviewVersions",
                json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ),
            (
                "/clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "/clientConfig/url",
                json!("http://h"),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "/clientConfig/url",
                json!("https://u@h"),
                "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
            ),
            (
                "/clientConfig/url",
                json!("https://h?a=b"),
                "webhooks[0].clientConfig.url: Invalid value: \"a=b\": query parameters are not permitted in the URL",
            ),
            (
                "/clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "path": "a"}}),
                "webhooks[0].clientConfig.service.path: Invalid value: \"a\": must start with a '/'",
            ),
            (
                "/clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "path": "/a//b"}}),
                "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
            ),
            (
                "/clientConfig",
                json!({"service": {"namespace": "n"}}),
                "webhooks[0].clientConfig.service.name: Required value: service name is required",
            ),
            (
                "/rules/0/operations",
                json!(["*", "CREATE"]),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "/rules/0/resources",
                json!(["pods/*", "pods/status"]),
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            ),
            (
                "/rules/0/resources",
                json!(["*", "pods"]),
                "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ),
        ] {
            let told = told(|hook| *hook.pointer_mut(pointer).unwrap() = value.clone());
            assert_eq!(told, [message], "{pointer} {value}");
        }
        let told = told(|hook| hook["rules"][0]["scope"] = "Here".into());
        assert_eq!(
            told,
            [
                "webhooks[0].rules[0].scope: Unsupported value: \"Here\": supported values: \"*\", \"Cluster\", \"Namespaced\""
            ]
        );
    }
}
