//! What a node needs: pure.
use crate::pod::PodFacts;
use api::toleration::{Patience, patience};
use api::well_known::{
    TAINT_DISK_PRESSURE, TAINT_MEMORY_PRESSURE, TAINT_NOT_READY, TAINT_PID_PRESSURE, TAINT_UNREACHABLE,
};
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::HashMap;
use std::sync::Arc;

/// So long a node may be silent (`node-monitor-grace-period` of Kubernetes).
pub(super) const GRACE_SECONDS: i64 = 40;
/// The conditions that nobody knows about a silent node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions under which nothing new is put on a node, and the taint that says so.
const PRESSURES: [(&str, &str); 3] = [
    ("MemoryPressure", TAINT_MEMORY_PRESSURE),
    ("DiskPressure", TAINT_DISK_PRESSURE),
    ("PIDPressure", TAINT_PID_PRESSURE),
];

/// How a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// `Ready` is true.
    Ready,
    /// `Ready` is false, or was never told.
    NotReady,
    /// `Ready` is unknown.
    Unreachable,
}

/// What the conditions say.
pub(super) fn health(conditions: &[NodeCondition]) -> Health {
    match conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str()) {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unreachable,
        Some(_) | None => Health::NotReady,
    }
}

/// The conditions of a node that is silent: what nobody knows any more.
pub(super) fn silent(conditions: &[NodeCondition], now: jiff::Timestamp) -> Vec<NodeCondition> {
    CONDITIONS
        .iter()
        .filter_map(|type_| {
            let old = conditions.iter().find(|c| c.type_ == *type_);
            let (reason, message) = match old {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            if old.is_some_and(|old| old.status == "Unknown") {
                return None;
            }
            Some(NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: old.and_then(|old| old.last_heartbeat_time.clone()),
                last_transition_time: Some(Time(now)),
            })
        })
        .collect()
}

/// The taints that the node's conditions ask for, beside those that are not ours; `None` where nothing changes. What
/// runs stays when something runs short; nothing new comes.
pub(super) fn taints(current: &[Taint], conditions: &[NodeCondition], now: jiff::Timestamp) -> Option<Vec<Taint>> {
    let is_pressed = |type_: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
    let of_health = match health(conditions) {
        Health::Ready => None,
        Health::NotReady => Some(TAINT_NOT_READY),
        Health::Unreachable => Some(TAINT_UNREACHABLE),
    };
    let mut asked: Vec<(&str, &str)> =
        of_health.into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]).collect();
    asked.extend(PRESSURES.iter().filter(|(type_, _)| is_pressed(type_)).map(|(_, key)| (*key, "NoSchedule")));
    let is_ours = |taint: &Taint| {
        let of_health = [TAINT_NOT_READY, TAINT_UNREACHABLE].contains(&taint.key.as_str());
        let of_pressure = PRESSURES.iter().any(|(_, key)| *key == taint.key);
        of_health && matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            || of_pressure && taint.effect == "NoSchedule"
    };
    let is_asked = |taint: &Taint| asked.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut wanted: Vec<Taint> = current.iter().filter(|taint| !is_ours(taint) || is_asked(taint)).cloned().collect();
    for (key, effect) in &asked {
        if !wanted.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            let time_added = (*effect == "NoExecute").then_some(Time(now));
            wanted.push(Taint { key: (*key).to_owned(), effect: (*effect).to_owned(), time_added, value: None });
        }
    }
    (wanted != current).then_some(wanted)
}

/// Since when pods bear with the taints of their node, in seconds since 1970, by uid.
pub(super) type Since = HashMap<Box<str>, i64>;

/// Which pods of a node leave.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    /// Those whose patience has ended.
    pub(super) due: Vec<Arc<PodFacts>>,
    /// Since when the others bear with it.
    pub(super) since: Since,
    /// Seconds until the next one leaves.
    pub(super) next: Option<u64>,
}

/// Decides about the pods of a node with these taints. Patience counts from when pod and taint were first seen together
/// (`known`); a taint that the control plane added says when that was, so that a restart of it starts nothing anew.
pub(super) fn evictions(pods: &[Arc<PodFacts>], taints: &[Taint], known: &Since, now: i64) -> Evictions {
    let mut evictions = Evictions::default();
    let added = taints.iter().filter(|taint| taint.effect == "NoExecute");
    let Some(added) = added.map(|taint| taint.time_added.as_ref().map_or(now, |at| at.0.as_second())).min() else {
        return evictions;
    };
    for pod in pods {
        let left = match patience(taints, &pod.tolerations) {
            Patience::Unlimited => continue,
            Patience::None => 0,
            Patience::Seconds(seconds) => {
                let since = known.get(&pod.uid).copied().unwrap_or(added.max(pod.created));
                evictions.since.insert(pod.uid.clone(), since);
                since.saturating_add(seconds).saturating_sub(now)
            }
        };
        match u64::try_from(left).ok().filter(|left| *left > 0) {
            Some(left) => evictions.next = Some(evictions.next.map_or(left, |next| next.min(left))),
            None => evictions.due.push(Arc::clone(pod)),
        }
    }
    evictions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(status: &str) -> NodeCondition {
        NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() }
    }

    #[test]
    fn taints_follow_health() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let foreign = Taint { key: "k".into(), effect: "NoSchedule".into(), ..Taint::default() };
        let keys = |taints: &[Taint]| taints.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>();
        let lost = taints(std::slice::from_ref(&foreign), &[condition("Unknown")], now).unwrap();
        assert_eq!(
            keys(&lost),
            ["k:NoSchedule", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
        );
        assert_eq!(taints(&lost, &[condition("Unknown")], now), None);
        let unready = taints(&lost, &[condition("False")], now).unwrap();
        assert!(unready.iter().all(|taint| taint.key != TAINT_UNREACHABLE) && unready.len() == 3);
        assert_eq!(taints(&unready, &[condition("True")], now), Some(vec![foreign.clone()]));
        let disk = |status: &str| NodeCondition { type_: "DiskPressure".into(), ..condition(status) };
        let pressed = taints(&[foreign], &[condition("True"), disk("True")], now).unwrap();
        assert_eq!(keys(&pressed), ["k:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule"]);
        assert_eq!(taints(&pressed, &[condition("True"), disk("True")], now), None);
        let free = taints(&pressed, &[condition("True"), disk("False")], now).unwrap();
        assert_eq!(keys(&free), ["k:NoSchedule"]);
        assert_eq!(health(&[]), Health::NotReady);
    }

    #[test]
    fn patience_counts_from_when_pod_and_taint_met() {
        let pod = |uid: &str, created: &str, seconds: Option<i64>| {
            let pod = serde_json::json!({"metadata": {"name": uid, "uid": uid, "creationTimestamp": created},
                "spec": {"containers": [], "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": seconds}]}});
            Arc::new(PodFacts::new(serde_json::from_value(pod).unwrap()))
        };
        let early = "1970-01-01T00:00:10Z";
        let pods = [pod("a", early, Some(5)), pod("b", early, Some(30)), pod("c", early, None)];
        let mut taint = Taint { key: "k".into(), effect: "NoExecute".into(), ..Taint::default() };
        let uids = |evictions: &Evictions| evictions.due.iter().map(|pod| pod.uid.to_string()).collect::<Vec<_>>();
        // A person's taint does not say since when it is there: what was seen counts.
        let first = evictions(&pods, std::slice::from_ref(&taint), &Since::new(), 100);
        assert_eq!((uids(&first), first.next), (vec![], Some(5)));
        let then = evictions(&pods, std::slice::from_ref(&taint), &first.since, 105);
        assert_eq!((uids(&then), then.next), (vec!["a".to_owned()], Some(25)));
        assert!(evictions(&pods, &[], &then.since, 106).since.is_empty(), "a taint that went starts anew");
        // The control plane's does, and a pod that came later is as patient as the others.
        taint.time_added = Some(Time("1970-01-01T00:01:00Z".parse().unwrap()));
        let pods = [pod("a", early, Some(5)), pod("d", "1970-01-01T00:01:38Z", Some(5))];
        let later = evictions(&pods, &[taint], &Since::new(), 100);
        assert_eq!((uids(&later), later.next), (vec!["a".to_owned()], Some(3)));
    }

    #[test]
    fn silence_is_told_once() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let told = silent(&[condition("True")], now);
        assert_eq!((told.len(), told[0].reason.as_deref()), (4, Some("NodeStatusUnknown")));
        assert_eq!(told[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        assert!(silent(&told, now).is_empty());
    }
}
