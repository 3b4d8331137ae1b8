//! Rules of pods and pod templates.
use super::check::{Faults, amounts, is_blank, join, labels};
use super::{container, device, scheduling, volume};
use crate::status::Cause;
use crate::tree::{entries, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) fn pod(object: &Value, faults: &mut Faults) {
    spec(&object["spec"], "spec", faults);
    let name = |container: &Value| text(container, &["name"]).unwrap_or_default().to_owned();
    let others = ["containers", "initContainers"].into_iter().flat_map(|part| list(object, &["spec", part]));
    let targets: BTreeSet<String> = others.map(name).collect();
    let mut names = targets.clone();
    for (index, container) in list(object, &["spec", "ephemeralContainers"]).iter().enumerate() {
        let path = format!("spec.ephemeralContainers[{index}]");
        container::ephemeral(container, &path, faults);
        if !names.insert(name(container)) {
            faults.add(Cause::duplicate(join(&path, "name"), &container["name"]));
        }
        if let Some(target) = text(container, &["targetContainerName"]).filter(|target| !target.is_empty())
            && !targets.contains(target)
        {
            faults.add(Cause::not_found(join(&path, "targetContainerName"), &target.into()));
        }
    }
}

/// A template of pods: labels, annotations and spec.
pub(super) fn template(template: &Value, path: &str, faults: &mut Faults) {
    labels(template, &["metadata", "labels"], &join(path, "metadata.labels"), faults);
    spec(&template["spec"], &join(path, "spec"), faults);
    if !list(template, &["spec", "ephemeralContainers"]).is_empty() {
        faults.forbidden(join(path, "spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

fn spec(spec: &Value, path: &str, faults: &mut Faults) {
    let volumes = volume::volumes(spec, &join(path, "volumes"), faults);
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        faults.required(join(path, "containers"), "");
    }
    let host_network = spec["hostNetwork"] == true;
    for (part, is_init) in [("containers", false), ("initContainers", true)] {
        for (index, entry) in list(spec, &[part]).iter().enumerate() {
            let place = format!("{path}.{part}[{index}]");
            let name = text(entry, &["name"]).unwrap_or_default();
            if !name.is_empty() && !names.insert(name) {
                faults.add(Cause::duplicate(join(&place, "name"), &name.into()));
            }
            container::container(entry, &place, &volumes, is_init, faults);
            if host_network {
                for (port_index, port) in list(entry, &["ports"]).iter().enumerate() {
                    if port.get("hostPort").is_some() && port.get("hostPort") != port.get("containerPort") {
                        let value = port["containerPort"].clone();
                        faults.invalid(
                            format!("{place}.ports[{port_index}].hostPort"),
                            value,
                            "must match `containerPort` when `hostNetwork` is true",
                        );
                    }
                }
            }
        }
    }
    host_ports(spec, path, faults);
    faults.needs_one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    faults.needs_one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    faults.not_negative(spec, "terminationGracePeriodSeconds", path);
    scheduling::group_of_pod(spec, path, faults);
    device::of_pod(spec, path, faults);
    if let Some(seconds) = spec.get("activeDeadlineSeconds")
        && seconds.as_i64().is_none_or(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        faults.invalid(
            join(path, "activeDeadlineSeconds"),
            seconds.clone(),
            "must be between 1 and 2147483647, inclusive",
        );
    }
    labels(spec, &["nodeSelector"], &join(path, "nodeSelector"), faults);
    amounts(spec, &["overhead"], &join(path, "overhead"), faults);
    for (key, rule) in [
        ("nodeName", api::name::rfc1123_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", api::name::rfc1123_subdomain),
        ("hostname", api::name::rfc1123_label),
        ("subdomain", api::name::rfc1123_label),
        ("runtimeClassName", api::name::rfc1123_subdomain),
        ("priorityClassName", api::name::rfc1123_subdomain),
    ] {
        if let Some(value) = text(spec, &[key]).filter(|v| !v.is_empty()) {
            faults.rule(&join(path, key), value, rule(value));
        }
    }
    dns(spec, path, faults);
    tolerations(spec, path, faults);
    affinity(spec, path, faults);
    security(spec, path, faults);
    for (index, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        super::check::ip(text(alias, &["ip"]).unwrap_or_default(), &format!("{path}.hostAliases[{index}].ip"), faults);
        for name in list(alias, &["hostnames"]).iter().filter_map(Value::as_str) {
            faults.rule(&format!("{path}.hostAliases[{index}].hostnames"), name, api::name::rfc1123_subdomain(name));
        }
    }
    for (index, gate) in list(spec, &["readinessGates"]).iter().enumerate() {
        let kind = text(gate, &["conditionType"]).unwrap_or_default();
        faults.rule(&format!("{path}.readinessGates[{index}].conditionType"), kind, api::name::qualified_name(kind));
    }
    for (index, constraint) in list(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let place = format!("{path}.topologySpreadConstraints[{index}]");
        if constraint["maxSkew"].as_i64().is_none_or(|n| n <= 0) {
            faults.invalid(join(&place, "maxSkew"), constraint["maxSkew"].clone(), "must be greater than zero");
        }
        if is_blank(constraint.get("topologyKey")) {
            faults.required(join(&place, "topologyKey"), "can not be empty");
        }
        faults.needs_one_of(constraint, "whenUnsatisfiable", &place, &["DoNotSchedule", "ScheduleAnyway"]);
        super::check::selector(&constraint["labelSelector"], &join(&place, "labelSelector"), faults);
    }
}

/// One host port and protocol may be asked for once.
fn host_ports(spec: &Value, path: &str, faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, container) in list(spec, &["containers"]).iter().enumerate() {
        for (port_index, port) in list(container, &["ports"]).iter().enumerate() {
            let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) else { continue };
            let key = (number, text(port, &["protocol"]).unwrap_or("TCP"), text(port, &["hostIP"]).unwrap_or_default());
            if !seen.insert(key) {
                let value = format!("{}/{}/{number}", key.1, key.2);
                faults.add(Cause::duplicate(
                    format!("{path}.containers[{index}].ports[{port_index}].hostPort"),
                    &value.into(),
                ));
            }
        }
    }
}

fn dns(spec: &Value, path: &str, faults: &mut Faults) {
    let servers = list(spec, &["dnsConfig", "nameservers"]);
    let place = join(path, "dnsConfig.nameservers");
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        faults.required(place.clone(), "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > 3 {
        faults.invalid(place.clone(), Value::Array(servers.to_vec()), "must not have more than 3 nameservers");
    }
    for (index, server) in servers.iter().enumerate() {
        super::check::ip(server.as_str().unwrap_or_default(), &format!("{place}[{index}]"), faults);
    }
    let searches = list(spec, &["dnsConfig", "searches"]);
    if searches.len() > 32 {
        faults.invalid(
            join(path, "dnsConfig.searches"),
            Value::Array(searches.to_vec()),
            "must not have more than 32 search paths",
        );
    }
}

/// The effects of taints.
pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn tolerations(spec: &Value, path: &str, faults: &mut Faults) {
    for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        let place = format!("{path}.tolerations[{index}]");
        let key = text(toleration, &["key"]).unwrap_or_default();
        let operator = text(toleration, &["operator"]).unwrap_or_default();
        let value = text(toleration, &["value"]).unwrap_or_default();
        if !key.is_empty() {
            faults.rule(&join(&place, "key"), key, api::name::qualified_name(key));
        } else if operator != "Exists" {
            faults.invalid(
                join(&place, "operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_some() && toleration["effect"] != "NoExecute" {
            faults.invalid(
                join(&place, "effect"),
                toleration["effect"].clone(),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
        match operator {
            "" | "Equal" => faults.rule(&join(&place, "value"), value, api::name::label_value(value)),
            "Exists" if !value.is_empty() => {
                faults.invalid(join(&place, "operator"), value, "value must be empty when `operator` is 'Exists'")
            }
            "Exists" => {}
            "Gt" | "Lt" if value.parse::<i64>().is_err() => {
                faults.invalid(join(&place, "value"), value, "value must be a valid integer for numeric operators")
            }
            "Gt" | "Lt" => {}
            other => faults.add(Cause::unsupported(
                join(&place, "operator"),
                &other.into(),
                &["Equal", "Exists", "Gt", "Lt"],
            )),
        }
        if !is_blank(toleration.get("effect")) {
            faults.one_of(toleration, "effect", &place, &EFFECTS);
        }
    }
}

fn node_term(term: &Value, place: &str, faults: &mut Faults) {
    for (index, requirement) in list(term, &["matchExpressions"]).iter().enumerate() {
        let at = format!("{place}.matchExpressions[{index}]");
        let count = list(requirement, &["values"]).len();
        match text(requirement, &["operator"]).unwrap_or_default() {
            "In" | "NotIn" if count == 0 => {
                faults.required(join(&at, "values"), "must be specified when `operator` is 'In' or 'NotIn'")
            }
            "Exists" | "DoesNotExist" if count > 0 => faults
                .forbidden(join(&at, "values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
            "Gt" | "Lt" if count != 1 => {
                faults.required(join(&at, "values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => faults.invalid(join(&at, "operator"), other, "not a valid selector operator"),
        }
        let key = text(requirement, &["key"]).unwrap_or_default();
        faults.rule(&join(&at, "key"), key, api::name::qualified_name(key));
    }
}

fn affinity(spec: &Value, path: &str, faults: &mut Faults) {
    let affinity = &spec["affinity"];
    let node = join(path, "affinity.nodeAffinity");
    let required = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_object() {
        let place = format!("{node}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        let terms = list(required, &["nodeSelectorTerms"]);
        if terms.is_empty() {
            faults.required(place.clone(), "must have at least one node selector term");
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{place}[{index}]"), faults);
        }
    }
    let weight = |term: &Value, place: &str, faults: &mut Faults| {
        if term["weight"].as_i64().is_none_or(|w| !(1..=100).contains(&w)) {
            faults.invalid(join(place, "weight"), term["weight"].clone(), "must be in the range 1-100");
        }
    };
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in list(affinity, &["nodeAffinity", PREFERRED]).iter().enumerate() {
        let place = format!("{node}.{PREFERRED}[{index}]");
        weight(term, &place, faults);
        node_term(&term["preference"], &join(&place, "preference"), faults);
    }
    for part in ["podAffinity", "podAntiAffinity"] {
        let pod_term = |term: &Value, place: &str, faults: &mut Faults| {
            if is_blank(term.get("topologyKey")) {
                faults.required(join(place, "topologyKey"), "can not be empty");
            }
            super::check::selector(&term["labelSelector"], &join(place, "labelSelector"), faults);
        };
        const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in list(affinity, &[part, REQUIRED]).iter().enumerate() {
            pod_term(term, &format!("{path}.affinity.{part}.{REQUIRED}[{index}]"), faults);
        }
        for (index, term) in list(affinity, &[part, PREFERRED]).iter().enumerate() {
            let place = format!("{path}.affinity.{part}.{PREFERRED}[{index}]");
            weight(term, &place, faults);
            pod_term(&term["podAffinityTerm"], &join(&place, "podAffinityTerm"), faults);
        }
    }
}

/// Whether a text can name a kernel setting: parts of lower-case letters and digits, `-` and `_` inside them, between dots
/// or slashes.
fn is_setting(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| match (part.bytes().next(), part.bytes().last()) {
        (Some(first), Some(last)) => {
            is_plain(first) && is_plain(last) && part.bytes().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'_'))
        }
        _ => false,
    };
    name.len() <= 253 && name.split(['.', '/']).all(is_part)
}

/// What goes with users of the pod's own only, and what does not go with them. The words are Kubernetes'.
fn own_users(spec: &Value, path: &str, faults: &mut Faults) {
    let has_own = spec["hostUsers"] == false;
    for (field, told) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if has_own && spec[field] == true {
            faults.forbidden(join(path, told), "when `pod.Spec.HostUsers` is false");
        }
    }
    for part in ["containers", "initContainers", "ephemeralContainers"] {
        for (index, entry) in list(spec, &[part]).iter().enumerate() {
            let place = format!("{path}.{part}[{index}]");
            if has_own && !list(entry, &["volumeDevices"]).is_empty() {
                faults.forbidden(join(&place, "volumeDevices"), "when `pod.Spec.HostUsers` is false");
            }
            if !has_own && entry["securityContext"]["procMount"] == "Unmasked" {
                let field = join(&place, "securityContext.procMount");
                faults.invalid(field, "Unmasked", "`hostUsers` must be false to use `Unmasked`");
            }
        }
    }
}

fn security(spec: &Value, path: &str, faults: &mut Faults) {
    let context = &spec["securityContext"];
    let place = join(path, "securityContext");
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        container::user_id(context, key, &place, faults);
    }
    container::seccomp(&context["seccompProfile"], &join(&place, "seccompProfile"), faults);
    for (index, group) in list(context, &["supplementalGroups"]).iter().enumerate() {
        if group.as_i64().is_none_or(|n| !(0..=container::MAX_ID).contains(&n)) {
            faults.invalid(
                format!("{place}.supplementalGroups[{index}]"),
                group.clone(),
                "must be between 0 and 2147483647, inclusive",
            );
        }
    }
    faults.one_of(context, "fsGroupChangePolicy", &place, &["OnRootMismatch", "Always"]);
    for (index, sysctl) in list(context, &["sysctls"]).iter().enumerate() {
        let name = text(sysctl, &["name"]).unwrap_or_default();
        if !is_setting(name) {
            faults.invalid(format!("{place}.sysctls[{index}].name"), name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        }
    }
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        faults.invalid(
            join(path, "shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    own_users(spec, path, faults);
    if entries(context, &["windowsOptions"]).next().is_some() && spec["os"]["name"] == "linux" {
        faults.forbidden(join(&place, "windowsOptions"), "windows options cannot be set for a linux pod");
    }
}
