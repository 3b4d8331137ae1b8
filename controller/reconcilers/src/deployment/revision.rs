//! Which ReplicaSet stands for the template now, and the annotations that tell revisions.
use super::bounds::{bounds, wanted};
use super::hash::template_hash;
use api::well_known::{
    ANNOTATION_DESIRED_REPLICAS, ANNOTATION_LAST_APPLIED, ANNOTATION_MAX_REPLICAS, ANNOTATION_REVISION,
    ANNOTATION_REVISION_HISTORY, LABEL_POD_TEMPLATE_HASH,
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Longer histories lose their oldest part.
const MAX_HISTORY: usize = 2000;
/// Annotations that do not go from the Deployment to its ReplicaSets.
const OWN: [&str; 5] = [
    ANNOTATION_LAST_APPLIED,
    ANNOTATION_REVISION,
    ANNOTATION_REVISION_HISTORY,
    ANNOTATION_DESIRED_REPLICAS,
    ANNOTATION_MAX_REPLICAS,
];

/// The revision of a ReplicaSet; 0 if it has none.
pub(super) fn revision(metadata: &ObjectMeta) -> i64 {
    let annotation = metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION_REVISION));
    annotation.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The template without the label of its hash.
fn plain(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(LABEL_POD_TEMPLATE_HASH);
    }
    metadata.labels.take_if(|labels| labels.is_empty());
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    metadata.creation_timestamp = None;
    template
}

/// Whether a ReplicaSet makes the pods that the Deployment describes.
pub(super) fn is_current(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = Some(&deployment.spec.template);
    plain(wanted) == plain(set.spec.template.as_ref())
}

/// What the ReplicaSet's annotations must be.
pub(super) fn annotations(deployment: &Deployment, set: &ReplicaSet, newest_other: i64) -> BTreeMap<String, String> {
    let mut annotations = set.metadata.annotations.clone().unwrap_or_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let (old, new) = (revision(&set.metadata), newest_other + 1);
    if old < new {
        annotations.insert(ANNOTATION_REVISION.to_owned(), new.to_string());
        if old > 0 {
            let history = annotations.entry(ANNOTATION_REVISION_HISTORY.to_owned()).or_default();
            if !history.is_empty() {
                history.push(',');
            }
            history.push_str(&old.to_string());
            while history.len() > MAX_HISTORY
                && let Some((_, rest)) = history.split_once(',')
            {
                *history = rest.to_owned();
            }
        }
    }
    annotations
}

/// Notes in the annotations what the rollout asks for; `rollout` and proportional scaling read it.
pub(super) fn note_size(deployment: &Deployment, set: &mut ReplicaSet) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let desired = wanted(deployment);
    annotations.insert(ANNOTATION_DESIRED_REPLICAS.to_owned(), desired.to_string());
    let most = desired.saturating_add(bounds(deployment).surge);
    annotations.insert(ANNOTATION_MAX_REPLICAS.to_owned(), most.to_string());
}

/// A number in an annotation.
pub(super) fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// The owner reference of the Deployment's ReplicaSets.
pub(super) fn owner_reference(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: deployment.metadata.name.clone().unwrap_or_default(),
        uid: deployment.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A new ReplicaSet for the template, without replicas yet.
pub(super) fn new_set(deployment: &Deployment) -> ReplicaSet {
    let spec = deployment.spec.clone();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or_default();
    let mut template = plain(Some(&spec.template));
    let hash = template_hash(&template, collisions);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(LABEL_POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(LABEL_POD_TEMPLATE_HASH.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}
