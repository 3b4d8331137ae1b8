//! Whether there is enough of every resource left. Pure; the scheduler's `NodeResourcesFit` asks the same.

use api::pod::Amounts;
use api::quantity::Quantity;

use super::Reason;

/// The resource that pods themselves are.
pub(super) const PODS: &str = "pods";

/// An amount as messages of the kubelet tell it: thousandths of processors, else whole units.
pub(super) fn number(resource: &str, amount: Quantity) -> i64 {
    if resource == "cpu" { amount.milli() } else { amount.value() }
}

/// What of the pod's requests is more than what is left. A resource that nobody counts here is nobody's to refuse, if it
/// has a domain; without one it is Kubernetes' own and the node has none of it.
pub(super) fn missing(requests: &Amounts, used: &Amounts, capacity: &Amounts) -> Vec<Reason> {
    let counts = |name: &str| capacity.contains_key(name) || !crate::device::is_extended(name);
    let one = |(name, wanted): (&String, &Quantity)| {
        let of = |amounts: &Amounts| amounts.get(name).map_or(0, |own| number(name, *own));
        let (requested, used, capacity) = (number(name, *wanted), of(used), of(capacity));
        let lacks = requested > 0 && requested > capacity - used;
        lacks.then(|| Reason::Insufficient { resource: name.clone(), requested, used, capacity })
    };
    requests.iter().filter(|(name, _)| counts(name)).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn amounts(all: &[(&str, &str)]) -> Amounts {
        all.iter().map(|(name, text)| ((*name).to_owned(), Quantity::parse(text).unwrap())).collect()
    }

    #[test]
    fn what_is_asked_for_is_to_be_left() {
        let capacity = amounts(&[("cpu", "2"), ("memory", "1Gi"), ("example.com/a", "1")]);
        let used = amounts(&[("cpu", "1500m"), ("memory", "2Gi")]);
        let lacks = |all: &[(&str, &str)]| -> Vec<String> {
            missing(&amounts(all), &used, &capacity).iter().map(Reason::message).collect()
        };
        assert_eq!(lacks(&[("cpu", "500m"), ("memory", "0"), ("example.com/a", "1")]), [""; 0]);
        assert_eq!(
            lacks(&[("cpu", "501m"), ("memory", "1")]),
            [
                "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
                "Node didn't have enough resource: memory, requested: 1, used: 2147483648, capacity: 1073741824"
            ]
        );
        assert_eq!(lacks(&[("example.com/a", "2"), ("example.com/unknown", "9"), ("hugepages-2Mi", "2Mi")]).len(), 2);
    }
}
