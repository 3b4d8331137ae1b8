//! What a ReplicaSet needs: pure.
use crate::pod::{Phase, PodFacts};
use api::selector::Selector;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// Pods made or deleted in one run at most.
pub(crate) const BURST: usize = 500;

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Pods that get us as their controller.
    pub(crate) adopt: Vec<Arc<PodFacts>>,
    /// Pods that do not match any more.
    pub(crate) release: Vec<Arc<PodFacts>>,
    /// How many pods to make.
    pub(crate) create: usize,
    /// Pods to delete.
    pub(crate) delete: Vec<Arc<PodFacts>>,
}

/// Decides. `pods` are those of the namespace.
pub(crate) fn plan(set: &ReplicaSet, selector: &Selector, pods: &[Arc<PodFacts>]) -> Plan {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let is_deleting = set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    let mut mine = Vec::new();
    for pod in pods {
        let matches = selector.matches(&pod.labels);
        match &pod.controller {
            Some((_, _, owner)) if **owner == *uid => match matches {
                true => mine.push(pod),
                false if !is_deleting => plan.release.push(Arc::clone(pod)),
                false => {}
            },
            None if matches && !is_deleting && pod.is_active() => {
                plan.adopt.push(Arc::clone(pod));
                mine.push(pod);
            }
            Some(_) | None => {}
        }
    }
    if is_deleting {
        return plan;
    }
    let active: Vec<&Arc<PodFacts>> = mine.into_iter().filter(|pod| pod.is_active()).collect();
    let wanted = set.spec.replicas.unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active.len() < wanted {
        plan.create = (wanted - active.len()).min(BURST);
    } else {
        let surplus = active.len() - wanted;
        plan.delete = rank(active).into_iter().take(surplus.min(BURST)).collect();
    }
    plan
}

/// In the order in which pods go: those that cost least first (`ActivePodsWithRanks` of Kubernetes).
pub(crate) fn rank(pods: Vec<&Arc<PodFacts>>) -> Vec<Arc<PodFacts>> {
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for node in pods.iter().filter_map(|pod| pod.node.as_deref()) {
        *per_node.entry(node).or_default() += 1;
    }
    let mut ranked: Vec<&Arc<PodFacts>> = pods.clone();
    ranked.sort_by_key(|pod| {
        let doubled = pod.node.as_deref().and_then(|node| per_node.get(node)).copied().unwrap_or_default();
        (
            pod.node.is_some(),
            pod.phase,
            pod.ready_since.is_some(),
            pod.deletion_cost,
            Reverse(doubled),
            Reverse(pod.ready_since),
            Reverse(pod.restarts),
            Reverse(pod.created),
            Reverse(pod.name().to_owned()),
        )
    });
    ranked.into_iter().cloned().collect()
}

/// The status, and in how many seconds it changes by time alone.
pub(crate) fn status(
    set: &ReplicaSet,
    pods: &[Arc<PodFacts>],
    failure: Option<(&str, String)>,
    now: jiff::Timestamp,
) -> (ReplicaSetStatus, Option<i64>) {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let spec = set.spec.clone();
    let labels = spec.template.and_then(|t| t.metadata).and_then(|m| m.labels).unwrap_or_default();
    let minimum = i64::from(spec.min_ready_seconds.unwrap_or_default());
    let mut next = None;
    let mut new = ReplicaSetStatus { observed_generation: set.metadata.generation, ..ReplicaSetStatus::default() };
    let (mut labeled, mut ready, mut available, mut terminating) = (0, 0, 0, 0);
    for pod in pods.iter().filter(|pod| pod.controller.as_ref().is_some_and(|(_, _, owner)| **owner == *uid)) {
        if !pod.is_active() {
            terminating += i32::from(pod.is_deleting && pod.phase != Phase::Ended);
            continue;
        }
        new.replicas += 1;
        labeled += i32::from(labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)));
        if let Some(since) = pod.ready_since {
            ready += 1;
            let missing = since.saturating_add(minimum).saturating_sub(now.as_second());
            match minimum == 0 || missing <= 0 {
                true => available += 1,
                false => next = Some(next.map_or(missing, |n: i64| n.min(missing))),
            }
        }
    }
    new.fully_labeled_replicas = Some(labeled);
    new.ready_replicas = Some(ready);
    new.available_replicas = Some(available);
    new.terminating_replicas = Some(terminating);
    let old = set.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<ReplicaSetCondition> =
        old.iter().filter(|c| c.type_.as_deref() != Some("ReplicaFailure")).cloned().collect();
    if let Some((reason, message)) = failure {
        let known =
            old.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.reason.as_deref() == Some(reason));
        conditions.push(known.cloned().unwrap_or_else(|| ReplicaSetCondition {
            type_: Some("ReplicaFailure".to_owned()),
            status: Some("True".to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }));
    }
    new.conditions = (!conditions.is_empty()).then_some(conditions);
    (new, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": 10, "selector": {"matchLabels": {"a": "b"}},
                     "template": {"metadata": {"labels": {"a": "b"}}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, owner: Option<&str>) -> PodFacts {
        PodFacts {
            key: Some(format!("d/{name}").into()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            controller: owner.map(|uid| ("ReplicaSet".into(), "r".into(), uid.into())),
            ..PodFacts::default()
        }
    }

    fn decide(replicas: i32, pods: Vec<PodFacts>) -> Plan {
        let selector = Selector::from_labels(
            &[("a".to_owned(), "b".to_owned())].into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        );
        plan(&set(replicas), &selector, &pods.into_iter().map(Arc::new).collect::<Vec<_>>())
    }

    fn names(pods: &[Arc<PodFacts>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn counts() {
        let ended = PodFacts { phase: Phase::Ended, ..pod("e", Some("u")) };
        let going = PodFacts { is_deleting: true, ..pod("g", Some("u")) };
        let plan = decide(3, vec![pod("a", Some("u")), pod("b", None), pod("c", Some("other")), ended, going]);
        assert_eq!((plan.create, names(&plan.adopt), plan.delete.len()), (1, vec!["b"], 0));
        let strange = PodFacts { labels: Default::default(), ..pod("s", Some("u")) };
        let plan = decide(1, vec![strange]);
        assert_eq!((plan.create, names(&plan.release)), (1, vec!["s"]));
        assert_eq!(decide(100_000, vec![]).create, BURST);
        assert_eq!(decide(-1, vec![]), Plan::default());
    }

    #[test]
    fn the_least_useful_go_first() {
        let bound = |name| PodFacts { node: Some("n".into()), ..pod(name, Some("u")) };
        let running = |name, since| PodFacts { phase: Phase::Running, ready_since: since, ..bound(name) };
        let pods = vec![
            running("old", Some(10)),
            running("young", Some(20)),
            running("unready", None),
            PodFacts { deletion_cost: -1, ..running("cheap", Some(5)) },
            bound("pending"),
            pod("unbound", Some("u")),
        ];
        assert_eq!(names(&decide(0, pods.clone()).delete), ["unbound", "pending", "unready", "cheap", "young", "old"]);
        assert_eq!(names(&decide(4, pods).delete), ["unbound", "pending"]);
    }

    #[test]
    fn availability_comes_with_time() {
        let ready = PodFacts { ready_since: Some(100), phase: Phase::Running, ..pod("a", Some("u")) };
        let pods = [Arc::new(ready), Arc::new(pod("b", Some("u")))];
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let (early, next) = status(&set(2), &pods, None, at(104));
        assert_eq!(
            (early.replicas, early.ready_replicas, early.available_replicas, next),
            (2, Some(1), Some(0), Some(6))
        );
        let (late, next) = status(&set(2), &pods, Some(("FailedCreate", "no".into())), at(110));
        assert_eq!((late.available_replicas, next, late.observed_generation), (Some(1), None, Some(3)));
        assert_eq!(late.conditions.unwrap()[0].type_.as_deref(), Some("ReplicaFailure"));
    }
}
