//! The rules that the level `restricted` adds, by name.
use super::{Subject, Violation, plural, quoted};
use crate::tree::{at, entries, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

pub(super) fn check(subject: &Subject<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut add = |reason: &'static str, detail: Option<String>| {
        found.extend(detail.map(|detail| Violation { reason, detail }));
    };
    // Windows has no such things (since 1.25).
    let windows = subject.is_windows() && subject.policy.is_since(25);
    if !windows && subject.policy.is_since(8) {
        add("allowPrivilegeEscalation != false", escalation(subject));
    }
    if !windows && subject.policy.is_since(22) {
        add("unrestricted capabilities", capabilities(subject));
    }
    add("restricted volume types", volumes(subject));
    add("runAsNonRoot != true", non_root(subject));
    if subject.policy.is_since(23) {
        add("runAsUser=0", root_user(subject));
    }
    if !windows && subject.policy.is_since(19) {
        add("seccompProfile", seccomp(subject));
    }
    found
}

fn context<'a>(holder: &'a Value, path: &[&str]) -> Option<&'a Value> {
    at(holder.get("securityContext")?, path)
}

fn told(names: &[&str], what: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("{} {what}", plural("container", names)))
}

fn escalation(subject: &Subject<'_>) -> Option<String> {
    let names = subject.names(|one| context(one, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false)));
    told(&names, "must set securityContext.allowPrivilegeEscalation=false")
}

fn capabilities(subject: &Subject<'_>) -> Option<String> {
    let of = |container: &Value, key: &str| -> Vec<String> {
        let all = context(container, &["capabilities", key]).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let keeps = subject.names(|one| !of(one, "drop").iter().any(|name| name == "ALL"));
    let forbidden = |container: &Value| -> Vec<String> {
        of(container, "add").into_iter().filter(|name| name != "NET_BIND_SERVICE").collect()
    };
    let added: BTreeSet<String> = subject.containers().flat_map(forbidden).collect();
    let added: Vec<String> = added.into_iter().collect();
    let adds = subject.names(|one| !forbidden(one).is_empty());
    let parts = [
        told(&keeps, "must set securityContext.capabilities.drop=[\"ALL\"]"),
        told(&adds, &format!("must not include {} in securityContext.capabilities.add", quoted(&added))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn volumes(subject: &Subject<'_>) -> Option<String> {
    let kind = |volume: &Value| {
        let mut kinds = entries(volume, &[]).map(|(key, _)| key.as_str()).filter(|key| *key != "name");
        kinds.find(|kind| !VOLUMES.contains(kind)).map(str::to_owned)
    };
    let bad: Vec<(&str, String)> = list(subject.spec, &["volumes"])
        .iter()
        .filter_map(|volume| Some((text(volume, &["name"]).unwrap_or_default(), kind(volume)?)))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds: BTreeSet<&String> = bad.iter().map(|(_, kind)| kind).collect();
    let kinds: Vec<&String> = kinds.into_iter().collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let ending = if kinds.len() == 1 { "" } else { "s" };
    Some(format!("{} {verb} restricted volume type{ending} {}", plural("volume", &names), quoted(&kinds)))
}

fn non_root(subject: &Subject<'_>) -> Option<String> {
    let said = |holder: &Value| context(holder, &["runAsNonRoot"]).and_then(Value::as_bool);
    let whole = said(subject.spec);
    let refused = subject.names(|one| said(one) == Some(false));
    let silent = subject.names(|one| said(one).is_none());
    let mut who = Vec::new();
    if whole == Some(false) && !silent.is_empty() {
        who.push("pod".to_owned());
    }
    if !refused.is_empty() {
        who.push(plural("container", &refused));
    }
    if !who.is_empty() {
        return Some(format!("{} must not set securityContext.runAsNonRoot=false", who.join(" and ")));
    }
    (whole.is_none() && !silent.is_empty())
        .then(|| format!("pod or {} must set securityContext.runAsNonRoot=true", plural("container", &silent)))
}

fn root_user(subject: &Subject<'_>) -> Option<String> {
    let is_root = |holder: &Value| context(holder, &["runAsUser"]).and_then(Value::as_i64) == Some(0);
    let mut who = Vec::new();
    let names = subject.names(is_root);
    if is_root(subject.spec) {
        who.push("pod".to_owned());
    }
    if !names.is_empty() {
        who.push(plural("container", &names));
    }
    (!who.is_empty()).then(|| format!("{} must not set runAsUser=0", who.join(" and ")))
}

fn seccomp(subject: &Subject<'_>) -> Option<String> {
    let said = |holder: &Value| context(holder, &["seccompProfile", "type"]).and_then(Value::as_str).map(str::to_owned);
    let is_good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let whole = said(subject.spec);
    let wrong = subject.names(|one| said(one).is_some_and(|kind| !is_good(&kind)));
    let silent = subject.names(|one| said(one).is_none());
    let mut who = Vec::new();
    if whole.as_deref().is_some_and(|kind| !is_good(kind)) {
        who.push("pod".to_owned());
    }
    if !wrong.is_empty() {
        who.push(plural("container", &wrong));
    }
    if !who.is_empty() {
        return Some(format!(
            "{} must not set securityContext.seccompProfile.type to \"Unconfined\"",
            who.join(" and ")
        ));
    }
    (whole.is_none() && !silent.is_empty()).then(|| {
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            plural("container", &silent)
        )
    })
}
