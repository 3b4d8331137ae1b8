//! The rules of the level `baseline`, by name.
use super::{Level, Subject, Violation, plural, quoted};
use crate::tree::{at, entries, integer, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// With the minor release since which each is allowed.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const SELINUX_TYPES: [(&str, u32); 5] =
    [("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];

/// Rules that `restricted` has in a stricter form are left to it.
pub(super) fn check(subject: &Subject<'_>, level: Level) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut add = |reason: &'static str, detail: Option<String>| {
        found.extend(detail.map(|detail| Violation { reason, detail }));
    };
    let looser = level == Level::Baseline;
    add(armor_reason(subject), app_armor(subject));
    if looser || !subject.policy.is_since(22) {
        add("non-default capabilities", capabilities(subject));
    }
    add("host namespaces", host_namespaces(subject));
    if looser {
        add("hostPath volumes", host_paths(subject));
    }
    add("hostPort", host_ports(subject));
    if subject.policy.is_since(34) {
        add("probe or lifecycle host", probe_hosts(subject));
    }
    add("privileged", told(subject.names(is_privileged), "must not set securityContext.privileged=true"));
    add("procMount", proc_mount(subject));
    add("seLinuxOptions", selinux(subject));
    if looser && subject.policy.is_since(19) {
        add("seccompProfile", seccomp(subject));
    }
    add("forbidden sysctls", sysctls(subject));
    add("hostProcess", host_process(subject));
    found
}

fn told(names: Vec<&str>, what: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("{} {what}", plural("container", &names)))
}

fn context<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    at(container.get("securityContext")?, path)
}

fn is_privileged(container: &Value) -> bool {
    context(container, &["privileged"]) == Some(&Value::Bool(true))
}

fn bad_armor(subject: &Subject<'_>) -> Vec<String> {
    let mut bad = Vec::new();
    let unconfined = |holder: &Value| {
        let kind = text(holder, &["securityContext", "appArmorProfile", "type"]);
        kind.is_some_and(|kind| !matches!(kind, "RuntimeDefault" | "Localhost"))
    };
    if unconfined(subject.spec) {
        bad.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    let names = subject.names(unconfined);
    bad.extend(told(names, "must not set AppArmor profile type to \"Unconfined\""));
    let annotations = entries(subject.metadata, &["annotations"]);
    let forbidden = annotations.filter(|(key, value)| {
        let value = value.as_str().unwrap_or_default();
        key.starts_with("container.apparmor.security.beta.kubernetes.io/")
            && !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/"))
    });
    let forbidden: Vec<String> =
        forbidden.map(|(key, value)| format!("{key}={:?}", value.as_str().unwrap_or_default())).collect();
    match forbidden.len() {
        0 => {}
        1 => bad.push(format!("annotation {}", forbidden.join(", "))),
        _ => bad.push(format!("annotations {}", forbidden.join(", "))),
    }
    bad
}

fn armor_reason(subject: &Subject<'_>) -> &'static str {
    if bad_armor(subject).len() > 1 { "forbidden AppArmor profiles" } else { "forbidden AppArmor profile" }
}

fn app_armor(subject: &Subject<'_>) -> Option<String> {
    let bad = bad_armor(subject);
    (!bad.is_empty()).then(|| bad.join(", "))
}

fn capabilities(subject: &Subject<'_>) -> Option<String> {
    let mut added = BTreeSet::new();
    let forbidden = |container: &Value| -> Vec<String> {
        let all = context(container, &["capabilities", "add"]).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).filter(|name| !CAPABILITIES.contains(name)).map(str::to_owned).collect()
    };
    for container in subject.containers() {
        added.extend(forbidden(container));
    }
    let names = subject.names(|container| !forbidden(container).is_empty());
    let added: Vec<String> = added.into_iter().collect();
    told(names, &format!("must not include {} in securityContext.capabilities.add", quoted(&added)))
}

fn host_namespaces(subject: &Subject<'_>) -> Option<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|key| subject.spec.get(*key) == Some(&Value::Bool(true)));
    let set: Vec<String> = set.map(|key| format!("{key}=true")).collect();
    (!set.is_empty()).then(|| set.join(", "))
}

fn host_paths(subject: &Subject<'_>) -> Option<String> {
    let volumes = list(subject.spec, &["volumes"]).iter().filter(|volume| volume.get("hostPath").is_some());
    let names: Vec<&str> = volumes.filter_map(|volume| text(volume, &["name"])).collect();
    (!names.is_empty()).then(|| plural("volume", &names))
}

fn host_ports(subject: &Subject<'_>) -> Option<String> {
    let mut ports = BTreeSet::new();
    let used = |container: &Value| -> Vec<i64> {
        let all = list(container, &["ports"]).iter().filter_map(|port| integer(port, &["hostPort"]));
        all.filter(|port| *port != 0).collect()
    };
    for container in subject.containers() {
        ports.extend(used(container));
    }
    let names = subject.names(|container| !used(container).is_empty());
    let told: Vec<String> = ports.iter().map(i64::to_string).collect();
    (!names.is_empty()).then(|| {
        let verb = if names.len() == 1 { "uses" } else { "use" };
        let ending = if told.len() == 1 { "" } else { "s" };
        format!("{} {verb} hostPort{ending} {}", plural("container", &names), told.join(", "))
    })
}

fn probe_hosts(subject: &Subject<'_>) -> Option<String> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let has_host = |container: &Value| {
        HANDLERS.iter().filter_map(|path| at(container, path)).any(|handler| {
            ["httpGet", "tcpSocket"]
                .iter()
                .any(|kind| text(handler, &[kind, "host"]).is_some_and(|host| !host.is_empty()))
        })
    };
    told(subject.names(has_host), "must not set host in probes or lifecycle handlers")
}

fn proc_mount(subject: &Subject<'_>) -> Option<String> {
    let kind = |container: &Value| {
        let kind = context(container, &["procMount"]).and_then(Value::as_str).unwrap_or("Default");
        (kind != "Default").then(|| kind.to_owned())
    };
    let kinds: BTreeSet<String> = subject.containers().filter_map(kind).collect();
    let kinds: Vec<String> = kinds.into_iter().collect();
    let names = subject.names(|container| kind(container).is_some());
    told(names, &format!("must not set securityContext.procMount to {}", quoted(&kinds)))
}

fn selinux(subject: &Subject<'_>) -> Option<String> {
    let (mut types, mut sets_user, mut sets_role) = (BTreeSet::new(), false, false);
    let mut bad = |holder: &Value| {
        let Some(options) = context(holder, &["seLinuxOptions"]) else { return false };
        let of = |key: &str| text(options, &[key]).unwrap_or_default();
        let allowed = SELINUX_TYPES.iter().any(|(own, since)| *own == of("type") && subject.policy.is_since(*since));
        if !allowed {
            types.insert(of("type").to_owned());
        }
        sets_user |= !of("user").is_empty();
        sets_role |= !of("role").is_empty();
        !allowed || !of("user").is_empty() || !of("role").is_empty()
    };
    let mut who = Vec::new();
    if bad(subject.spec) {
        who.push("pod".to_owned());
    }
    let broken: Vec<&str> =
        subject.containers().filter(|one| bad(one)).map(|one| text(one, &["name"]).unwrap_or_default()).collect();
    if !broken.is_empty() {
        who.push(plural("container", &broken));
    }
    let types: Vec<String> = types.into_iter().collect();
    let mut what = Vec::new();
    match types.len() {
        0 => {}
        1 => what.push(format!("type {}", quoted(&types))),
        _ => what.push(format!("types {}", quoted(&types))),
    }
    what.extend(sets_user.then(|| "user may not be set".to_owned()));
    what.extend(sets_role.then(|| "role may not be set".to_owned()));
    (!who.is_empty())
        .then(|| format!("{} set forbidden securityContext.seLinuxOptions: {}", who.join(" and "), what.join("; ")))
}

fn seccomp(subject: &Subject<'_>) -> Option<String> {
    let bad = |holder: &Value| {
        let kind = context(holder, &["seccompProfile", "type"]).and_then(Value::as_str);
        kind.is_some_and(|kind| !matches!(kind, "RuntimeDefault" | "Localhost"))
    };
    let mut who = Vec::new();
    if bad(subject.spec) {
        who.push("pod".to_owned());
    }
    let names = subject.names(bad);
    if !names.is_empty() {
        who.push(plural("container", &names));
    }
    (!who.is_empty())
        .then(|| format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", who.join(" and ")))
}

fn sysctls(subject: &Subject<'_>) -> Option<String> {
    let names = list(subject.spec, &["securityContext", "sysctls"]).iter().filter_map(|one| text(one, &["name"]));
    let allowed = |name: &&str| SYSCTLS.iter().any(|(own, since)| own == name && subject.policy.is_since(*since));
    let forbidden: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    (!forbidden.is_empty()).then(|| forbidden.join(", "))
}

fn host_process(subject: &Subject<'_>) -> Option<String> {
    let bad = |holder: &Value| context(holder, &["windowsOptions", "hostProcess"]) == Some(&Value::Bool(true));
    let mut who = Vec::new();
    if bad(subject.spec) {
        who.push("pod".to_owned());
    }
    let names = subject.names(bad);
    if !names.is_empty() {
        who.push(plural("container", &names));
    }
    (!who.is_empty())
        .then(|| format!("{} must not set securityContext.windowsOptions.hostProcess=true", who.join(" and ")))
}
