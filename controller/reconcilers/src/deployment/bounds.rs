//! What a rolling update may do: `maxSurge` and `maxUnavailable` as numbers.
use crate::share::{self, Rounding};
use k8s_openapi::api::apps::v1::Deployment;

/// Both bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// So many more pods than asked for may be there.
    pub(super) surge: i32,
    /// So many fewer than asked for may be available.
    pub(super) unavailable: i32,
}

/// The number of replicas that is asked for.
pub(super) fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1).max(0)
}

/// Whether all old pods go before new ones come.
pub(super) fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("Recreate"))
}

/// The bounds of a Deployment; never both zero, or nothing could move.
pub(super) fn bounds(deployment: &Deployment) -> Bounds {
    let total = wanted(deployment);
    if recreates(deployment) {
        return Bounds { surge: 0, unavailable: 0 };
    }
    let strategy = deployment.spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref());
    let surge = surge.map_or_else(|| share::percent_of(25, total, Rounding::Up), |s| share::of(s, total, Rounding::Up));
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref());
    let unavailable = unavailable
        .map_or_else(|| share::percent_of(25, total, Rounding::Down), |u| share::of(u, total, Rounding::Down));
    match (surge, unavailable) {
        (0, 0) => Bounds { surge: 0, unavailable: 1 },
        (surge, unavailable) => Bounds { surge, unavailable: unavailable.min(total) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_round_towards_progress() {
        for (replicas, surge, unavailable, want) in [
            (10, "\"25%\"", "\"25%\"", (3, 2)),
            (1, "\"25%\"", "\"25%\"", (1, 0)),
            (4, "0", "\"10%\"", (0, 1)),
            (4, "2", "9", (2, 4)),
        ] {
            let text = format!(
                r#"{{"metadata":{{}},"spec":{{"replicas":{replicas},"selector":{{}},"template":{{}},"strategy":{{"rollingUpdate":{{"maxSurge":{surge},"maxUnavailable":{unavailable}}}}}}}}}"#
            );
            let bounds = bounds(&serde_json::from_str(&text).unwrap());
            assert_eq!((bounds.surge, bounds.unavailable), want);
        }
    }
}
