//! How long a Job waits after failed pods before it makes others: pure.
use super::facts::Outcome;
use crate::pod::PodFacts;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

const FIRST_SECONDS: i64 = 10;
/// What Kubernetes' controller does; its documentation speaks of six minutes.
const MOST_SECONDS: i64 = 600;
/// More failures do not make the wait longer.
const KEPT: usize = 8;

/// The failures since the last success. They are remembered when their pods are gone; what a restart forgets is read
/// from the pods that are still there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Backoff {
    /// When the latest ones were, ascending.
    failures: Vec<i64>,
    last_success: Option<i64>,
    /// Pods that are in it already, as long as they are there.
    seen: BTreeSet<Box<str>>,
}

impl Backoff {
    /// Takes in pods that have ended or failed since.
    #[must_use]
    pub(super) fn with(&self, pods: &[Arc<PodFacts>], has_failed: impl Fn(&PodFacts) -> bool) -> Self {
        let mut new = self.clone();
        let there: HashSet<&str> = pods.iter().map(|pod| &*pod.uid).collect();
        new.seen.retain(|uid| there.contains(&**uid));
        for pod in pods {
            let Some(run) = &pod.run else { continue };
            let succeeded = run.outcome == Some(Outcome::Succeeded);
            // One that the controller took back, as of a Job that is suspended, has not failed.
            let is_withdrawn = pod.is_deleting && !run.is_tracked;
            if !succeeded && (is_withdrawn || !has_failed(pod)) || !new.seen.insert(pod.uid.clone()) {
                continue;
            }
            let at = run.finished.unwrap_or_default();
            match succeeded {
                true => new.last_success = new.last_success.max(Some(at)),
                false => new.failures.push(at),
            }
        }
        new.failures.retain(|at| new.last_success.is_none_or(|success| *at > success));
        new.failures.sort_unstable();
        let surplus = new.failures.len().saturating_sub(KEPT);
        new.failures.drain(..surplus);
        new
    }

    /// Seconds until a pod may be made.
    pub(super) fn left(&self, now: i64) -> i64 {
        self.failures.last().map_or(0, |last| left(self.failures.len(), *last, now))
    }
}

/// Seconds until a pod may be made after so many failures, the last of them at that time.
pub(super) fn left(failures: usize, last: i64, now: i64) -> i64 {
    if failures == 0 {
        return 0;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let wait = (FIRST_SECONDS << doublings).min(MOST_SECONDS);
    // Clocks of nodes may be ahead.
    (last + wait - now).clamp(0, wait)
}

#[cfg(test)]
mod tests {
    use super::super::facts::RunFacts;
    use super::*;

    fn pod(uid: &str, outcome: Outcome, at: i64) -> Arc<PodFacts> {
        let run = RunFacts { outcome: Some(outcome), finished: Some(at), ..RunFacts::default() };
        Arc::new(PodFacts { uid: uid.into(), run: Some(Box::new(run)), ..PodFacts::default() })
    }

    fn with(backoff: &Backoff, pods: &[Arc<PodFacts>]) -> Backoff {
        backoff.with(pods, |pod| pod.run.as_ref().unwrap().outcome == Some(Outcome::Failed))
    }

    #[test]
    fn waits_double_and_success_ends_them() {
        let mut pods = vec![pod("a", Outcome::Failed, 100)];
        let backoff = with(&Backoff::default(), &pods);
        assert_eq!((backoff.left(100), backoff.left(105), backoff.left(110)), (10, 5, 0));
        assert_eq!(with(&backoff, &pods), backoff, "each pod counts once");
        pods.push(pod("b", Outcome::Failed, 110));
        let backoff = with(&backoff, &pods[1..]);
        assert_eq!(backoff.left(110), 20, "the first one is gone and still counts");
        pods.push(pod("c", Outcome::Succeeded, 120));
        pods.push(pod("d", Outcome::Failed, 121));
        assert_eq!(with(&backoff, &pods).left(121), 10);
        pods.push(pod("e", Outcome::Succeeded, 130));
        assert_eq!(with(&backoff, &pods).left(130), 0);
    }

    #[test]
    fn waits_have_an_end() {
        let pods: Vec<_> = (0..40).map(|at| pod(&at.to_string(), Outcome::Failed, at)).collect();
        assert_eq!(with(&Backoff::default(), &pods).left(39), 600);
        assert_eq!(left(3, 1000, 10), 40, "a clock that is ahead does not make it longer");
    }
}
