//! The columns of each kind (the printers of Kubernetes' `printers/internalversion`), as facts beside their cells.
use super::cells::{age, joined, labels, or_empty, or_none, plain, selector, since};
use super::{Printer, containers_and_images, narrow, number, pod, wide};
use crate::resource::Resource;
use crate::tree::{at, entries, integer, list, text};
use serde_json::{Value, json};

macro_rules! printer {
    ([$($column:expr),* $(,)?], $cells:expr) => {
        Printer { columns: const { &[$($column),*] }, cells: $cells }
    };
}

/// The printer of a kind; kinds without one of their own show their age.
pub(super) fn printer(resource: &Resource) -> Printer {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => printer!(
            [narrow("Ready"), narrow("Status"), narrow("Restarts"), narrow("Age"), wide("IP"), wide("Node"), wide("Nominated Node"), wide("Readiness Gates")],
            pod::cells
        ),
        ("", "nodes") => printer!(
            [narrow("Status"), narrow("Roles"), narrow("Age"), narrow("Version"), wide("Internal-IP"), wide("External-IP"), wide("OS-Image"), wide("Kernel-Version"), wide("Container-Runtime")],
            node
        ),
        ("", "namespaces") => printer!([narrow("Status"), narrow("Age")], |o, now| vec![or_empty(o, &["status", "phase"]), age(o, now)]),
        ("", "services") => printer!(
            [narrow("Type"), narrow("Cluster-IP"), narrow("External-IP"), narrow("Port(s)"), narrow("Age"), wide("Selector")],
            service
        ),
        ("", "endpoints") => printer!([narrow("Endpoints"), narrow("Age")], |o, now| vec![endpoints(o), age(o, now)]),
        ("discovery.k8s.io", "endpointslices") => printer!([narrow("AddressType"), narrow("Ports"), narrow("Endpoints"), narrow("Age")], endpoint_slice),
        ("", "configmaps") => printer!([number("Data"), narrow("Age")], |o, now| {
            vec![(entries(o, &["data"]).count() + entries(o, &["binaryData"]).count()).into(), age(o, now)]
        }),
        ("", "secrets") => printer!([narrow("Type"), number("Data"), narrow("Age")], |o, now| {
            vec![or_empty(o, &["type"]), entries(o, &["data"]).count().into(), age(o, now)]
        }),
        ("", "serviceaccounts") => printer!([narrow("Age")], |o, now| vec![age(o, now)]),
        ("", "events") | ("events.k8s.io", "events") => printer!(
            [narrow("Last Seen"), narrow("Type"), narrow("Reason"), narrow("Object"), wide("Subobject"), wide("Source"), narrow("Message"), wide("First Seen"), wide("Count")],
            event
        ),
        ("", "persistentvolumes") => printer!(
            [narrow("Capacity"), narrow("Access Modes"), narrow("Reclaim Policy"), narrow("Status"), narrow("Claim"), narrow("StorageClass"), narrow("VolumeAttributesClass"), narrow("Reason"), narrow("Age"), wide("VolumeMode")],
            persistent_volume
        ),
        ("", "persistentvolumeclaims") => printer!(
            [narrow("Status"), narrow("Volume"), narrow("Capacity"), narrow("Access Modes"), narrow("StorageClass"), narrow("VolumeAttributesClass"), narrow("Age"), wide("VolumeMode")],
            claim
        ),
        ("", "resourcequotas") => printer!([narrow("Request"), narrow("Limit"), narrow("Age")], quota),
        ("", "replicationcontrollers") => printer!(
            [number("Desired"), number("Current"), number("Ready"), narrow("Age"), wide("Containers"), wide("Images"), wide("Selector")],
            |o, now| replicas(o, now, labels(o, &["spec", "selector"]))
        ),
        ("apps", "replicasets") => printer!(
            [number("Desired"), number("Current"), number("Ready"), narrow("Age"), wide("Containers"), wide("Images"), wide("Selector")],
            |o, now| replicas(o, now, selector(o, &["spec", "selector"]))
        ),
        ("apps", "deployments") => printer!(
            [narrow("Ready"), narrow("Up-to-date"), narrow("Available"), narrow("Age"), wide("Containers"), wide("Images"), wide("Selector")],
            deployment
        ),
        ("apps", "statefulsets") => printer!([narrow("Ready"), narrow("Age"), wide("Containers"), wide("Images")], |o, now| {
            let (names, images) = template(o);
            vec![ready_of(o), age(o, now), names, images]
        }),
        ("apps", "daemonsets") => printer!(
            [number("Desired"), number("Current"), number("Ready"), number("Up-to-date"), number("Available"), narrow("Node Selector"), narrow("Age"), wide("Containers"), wide("Images"), wide("Selector")],
            daemon_set
        ),
        ("apps", "controllerrevisions") => printer!([narrow("Controller"), narrow("Revision"), narrow("Age")], |o, now| {
            let owner = list(o, &["metadata", "ownerReferences"]).iter().find(|r| r["controller"] == true);
            let told = owner.map_or_else(|| json!("<none>"), |r| qualified(r).into());
            vec![told, integer(o, &["revision"]).unwrap_or(0).to_string().into(), age(o, now)]
        }),
        ("batch", "jobs") => printer!(
            [narrow("Status"), narrow("Completions"), narrow("Duration"), narrow("Age"), wide("Containers"), wide("Images"), wide("Selector")],
            job
        ),
        ("batch", "cronjobs") => printer!(
            [narrow("Schedule"), narrow("Timezone"), narrow("Suspend"), number("Active"), narrow("Last Schedule"), narrow("Age"), wide("Containers"), wide("Images"), wide("Selector")],
            cron_job
        ),
        ("autoscaling", _) => printer!(
            [narrow("Reference"), narrow("Targets"), narrow("MinPods"), narrow("MaxPods"), narrow("Replicas"), narrow("Age")],
            autoscaler
        ),
        ("networking.k8s.io", "ingresses") => printer!([narrow("Class"), narrow("Hosts"), narrow("Address"), narrow("Ports"), narrow("Age")], ingress),
        ("networking.k8s.io", "ingressclasses") => printer!([narrow("Controller"), narrow("Parameters"), narrow("Age")], |o, now| {
            let parameters = at(o, &["spec", "parameters"]).map_or_else(|| json!("<none>"), |p| qualified(p).into());
            vec![or_empty(o, &["spec", "controller"]), parameters, age(o, now)]
        }),
        ("networking.k8s.io", "networkpolicies") => {
            printer!([narrow("Pod-Selector"), narrow("Age")], |o, now| vec![selector(o, &["spec", "podSelector"]), age(o, now)])
        }
        ("networking.k8s.io", "servicecidrs") => printer!([narrow("CIDRs"), narrow("Age")], |o, now| {
            vec![joined(list(o, &["spec", "cidrs"]).iter().filter_map(Value::as_str)), age(o, now)]
        }),
        ("networking.k8s.io", "ipaddresses") => printer!([narrow("ParentRef"), narrow("Age")], |o, now| {
            let parent = at(o, &["spec", "parentRef"]);
            let path = parent.map(|p| ["resource", "namespace", "name"].iter().filter_map(|k| text(p, &[k])).collect::<Vec<_>>().join("/"));
            vec![path.unwrap_or_else(|| "<none>".to_owned()).into(), age(o, now)]
        }),
        ("policy", "poddisruptionbudgets") => printer!(
            [narrow("Min Available"), narrow("Max Unavailable"), number("Allowed Disruptions"), narrow("Age")],
            |o, now| vec![
                plain(o, &["spec", "minAvailable"], "N/A"),
                plain(o, &["spec", "maxUnavailable"], "N/A"),
                integer(o, &["status", "disruptionsAllowed"]).unwrap_or(0).into(),
                age(o, now),
            ]
        ),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            printer!([narrow("Created At")], |o, _| vec![or_empty(o, &["metadata", "creationTimestamp"])])
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => printer!(
            [narrow("Role"), narrow("Age"), wide("Users"), wide("Groups"), wide("ServiceAccounts")],
            role_binding
        ),
        ("coordination.k8s.io", "leases") => printer!([narrow("Holder"), narrow("Age")], |o, now| vec![or_empty(o, &["spec", "holderIdentity"]), age(o, now)]),
        ("storage.k8s.io", "storageclasses") => printer!(
            [narrow("Provisioner"), narrow("ReclaimPolicy"), narrow("VolumeBindingMode"), narrow("AllowVolumeExpansion"), narrow("Age")],
            |o, now| vec![
                or_empty(o, &["provisioner"]),
                text(o, &["reclaimPolicy"]).unwrap_or("Delete").into(),
                text(o, &["volumeBindingMode"]).unwrap_or("Immediate").into(),
                plain(o, &["allowVolumeExpansion"], "false"),
                age(o, now),
            ]
        ),
        ("storage.k8s.io", "volumeattachments") => printer!(
            [narrow("Attacher"), narrow("PV"), narrow("Node"), narrow("Attached"), narrow("Age")],
            |o, now| vec![
                or_empty(o, &["spec", "attacher"]),
                or_empty(o, &["spec", "source", "persistentVolumeName"]),
                or_empty(o, &["spec", "nodeName"]),
                plain(o, &["status", "attached"], "false"),
                age(o, now),
            ]
        ),
        ("storage.k8s.io", "csinodes") => printer!([number("Drivers"), narrow("Age")], |o, now| vec![list(o, &["spec", "drivers"]).len().into(), age(o, now)]),
        ("scheduling.k8s.io", "priorityclasses") => printer!(
            [number("Value"), narrow("Global-Default"), narrow("Age"), narrow("PreemptionPolicy")],
            |o, now| vec![integer(o, &["value"]).unwrap_or(0).into(), plain(o, &["globalDefault"], "false"), age(o, now), or_empty(o, &["preemptionPolicy"])]
        ),
        ("node.k8s.io", "runtimeclasses") => printer!([narrow("Handler"), narrow("Age")], |o, now| vec![or_empty(o, &["handler"]), age(o, now)]),
        ("certificates.k8s.io", "certificatesigningrequests") => printer!(
            [narrow("Age"), narrow("SignerName"), narrow("Requestor"), narrow("RequestedDuration"), narrow("Condition")],
            signing_request
        ),
        ("apiregistration.k8s.io", "apiservices") => printer!([narrow("Service"), narrow("Available"), narrow("Age")], |o, now| {
            let service = at(o, &["spec", "service"]).filter(|s| s.is_object());
            let told = service.map_or_else(|| "Local".to_owned(), |s| {
                format!("{}/{}", text(s, &["namespace"]).unwrap_or_default(), text(s, &["name"]).unwrap_or_default())
            });
            let available = list(o, &["status", "conditions"]).iter().find(|c| c["type"] == "Available");
            vec![told.into(), available.map_or_else(|| json!("Unknown"), |c| or_empty(c, &["status"])), age(o, now)]
        }),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            printer!([number("Webhooks"), narrow("Age")], |o, now| vec![list(o, &["webhooks"]).len().into(), age(o, now)])
        }
        ("apiextensions.k8s.io", _) | ("", "limitranges") => {
            printer!([narrow("Created At")], |o, _| vec![or_empty(o, &["metadata", "creationTimestamp"])])
        }
        _ => printer!([narrow("Age")], |o, now| vec![age(o, now)]),
    }
}

/// `Kind.group/name` of a reference.
fn qualified(reference: &Value) -> String {
    let group = text(reference, &["apiVersion"]).and_then(|v| v.split_once('/')).map(|v| v.0);
    let group = group.or_else(|| text(reference, &["apiGroup"])).unwrap_or_default();
    let dot = if group.is_empty() { "" } else { "." };
    let kind = text(reference, &["kind"]).unwrap_or_default().to_lowercase();
    format!("{kind}{dot}{group}/{}", text(reference, &["name"]).unwrap_or_default())
}

fn template(object: &Value) -> (Value, Value) {
    let (names, images) = containers_and_images(at(object, &["spec", "template"]).unwrap_or(&Value::Null));
    (names.into(), images.into())
}

fn count(object: &Value, path: &[&str]) -> i64 {
    integer(object, path).unwrap_or(0)
}

fn ready_of(object: &Value) -> Value {
    format!("{}/{}", count(object, &["status", "readyReplicas"]), integer(object, &["spec", "replicas"]).unwrap_or(1)).into()
}

fn node(o: &Value, now: i64) -> Vec<Value> {
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

fn service(o: &Value, now: i64) -> Vec<Value> {
    let kind = text(o, &["spec", "type"]).unwrap_or("ClusterIP");
    let cluster_ip = list(o, &["spec", "clusterIPs"]).first().and_then(Value::as_str).or_else(|| text(o, &["spec", "clusterIP"]));
    let balancer = list(o, &["status", "loadBalancer", "ingress"]).iter().filter_map(|i| text(i, &["ip"]).or_else(|| text(i, &["hostname"])));
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

/// More than three are only counted.
fn few(all: &[String]) -> Value {
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(",").into(),
        more => format!("{} + {} more...", all[..3].join(","), more - 3).into(),
    }
}

fn endpoints(o: &Value) -> Value {
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

fn endpoint_slice(o: &Value, now: i64) -> Vec<Value> {
    let ports: Vec<String> = list(o, &["ports"]).iter().map(|p| integer(p, &["port"]).map_or_else(|| "*".to_owned(), |p| p.to_string())).collect();
    let addresses = list(o, &["endpoints"]).iter().flat_map(|e| list(e, &["addresses"]));
    let addresses: Vec<String> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let told = |all: &[String]| if all.is_empty() { json!("<unset>") } else { few(all) };
    vec![or_empty(o, &["addressType"]), told(&ports), told(&addresses), age(o, now)]
}

fn event(o: &Value, now: i64) -> Vec<Value> {
    let object = at(o, &["involvedObject"]).or_else(|| at(o, &["regarding"])).unwrap_or(&Value::Null);
    let kind = text(object, &["kind"]).unwrap_or_default().to_lowercase();
    let source = at(o, &["source"]).or_else(|| at(o, &["deprecatedSource"])).unwrap_or(&Value::Null);
    let component = text(source, &["component"]).filter(|c| !c.is_empty());
    let component = component.or_else(|| text(o, &["reportingComponent"])).or_else(|| text(o, &["reportingController"]));
    let host = text(source, &["host"]).filter(|h| !h.is_empty()).map(|h| format!(", {h}")).unwrap_or_default();
    let first = ["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"].iter().find_map(|k| text(o, &[k]));
    let times = [&["series", "count"][..], &["count"], &["deprecatedCount"]].iter().find_map(|p| integer(o, p)).unwrap_or(1);
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

fn access_modes(o: &Value, path: &[&str]) -> Value {
    let modes = list(o, path).iter().filter_map(Value::as_str).map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    modes.collect::<Vec<_>>().join(",").into()
}

fn persistent_volume(o: &Value, now: i64) -> Vec<Value> {
    let phase = if text(o, &["metadata", "deletionTimestamp"]).is_some() { "Terminating" } else { text(o, &["status", "phase"]).unwrap_or_default() };
    let claim = at(o, &["spec", "claimRef"]).map(|c| format!("{}/{}", text(c, &["namespace"]).unwrap_or_default(), text(c, &["name"]).unwrap_or_default()));
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

fn claim(o: &Value, now: i64) -> Vec<Value> {
    let phase = if text(o, &["metadata", "deletionTimestamp"]).is_some() { "Terminating" } else { text(o, &["status", "phase"]).unwrap_or_default() };
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

fn quota(o: &Value, now: i64) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in entries(o, &["status", "hard"]) {
        let told = format!("{name}: {}/{}", text(o, &["status", "used", name]).unwrap_or("0"), hard.as_str().unwrap_or_default());
        if name.starts_with("limits") { limits.push(told) } else { requests.push(told) }
    }
    vec![requests.join(", ").into(), limits.join(", ").into(), age(o, now)]
}

fn replicas(o: &Value, now: i64, selector: Value) -> Vec<Value> {
    let (names, images) = template(o);
    let status = |key| count(o, &["status", key]).into();
    vec![count(o, &["spec", "replicas"]).into(), status("replicas"), status("readyReplicas"), age(o, now), names, images, selector]
}

fn deployment(o: &Value, now: i64) -> Vec<Value> {
    let (names, images) = template(o);
    let status = |key| count(o, &["status", key]).to_string().into();
    vec![ready_of(o), status("updatedReplicas"), status("availableReplicas"), age(o, now), names, images, selector(o, &["spec", "selector"])]
}

fn daemon_set(o: &Value, now: i64) -> Vec<Value> {
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

fn job(o: &Value, now: i64) -> Vec<Value> {
    let (names, images) = template(o);
    let has = |kind: &str| list(o, &["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
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
    vec![status.into(), completions.into(), duration.into(), age(o, now), names, images, selector(o, &["spec", "selector"])]
}

fn cron_job(o: &Value, now: i64) -> Vec<Value> {
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

fn autoscaler(o: &Value, now: i64) -> Vec<Value> {
    let target = at(o, &["spec", "scaleTargetRef"]).unwrap_or(&Value::Null);
    let mut targets = Vec::new();
    if let Some(wanted) = integer(o, &["spec", "targetCPUUtilizationPercentage"]) {
        let now = integer(o, &["status", "currentCPUUtilizationPercentage"]);
        targets.push(format!("cpu: {}/{wanted}%", now.map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"))));
    }
    for (index, metric) in list(o, &["spec", "metrics"]).iter().enumerate() {
        let current = list(o, &["status", "currentMetrics"]).get(index).unwrap_or(&Value::Null);
        let name = text(metric, &["resource", "name"]).unwrap_or("metric");
        let told = |value: &Value, key: &str| match integer(value, &["resource", key, "averageUtilization"]) {
            Some(percent) => format!("{percent}%"),
            None => text(value, &["resource", key, "averageValue"]).unwrap_or("<unknown>").to_owned(),
        };
        targets.push(format!("{name}: {}/{}", told(current, "current"), told(metric, "target")));
    }
    vec![
        format!("{}/{}", text(target, &["kind"]).unwrap_or_default(), text(target, &["name"]).unwrap_or_default()).into(),
        if targets.is_empty() { "<none>".into() } else { targets.join(", ").into() },
        plain(o, &["spec", "minReplicas"], "<unset>"),
        count(o, &["spec", "maxReplicas"]).to_string().into(),
        count(o, &["status", "currentReplicas"]).to_string().into(),
        age(o, now),
    ]
}

fn ingress(o: &Value, now: i64) -> Vec<Value> {
    let hosts: Vec<&str> = list(o, &["spec", "rules"]).iter().map(|r| text(r, &["host"]).filter(|h| !h.is_empty()).unwrap_or("*")).collect();
    let addresses = list(o, &["status", "loadBalancer", "ingress"]).iter().filter_map(|i| text(i, &["ip"]).or_else(|| text(i, &["hostname"])));
    let tls = !list(o, &["spec", "tls"]).is_empty();
    vec![
        or_none(o, &["spec", "ingressClassName"]),
        if hosts.is_empty() { "*".into() } else { joined(hosts.into_iter()) },
        addresses.collect::<Vec<_>>().join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        age(o, now),
    ]
}

fn role_binding(o: &Value, now: i64) -> Vec<Value> {
    let role = format!("{}/{}", text(o, &["roleRef", "kind"]).unwrap_or_default(), text(o, &["roleRef", "name"]).unwrap_or_default());
    let subjects = |kind: &str| -> Value {
        let names = list(o, &["subjects"]).iter().filter(|s| s["kind"] == kind).map(|s| match text(s, &["namespace"]) {
            Some(namespace) if kind == "ServiceAccount" => format!("{namespace}/{}", text(s, &["name"]).unwrap_or_default()),
            _ => text(s, &["name"]).unwrap_or_default().to_owned(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![role.into(), age(o, now), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

fn signing_request(o: &Value, now: i64) -> Vec<Value> {
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
    let requested = integer(o, &["spec", "expirationSeconds"]).map_or_else(|| "<none>".to_owned(), super::cells::duration);
    vec![age(o, now), or_none(o, &["spec", "signerName"]), or_empty(o, &["spec", "username"]), requested.into(), condition.into()]
}
