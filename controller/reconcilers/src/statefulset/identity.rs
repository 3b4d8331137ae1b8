//! Who a pod of a StatefulSet is: its name, its labels, its claims. Pure.
use crate::parent::Parent;
use crate::pod::PodFacts;
use api::well_known::{LABEL_CONTROLLER_REVISION_HASH, LABEL_POD_INDEX, LABEL_STATEFULSET_POD_NAME};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The set as owner.
pub(super) fn parent(set: &StatefulSet) -> Parent<'_> {
    Parent { api_version: "apps/v1", kind: "StatefulSet", metadata: &set.metadata }
}

/// The name of the pod with this ordinal.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", parent(set).name())
}

/// The ordinal of a pod by its name; `None` where the set never gives such a name.
pub(super) fn ordinal(set: &StatefulSet, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(parent(set).name())?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    // `web-01` and `web-+1` are other names than `web-1`.
    (ordinal >= 0 && ordinal.to_string() == digits).then_some(ordinal)
}

/// The labels by which a pod says who it is.
fn labels(set: &StatefulSet, ordinal: i32) -> [(&'static str, String); 2] {
    [(LABEL_STATEFULSET_POD_NAME, pod_name(set, ordinal)), (LABEL_POD_INDEX, ordinal.to_string())]
}

/// The labels of its identity that a pod lacks.
pub(super) fn missing_labels(set: &StatefulSet, pod: &PodFacts, ordinal: i32) -> BTreeMap<&'static str, String> {
    labels(set, ordinal).into_iter().filter(|(key, value)| pod.label(key) != Some(value)).collect()
}

/// The name of the claim of a template for the pod with this ordinal.
fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", template.metadata.name.as_deref().unwrap_or_default(), pod_name(set, ordinal))
}

/// The names of a pod's claims.
pub(super) fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates.map(|template| claim_name(set, template, ordinal)).collect()
}

/// Whether a claim of this name could be one of the set's.
pub(super) fn is_claim_of(set: &StatefulSet, claim: &str) -> bool {
    set.spec.volume_claim_templates.iter().flatten().any(|template| {
        let name = template.metadata.name.as_deref().unwrap_or_default();
        let pod = claim.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        pod.is_some_and(|pod| ordinal(set, pod).is_some())
    })
}

/// The claims of a pod as they are made.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels).filter(|labels| !labels.is_empty()),
                annotations: template.metadata.annotations.clone(),
                finalizers: template.metadata.finalizers.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    templates.map(claim).collect()
}

/// The pod with this ordinal, made from a template that is kept under the name `revision`.
pub(super) fn pod(set: &StatefulSet, template: PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = pod_name(set, ordinal);
    let mut metadata = parent(set).pod_metadata(template.metadata);
    metadata.name = Some(name.clone());
    let own = metadata.labels.get_or_insert_default();
    own.extend(labels(set, ordinal).map(|(key, value)| (key.to_owned(), value)));
    own.insert(LABEL_CONTROLLER_REVISION_HASH.to_owned(), revision.to_owned());
    let mut spec = template.spec.unwrap_or_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let templates = set.spec.volume_claim_templates.as_deref().unwrap_or_default();
    let is_replaced = |volume: &Volume| templates.iter().any(|t| t.metadata.name.as_ref() == Some(&volume.name));
    let mut volumes: Vec<Volume> = templates
        .iter()
        .map(|template| Volume {
            name: template.metadata.name.clone().unwrap_or_default(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, template, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    volumes.extend(spec.volumes.take().unwrap_or_default().into_iter().filter(|volume| !is_replaced(volume)));
    spec.volumes = Some(volumes).filter(|volumes| !volumes.is_empty());
    Pod { metadata, spec: Some(spec), status: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u"},
            "spec": {"serviceName": "www", "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"x": "y"}}, "spec": {}}]},
        }))
        .unwrap()
    }

    #[test]
    fn names_tell_ordinals() {
        let set = set();
        for (name, want) in [("web-0", Some(0)), ("web-12", Some(12))] {
            assert_eq!(ordinal(&set, name), want);
            assert_eq!(pod_name(&set, want.unwrap()), name);
        }
        for name in ["web", "web-", "web-01", "web-+1", "web--1", "web-x", "web-99999999999", "other-1", "web-a-1"] {
            assert_eq!(ordinal(&set, name), None, "{name}");
        }
        assert!(is_claim_of(&set, "data-web-3") && !is_claim_of(&set, "data-web-x") && !is_claim_of(&set, "web-3"));
    }

    #[test]
    fn a_pod_says_who_it_is_and_has_its_claims_for_volumes() {
        let set = set();
        let pod = pod(&set, set.spec.template.clone(), "web-abc", 3);
        let labels = pod.metadata.labels.unwrap();
        for (key, value) in [
            ("a", "b"),
            ("statefulset.kubernetes.io/pod-name", "web-3"),
            ("apps.kubernetes.io/pod-index", "3"),
            ("controller-revision-hash", "web-abc"),
        ] {
            assert_eq!(labels[key], value);
        }
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-3"), Some("www")));
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["data", "tmp"]);
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-3");
        let claim = claims(&set, 3).remove(0).metadata;
        assert_eq!((claim.name.as_deref(), claim.labels.unwrap().len()), (Some("data-web-3"), 2));
    }
}
