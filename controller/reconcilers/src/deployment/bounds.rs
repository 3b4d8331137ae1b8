//! What a rolling update may do: `maxSurge` and `maxUnavailable` as numbers.
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Both bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// So many more pods than asked for may be there.
    pub(super) surge: i32,
    /// So many fewer than asked for may be available.
    pub(super) unavailable: i32,
}

fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    let share = |percent: i64| {
        let product = percent * i64::from(total);
        let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
        i32::try_from(rounded).unwrap_or(i32::MAX).max(0)
    };
    match value {
        None => share(25),
        Some(IntOrString::Int(count)) => (*count).max(0),
        Some(IntOrString::String(text)) => {
            text.strip_suffix('%').and_then(|t| t.parse::<u32>().ok()).map_or(0, |percent| share(percent.into()))
        }
    }
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
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), total, true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false);
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
