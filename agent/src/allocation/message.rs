//! What events say of resizes, in the kubelet's words (`pkg/kubelet/events`): what is asked for, as JSON. Pure.

use agent_pod::facts::{self, Pending, Role};
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<One>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<One>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: String,
}

#[derive(Serialize)]
struct One {
    name: String,
    resources: ResourceRequirements,
}

fn told(what: &str, pod: &Pod, error: &str) -> String {
    let of = |roles: &[Role]| {
        let all = facts::containers(pod).filter(|(_, role)| roles.contains(role));
        all.map(|(own, _)| One { name: own.name, resources: own.resources.unwrap_or_default() }).collect()
    };
    let summary = Summary {
        init_containers: of(&[Role::Init, Role::Sidecar]),
        containers: of(&[Role::App]),
        generation: pod.metadata.generation.unwrap_or(0),
        error: error.to_owned(),
    };
    serde_json::to_string(&summary).map_or_else(|_| what.to_owned(), |summary| format!("{what}: {summary}"))
}

/// A pod was given what it asks for.
pub(crate) fn started(pod: &Pod) -> String {
    told("Pod resize started", pod, "")
}

/// Its containers have it.
pub(crate) fn completed(pod: &Pod) -> String {
    told("Pod resize completed", pod, "")
}

/// One of them could not have it.
pub(crate) fn failed(pod: &Pod, error: &str) -> String {
    told("Pod resize error", pod, error)
}

/// A pod was not given what it asks for.
pub(crate) fn pending(pod: &Pod, pending: &Pending) -> String {
    told(&format!("Pod resize {}", pending.reason()), pod, pending.message())
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn an_event_says_what_is_asked_for() {
        let resources = json!({"limits": {"cpu": "100m"}, "requests": {"cpu": "100m"}});
        let pod: Pod = from_value(json!({"metadata": {"generation": 2},
            "spec": {"containers": [{"name": "c", "resources": resources}]}}))
        .unwrap();
        let one = r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"100m"},"requests":{"cpu":"100m"}}}],"generation":2"#;
        assert_eq!(started(&pod), format!("Pod resize started: {one}}}"));
        let waits = Pending::Deferred("no room".into());
        assert_eq!(pending(&pod, &waits), format!("Pod resize Deferred: {one},\"error\":\"no room\"}}"));
    }
}
