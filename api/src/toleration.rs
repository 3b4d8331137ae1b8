//! Taints and the tolerations that answer them.
use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration answers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let want = toleration.value.as_deref().unwrap_or_default();
    let have = taint.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => want == have,
        "Exists" => true,
        "Gt" => compare(have, want, |have, want| have > want),
        "Lt" => compare(have, want, |have, want| have < want),
        _ => false,
    }
}

fn compare(have: &str, want: &str, test: impl Fn(i64, i64) -> bool) -> bool {
    matches!((have.parse(), want.parse()), (Ok(have), Ok(want)) if test(have, want))
}

/// Whether any toleration answers the taint.
pub fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// The first taint with one of `effects` that nothing answers.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], effects: &[&str]) -> Option<&'a Taint> {
    taints.iter().find(|taint| effects.contains(&taint.effect.as_str()) && !tolerated(tolerations, taint))
}

/// How long a `NoExecute` taint is tolerated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    None,
    /// For so many seconds.
    Seconds(i64),
    /// For ever.
    Unlimited,
}

/// How long the pod may stay once all these `NoExecute` taints are on its node.
pub fn patience(taints: &[Taint], tolerations: &[Toleration]) -> Patience {
    let mut shortest = Patience::Unlimited;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let mut answered = false;
        for toleration in tolerations.iter().filter(|t| tolerates(t, taint)) {
            answered = true;
            if let Some(seconds) = toleration.toleration_seconds {
                let seconds = seconds.max(0);
                shortest = match shortest {
                    Patience::Seconds(current) => Patience::Seconds(current.min(seconds)),
                    Patience::None | Patience::Unlimited => Patience::Seconds(seconds),
                };
            }
        }
        if !answered {
            return Patience::None;
        }
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn matching() {
        let t = taint("a", "5", "NoSchedule");
        for (toleration, want) in [
            (toleration("a", "", "5", ""), true),
            (toleration("a", "Equal", "6", ""), false),
            (toleration("a", "Exists", "", "NoSchedule"), true),
            (toleration("a", "Exists", "", "NoExecute"), false),
            (toleration("", "Exists", "", ""), true),
            (toleration("b", "Exists", "", ""), false),
            (toleration("a", "Gt", "4", ""), true),
            (toleration("a", "Lt", "4", ""), false),
            (toleration("a", "Nope", "5", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &t), want, "{toleration:?}");
        }
        assert!(untolerated(std::slice::from_ref(&t), &[], &["NoExecute"]).is_none());
        assert!(untolerated(&[t], &[], &["NoSchedule"]).is_some());
    }

    #[test]
    fn patience_is_the_shortest() {
        let taints = [taint("a", "", "NoExecute")];
        assert_eq!(patience(&taints, &[]), Patience::None);
        let mut t = toleration("a", "Exists", "", "");
        assert_eq!(patience(&taints, &[t.clone()]), Patience::Unlimited);
        t.toleration_seconds = Some(-3);
        assert_eq!(patience(&taints, &[t]), Patience::Seconds(0));
    }
}
