//! A pod's status as a strategic merge patch: what others say of the pod stays, also what they said a moment ago.

use agent_pod::condition::{DISRUPTED_BY_NODE, OWN, RESIZES};
use api::well_known::CONDITION_DISRUPTED;
use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Value, json};

/// The patch. The uid makes sure that a pod of the same name that came later is not written to.
pub(crate) fn of(uid: &str, status: &PodStatus) -> Value {
    let mut patch = json!({"metadata": {"uid": uid}, "status": status});
    let told = status.conditions.iter().flatten();
    let own = told.clone().filter(|condition| {
        OWN.iter().chain(&RESIZES).any(|own| *own == condition.type_)
            || condition.type_ == CONDITION_DISRUPTED && condition.reason.as_deref() == Some(DISRUPTED_BY_NODE)
    });
    let gone = RESIZES.iter().filter(|kind| told.clone().all(|condition| condition.type_ != **kind));
    let gone = gone.map(|kind| json!({"type": kind, "$patch": "delete"}));
    let whole = |condition: &PodCondition| {
        // Left out of a patch, why it did not hold would stay.
        let mut whole = json!({"reason": null, "message": null});
        whole
            .as_object_mut()
            .into_iter()
            .for_each(|all| all.extend(json!(condition).as_object().cloned().unwrap_or_default()));
        whole
    };
    patch["status"]["conditions"] = own.map(whole).chain(gone).collect();
    // These lists are merged by address: one that is gone would stay.
    for list in ["podIPs", "hostIPs"] {
        if let Some(addresses) = patch["status"].get_mut(list).and_then(Value::as_array_mut) {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    for (field, cleared) in
        [("podIP", status.pod_ip.is_none()), ("podIPs", status.pod_ips.is_none()), ("hostIP", status.host_ip.is_none())]
    {
        // Left out of a patch, it would stay.
        if cleared {
            patch["status"][field] = Value::Null;
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_agents_is_written() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let status = json!({"conditions": [condition("DisruptionTarget"), condition("Ready"), condition("PodScheduled"), condition("example.com/gate"),
            condition("PodResizePending")], "podIPs": [{"ip": "10.0.0.2"}], "podIP": "10.0.0.2"});
        let patch = of("u", &serde_json::from_value(status).unwrap());
        let gone = json!({"type": "PodResizeInProgress", "$patch": "delete"});
        let kinds: Vec<_> = patch["status"]["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
        assert_eq!(kinds, ["Ready", "PodResizePending", "PodResizeInProgress"]);
        assert_eq!(patch["status"]["conditions"][2], gone);
        let ready = patch["status"]["conditions"][0].as_object().unwrap();
        assert!(ready.contains_key("reason") && ready["message"].is_null(), "what was said before goes");
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.2"}]));
        let ours =
            json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]});
        let patch = of("u", &serde_json::from_value(ours).unwrap());
        assert_eq!(patch["status"]["conditions"][0]["type"], "DisruptionTarget");
        let empty = of("u", &PodStatus::default());
        assert!(empty["status"]["podIP"].is_null() && empty["status"].as_object().unwrap().contains_key("podIPs"));
    }
}
