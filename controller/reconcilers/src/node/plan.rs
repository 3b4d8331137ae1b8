//! What a node needs: pure.
use api::well_known::{TAINT_NOT_READY, TAINT_UNREACHABLE};
use k8s_openapi::api::core::v1::{NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// So long a node may be silent (`node-monitor-grace-period` of Kubernetes).
pub(super) const GRACE_SECONDS: i64 = 40;
/// The conditions that nobody knows about a silent node.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

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

/// The taints that the node's health asks for, beside those that are not ours; `None` where nothing changes.
pub(super) fn taints(current: &[Taint], health: Health, now: jiff::Timestamp) -> Option<Vec<Taint>> {
    let key = match health {
        Health::Ready => None,
        Health::NotReady => Some(TAINT_NOT_READY),
        Health::Unreachable => Some(TAINT_UNREACHABLE),
    };
    let is_ours = |taint: &Taint| {
        (taint.key == TAINT_NOT_READY || taint.key == TAINT_UNREACHABLE)
            && (taint.effect == "NoSchedule" || taint.effect == "NoExecute")
    };
    let mut wanted: Vec<Taint> =
        current.iter().filter(|taint| !is_ours(taint) || Some(taint.key.as_str()) == key).cloned().collect();
    for (key, effect) in key.into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]) {
        if !wanted.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute").then_some(Time(now));
            wanted.push(Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None });
        }
    }
    (wanted != current).then_some(wanted)
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
        let lost = taints(std::slice::from_ref(&foreign), health(&[condition("Unknown")]), now).unwrap();
        assert_eq!(
            keys(&lost),
            ["k:NoSchedule", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
        );
        assert_eq!(taints(&lost, Health::Unreachable, now), None);
        let unready = taints(&lost, health(&[condition("False")]), now).unwrap();
        assert!(unready.iter().all(|taint| taint.key != TAINT_UNREACHABLE) && unready.len() == 3);
        assert_eq!(taints(&unready, health(&[condition("True")]), now), Some(vec![foreign]));
        assert_eq!(health(&[]), Health::NotReady);
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
