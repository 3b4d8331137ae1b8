//! The cells of kinds that need more than a field or two.
use super::cells::{age, joined, labels, or_empty, or_none, selector, since};
use super::{containers_and_images, pod};
use crate::tree::{at, entries, integer, list, text};
use serde_json::{Value, json};

/// `Kind.group/name` of a reference.
pub(super) fn qualified(reference: &Value) -> String {
    let group = text(reference, &["apiVersion"]).and_then(|v| v.split_once('/')).map(|v| v.0);
    let group = group.or_else(|| text(reference, &["apiGroup"])).unwrap_or_default();
    let dot = if group.is_empty() { "" } else { "." };
    let kind = text(reference, &["kind"]).unwrap_or_default().to_lowercase();
    format!("{kind}{dot}{group}/{}", text(reference, &["name"]).unwrap_or_default())
}

pub(super) fn template(object: &Value) -> (Value, Value) {
    let (names, images) = containers_and_images(at(object, &["spec", "template"]).unwrap_or(&Value::Null));
    (names.into(), images.into())
}

pub(super) fn count(object: &Value, path: &[&str]) -> i64 {
    integer(object, path).unwrap_or(0)
}

pub(super) fn ready_of(object: &Value) -> Value {
    format!("{}/{}", count(object, &["status", "readyReplicas"]), integer(object, &["spec", "replicas"]).unwrap_or(1))
        .into()
}

pub(super) fn node(o: &Value, now: i64) -> Vec<Value> {
    let ready = list(o, &["status", "conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| &c["status"]) {
        Some(status) if status == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if at(o, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let roles = entries(o, &["metadata", "labels"]).filter_map(|(key, value)| match key.as_str() {
        "kubernetes.io/role" => value.as_str(),
        _ => key.strip_prefix(api::well_known::LABEL_NODE_ROLE_PREFIX),
    });
    let address = |kind: &str| {
        let found = list(o, &["status", "addresses"]).iter().find(|a| a["type"] == kind);
        found.map_or_else(|| json!("<none>"), |a| or_none(a, &["address"]))
    };
    let info = |key: &str| text(o, &["status", "nodeInfo", key]).unwrap_or("<unknown>").into();
    vec![
        status.into(),
        joined(roles.filter(|r| !r.is_empty())),
        age(o, now),
        or_empty(o, &["status", "nodeInfo", "kubeletVersion"]),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) fn service(o: &Value, now: i64) -> Vec<Value> {
    let kind = text(o, &["spec", "type"]).unwrap_or("ClusterIP");
    let cluster_ip =
        list(o, &["spec", "clusterIPs"]).first().and_then(Value::as_str).or_else(|| text(o, &["spec", "clusterIP"]));
    let balancer = list(o, &["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|i| text(i, &["ip"]).or_else(|| text(i, &["hostname"])));
    let external: Vec<&str> = list(o, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    let external_ip = match kind {
        "ExternalName" => or_none(o, &["spec", "externalName"]),
        "LoadBalancer" => {
            let all: Vec<&str> = balancer.chain(external).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",").into() }
        }
        _ => joined(external.into_iter()),
    };
    let ports = list(o, &["spec", "ports"]).iter().map(|p| {
        let node = count(p, &["nodePort"]);
        let node = if node > 0 { format!(":{node}") } else { String::new() };
        format!("{}{node}/{}", count(p, &["port"]), text(p, &["protocol"]).unwrap_or("TCP"))
    });
    let ports: Vec<String> = ports.collect();
    vec![
        kind.into(),
        cluster_ip.filter(|ip| !ip.is_empty()).unwrap_or("<none>").into(),
        external_ip,
        joined(ports.iter().map(String::as_str)),
        age(o, now),
        labels(o, &["spec", "selector"]),
    ]
}

/// What the scheduler said last of a group of pods stands as its status.
pub(super) fn pod_group(o: &Value, now: i64) -> Vec<Value> {
    let policy = match at(o, &["spec", "schedulingPolicy", "gang"]) {
        Some(_) => "Gang",
        None => "Basic",
    };
    let told = list(o, &["status", "conditions"]).iter().find(|c| c["type"] == "PodGroupInitiallyScheduled");
    let status = told.and_then(|condition| text(condition, &["reason"])).unwrap_or("Pending");
    vec![policy.into(), or_none(o, &["spec", "workloadRef", "workloadName"]), status.into(), age(o, now)]
}

/// More than three are only counted.
pub(super) fn few(all: &[String]) -> Value {
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(",").into(),
        more => format!("{} + {} more...", all[..3].join(","), more - 3).into(),
    }
}

pub(super) fn endpoints(o: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(o, &["subsets"]) {
        let ports = list(subset, &["ports"]);
        for address in list(subset, &["addresses"]) {
            let ip = text(address, &["ip"]).unwrap_or_default();
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|p| format!("{ip}:{}", count(p, &["port"]))));
        }
    }
    few(&all)
}

pub(super) fn endpoint_slice(o: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = list(o, &["ports"])
        .iter()
        .map(|p| integer(p, &["port"]).map_or_else(|| "*".to_owned(), |p| p.to_string()))
        .collect();
    let addresses = list(o, &["endpoints"]).iter().flat_map(|e| list(e, &["addresses"]));
    let addresses: Vec<String> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let told = |all: &[String]| if all.is_empty() { json!("<unset>") } else { few(all) };
    vec![or_empty(o, &["addressType"]), told(&ports), told(&addresses), age(o, now)]
}

pub(super) fn event(o: &Value, now: i64) -> Vec<Value> {
    let object = at(o, &["involvedObject"]).or_else(|| at(o, &["regarding"])).unwrap_or(&Value::Null);
    let kind = text(object, &["kind"]).unwrap_or_default().to_lowercase();
    let source = at(o, &["source"]).or_else(|| at(o, &["deprecatedSource"])).unwrap_or(&Value::Null);
    let component = text(source, &["component"]).filter(|c| !c.is_empty());
    let component =
        component.or_else(|| text(o, &["reportingComponent"])).or_else(|| text(o, &["reportingController"]));
    let host = text(source, &["host"]).filter(|h| !h.is_empty()).map(|h| format!(", {h}")).unwrap_or_default();
    let first = ["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"].iter().find_map(|k| text(o, &[k]));
    let times =
        [&["series", "count"][..], &["count"], &["deprecatedCount"]].iter().find_map(|p| integer(o, p)).unwrap_or(1);
    vec![
        pod::last_seen(o, now),
        or_empty(o, &["type"]),
        or_empty(o, &["reason"]),
        format!("{kind}/{}", text(object, &["name"]).unwrap_or_default()).into(),
        or_empty(object, &["fieldPath"]),
        format!("{}{host}", component.unwrap_or_default()).into(),
        text(o, &["message"]).or_else(|| text(o, &["note"])).unwrap_or_default().trim().into(),
        since(first, now).into(),
        times.to_string().into(),
    ]
}

pub(super) fn access_modes(o: &Value, path: &[&str]) -> Value {
    let modes = list(o, path).iter().filter_map(Value::as_str).map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    modes.collect::<Vec<_>>().join(",").into()
}

pub(super) fn persistent_volume(o: &Value, now: i64) -> Vec<Value> {
    let phase = if text(o, &["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else {
        text(o, &["status", "phase"]).unwrap_or_default()
    };
    let claim = at(o, &["spec", "claimRef"])
        .map(|c| format!("{}/{}", text(c, &["namespace"]).unwrap_or_default(), text(c, &["name"]).unwrap_or_default()));
    vec![
        or_empty(o, &["spec", "capacity", "storage"]),
        access_modes(o, &["spec", "accessModes"]),
        or_empty(o, &["spec", "persistentVolumeReclaimPolicy"]),
        phase.into(),
        claim.unwrap_or_default().into(),
        or_empty(o, &["spec", "storageClassName"]),
        text(o, &["spec", "volumeAttributesClassName"]).unwrap_or("<unset>").into(),
        or_empty(o, &["status", "reason"]),
        age(o, now),
        text(o, &["spec", "volumeMode"]).unwrap_or("<unset>").into(),
    ]
}

pub(super) fn claim(o: &Value, now: i64) -> Vec<Value> {
    let phase = if text(o, &["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else {
        text(o, &["status", "phase"]).unwrap_or_default()
    };
    vec![
        phase.into(),
        or_empty(o, &["spec", "volumeName"]),
        or_empty(o, &["status", "capacity", "storage"]),
        access_modes(o, &["status", "accessModes"]),
        or_empty(o, &["spec", "storageClassName"]),
        text(o, &["spec", "volumeAttributesClassName"]).unwrap_or("<unset>").into(),
        age(o, now),
        text(o, &["spec", "volumeMode"]).unwrap_or("<unset>").into(),
    ]
}

pub(super) fn quota(o: &Value, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in entries(o, &["status", "hard"]) {
        let told = format!(
            "{name}: {}/{}",
            text(o, &["status", "used", name]).unwrap_or("0"),
            hard.as_str().unwrap_or_default()
        );
        if name.starts_with("limits") { limits.push(told) } else { requests.push(told) }
    }
    vec![requests.join(", ").into(), limits.join(", ").into(), age(o, now)]
}

pub(super) fn replicas(o: &Value, now: i64, selector: Value) -> Vec<Value> {
    let (names, images) = template(o);
    let status = |key| count(o, &["status", key]).into();
    vec![
        count(o, &["spec", "replicas"]).into(),
        status("replicas"),
        status("readyReplicas"),
        age(o, now),
        names,
        images,
        selector,
    ]
}

pub(super) fn deployment(o: &Value, now: i64) -> Vec<Value> {
    let (names, images) = template(o);
    let status = |key| count(o, &["status", key]).to_string().into();
    vec![
        ready_of(o),
        status("updatedReplicas"),
        status("availableReplicas"),
        age(o, now),
        names,
        images,
        selector(o, &["spec", "selector"]),
    ]
}

pub(super) fn daemon_set(o: &Value, now: i64) -> Vec<Value> {
    let (names, images) = template(o);
    let status = |key| count(o, &["status", key]).into();
    vec![
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(o, &["spec", "template", "spec", "nodeSelector"]),
        age(o, now),
        names,
        images,
        selector(o, &["spec", "selector"]),
    ]
}

pub(super) fn job(o: &Value, now: i64) -> Vec<Value> {
    let (names, images) = template(o);
    let has =
        |kind: &str| list(o, &["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
    let status = if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if text(o, &["metadata", "deletionTimestamp"]).is_some() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let done = count(o, &["status", "succeeded"]);
    let completions = match (integer(o, &["spec", "completions"]), integer(o, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, Some(parallel)) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    };
    let start = text(o, &["status", "startTime"]).and_then(super::cells::epoch);
    let end = text(o, &["status", "completionTime"]).and_then(super::cells::epoch).unwrap_or(now);
    let duration = start.map(|start| super::cells::duration(end - start)).unwrap_or_default();
    vec![
        status.into(),
        completions.into(),
        duration.into(),
        age(o, now),
        names,
        images,
        selector(o, &["spec", "selector"]),
    ]
}

pub(super) fn cron_job(o: &Value, now: i64) -> Vec<Value> {
    let template = at(o, &["spec", "jobTemplate", "spec", "template"]).unwrap_or(&Value::Null);
    let (names, images) = containers_and_images(template);
    let last = text(o, &["status", "lastScheduleTime"]).map_or_else(|| "<none>".to_owned(), |t| since(Some(t), now));
    let suspended = at(o, &["spec", "suspend"]) == Some(&Value::Bool(true));
    vec![
        or_empty(o, &["spec", "schedule"]),
        or_none(o, &["spec", "timeZone"]),
        if suspended { "True" } else { "False" }.into(),
        list(o, &["status", "active"]).len().into(),
        last.into(),
        age(o, now),
        names.into(),
        images.into(),
        selector(o, &["spec", "jobTemplate", "spec", "selector"]),
    ]
}

pub(super) fn ingress(o: &Value, now: i64) -> Vec<Value> {
    let hosts: Vec<&str> = list(o, &["spec", "rules"])
        .iter()
        .map(|r| text(r, &["host"]).filter(|h| !h.is_empty()).unwrap_or("*"))
        .collect();
    let addresses = list(o, &["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|i| text(i, &["ip"]).or_else(|| text(i, &["hostname"])));
    let tls = !list(o, &["spec", "tls"]).is_empty();
    vec![
        or_none(o, &["spec", "ingressClassName"]),
        if hosts.is_empty() { "*".into() } else { joined(hosts.into_iter()) },
        addresses.collect::<Vec<_>>().join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        age(o, now),
    ]
}

pub(super) fn role_binding(o: &Value, now: i64) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(o, &["roleRef", "kind"]).unwrap_or_default(),
        text(o, &["roleRef", "name"]).unwrap_or_default()
    );
    let subjects = |kind: &str| -> Value {
        let names =
            list(o, &["subjects"]).iter().filter(|s| s["kind"] == kind).map(|s| match text(s, &["namespace"]) {
                Some(namespace) if kind == "ServiceAccount" => {
                    format!("{namespace}/{}", text(s, &["name"]).unwrap_or_default())
                }
                _ => text(s, &["name"]).unwrap_or_default().to_owned(),
            });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![role.into(), age(o, now), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

pub(super) fn signing_request(o: &Value, now: i64) -> Vec<Value> {
    let has = |kind: &str| list(o, &["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut condition = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if text(o, &["status", "certificate"]).is_some_and(|c| !c.is_empty()) {
        condition.push_str(",Issued");
    }
    let requested =
        integer(o, &["spec", "expirationSeconds"]).map_or_else(|| "<none>".to_owned(), super::cells::duration);
    vec![
        age(o, now),
        or_none(o, &["spec", "signerName"]),
        or_empty(o, &["spec", "username"]),
        requested.into(),
        condition.into(),
    ]
}

/// Whether a group is served, and why not.
pub(super) fn availability(o: &Value) -> Value {
    let Some(condition) = list(o, &["status", "conditions"]).iter().find(|c| c["type"] == "Available") else {
        return "Unknown".into();
    };
    let status = text(condition, &["status"]).unwrap_or_default();
    match text(condition, &["reason"]) {
        Some(reason) if status == "False" => format!("{status} ({reason})").into(),
        _ => status.into(),
    }
}

/// A CSIDriver, with the defaults of the API.
pub(super) fn storage_driver(o: &Value, now: i64) -> Vec<Value> {
    let is =
        |field: &str, default: bool| Value::from(at(o, &["spec", field]).and_then(Value::as_bool).unwrap_or(default));
    let audiences = at(o, &["spec", "tokenRequests"]).and_then(Value::as_array).map(|all| {
        all.iter().map(|request| text(request, &["audience"]).unwrap_or_default()).collect::<Vec<_>>().join(",")
    });
    vec![
        is("attachRequired", true),
        is("podInfoOnMount", false),
        is("storageCapacity", false),
        audiences.unwrap_or_else(|| "<unset>".to_owned()).into(),
        is("requiresRepublish", false),
        joined(list(o, &["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str)),
        age(o, now),
    ]
}

/// CPU, memory and window of what a node or a pod's containers used.
pub(super) fn used(object: &Value, _now: i64) -> Vec<Value> {
    let containers = list(object, &["containers"]);
    let parts: Vec<&Value> = match object.get("usage") {
        Some(usage) => vec![usage],
        None => containers.iter().filter_map(|container| container.get("usage")).collect(),
    };
    let sum = |name: &str| -> i128 {
        let quantity = |part: &&Value| api::quantity::Quantity::parse(part.get(name)?.as_str()?).ok();
        parts.iter().filter_map(quantity).map(api::quantity::Quantity::nano).sum()
    };
    let cpu = format!("{}n", sum("cpu"));
    let memory = format!("{}Ki", sum("memory") / 1_000_000_000 / 1024);
    vec![cpu.into(), memory.into(), or_empty(object, &["window"])]
}
