//! Which revision stands for a template, and which nobody needs any more: pure.
use crate::parent::Parent;
use crate::pod::controller_of;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Label of a StatefulSet's revision with its hash; a DaemonSet's has the label that its pods have.
pub(crate) const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const HASH_LENGTH: usize = 10;
/// What a name may be long, less the hash and what others add.
const NAME_MAX: usize = 223;

/// A workload as history sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) parent: Parent<'a>,
    /// Its template now.
    pub(crate) template: &'a PodTemplateSpec,
    /// The label of a revision with its hash.
    pub(crate) hash_label: &'static str,
}

/// What is to become of the newest template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Settled {
    /// This one stands for it.
    Kept(Arc<ControllerRevision>),
    /// An earlier one stands for it, and gets the newest number: the way back is a step forward.
    Renumbered(Arc<ControllerRevision>, i64),
    /// None does yet.
    Missing(Box<ControllerRevision>),
}

/// The patch of a workload that brings a template back, as Kubernetes keeps it.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template of a revision.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The number of a revision.
pub(super) fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or_default()
}

/// The name of a revision.
pub(crate) fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// The hash of a revision, from its label.
pub(crate) fn hash_of<'a>(revision: &'a ControllerRevision, label: &str) -> &'a str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(label)).map(String::as_str).unwrap_or_default()
}

/// Whether two revisions keep the same template, whatever their names.
pub(crate) fn equals(a: &ControllerRevision, b: &ControllerRevision) -> bool {
    a.data.0 == b.data.0
}

/// Whether a revision's controller is the object with this uid.
pub(crate) fn is_of(revision: &ControllerRevision, uid: &str) -> bool {
    controller_of(revision.metadata.owner_references.as_ref()).is_some_and(|owner| owner.uid == uid)
}

/// The oldest first; which of several with one number is told by age and name.
fn sort(revisions: &[Arc<ControllerRevision>]) -> Vec<&Arc<ControllerRevision>> {
    let mut sorted: Vec<_> = revisions.iter().collect();
    sorted.sort_by_key(|revision| {
        let created = revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (number(revision), created, name_of(revision).to_owned())
    });
    sorted
}

/// Decides what stands for the template. `revisions` are its own.
pub(super) fn settle(source: &Source<'_>, revisions: &[Arc<ControllerRevision>], collisions: i32) -> Settled {
    let wanted = data(source.template);
    let sorted = sort(revisions);
    let newest = sorted.last().map_or(0, |last| number(last));
    match sorted.iter().rev().find(|revision| revision.data.0 == wanted) {
        Some(found) if sorted.last().is_some_and(|last| Arc::ptr_eq(last, found)) => Settled::Kept(Arc::clone(found)),
        Some(found) => Settled::Renumbered(Arc::clone(found), newest.saturating_add(1)),
        None => Settled::Missing(Box::new(new_revision(source, wanted, newest.saturating_add(1), collisions))),
    }
}

/// A stable hash of what is kept; another one for every collision count.
fn hash(data: &Value, collisions: i32) -> String {
    let mut hash = sha2::Sha256::new();
    // Maps are sorted, so that equal templates give equal text.
    hash.update(data.to_string());
    hash.update(collisions.to_le_bytes());
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    api::name::safe_suffix(number, HASH_LENGTH)
}

fn new_revision(source: &Source<'_>, data: Value, revision: i64, collisions: i32) -> ControllerRevision {
    let hash = hash(&data, collisions);
    let Source { parent, template, hash_label } = source;
    let name = parent.name();
    // Names are ASCII.
    let stem = name.get(..NAME_MAX).unwrap_or(name);
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert((*hash_label).to_owned(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{stem}-{hash}")),
            namespace: parent.metadata.namespace.clone(),
            labels: Some(labels),
            // `kubectl rollout history` reads the cause of a change from them.
            annotations: parent.metadata.annotations.clone(),
            owner_references: Some(vec![parent.owner_reference()]),
            ..ObjectMeta::default()
        },
        data: RawExtension(data),
        revision: Some(revision),
    }
}

/// The oldest of those that nobody uses, beyond `limit`. `live` has the names of those in use.
pub(crate) fn surplus(
    revisions: &[Arc<ControllerRevision>],
    live: &BTreeSet<&str>,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit.unwrap_or(10)) else { return Vec::new() };
    let unused: Vec<_> = sort(revisions).into_iter().filter(|revision| !live.contains(name_of(revision))).collect();
    let count = unused.len().saturating_sub(limit);
    unused.into_iter().take(count).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        let spec = json!({"containers": [{"name": "c", "image": image}]});
        serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}, "spec": spec})).unwrap()
    }

    fn source<'a>(metadata: &'a ObjectMeta, template: &'a PodTemplateSpec) -> Source<'a> {
        Source {
            parent: Parent { api_version: "apps/v1", kind: "StatefulSet", metadata },
            template,
            hash_label: HASH_LABEL,
        }
    }

    fn made(settled: Settled) -> Arc<ControllerRevision> {
        match settled {
            Settled::Missing(revision) => Arc::from(revision),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn templates_come_and_come_back() {
        let metadata = ObjectMeta { name: Some("web".into()), uid: Some("u".into()), ..ObjectMeta::default() };
        let (one, two) = (template("1"), template("2"));
        let first = made(settle(&source(&metadata, &one), &[], 0));
        let second = made(settle(&source(&metadata, &two), &[Arc::clone(&first)], 0));
        assert_eq!((number(&first), number(&second)), (1, 2));
        assert!(name_of(&first).starts_with("web-") && name_of(&first) != name_of(&second));
        assert!(name_of(&first).ends_with(hash_of(&first, HASH_LABEL)));
        assert_eq!(template_of(&first), Some(one.clone()));
        let all = [Arc::clone(&first), Arc::clone(&second)];
        assert_eq!(settle(&source(&metadata, &two), &all, 0), Settled::Kept(second));
        assert_eq!(settle(&source(&metadata, &one), &all, 0), Settled::Renumbered(Arc::clone(&first), 3));
        let collided = made(settle(&source(&metadata, &one), &[], 1));
        assert!(equals(&collided, &first) && name_of(&collided) != name_of(&first));
    }

    #[test]
    fn what_is_used_does_not_count_against_the_limit() {
        let metadata = ObjectMeta { name: Some("web".into()), ..ObjectMeta::default() };
        let mut all: Vec<Arc<ControllerRevision>> = Vec::new();
        for image in 0..6 {
            let template = template(&image.to_string());
            all.push(made(settle(&source(&metadata, &template), &all, 0)));
        }
        let live: BTreeSet<&str> = [name_of(&all[5]), name_of(&all[1])].into();
        let names = |limit| {
            let gone = surplus(&all, &live, limit);
            gone.iter().map(|revision| number(revision)).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(2)), [1, 3]);
        assert_eq!(names(Some(0)), [1, 3, 4, 5]);
        assert_eq!(names(None), [0; 0]);
    }

    proptest::proptest! {
        #[test]
        fn the_newest_number_is_the_templates_and_history_stays_short(
            picks in proptest::collection::vec((0u8..5, 0usize..4), 1..40),
        ) {
            let metadata = ObjectMeta { name: Some("web".into()), ..ObjectMeta::default() };
            let mut all: Vec<Arc<ControllerRevision>> = Vec::new();
            for (pick, limit) in picks {
                let template = template(&pick.to_string());
                let known = all.iter().any(|revision| template_of(revision).as_ref() == Some(&template));
                let current = match settle(&source(&metadata, &template), &all, 0) {
                    Settled::Kept(revision) => revision,
                    Settled::Renumbered(revision, number) => {
                        let renumbered = Arc::new(ControllerRevision { revision: Some(number), ..(*revision).clone() });
                        all.retain(|other| name_of(other) != name_of(&revision));
                        all.push(Arc::clone(&renumbered));
                        renumbered
                    }
                    Settled::Missing(revision) => {
                        proptest::prop_assert!(!known, "what is kept is used again");
                        all.push(Arc::from(revision));
                        Arc::clone(all.last().unwrap())
                    }
                };
                proptest::prop_assert_eq!(template_of(&current), Some(template));
                let others = all.iter().filter(|other| name_of(other) != name_of(&current));
                proptest::prop_assert!(others.into_iter().all(|other| number(other) < number(&current)));
                let live: BTreeSet<&str> = [name_of(&current)].into();
                let gone = surplus(&all, &live, i32::try_from(limit).ok());
                proptest::prop_assert!(gone.iter().all(|old| name_of(old) != name_of(&current)));
                all.retain(|revision| !gone.iter().any(|old| name_of(old) == name_of(revision)));
                proptest::prop_assert!(all.len() <= limit + 1);
            }
        }
    }
}
