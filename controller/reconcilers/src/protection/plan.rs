//! Who uses a claim, and what is left of finalizers: pure.
use k8s_openapi::api::core::v1::Pod;

/// Whether a pod keeps a claim: it runs somewhere, or may, and names the claim or owns it as a generic volume.
pub(super) fn keeps(pod: &Pod, claim: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    // No node starts a pod with a claim that is being deleted.
    let is_scheduled = spec.node_name.as_deref().is_some_and(|node| !node.is_empty());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uses = spec.volumes.iter().flatten().any(|volume| {
        let named = volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim);
        // Such a claim is named after its pod and the volume (API reference, EphemeralVolumeSource).
        let own = volume.ephemeral.is_some()
            && claim.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')) == Some(volume.name.as_str());
        named || own
    });
    is_scheduled && uses && !api::pod::is_terminal(pod)
}

/// Whether a pod keeps its group: wherever it is, until it has ended.
pub(super) fn keeps_group(pod: &Pod, group: &str) -> bool {
    let named = pod.spec.as_ref().and_then(|spec| spec.scheduling_group.as_ref()?.pod_group_name.as_deref());
    named == Some(group) && !api::pod::is_terminal(pod)
}

/// The finalizers without one; `None` where it is not among them.
pub(super) fn without(finalizers: &[String], finalizer: &str) -> Option<Vec<String>> {
    let left: Vec<String> = finalizers.iter().filter(|own| *own != finalizer).cloned().collect();
    (left.len() < finalizers.len()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_pods_on_a_node_that_have_not_ended_keep_a_claim() {
        let pod = |node: &str, phase: &str| -> Pod {
            let volumes =
                json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}]);
            let spec = json!({"nodeName": node, "containers": [], "volumes": volumes});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}}))
                .unwrap()
        };
        assert!(keeps(&pod("n", "Running"), "c") && keeps(&pod("n", "Running"), "p-e"));
        assert!(!keeps(&pod("", "Pending"), "c") && !keeps(&pod("n", "Succeeded"), "c"));
        assert!(!keeps(&pod("n", "Running"), "d") && !keeps(&pod("n", "Running"), "p-v"));
    }

    #[test]
    fn pods_keep_their_group_until_they_have_ended() {
        let pod = |phase: &str| -> Pod {
            let spec = json!({"containers": [], "schedulingGroup": {"podGroupName": "g"}});
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}}))
                .unwrap()
        };
        assert!(keeps_group(&pod("Pending"), "g") && keeps_group(&pod("Running"), "g"));
        assert!(!keeps_group(&pod("Failed"), "g") && !keeps_group(&pod("Pending"), "h"));
    }

    #[test]
    fn other_finalizers_stay() {
        let all = ["a".to_owned(), "b".to_owned()];
        assert_eq!(without(&all, "a"), Some(vec!["b".to_owned()]));
        assert_eq!(without(&all, "c"), None);
    }
}
