//! Who leaves so that a critical pod fits: the choice of the kubelet (`pkg/kubelet/preemption`). As few pods of the better
//! classes as possible, and of one class first whoever comes closest to what is missing. Pure.

use std::cmp::Ordering;

use api::pod::QosClass;

use super::Taken;
use super::room::{PODS, number};

/// What is missing, by resource, as [`number`] tells it.
pub(super) type Missing = Vec<(String, i64)>;

/// A pod that may leave.
pub(super) type Candidate<'a> = (&'a str, &'a Taken);

/// The uids of those that leave. `Err`: what is missing even if all did.
pub(super) fn choose(missing: &Missing, candidates: &[Candidate<'_>]) -> Result<Vec<String>, Missing> {
    let of = |class| candidates.iter().copied().filter(|own| own.1.qos == class).collect::<Vec<_>>();
    let (best_effort, burstable) = (of(QosClass::BestEffort), of(QosClass::Burstable));
    let still = without(missing, candidates);
    if !still.is_empty() {
        return Err(still);
    }
    // Of each class only what the classes below and those above that have to go do not give.
    let guaranteed = closest(of(QosClass::Guaranteed), without(missing, &[&best_effort[..], &burstable[..]].concat()));
    let burstable = closest(burstable, without(missing, &[&best_effort[..], &guaranteed[..]].concat()));
    let best_effort = closest(best_effort, without(missing, &[&burstable[..], &guaranteed[..]].concat()));
    Ok([best_effort, burstable, guaranteed].concat().into_iter().map(|(uid, _)| uid.to_owned()).collect())
}

fn given(own: &Taken, resource: &str) -> i64 {
    match resource {
        PODS => 1,
        _ => own.requests.get(resource).map_or(0, |amount| number(resource, *amount)),
    }
}

fn without(missing: &Missing, leaving: &[Candidate<'_>]) -> Missing {
    let left = |(name, amount): &(String, i64)| {
        let rest = amount - leaving.iter().map(|(_, own)| given(own, name)).sum::<i64>();
        (rest > 0).then(|| (name.clone(), rest))
    };
    missing.iter().filter_map(left).collect()
}

/// How much is missing once this pod has left, as the kubelet weighs it: squares of parts.
fn distance(missing: &Missing, own: &Taken) -> f64 {
    let part = |(name, amount): &(String, i64)| {
        let rest = (amount - given(own, name)).max(0);
        (rest as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(part).sum()
}

/// One after the other whoever comes closest, until nothing is missing; of two equal ones the one that asks for less.
fn closest<'a>(mut from: Vec<Candidate<'a>>, mut missing: Missing) -> Vec<Candidate<'a>> {
    let mut leaving = Vec::new();
    while !missing.is_empty() {
        let order = |a: &Candidate<'_>, b: &Candidate<'_>| {
            let sizes = |own: &Taken| (given(own, "memory"), given(own, "cpu"));
            let far = distance(&missing, a.1).partial_cmp(&distance(&missing, b.1)).unwrap_or(Ordering::Equal);
            far.then_with(|| sizes(a.1).cmp(&sizes(b.1))).then_with(|| a.0.cmp(b.0))
        };
        let Some(index) = (0..from.len()).min_by(|a, b| order(&from[*a], &from[*b])) else { break };
        let next = from.swap_remove(index);
        missing = without(&missing, &[next]);
        leaving.push(next);
    }
    leaving
}

#[cfg(test)]
mod tests {
    use api::quantity::Quantity;

    use super::*;

    fn pod(qos: QosClass, cpu: &str, memory: &str) -> Taken {
        let quantity = |text| Quantity::parse(text).unwrap();
        let requests = [("cpu".to_owned(), quantity(cpu)), ("memory".to_owned(), quantity(memory))].into();
        Taken {
            ports: vec![],
            requests,
            priority: 0,
            is_critical: false,
            qos,
            allocation: Default::default(),
            waits: None,
        }
    }

    #[test]
    fn as_few_and_as_small_ones_as_possible_leave_and_the_better_classes_last() {
        let all = [
            ("best", pod(QosClass::BestEffort, "0", "0")),
            ("small", pod(QosClass::Burstable, "100m", "10")),
            ("large", pod(QosClass::Burstable, "600m", "10")),
            ("sure", pod(QosClass::Guaranteed, "1", "100")),
        ];
        let candidates: Vec<Candidate<'_>> = all.iter().map(|(uid, own)| (*uid, own)).collect();
        let leave = |missing: &[(&str, i64)]| {
            let missing = missing.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
            choose(&missing, &candidates)
        };
        let uids = |all: &[&str]| Ok(all.iter().map(|uid| (*uid).to_owned()).collect());
        assert_eq!(leave(&[("cpu", 100)]), uids(&["small"]), "it is as close as the other, and asks for less");
        assert_eq!(leave(&[("cpu", 500)]), uids(&["large"]));
        assert_eq!(leave(&[("cpu", 650)]), uids(&["large", "small"]));
        assert_eq!(leave(&[("cpu", 1000)]), uids(&["sure"]), "what has to go above spares what is below");
        assert_eq!(leave(&[("pods", 1)]), uids(&["best"]));
        assert_eq!(leave(&[("cpu", 2000), ("memory", 50)]), Err(vec![("cpu".to_owned(), 300)]));
    }
}
