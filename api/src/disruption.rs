//! How many pods a PodDisruptionBudget keeps: what an eviction is measured by and what the budget's status tells.
//! Kubernetes documentation, "Specifying a Disruption Budget for your Application".
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How many pods have to stay healthy, of `expected` that there should be; at least `min_available` or all but
/// `max_unavailable`, percentages rounded up. `None` where the amount is neither a number nor a percentage up to 100.
pub fn needed(
    min_available: Option<&IntOrString>,
    max_unavailable: Option<&IntOrString>,
    expected: i64,
) -> Option<i64> {
    match (min_available, max_unavailable) {
        (Some(least), _) => amount(least, expected),
        (None, Some(most)) => Some(expected.saturating_sub(amount(most, expected)?).max(0)),
        (None, None) => Some(0),
    }
}

fn amount(value: &IntOrString, expected: i64) -> Option<i64> {
    match value {
        IntOrString::Int(count) => Some(i64::from(*count)),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok().filter(|percent| (0..=100).contains(percent))?;
            Some(expected.saturating_mul(percent).saturating_add(99) / 100)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_round_up() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        assert_eq!(needed(Some(&IntOrString::Int(2)), None, 3), Some(2));
        assert_eq!(needed(Some(&text("34%")), None, 3), Some(2));
        assert_eq!(needed(None, Some(&text("34%")), 3), Some(1));
        assert_eq!(needed(None, Some(&IntOrString::Int(9)), 3), Some(0));
        assert_eq!(needed(None, None, 3), Some(0));
        assert_eq!((needed(Some(&text("101%")), None, 3), needed(None, Some(&text("x")), 3)), (None, None));
    }
}
