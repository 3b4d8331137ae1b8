//! Which pods go: pure.
use crate::pod::{Phase, PodFacts};
use std::sync::Arc;
use std::time::Duration;

/// So long a node may be missing before its pods go (the quarantine of Kubernetes' pod garbage collector): an agent
/// that registers again finds them.
pub(super) const QUARANTINE: Duration = Duration::from_secs(40);
/// So many pods that ended are kept (`terminated-pod-gc-threshold` of Kubernetes).
pub(super) const ENDED_MAX: usize = 12_500;

/// The pods bound to a node.
pub(super) fn bound_to(pods: &[Arc<PodFacts>], node: &str) -> Vec<Arc<PodFacts>> {
    pods.iter().filter(|pod| pod.node.as_deref() == Some(node)).cloned().collect()
}

/// The oldest of those that ended, as many as are too many.
pub(super) fn surplus(pods: &[Arc<PodFacts>], keep: usize) -> Vec<Arc<PodFacts>> {
    let ended = |pod: &&Arc<PodFacts>| pod.phase == Phase::Ended && !pod.is_deleting;
    let mut ended: Vec<_> = pods.iter().filter(ended).cloned().collect();
    ended.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    ended.truncate(ended.len().saturating_sub(keep));
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: Phase, created: i64) -> Arc<PodFacts> {
        let key = Some(format!("default/{name}").into());
        Arc::new(PodFacts { key, node: node.map(Into::into), phase, created, ..PodFacts::default() })
    }

    fn names(pods: &[Arc<PodFacts>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }

    #[test]
    fn only_pods_of_the_node_that_is_gone_go() {
        let pods = [
            pod("a", Some("lost"), Phase::Running, 1),
            pod("b", Some("here"), Phase::Running, 1),
            pod("c", None, Phase::Pending, 1),
            pod("d", Some("lost"), Phase::Ended, 1),
        ];
        assert_eq!(names(&bound_to(&pods, "lost")), ["a", "d"]);
    }

    #[test]
    fn the_oldest_that_ended_are_surplus() {
        let pods = [
            pod("new", None, Phase::Ended, 9),
            pod("old", None, Phase::Ended, 1),
            pod("runs", None, Phase::Running, 0),
            pod("middle", None, Phase::Ended, 5),
        ];
        assert_eq!(names(&surplus(&pods, 1)), ["old", "middle"]);
        assert!(surplus(&pods, 3).is_empty());
    }
}
