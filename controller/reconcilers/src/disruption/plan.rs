//! What a budget allows: pure.
use crate::pod::{Phase, PodFacts};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::collections::BTreeMap;
use std::sync::Arc;

const CONDITION: &str = "DisruptionAllowed";

/// The controller in charge of a pod: its uid and how many pods it wants.
pub(super) type Owner = (Box<str>, i64);

/// The status of a budget. `pods` are those that it selects, or why that cannot be told; `owner` finds who is in charge
/// of a pod. A pod that nobody is in charge of is expected for itself.
pub(super) fn status(
    budget: &PodDisruptionBudget,
    pods: Result<&[Arc<PodFacts>], String>,
    owner: impl Fn(&PodFacts) -> Option<Owner>,
    now: jiff::Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let generation = budget.metadata.generation;
    let counted = pods.and_then(|pods| count(budget, pods, owner));
    let (mut new, allowed, reason, message) = match counted {
        Ok(new) if new.disruptions_allowed.is_some_and(|count| count > 0) => {
            (new, true, "SufficientPods", String::new())
        }
        Ok(new) => (new, false, "InsufficientPods", String::new()),
        // What was counted last stays; nothing may go while nothing is known.
        Err(why) => {
            (PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() }, false, "SyncFailed", why)
        }
    };
    new.observed_generation = generation;
    new.disrupted_pods = old.disrupted_pods.clone();
    let status = if allowed { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|one| one.type_ == CONDITION);
    let since = before.filter(|one| one.status == status).map(|one| one.last_transition_time.clone());
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    let others = old.conditions.into_iter().flatten().filter(|one| one.type_ != CONDITION);
    new.conditions = Some(others.chain([condition]).collect());
    new
}

fn count(
    budget: &PodDisruptionBudget,
    pods: &[Arc<PodFacts>],
    owner: impl Fn(&PodFacts) -> Option<Owner>,
) -> Result<PodDisruptionBudgetStatus, String> {
    let spec = budget.spec.clone().unwrap_or_default();
    let live = || pods.iter().filter(|pod| pod.phase != Phase::Ended);
    let mut owners: BTreeMap<Box<str>, i64> = BTreeMap::new();
    let mut expected: i64 = 0;
    for pod in live() {
        match owner(pod) {
            Some((uid, wanted)) => drop(owners.insert(uid, wanted.max(0))),
            None => expected += 1,
        }
    }
    expected = owners.values().fold(expected, |sum, wanted| sum.saturating_add(*wanted));
    let needed = api::disruption::needed(spec.min_available.as_ref(), spec.max_unavailable.as_ref(), expected)
        .ok_or("spec.minAvailable, spec.maxUnavailable: expected a number or a percentage up to 100%")?;
    let healthy = live().filter(|pod| pod.ready_since.is_some() && !pod.is_deleting).count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let allowed = if expected > 0 { healthy.saturating_sub(needed).max(0) } else { 0 };
    let number = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
    Ok(PodDisruptionBudgetStatus {
        current_healthy: Some(number(healthy)),
        desired_healthy: Some(number(needed)),
        disruptions_allowed: Some(number(allowed)),
        expected_pods: Some(number(expected)),
        ..PodDisruptionBudgetStatus::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn budget(spec: serde_json::Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 4}, "spec": spec})).unwrap()
    }

    fn pod(name: &str, owner: Option<&str>, ready: bool) -> PodFacts {
        PodFacts {
            key: Some(format!("d/{name}").into()),
            phase: Phase::Running,
            controller: owner.map(|uid| ("ReplicaSet".into(), "r".into(), uid.into())),
            ready_since: ready.then_some(1),
            ..PodFacts::default()
        }
    }

    fn of(budget: &PodDisruptionBudget, pods: Vec<PodFacts>, second: i64) -> PodDisruptionBudgetStatus {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let owner = |pod: &PodFacts| pod.controller.as_ref().map(|(_, _, uid)| (uid.clone(), 3));
        status(budget, Ok(&pods), owner, jiff::Timestamp::from_second(second).unwrap())
    }

    fn numbers(status: &PodDisruptionBudgetStatus) -> [i32; 4] {
        let all = [status.current_healthy, status.desired_healthy, status.disruptions_allowed, status.expected_pods];
        all.map(Option::unwrap_or_default)
    }

    #[test]
    fn what_may_go_is_what_is_healthy_beyond_need() {
        let pods = || vec![pod("1", Some("u"), true), pod("2", Some("u"), true), pod("3", Some("u"), false)];
        assert_eq!(numbers(&of(&budget(json!({"minAvailable": 1})), pods(), 9)), [2, 1, 1, 3]);
        assert_eq!(numbers(&of(&budget(json!({"maxUnavailable": "34%"})), pods(), 9)), [2, 1, 1, 3]);
        assert_eq!(numbers(&of(&budget(json!({"minAvailable": "100%"})), pods(), 9)), [2, 3, 0, 3]);
        // A second owner adds what it wants, a pod without owner itself.
        let more = [pods(), vec![pod("4", Some("v"), true), pod("5", None, true)]].concat();
        assert_eq!(numbers(&of(&budget(json!({"maxUnavailable": 1})), more, 9)), [4, 6, 0, 7]);
    }

    #[test]
    fn pods_that_end_do_not_count() {
        let going = PodFacts { is_deleting: true, ..pod("1", Some("u"), true) };
        let ended = PodFacts { phase: Phase::Ended, ..pod("2", None, false) };
        let status = of(&budget(json!({"minAvailable": 1})), vec![going, ended, pod("3", Some("u"), true)], 9);
        assert_eq!(numbers(&status), [1, 1, 0, 3]);
        assert_eq!(numbers(&of(&budget(json!({"minAvailable": 0})), vec![], 9)), [0, 0, 0, 0]);
    }

    #[test]
    fn the_condition_keeps_its_time_until_it_turns() {
        let mut budget = budget(json!({"minAvailable": 1}));
        let ready = |count: usize| (0..count).map(|i| pod(&i.to_string(), None, true)).collect::<Vec<_>>();
        let told = |status: &PodDisruptionBudgetStatus| {
            let condition = status.conditions.as_ref().unwrap()[0].clone();
            (condition.status, condition.reason, condition.last_transition_time.0.as_second())
        };
        budget.status = Some(of(&budget, ready(2), 10));
        assert_eq!(told(budget.status.as_ref().unwrap()), ("True".into(), "SufficientPods".into(), 10));
        assert_eq!(budget.status.as_ref().unwrap().observed_generation, Some(4));
        budget.status = Some(of(&budget, ready(3), 20));
        assert_eq!(told(budget.status.as_ref().unwrap()).2, 10);
        budget.status = Some(of(&budget, ready(1), 30));
        assert_eq!(told(budget.status.as_ref().unwrap()), ("False".into(), "InsufficientPods".into(), 30));
        assert_eq!(budget.status.as_ref().unwrap().conditions.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn nothing_may_go_while_nothing_is_known() {
        let mut budget = budget(json!({"minAvailable": "x"}));
        budget.status = Some(PodDisruptionBudgetStatus {
            current_healthy: Some(3),
            disruptions_allowed: Some(2),
            ..Default::default()
        });
        let status = of(&budget, vec![pod("1", None, true)], 9);
        assert_eq!(numbers(&status), [3, 0, 0, 0]);
        assert_eq!(status.conditions.unwrap()[0].reason, "SyncFailed");
    }
}
