//! What a Deployment needs: pure. The steps follow Kubernetes' deployment controller, so that `kubectl rollout` is right.
use super::bounds::{recreates, wanted};
use super::revision::{annotations, is_current, new_set, note_size, number, revision};
use super::{conditions, rollout, scaling};
use api::well_known::ANNOTATION_DESIRED_REPLICAS;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use std::sync::Arc;

/// A ReplicaSet as it is to become.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// The wish; compared with what is there to find the writes.
    pub(super) set: ReplicaSet,
    /// How many replicas it asks for now.
    pub(super) before: i32,
    /// It has to be made.
    pub(super) is_missing: bool,
}

/// Replicas that are asked for.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Replicas that are available.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

impl Draft {
    /// Asks for `count` replicas.
    pub(super) fn scale(&mut self, deployment: &Deployment, count: i32) {
        if replicas(&self.set) != count || self.is_missing {
            self.set.spec.replicas = Some(count.max(0));
            note_size(deployment, &mut self.set);
        }
    }

    /// How many replicas it asks for.
    pub(super) fn replicas(&self) -> i32 {
        replicas(&self.set)
    }
}

/// All ReplicaSets of a Deployment.
#[derive(Clone, Debug, Default)]
pub(super) struct Drafts {
    /// The one of the current template.
    pub(super) new: Option<Draft>,
    /// The others, oldest first.
    pub(super) old: Vec<Draft>,
}

impl Drafts {
    /// Every ReplicaSet, the new one last.
    pub(super) fn all(&self) -> impl Iterator<Item = &Draft> {
        self.old.iter().chain(&self.new)
    }

    /// Every ReplicaSet, the new one last.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Draft> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// The sum of what is asked for.
    pub(super) fn total(&self) -> i32 {
        self.all().map(Draft::replicas).sum()
    }
}

/// What to do.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// The ReplicaSets as they are to become.
    pub(super) drafts: Vec<Draft>,
    /// Names of ReplicaSets that nobody needs any more.
    pub(super) delete: Vec<String>,
    /// The revision that the Deployment's annotation has to tell.
    pub(super) revision: i64,
    /// The status.
    pub(super) status: DeploymentStatus,
    /// In how many seconds it changes by time alone.
    pub(super) next: Option<i64>,
}

/// Decides. `sets` are the Deployment's own; `old_pods` tells whether pods of other templates still run.
pub(super) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], old_pods: bool, now: jiff::Timestamp) -> Plan {
    let mut drafts = sort(deployment, sets);
    let is_paused = deployment.spec.paused.unwrap_or_default();
    let is_deleting = deployment.metadata.deletion_timestamp.is_some();
    if !is_deleting {
        let rescaled = drafts.all().any(|draft| {
            let noted = number(&draft.set, ANNOTATION_DESIRED_REPLICAS);
            draft.replicas() > 0 && noted.is_some_and(|noted| noted != wanted(deployment))
        });
        if !is_paused && (!recreates(deployment) || may_recreate(&drafts, old_pods)) && !rescaled {
            settle_new(deployment, &mut drafts);
        } else {
            keep_revision(deployment, &mut drafts);
        }
        if is_paused || rescaled {
            scaling::scale(deployment, &mut drafts);
        } else if recreates(deployment) {
            rollout::recreate(deployment, &mut drafts, old_pods);
        } else {
            rollout::roll(deployment, &mut drafts);
        }
    }
    let (status, next) = conditions::status(deployment, &drafts, is_paused, now);
    let is_complete = conditions::is_complete(deployment, &status);
    let delete = if is_deleting || !(is_complete || is_paused) { Vec::new() } else { surplus(deployment, &drafts) };
    let own = deployment.metadata.annotations.as_ref().map_or(0, |_| revision(&deployment.metadata));
    let revision = drafts.new.as_ref().map_or(own, |draft| revision(&draft.set.metadata));
    let drafts = drafts.old.into_iter().chain(drafts.new).collect();
    Plan { drafts, delete, revision, status, next }
}

/// With `Recreate` the new ReplicaSet comes when the old pods are gone.
fn may_recreate(drafts: &Drafts, old_pods: bool) -> bool {
    drafts.new.is_some() || (!old_pods && drafts.old.iter().all(|draft| draft.replicas() == 0))
}

fn sort(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Drafts {
    let mut sorted: Vec<&Arc<ReplicaSet>> = sets.iter().collect();
    sorted.sort_by_key(|set| {
        (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.clone().unwrap_or_default())
    });
    let mut drafts = Drafts::default();
    for set in sorted {
        let draft = Draft { set: ReplicaSet::clone(set), before: replicas(set), is_missing: false };
        // The oldest of several with the same template counts, as everywhere in Kubernetes.
        if drafts.new.is_none() && is_current(deployment, set) {
            drafts.new = Some(draft);
        } else {
            drafts.old.push(draft);
        }
    }
    drafts
}

/// Makes sure that the new ReplicaSet is there and carries the newest revision.
fn settle_new(deployment: &Deployment, drafts: &mut Drafts) {
    if drafts.new.is_none() {
        drafts.new = Some(Draft { set: new_set(deployment), before: 0, is_missing: true });
    }
    keep_revision(deployment, drafts);
    if let Some(new) = drafts.new.as_mut().filter(|new| new.is_missing) {
        note_size(deployment, &mut new.set);
    }
}

fn keep_revision(deployment: &Deployment, drafts: &mut Drafts) {
    let newest = drafts.old.iter().map(|draft| revision(&draft.set.metadata)).max().unwrap_or_default();
    let Some(new) = &mut drafts.new else { return };
    new.set.metadata.annotations = Some(annotations(deployment, &new.set, newest));
    let seconds = deployment.spec.min_ready_seconds;
    if new.set.spec.min_ready_seconds.unwrap_or_default() != seconds.unwrap_or_default() {
        new.set.spec.min_ready_seconds = Some(seconds.unwrap_or_default());
    }
}

/// Old, empty ReplicaSets beyond `revisionHistoryLimit`.
fn surplus(deployment: &Deployment, drafts: &Drafts) -> Vec<String> {
    let limit = deployment.spec.revision_history_limit.unwrap_or(10);
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let mut old: Vec<&Draft> = drafts.old.iter().filter(|d| d.set.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|draft| revision(&draft.set.metadata));
    let count = old.len().saturating_sub(limit);
    old.into_iter()
        .take(count)
        .filter(|draft| {
            let status = draft.set.status.clone().unwrap_or_default();
            draft.replicas() == 0
                && draft.before == 0
                && status.replicas == 0
                && status.observed_generation >= draft.set.metadata.generation
        })
        .filter_map(|draft| draft.set.metadata.name.clone())
        .collect()
}
