//! A pod's row: the status word that kubectl shows is put together from phase, reasons and container states.
use super::cells::{age, epoch, or_none, since};
use crate::tree::{at, integer, list, text};
use serde_json::Value;

/// Whether the pod has come to its end.
pub(super) fn is_over(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), Some("Succeeded" | "Failed"))
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    list(pod, &["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += integer(status, &["restartCount"]).unwrap_or(0);
        self.last = self.last.max(text(status, &["lastState", "terminated", "finishedAt"]).and_then(epoch));
    }
}

/// How a terminated container is told.
fn ended(terminated: &Value) -> String {
    let number = |key| integer(terminated, &[key]).unwrap_or(0);
    match (text(terminated, &["reason"]).unwrap_or_default(), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

pub(super) fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let init = list(pod, &["spec", "initContainers"]);
    let sidecar = |name: &Value| init.iter().any(|c| c.get("name") == Some(name) && c["restartPolicy"] == "Always");
    let sidecars = init.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let total = list(pod, &["spec", "containers"]).len() + sidecars;
    let mut status = match text(pod, &["status", "reason"]).filter(|r| !r.is_empty()) {
        Some(reason) => reason.to_owned(),
        None => text(pod, &["status", "phase"]).filter(|p| !p.is_empty()).unwrap_or("Unknown").to_owned(),
    };
    if list(pod, &["status", "conditions"])
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated")
    {
        status = "SchedulingGated".to_owned();
    }
    let (mut ready, mut restarts, mut sidecar_restarts) = (0usize, Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (index, container) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        restarts.add(container);
        let is_sidecar = sidecar(&container["name"]);
        if is_sidecar {
            sidecar_restarts.add(container);
        }
        if let Some(terminated) = at(container, &["state", "terminated"]) {
            if integer(terminated, &["exitCode"]).unwrap_or(0) == 0 {
                continue;
            }
            status = format!("Init:{}", ended(terminated));
        } else if is_sidecar && container["started"] == true {
            ready += usize::from(container["ready"] == true);
            continue;
        } else {
            let waiting = text(container, &["state", "waiting", "reason"]).unwrap_or_default();
            status = if waiting.is_empty() || waiting == "PodInitializing" {
                format!("Init:{index}/{}", init.len())
            } else {
                format!("Init:{waiting}")
            };
        }
        initializing = true;
        break;
    }
    if !initializing || has_condition(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for container in list(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(container);
            if let Some(reason) = text(container, &["state", "waiting", "reason"]).filter(|r| !r.is_empty()) {
                status = reason.to_owned();
            } else if let Some(terminated) = at(container, &["state", "terminated"]) {
                status = ended(terminated);
            } else if container["ready"] == true && at(container, &["state", "running"]).is_some() {
                running = true;
                ready += 1;
            }
        }
        if status == "Completed" && running {
            status = if has_condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if text(pod, &["metadata", "deletionTimestamp"]).is_some() {
        if text(pod, &["status", "reason"]) == Some("NodeLost") {
            status = "Unknown".to_owned();
        } else if !is_over(pod) {
            status = "Terminating".to_owned();
        }
    }
    let restarted = match restarts.last {
        Some(last) if restarts.count > 0 => format!("{} ({} ago)", restarts.count, super::cells::duration(now - last)),
        _ => restarts.count.to_string(),
    };
    let ip = list(pod, &["status", "podIPs"])
        .first()
        .map_or_else(|| or_none(pod, &["status", "podIP"]), |ip| or_none(ip, &["ip"]));
    let gates = list(pod, &["spec", "readinessGates"]);
    let gates_text = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates.iter().filter(|g| has_condition(pod, text(g, &["conditionType"]).unwrap_or_default())).count();
        format!("{met}/{}", gates.len())
    };
    vec![
        format!("{ready}/{total}").into(),
        status.into(),
        restarted.into(),
        age(pod, now),
        ip,
        or_none(pod, &["spec", "nodeName"]),
        or_none(pod, &["status", "nominatedNodeName"]),
        gates_text.into(),
    ]
}

/// `LAST SEEN` of an event.
pub(super) fn last_seen(event: &Value, now: i64) -> Value {
    let time = [
        &["series", "lastObservedTime"][..],
        &["lastTimestamp"],
        &["deprecatedLastTimestamp"],
        &["eventTime"],
        &["firstTimestamp"],
        &["metadata", "creationTimestamp"],
    ]
    .into_iter()
    .find_map(|path| text(event, path));
    since(time, now).into()
}
