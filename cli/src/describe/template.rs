//! Pod templates: labels, containers, volumes.

use serde_json::Value;

use super::page::Page;

/// The text of a pod template.
pub(crate) fn text(template: &Value) -> String {
    let mut page = Page::default();
    write(&mut page, template);
    page.text()
}

/// Writes a pod template.
pub(crate) fn write(page: &mut Page, template: &Value) {
    page.heading(0, "Pod Template");
    page.values(1, "Labels", &pairs(template.pointer("/metadata/labels"), "="));
    let annotations = pairs(template.pointer("/metadata/annotations"), ": ");
    if !annotations.is_empty() {
        page.values(1, "Annotations", &annotations);
    }
    let Some(spec) = template.get("spec") else { return };
    if let Some(account) = string(spec, "serviceAccountName") {
        page.field(1, "Service Account", account);
    }
    for (key, title) in [("initContainers", "Init Containers"), ("containers", "Containers")] {
        if list(spec, key).next().is_some() {
            page.heading(1, title);
            list(spec, key).for_each(|container| write_container(page, " ", container, None));
        }
    }
    write_volumes(page, 1, " ", spec);
    if let Some(class) = string(spec, "priorityClassName") {
        page.field(1, "Priority Class Name", class);
    }
    page.values(1, "Node-Selectors", &pairs(spec.get("nodeSelector"), "="));
    page.values(1, "Tolerations", &tolerations(spec));
}

/// Members of a list.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// A text that is not empty.
pub(crate) fn string<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// A value as text.
pub(crate) fn shown(value: Option<&Value>) -> String {
    value.map(crate::output::jsonpath::shown).unwrap_or_default()
}

/// The pairs of a map.
pub(crate) fn pairs(map: Option<&Value>, between: &str) -> Vec<String> {
    let map = map.and_then(Value::as_object).into_iter().flatten();
    let mut pairs: Vec<String> =
        map.map(|(key, value)| format!("{key}{between}{}", crate::output::jsonpath::shown(value))).collect();
    pairs.sort();
    pairs
}

/// Tolerations, one text each.
pub(crate) fn tolerations(spec: &Value) -> Vec<String> {
    let one = |toleration: &Value| {
        let part = |key: &str| string(toleration, key).unwrap_or_default();
        let mut text = part("key").to_owned();
        if !part("value").is_empty() {
            text = format!("{text}={}", part("value"));
        }
        if !part("effect").is_empty() {
            text = format!("{text}:{}", part("effect"));
        }
        if part("operator") == "Exists" && part("value").is_empty() {
            text = if part("key").is_empty() && part("effect").is_empty() {
                "op=Exists".into()
            } else {
                format!("{text} op=Exists")
            };
        }
        match toleration.get("tolerationSeconds").and_then(Value::as_i64) {
            Some(seconds) => format!("{text} for {seconds}s"),
            None => text,
        }
    };
    list(spec, "tolerations").map(one).collect()
}

/// One container; with `status` also what became of it. In templates a blank stands `before` its name.
pub(crate) fn write_container(page: &mut Page, before: &str, container: &Value, status: Option<&Value>) {
    let inner = 2;
    page.cells(1, [format!("{before}{}:", string(container, "name").unwrap_or_default())]);
    if let Some(status) = status {
        page.field(inner, "Container ID", string(status, "containerID").unwrap_or_default());
    }
    page.field(inner, "Image", string(container, "image").unwrap_or_default());
    if let Some(status) = status {
        page.field(inner, "Image ID", string(status, "imageID").unwrap_or_default());
    }
    let ports = |key: &str| -> Vec<String> {
        list(container, "ports")
            .map(|port| {
                format!(
                    "{}/{}",
                    port.get(key).and_then(Value::as_i64).unwrap_or(0),
                    string(port, "protocol").unwrap_or("TCP")
                )
            })
            .collect()
    };
    let joined = |ports: Vec<String>| if ports.is_empty() { "<none>".to_owned() } else { ports.join(", ") };
    page.field(inner, if ports("containerPort").len() > 1 { "Ports" } else { "Port" }, joined(ports("containerPort")));
    page.field(inner, if ports("hostPort").len() > 1 { "Host Ports" } else { "Host Port" }, joined(ports("hostPort")));
    for (key, title) in [("command", "Command"), ("args", "Args")] {
        if list(container, key).next().is_some() {
            page.heading(inner, title);
            list(container, key).for_each(|word| page.cells(inner + 1, [shown(Some(word))]));
        }
    }
    if let Some(status) = status {
        write_state(page, inner, "State", status.get("state"));
        if status.get("lastState").and_then(Value::as_object).is_some_and(|state| !state.is_empty()) {
            write_state(page, inner, "Last State", status.get("lastState"));
        }
        let ready = status.get("ready").and_then(Value::as_bool).unwrap_or(false);
        page.field(inner, "Ready", if ready { "True" } else { "False" });
        page.field(inner, "Restart Count", shown(status.get("restartCount")));
    }
    for (key, title) in [("limits", "Limits"), ("requests", "Requests")] {
        let resources = container.get("resources").and_then(|resources| resources.get(key)?.as_object());
        if let Some(resources) = resources.filter(|resources| !resources.is_empty()) {
            page.heading(inner, title);
            resources.iter().for_each(|(name, amount)| page.field(inner + 1, name, shown(Some(amount))));
        }
    }
    for (key, title) in [("livenessProbe", "Liveness"), ("readinessProbe", "Readiness"), ("startupProbe", "Startup")] {
        if let Some(probe) = container.get(key) {
            page.field(inner, title, probe_text(probe));
        }
    }
    write_environment(page, inner, container);
    let mounts = list(container, "volumeMounts").map(|mount| {
        let mode = if mount.get("readOnly").and_then(Value::as_bool).unwrap_or(false) { "ro" } else { "rw" };
        let sub = string(mount, "subPath").map(|path| format!(",path=\"{path}\"")).unwrap_or_default();
        format!(
            "{} from {} ({mode}{sub})",
            string(mount, "mountPath").unwrap_or_default(),
            string(mount, "name").unwrap_or_default()
        )
    });
    let mut mounts: Vec<String> = mounts.collect();
    mounts.sort();
    below(page, inner, "Mounts", mounts);
}

/// A heading with lines below, or `<none>` beside it.
fn below(page: &mut Page, level: usize, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return page.field(level, title, "<none>");
    }
    page.heading(level, title);
    lines.into_iter().for_each(|line| page.cells(level + 1, [line]));
}

fn write_state(page: &mut Page, level: usize, title: &str, state: Option<&Value>) {
    let known = [("running", "Running"), ("terminated", "Terminated"), ("waiting", "Waiting")];
    let found = known.iter().find_map(|(key, word)| Some((*word, state?.get(*key)?)));
    let Some((word, state)) = found else { return page.field(level, title, "Waiting") };
    page.field(level, title, word);
    let fields = [
        ("reason", "Reason"),
        ("message", "Message"),
        ("exitCode", "Exit Code"),
        ("signal", "Signal"),
        ("startedAt", "Started"),
        ("finishedAt", "Finished"),
    ];
    for (key, title) in fields {
        match shown(state.get(key)) {
            text if text.is_empty() => {}
            text if key.ends_with("At") => page.field(level + 1, title, super::page::local_time(&text)),
            text => page.field(level + 1, title, text),
        }
    }
}

fn probe_text(probe: &Value) -> String {
    let number = |key: &str, default: i64| probe.get(key).and_then(Value::as_i64).unwrap_or(default);
    let how = if let Some(exec) = probe.get("exec") {
        let words: Vec<String> = list(exec, "command").map(|word| shown(Some(word))).collect();
        format!("exec [{}]", words.join(" "))
    } else if let Some(http) = probe.get("httpGet") {
        let scheme = string(http, "scheme").unwrap_or("HTTP").to_lowercase();
        format!(
            "http-get {scheme}://{}:{}{}",
            string(http, "host").unwrap_or_default(),
            shown(http.get("port")),
            string(http, "path").unwrap_or_default()
        )
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", string(tcp, "host").unwrap_or_default(), shown(tcp.get("port")))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc <pod>:{} {}", shown(grpc.get("port")), string(grpc, "service").unwrap_or_default())
    } else {
        "unknown".to_owned()
    };
    format!(
        "{how} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

fn write_environment(page: &mut Page, level: usize, container: &Value) {
    let sources: Vec<String> = list(container, "envFrom")
        .map(|source| {
            let (what, reference) = match source.get("secretRef") {
                Some(secret) => ("Secret", Some(secret)),
                None => ("ConfigMap", source.get("configMapRef")),
            };
            let optional = reference.and_then(|reference| reference.get("optional")?.as_bool()).unwrap_or(false);
            let name = reference.and_then(|reference| string(reference, "name")).unwrap_or_default();
            format!("{name}  {what}  Optional: {optional}")
        })
        .collect();
    if !sources.is_empty() {
        below(page, level, "Environment Variables from", sources);
    }
    let mut variables = list(container, "env").peekable();
    if variables.peek().is_none() {
        return page.field(level, "Environment", "<none>");
    }
    page.heading(level, "Environment");
    for variable in variables {
        let name = string(variable, "name").unwrap_or_default();
        let Some(from) = variable.get("valueFrom").filter(|from| from.is_object()) else {
            page.field(level + 1, name, shown(variable.get("value")));
            continue;
        };
        let key = |reference: &Value, what: &str| {
            let optional = reference.get("optional").and_then(Value::as_bool).unwrap_or(false);
            format!(
                "<set to the key '{}' in {what} '{}'>  Optional: {optional}",
                shown(reference.get("key")),
                shown(reference.get("name"))
            )
        };
        let text = if let Some(reference) = from.get("secretKeyRef") {
            key(reference, "secret")
        } else if let Some(reference) = from.get("configMapKeyRef") {
            key(reference, "config map")
        } else if let Some(field) = from.get("fieldRef") {
            format!(" ({}:{})", string(field, "apiVersion").unwrap_or("v1"), shown(field.get("fieldPath")))
        } else if let Some(resource) = from.get("resourceFieldRef") {
            format!("resource {}", shown(resource.get("resource")))
        } else {
            from.to_string()
        };
        page.field(level + 1, name, text);
    }
}

/// The volumes of a pod. In templates a blank stands `before` each name.
pub(crate) fn write_volumes(page: &mut Page, level: usize, before: &str, spec: &Value) {
    if list(spec, "volumes").next().is_none() {
        return page.field(level, "Volumes", "<none>");
    }
    page.heading(level, "Volumes");
    for volume in list(spec, "volumes") {
        page.cells(1, [format!("{before}{}:", string(volume, "name").unwrap_or_default())]);
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        let Some((kind, source)) = source else { continue };
        let word = match kind.as_str() {
            "configMap" => "ConfigMap (a volume populated by a ConfigMap)",
            "secret" => "Secret (a volume populated by a Secret)",
            "emptyDir" => "EmptyDir (a temporary directory that shares a pod's lifetime)",
            "hostPath" => "HostPath (bare host directory volume)",
            "projected" => "Projected (a volume that contains injected data from multiple sources)",
            "persistentVolumeClaim" => {
                "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)"
            }
            "downwardAPI" => "DownwardAPI (a volume populated by information about the pod)",
            other => other,
        };
        page.field(2, "Type", word);
        match kind.as_str() {
            "configMap" => page.field(2, "Name", shown(source.get("name"))),
            "secret" => page.field(2, "SecretName", shown(source.get("secretName"))),
            "emptyDir" => {
                page.field(2, "Medium", shown(source.get("medium")));
                let limit = shown(source.get("sizeLimit"));
                page.field(2, "SizeLimit", if limit.is_empty() { "<unset>".into() } else { limit });
                continue;
            }
            "hostPath" => {
                page.field(2, "Path", shown(source.get("path")));
                page.field(2, "HostPathType", shown(source.get("type")));
                continue;
            }
            "persistentVolumeClaim" => {
                page.field(2, "ClaimName", shown(source.get("claimName")));
                page.field(2, "ReadOnly", source.get("readOnly").and_then(Value::as_bool).unwrap_or(false).to_string());
                continue;
            }
            "projected" => {
                write_projection(page, 2, source);
                continue;
            }
            _ => continue,
        }
        page.field(2, "Optional", source.get("optional").and_then(Value::as_bool).unwrap_or(false).to_string());
    }
}

fn write_projection(page: &mut Page, level: usize, source: &Value) {
    for part in list(source, "sources") {
        if let Some(token) = part.get("serviceAccountToken") {
            page.field(level, "TokenExpirationSeconds", shown(token.get("expirationSeconds")));
        } else if let Some(map) = part.get("configMap") {
            page.field(level, "ConfigMapName", shown(map.get("name")));
            let optional = map.get("optional").map_or("<nil>".to_owned(), |value| shown(Some(value)));
            page.field(level, "ConfigMapOptional", optional);
        } else if let Some(secret) = part.get("secret") {
            page.field(level, "SecretName", shown(secret.get("name")));
        } else if part.get("downwardAPI").is_some() {
            page.field(level, "DownwardAPI", "true");
        }
    }
}
