//! Rules of containers.
use super::check::{Faults, amount, amounts, is_blank, join};
use crate::status::Cause;
use crate::tree::{at, entries, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// Largest user and group id.
pub(super) const MAX_ID: i64 = i32::MAX as i64;

/// A container of a pod; `volumes` are the names it may mount.
pub(super) fn container(container: &Value, path: &str, volumes: &BTreeSet<String>, is_init: bool, faults: &mut Faults) {
    match text(container, &["name"]) {
        None | Some("") => faults.required(join(path, "name"), ""),
        Some(name) => faults.rule(&join(path, "name"), name, api::name::rfc1123_label(name)),
    }
    let image = text(container, &["image"]).unwrap_or_default();
    if image.is_empty() {
        faults.required(join(path, "image"), "");
    } else if image.trim() != image {
        faults.invalid(join(path, "image"), image, "must not have leading or trailing whitespace");
    }
    shared(container, path, faults);
    let sidecar = is_init && container["restartPolicy"] == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = container.get(probe) else { continue };
        let place = join(path, probe);
        if is_init && !sidecar {
            faults.forbidden(place, "may not be set for init containers without restartPolicy=Always");
            continue;
        }
        self::probe(value, &place, container, faults);
        if probe != "readinessProbe" && value.get("successThreshold").is_some_and(|v| v.as_i64() != Some(1)) {
            faults.invalid(join(&place, "successThreshold"), value["successThreshold"].clone(), "must be 1");
        }
    }
    if is_init && !sidecar && container.get("lifecycle").is_some() {
        faults.forbidden(join(path, "lifecycle"), "may not be set for init containers without restartPolicy=Always");
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = at(container, &["lifecycle", hook]) {
            self::handler(handler, &format!("{path}.lifecycle.{hook}"), container, faults);
        }
    }
    ports(container, path, faults);
    restarts(container, path, faults);
    mounts(container, path, volumes, faults);
}

/// A restart policy of its own, with rules by exit code.
fn restarts(container: &Value, path: &str, faults: &mut Faults) {
    const RULES_MAX: usize = 20;
    const VALUES_MAX: usize = 255;
    faults.one_of(container, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    let rules = list(container, &["restartPolicyRules"]);
    if !rules.is_empty() && is_blank(container.get("restartPolicy")) {
        faults.required(join(path, "restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > RULES_MAX {
        faults.add(Cause::too_many(join(path, "restartPolicyRules"), rules.len(), RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        let place = format!("{path}.restartPolicyRules[{index}]");
        faults.needs_one_of(rule, "action", &place, &["Restart"]);
        let Some(codes) = rule.get("exitCodes") else {
            faults.required(join(&place, "exitCodes"), "");
            continue;
        };
        let place = join(&place, "exitCodes");
        faults.needs_one_of(codes, "operator", &place, &["In", "NotIn"]);
        match list(codes, &["values"]).len() {
            0 => faults.required(join(&place, "values"), ""),
            count if count > VALUES_MAX => {
                faults.add(Cause::too_many(join(&place, "values"), count, VALUES_MAX));
            }
            _ => {}
        }
    }
}

/// A container added to a running pod.
pub(super) fn ephemeral(container: &Value, path: &str, faults: &mut Faults) {
    match text(container, &["name"]) {
        None | Some("") => faults.required(join(path, "name"), ""),
        Some(name) => faults.rule(&join(path, "name"), name, api::name::rfc1123_label(name)),
    }
    if is_blank(container.get("image")) {
        faults.required(join(path, "image"), "");
    }
    for key in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        if !is_blank(container.get(key)) {
            faults.forbidden(join(path, key), "cannot be set for an Ephemeral Container");
        }
    }
    if !is_blank(at(container, &["resources"])) {
        faults.forbidden(join(path, "resources"), "cannot be set for an Ephemeral Container");
    }
    shared(container, path, faults);
}

fn shared(container: &Value, path: &str, faults: &mut Faults) {
    faults.needs_one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"]);
    faults.one_of(container, "terminationMessagePolicy", path, &["FallbackToLogsOnError", "File"]);
    environment(container, path, faults);
    resources(&container["resources"], &join(path, "resources"), faults);
    security(&container["securityContext"], &join(path, "securityContext"), faults);
}

fn environment(container: &Value, path: &str, faults: &mut Faults) {
    for (index, variable) in list(container, &["env"]).iter().enumerate() {
        let place = format!("{path}.env[{index}]");
        match text(variable, &["name"]) {
            None | Some("") => faults.required(join(&place, "name"), ""),
            Some(name) => faults.rule(&join(&place, "name"), name, api::name::environment_variable(name)),
        }
        let Some(source) = variable.get("valueFrom") else { continue };
        let from = join(&place, "valueFrom");
        let kinds: Vec<&String> = entries(source, &[]).map(|e| e.0).collect();
        if kinds.is_empty() {
            faults.invalid(
                from.clone(),
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            );
        } else if !is_blank(variable.get("value")) {
            faults.invalid(from.clone(), "", "may not be specified when `value` is not empty");
        } else if kinds.len() > 1 {
            faults.invalid(from.clone(), "", "may not have more than one field specified at a time");
        }
        for kind in ["configMapKeyRef", "secretKeyRef"] {
            let Some(reference) = source.get(kind) else { continue };
            for key in ["name", "key"] {
                if is_blank(reference.get(key)) {
                    faults.required(format!("{from}.{kind}.{key}"), "");
                }
            }
        }
        if let Some(field) = source.get("fieldRef") {
            field_path(field, &join(&from, "fieldRef"), true, faults);
        }
        if let Some(resource) = source.get("resourceFieldRef")
            && is_blank(resource.get("resource"))
        {
            faults.required(format!("{from}.resourceFieldRef.resource"), "");
        }
    }
    for (index, source) in list(container, &["envFrom"]).iter().enumerate() {
        let place = format!("{path}.envFrom[{index}]");
        let prefix = text(source, &["prefix"]).unwrap_or_default();
        if !prefix.is_empty() {
            faults.rule(&join(&place, "prefix"), prefix, api::name::environment_variable(prefix));
        }
        let count = ["configMapRef", "secretRef"].iter().filter(|k| source.get(**k).is_some()).count();
        match count {
            0 => faults.invalid(place, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {
                for kind in ["configMapRef", "secretRef"] {
                    if source.get(kind).is_some_and(|r| is_blank(r.get("name"))) {
                        faults.required(format!("{place}.{kind}.name"), "");
                    }
                }
            }
            _ => faults.invalid(place, "", "may not have more than one field specified at a time"),
        }
    }
}

/// What the downward API can tell.
pub(super) fn field_path(field: &Value, place: &str, environment: bool, faults: &mut Faults) {
    let path = text(field, &["fieldPath"]).unwrap_or_default();
    if path.is_empty() {
        faults.required(join(place, "fieldPath"), "");
        return;
    }
    let subscript =
        |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.starts_with("['") && rest.ends_with("']"));
    let known: &[&str] = if environment {
        &[
            "metadata.name",
            "metadata.namespace",
            "metadata.uid",
            "spec.nodeName",
            "spec.serviceAccountName",
            "status.hostIP",
            "status.hostIPs",
            "status.podIP",
            "status.podIPs",
        ]
    } else {
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"]
    };
    if !known.contains(&path) && !subscript("metadata.labels") && !subscript("metadata.annotations") {
        faults.add(Cause::unsupported(join(place, "fieldPath"), &path.into(), known));
    }
}

/// Requests and limits; also of whole pods.
pub(super) fn resources(resources: &Value, path: &str, faults: &mut Faults) {
    for part in ["limits", "requests"] {
        amounts(resources, &[part], &join(path, part), faults);
    }
    for (name, _) in entries(resources, &["requests"]) {
        let (Some(request), limit) = (amount(resources, &["requests", name]), amount(resources, &["limits", name]))
        else {
            continue;
        };
        match limit {
            Some(limit) if request > limit => faults.invalid(
                join(path, "requests"),
                request.to_string(),
                &format!("must be less than or equal to {name} limit of {limit}"),
            ),
            Some(limit) if request != limit && is_counted(name) => {
                faults.invalid(
                    join(path, "requests"),
                    request.to_string(),
                    &format!("must be equal to {name} limit of {limit}"),
                );
            }
            None if is_counted(name) => {
                faults.required(join(path, "limits"), "Limit must be set for non overcommitable resources")
            }
            _ => {}
        }
    }
}

/// Whole things that cannot be shared: extended resources and huge pages.
fn is_counted(name: &str) -> bool {
    name.starts_with("hugepages-") || (name.contains('/') && !name.contains("kubernetes.io/"))
}

fn ports(container: &Value, path: &str, faults: &mut Faults) {
    let mut names = BTreeSet::new();
    for (index, port) in list(container, &["ports"]).iter().enumerate() {
        let place = format!("{path}.ports[{index}]");
        if let Some(name) = text(port, &["name"]).filter(|n| !n.is_empty()) {
            faults.rule(&join(&place, "name"), name, api::name::port_name(name));
            if !names.insert(name) {
                faults.add(Cause::duplicate(join(&place, "name"), &name.into()));
            }
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None | Some(0) => faults.required(join(&place, "containerPort"), ""),
            Some(number) => {
                for message in api::name::port_number(number) {
                    faults.invalid(join(&place, "containerPort"), number, &message);
                }
            }
        }
        if let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) {
            for message in api::name::port_number(number) {
                faults.invalid(join(&place, "hostPort"), number, &message);
            }
        }
        faults.needs_one_of(port, "protocol", &place, &["SCTP", "TCP", "UDP"]);
    }
}

fn probe(probe: &Value, path: &str, container: &Value, faults: &mut Faults) {
    handler(probe, path, container, faults);
    for key in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        faults.not_negative(probe, key, path);
    }
    if let Some(seconds) = probe.get("terminationGracePeriodSeconds")
        && seconds.as_i64().is_none_or(|n| n <= 0)
    {
        faults.invalid(join(path, "terminationGracePeriodSeconds"), seconds.clone(), "must be greater than 0");
    }
}

/// What a probe or a hook does.
fn handler(handler: &Value, path: &str, container: &Value, faults: &mut Faults) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = kinds.into_iter().filter(|k| handler.get(*k).is_some()).collect();
    match given.len() {
        0 => faults.required(path, "must specify a handler type"),
        1 => {}
        _ => faults.forbidden(join(path, given[1]), "may not specify more than 1 handler type"),
    }
    if handler.get("exec").is_some_and(|e| is_blank(e.get("command"))) {
        faults.required(join(path, "exec.command"), "");
    }
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        let Some(action) = handler.get(kind) else { continue };
        port(action, &format!("{path}.{kind}"), container, faults);
    }
    if let Some(get) = handler.get("httpGet") {
        if is_blank(get.get("path")) {
            faults.required(join(path, "httpGet.path"), "");
        }
        faults.one_of(get, "scheme", &join(path, "httpGet"), &["HTTP", "HTTPS"]);
        faults.one_of(get, "protocol", &join(path, "httpGet"), &["HTTP1", "HTTP2"]);
    }
    if let Some(grpc) = handler.get("grpc") {
        faults.one_of(grpc, "mode", &join(path, "grpc"), &["Plaintext", "TLS"]);
    }
}

fn port(action: &Value, path: &str, _container: &Value, faults: &mut Faults) {
    match action.get("port") {
        Some(Value::String(name)) => faults.rule(&join(path, "port"), name, api::name::port_name(name)),
        Some(number) => {
            for message in api::name::port_number(number.as_i64().unwrap_or(0)) {
                faults.invalid(join(path, "port"), number.clone(), &message);
            }
        }
        None => faults.invalid(join(path, "port"), 0, "must be between 1 and 65535, inclusive"),
    }
}

fn mounts(container: &Value, path: &str, volumes: &BTreeSet<String>, faults: &mut Faults) {
    let mut points = BTreeSet::new();
    for (index, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
        let place = format!("{path}.volumeMounts[{index}]");
        match text(mount, &["name"]) {
            None | Some("") => faults.required(join(&place, "name"), ""),
            Some(name) if !volumes.contains(name) => faults.add(Cause::not_found(join(&place, "name"), &name.into())),
            Some(_) => {}
        }
        match text(mount, &["mountPath"]) {
            None | Some("") => faults.required(join(&place, "mountPath"), ""),
            Some(point) if !points.insert(point) => faults.invalid(join(&place, "mountPath"), point, "must be unique"),
            Some(_) => {}
        }
        for key in ["subPath", "subPathExpr"] {
            if let Some(sub) = text(mount, &[key]).filter(|s| !s.is_empty()) {
                super::volume::inner_path(sub, &join(&place, key), faults);
            }
        }
        if !is_blank(mount.get("subPath")) && !is_blank(mount.get("subPathExpr")) {
            faults.invalid(
                join(&place, "subPathExpr"),
                mount["subPathExpr"].clone(),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        faults.one_of(mount, "mountPropagation", &place, &["Bidirectional", "HostToContainer", "None"]);
        if mount["mountPropagation"] == "Bidirectional"
            && at(container, &["securityContext", "privileged"]) != Some(&Value::Bool(true))
        {
            faults.forbidden(
                join(&place, "mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
}

/// A user or group id.
pub(super) fn user_id(context: &Value, key: &str, path: &str, faults: &mut Faults) {
    if let Some(id) = context.get(key)
        && id.as_i64().is_none_or(|n| !(0..=MAX_ID).contains(&n))
    {
        faults.invalid(join(path, key), id.clone(), "must be between 0 and 2147483647, inclusive");
    }
}

/// A seccomp profile.
pub(super) fn seccomp(profile: &Value, path: &str, faults: &mut Faults) {
    if !profile.is_object() {
        return;
    }
    faults.needs_one_of(profile, "type", path, &["Localhost", "RuntimeDefault", "Unconfined"]);
    match (profile["type"] == "Localhost", text(profile, &["localhostProfile"])) {
        (true, None | Some("")) => {
            faults.required(join(path, "localhostProfile"), "must be set when seccomp type is Localhost")
        }
        (true, Some(file)) => super::volume::inner_path(file, &join(path, "localhostProfile"), faults),
        (false, Some(file)) => {
            faults.invalid(join(path, "localhostProfile"), file, "can only be set when seccomp type is Localhost")
        }
        (false, None) => {}
    }
}

fn security(context: &Value, path: &str, faults: &mut Faults) {
    for key in ["runAsUser", "runAsGroup"] {
        user_id(context, key, path, faults);
    }
    faults.one_of(context, "procMount", path, &["Default", "Unmasked"]);
    seccomp(&context["seccompProfile"], &join(path, "seccompProfile"), faults);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            faults.invalid(path, "", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        // Only by its long name: manifests that people have add SYS_ADMIN.
        if list(context, &["capabilities", "add"]).iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            faults.invalid(
                path,
                "",
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}
