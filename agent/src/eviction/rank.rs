//! Who is evicted: the order of the kubelet. Pure.

use api::pod::CRITICAL_PRIORITY;

use super::threshold::{Met, Signal};

/// A pod that runs here, and what it uses of what is short.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) uid: String,
    pub(super) priority: i32,
    /// Its object is made from a file of this machine.
    pub(super) is_static: bool,
    pub(super) used: u64,
    pub(super) requested: u64,
    /// Container, used, requested.
    pub(super) containers: Vec<(String, u64, u64)>,
}

impl Candidate {
    fn excess(&self) -> i128 {
        i128::from(self.used) - i128::from(self.requested)
    }
}

/// The pod to evict: of those that use more than they asked for the one of the lowest priority, then the one that is
/// furthest above its request. Process ids are asked for by nobody: there the priority counts, then their number.
pub(super) fn first(signal: Signal, candidates: Vec<Candidate>) -> Option<Candidate> {
    let may_go = |own: &Candidate| own.priority < CRITICAL_PRIORITY && !own.is_static;
    candidates.into_iter().filter(may_go).min_by_key(|own| {
        let is_within = signal != Signal::Pid && own.excess() <= 0;
        (is_within, own.priority, -own.excess())
    })
}

/// What the pod's status says.
pub(super) fn message(met: &Met, victim: &Candidate) -> String {
    let (signal, least) = (met.threshold.signal, met.shown_least());
    let resource = signal.resource();
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {least}, available: {}. ",
        signal.shown(met.left)
    );
    for (name, used, requested) in &victim.containers {
        if used > requested {
            let (used, requested) = (signal.shown(*used), signal.shown(*requested));
            text += &format!(
                "Container {name} was using {used}, request is {requested}, has larger consumption of {resource}. "
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::threshold::{Limits, Soft};
    use super::*;
    use crate::pressure::Sample;

    fn pod(uid: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        Candidate { uid: uid.into(), priority, used, requested, ..Candidate::default() }
    }

    #[test]
    fn who_exceeds_goes_before_who_does_not_then_priority_then_excess() {
        let order = |signal, mut all: Vec<Candidate>| {
            let mut order = Vec::new();
            while let Some(next) = first(signal, all.clone()) {
                all.retain(|own| own.uid != next.uid);
                order.push(next.uid);
            }
            order
        };
        let all = vec![
            pod("within", 0, 10, 20),
            pod("most", 5, 100, 10),
            pod("some", 5, 50, 10),
            pod("low", 1, 11, 10),
            pod("critical", CRITICAL_PRIORITY, 999, 0),
            Candidate { is_static: true, ..pod("static", 0, 999, 0) },
        ];
        assert_eq!(order(Signal::Memory, all.clone()), ["low", "most", "some", "within"]);
        assert_eq!(order(Signal::Pid, all), ["within", "low", "most", "some"]);
    }

    #[test]
    fn the_message_names_what_was_short_and_who_took_it() {
        let limits = Limits::new(Some("memory.available<1Mi"), &Soft::default()).unwrap();
        let met = limits.met(&Sample { memory_bytes: Some(2048), ..Sample::default() });
        let mut victim = pod("u", 0, 0, 0);
        victim.containers = vec![("a".into(), 4096, 1024), ("b".into(), 1, 1024)];
        assert_eq!(
            message(&met[0], &victim),
            "The node was low on resource: memory. Threshold quantity: 1024Ki, available: 2Ki. \
             Container a was using 4Ki, request is 1Ki, has larger consumption of memory. "
        );
    }
}
