//! What keeps a pod from running: findings out of its object and its nodes, pure.

use api::quantity::Quantity;
use serde_json::Value;

/// One reason.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Finding {
    /// What it is about: a container, a node, scheduling.
    pub(crate) about: String,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it, where that is plain.
    pub(crate) remedy: Option<String>,
}

fn finding(about: impl Into<String>, what: impl Into<String>, remedy: Option<&str>) -> Finding {
    Finding { about: about.into(), what: what.into(), remedy: remedy.map(str::to_owned) }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn array<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// What the pod's own object says.
pub(crate) fn findings(pod: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        let held: Vec<&str> = array(pod, "/metadata/finalizers").filter_map(Value::as_str).collect();
        found.push(match held.is_empty() {
            true => finding("deletion", "the pod is being deleted", None),
            false => finding("deletion", format!("the pod is deleted once {} let it go", held.join(", ")), None),
        });
    }
    if !text(pod, "/status/reason").is_empty() {
        found.push(finding(text(pod, "/status/reason"), text(pod, "/status/message"), None));
    }
    for gate in array(pod, "/spec/schedulingGates") {
        let what = format!("waits for gate {}", text(gate, "/name"));
        found.push(finding("scheduling", what, Some("whoever set the gate takes it away when the pod may start")));
    }
    let nominated = text(pod, "/status/nominatedNodeName");
    if !nominated.is_empty() && text(pod, "/spec/nodeName").is_empty() {
        found.push(finding("scheduling", format!("pods of lower priority are leaving node {nominated} for it"), None));
    }
    for condition in array(pod, "/status/conditions").filter(|condition| condition["status"] == "False") {
        match text(condition, "/type") {
            "PodScheduled" => found.push(finding("scheduling", said(condition), None)),
            // Readiness of containers is told container by container.
            "Ready" | "ContainersReady" | "Initialized" => {}
            "PodReadyToStartContainers" if text(pod, "/status/phase") != "Pending" => {}
            other => found.push(finding(other, said(condition), None)),
        }
    }
    for (list, word) in [("initContainerStatuses", "init container"), ("containerStatuses", "container")] {
        for status in array(pod, &format!("/status/{list}")) {
            container(pod, status, word, &mut found);
        }
    }
    found
}

fn said(condition: &Value) -> String {
    match (text(condition, "/reason"), text(condition, "/message")) {
        ("", "") => "no reason is told".to_owned(),
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

fn container(pod: &Value, status: &Value, word: &str, found: &mut Vec<Finding>) {
    let name = text(status, "/name");
    let about = format!("{word} {name}");
    let restarts = status["restartCount"].as_u64().unwrap_or(0);
    if let Some(waiting) = status.pointer("/state/waiting") {
        let reason = text(waiting, "/reason");
        if !matches!(reason, "PodInitializing" | "") {
            found.push(finding(&about, said(waiting), remedy(reason, pod, name).as_deref()));
        }
    }
    for (pointer, when) in [("/state/terminated", "ended"), ("/lastState/terminated", "ended last time")] {
        let Some(ended) = status.pointer(pointer) else { continue };
        let code = ended["exitCode"].as_i64().unwrap_or(0);
        if code == 0 && (pointer == "/state/terminated" || restarts == 0) {
            continue;
        }
        let reason = text(ended, "/reason");
        let mut what = format!("{when} with exit code {code}{}", meaning(code));
        if !matches!(reason, "" | "Error" | "Completed") {
            what = format!("{what}, {reason}");
        }
        if restarts > 0 {
            what = format!("{what}, {restarts} restarts");
        }
        if !text(ended, "/message").is_empty() {
            what = format!("{what}: {}", text(ended, "/message").trim());
        }
        let again = if pointer == "/lastState/terminated" { " --previous" } else { "" };
        let hint = match reason {
            "OOMKilled" => "raise resources.limits.memory of the container".to_owned(),
            _ => format!("gantry logs {} -c {name}{again}", text(pod, "/metadata/name")),
        };
        found.push(finding(&about, what, Some(&hint)));
    }
    let runs = status.pointer("/state/running").is_some();
    if runs && status["ready"] == false && word == "container" {
        let probe = array(pod, "/spec/containers").find(|one| one["name"] == name);
        let has = |probe_name: &str| probe.is_some_and(|one| one.get(probe_name).is_some());
        let what = match (status["started"] == false && has("startupProbe"), has("readinessProbe")) {
            (true, _) => "runs, and its startup probe has not succeeded",
            (_, true) => "runs, and its readiness probe does not succeed",
            _ => "runs, and is not ready yet",
        };
        found.push(finding(&about, what, None));
    }
}

/// What shells mean by exit codes (POSIX sh, 2.8.2; 128 and a signal's number).
fn meaning(code: i64) -> String {
    match code {
        126 => " (the command is not executable)".to_owned(),
        127 => " (the command was not found)".to_owned(),
        137 => " (SIGKILL)".to_owned(),
        139 => " (SIGSEGV)".to_owned(),
        143 => " (SIGTERM)".to_owned(),
        129..=192 => format!(" (signal {})", code - 128),
        _ => String::new(),
    }
}

fn remedy(reason: &str, pod: &Value, container: &str) -> Option<String> {
    let all = array(pod, "/spec/containers").chain(array(pod, "/spec/initContainers"));
    let image = all.filter(|one| one["name"] == container).map(|one| text(one, "/image")).next().unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => Some(format!(
            "is {image:?} the right name and tag, may this cluster pull it (imagePullSecrets, registries.yaml)?"
        )),
        "ErrImageNeverPull" => {
            Some(format!("import the image on the node: gantry image import FILE, or let {image:?} be pulled"))
        }
        "CreateContainerConfigError" => {
            Some("do the config maps and secrets that it names exist, with these keys?".into())
        }
        "CrashLoopBackOff" => Some(format!("gantry logs {} -c {container} --previous", text(pod, "/metadata/name"))),
        _ => None,
    }
}

/// Why each node cannot take a pod that has none: closed, not ready, not selected, not tolerated, too small. What
/// depends on other pods (free room, affinity, ports) is in the scheduler's own words.
pub(crate) fn node_refusals(pod: &Value, nodes: &[Value]) -> Vec<Finding> {
    if nodes.is_empty() {
        return vec![finding("nodes", "there are none", Some("gantry server without --disable-agent brings one"))];
    }
    let mut found = Vec::new();
    for node in nodes {
        let reasons = refusals(pod, node);
        if !reasons.is_empty() {
            found.push(finding(format!("node {}", text(node, "/metadata/name")), reasons.join("; "), None));
        }
    }
    found
}

fn refusals(pod: &Value, node: &Value) -> Vec<String> {
    let mut reasons = Vec::new();
    if !array(node, "/status/conditions").any(|one| one["type"] == "Ready" && one["status"] == "True") {
        reasons.push("is not Ready".to_owned());
    }
    if node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        reasons.push("is cordoned (gantry uncordon NODE)".to_owned());
    }
    for (key, value) in pod.pointer("/spec/nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        let label = node.pointer("/metadata/labels").and_then(|labels| labels.get(key));
        if label != Some(value) {
            reasons.push(format!("has no label {key}={}", value.as_str().unwrap_or_default()));
        }
    }
    for taint in array(node, "/spec/taints").filter(|taint| taint["effect"] != "PreferNoSchedule") {
        // What `cordon` sets is told above.
        if taint["key"] != "node.kubernetes.io/unschedulable"
            && !array(pod, "/spec/tolerations").any(|one| tolerates(one, taint))
        {
            let value = text(taint, "/value");
            let value = if value.is_empty() { String::new() } else { format!("={value}") };
            reasons.push(format!(
                "has a taint {}{value}:{} that is not tolerated",
                text(taint, "/key"),
                text(taint, "/effect")
            ));
        }
    }
    for resource in ["cpu", "memory"] {
        let asked: i128 = array(pod, "/spec/containers")
            .filter_map(|one| one.pointer("/resources/requests")?.get(resource).and_then(amount))
            .sum();
        let offered = node.pointer("/status/allocatable").and_then(|all| all.get(resource).and_then(amount));
        if offered.is_some_and(|offered| asked > offered) {
            reasons.push(format!("is too small: the pod asks for more {resource} than all of the node has"));
        }
    }
    reasons
}

/// An amount in billionths, the way requests and nodes write it.
fn amount(value: &Value) -> Option<i128> {
    Quantity::parse(value.as_str()?).ok().map(|quantity| quantity.nano())
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let effect = text(toleration, "/effect");
    let key = text(toleration, "/key");
    let exists = text(toleration, "/operator") == "Exists";
    (effect.is_empty() || taint["effect"] == effect)
        && (key.is_empty() && exists || taint["key"] == key)
        && (exists || text(toleration, "/value") == text(taint, "/value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_tells_what_is_wrong() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x:1"},
            {"name": "b", "readinessProbe": {}}]},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "a", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
                {"name": "b", "ready": false, "state": {"running": {}}}]}});
        let found = findings(&pod);
        let whats: Vec<&str> = found.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "CrashLoopBackOff: back-off",
                "ended last time with exit code 137 (SIGKILL), OOMKilled, 3 restarts",
                "runs, and its readiness probe does not succeed",
            ]
        );
        assert_eq!(found[1].remedy.as_deref(), Some("raise resources.limits.memory of the container"));
        let preemptor = json!({"status": {"nominatedNodeName": "n"}});
        assert_eq!(findings(&preemptor)[0].what, "pods of lower priority are leaving node n for it");
        let healthy = json!({"status": {"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "state": {"running": {}}}]}});
        assert_eq!(findings(&healthy), []);
    }

    #[test]
    fn nodes_tell_why_they_refuse() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let node = json!({"metadata": {"name": "n", "labels": {"zone": "a"}},
            "spec": {"unschedulable": true, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
            "status": {"conditions": ready, "allocatable": {"cpu": "2", "memory": "1Gi"}}});
        let pod = json!({"spec": {"nodeSelector": {"zone": "b"}, "containers": [
            {"resources": {"requests": {"cpu": "1500m"}}}, {"resources": {"requests": {"cpu": "600m"}}}]}});
        let found = node_refusals(&pod, std::slice::from_ref(&node));
        assert_eq!(found.len(), 1);
        for part in ["cordoned", "zone=b", "k=v:NoSchedule", "more cpu"] {
            assert!(found[0].what.contains(part), "{part}: {}", found[0].what);
        }
        let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}});
        assert!(!node_refusals(&tolerant, &[node])[0].what.contains("taint"));
        assert_eq!(node_refusals(&pod, &[])[0].what, "there are none");
    }
}
