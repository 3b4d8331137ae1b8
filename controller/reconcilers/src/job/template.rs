//! The pods of a Job by its template: pure.
use super::plan::Draft;
use super::tally::spec_of;
use crate::parent::Parent;
use api::well_known::{
    ANNOTATION_JOB_INDEX_FAILURES, ANNOTATION_JOB_INDEX_IGNORED_FAILURES, FINALIZER_JOB_TRACKING,
    LABEL_JOB_COMPLETION_INDEX,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec};

/// What a name may have before the five characters that the server adds.
const NAME_BASE_MOST: usize = 58;
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The Job as owner.
pub(super) fn parent(job: &Job) -> Parent<'_> {
    Parent { api_version: "batch/v1", kind: "Job", metadata: &job.metadata }
}

/// The pod of a draft.
pub(super) fn pod(job: &Job, draft: Draft) -> Pod {
    let name = parent(job).name();
    let template = spec_of(job).template.clone();
    let mut metadata = parent(job).pod_metadata(template.metadata);
    let mut spec = template.spec.unwrap_or_default();
    let finalizers = metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER_JOB_TRACKING) {
        finalizers.push(FINALIZER_JOB_TRACKING.to_owned());
    }
    if let Some(index) = draft.index {
        let key = LABEL_JOB_COMPLETION_INDEX.to_owned();
        metadata.labels.get_or_insert_default().insert(key.clone(), index.to_string());
        metadata.annotations.get_or_insert_default().insert(key, index.to_string());
        let tail = format!("-{index}-");
        let base: String = name.chars().take(NAME_BASE_MOST - tail.len()).collect();
        metadata.generate_name = Some(base + &tail);
        spec.hostname = Some(format!("{name}-{index}"));
        name_index(&mut spec);
    }
    if let Some((counted, ignored)) = draft.failures {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_JOB_INDEX_FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(ANNOTATION_JOB_INDEX_IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    Pod { metadata, spec: Some(spec), status: None }
}

/// Every container knows its index, unless its author has another meaning for the variable.
fn name_index(spec: &mut PodSpec) {
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let variables = container.env.get_or_insert_default();
        if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
            continue;
        }
        let field = ObjectFieldSelector {
            api_version: None,
            field_path: format!("metadata.labels['{LABEL_JOB_COMPLETION_INDEX}']"),
        };
        let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
        variables.push(EnvVar { name: INDEX_VARIABLE.to_owned(), value: None, value_from: Some(source) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn indexed_pods_know_who_they_are() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"name": "j".repeat(60), "namespace": "n", "uid": "u"},
            "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "initContainers": [{"name": "i", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "own"}]}],
                "containers": [{"name": "c"}]}}},
        }))
        .unwrap();
        let made = json!(pod(&job, Draft { index: Some(12), failures: Some((2, 1)) }));
        assert_eq!(made["metadata"]["generateName"], format!("{}-12-", "j".repeat(54)));
        assert_eq!(made["spec"]["hostname"], format!("{}-12", "j".repeat(60)));
        assert_eq!(made["metadata"]["labels"], json!({"a": "b", "batch.kubernetes.io/job-completion-index": "12"}));
        let annotations = &made["metadata"]["annotations"];
        assert_eq!(annotations["batch.kubernetes.io/job-completion-index"], "12");
        assert_eq!(annotations["batch.kubernetes.io/job-index-failure-count"], "2");
        assert_eq!(annotations["batch.kubernetes.io/job-index-ignored-failure-count"], "1");
        assert_eq!(made["metadata"]["finalizers"], json!(["batch.kubernetes.io/job-tracking"]));
        assert_eq!(made["spec"]["initContainers"][0]["env"].as_array().unwrap().len(), 1);
        let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
        assert_eq!(made["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], path);
    }

    #[test]
    fn others_are_plain() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"template": {}}})).unwrap();
        let made = json!(pod(&job, Draft::default()));
        assert_eq!(made["metadata"]["generateName"], "j-");
        assert_eq!(made["spec"].get("hostname"), None);
    }
}
