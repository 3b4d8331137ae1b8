//! Who leaves for a taint of a device, and when; what a rule says of it: pure.
use super::facts::{RuleFacts, SliceFacts};
use crate::cache::Key;
use crate::resource_claim::Given;
use api::device_taint::{NO_EXECUTE, is_tainted_by, patience};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::resource::v1::DeviceTaint;
use std::collections::BTreeSet;

/// That pods are to leave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaving {
    /// When.
    pub(super) at: Timestamp,
    /// The rules among the reasons.
    pub(super) rules: BTreeSet<Key>,
}

impl Leaving {
    /// Of two reasons the first counts.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.at = self.at.min(other.at);
        self.rules.extend(other.rules);
        self
    }
}

/// Whether, and when, those leave that use these devices of a claim. A taint without a time came at `now`.
pub(super) fn leaving<'a>(
    given: &[Given],
    slices: impl Iterator<Item = &'a SliceFacts> + Clone,
    rules: impl Iterator<Item = &'a RuleFacts> + Clone,
    now: Timestamp,
) -> Option<Leaving> {
    let mut leaving: Option<Leaving> = None;
    for device in given {
        let mut note = |taint: &DeviceTaint, rule: Option<&RuleFacts>| {
            let Some(seconds) = patience(&device.tolerations, taint) else { return };
            let since = taint.time_added.as_ref().map_or(now, |time| time.0);
            let own = Leaving {
                at: since.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX),
                rules: rule.map(|rule| Key::clone(&rule.name)).into_iter().collect(),
            };
            leaving = Some(match leaving.take() {
                Some(other) => other.and(own),
                None => own,
            });
        };
        let pool = slices.clone().filter(|slice| slice.driver == device.driver && slice.pool == device.pool);
        // What an older generation of the pool said counts no more.
        let newest = pool.clone().map(|slice| slice.generation).max();
        let current = pool.filter(|slice| Some(slice.generation) == newest);
        for own in current.flat_map(|slice| &slice.devices).filter(|own| own.name == device.device) {
            own.taints.iter().for_each(|taint| note(taint, None));
        }
        for rule in rules.clone().filter(|rule| rule.spec.taint.effect == NO_EXECUTE) {
            if is_tainted_by(&rule.spec, &device.driver, &device.pool, &device.device) {
                note(&rule.spec.taint, Some(rule));
            }
        }
    }
    leaving
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Devices that drivers tell of.
    pub(super) published: usize,
    /// Devices that claims have.
    pub(super) allocated: usize,
    /// Pods that leave, or would.
    pub(super) pods: usize,
    /// The namespaces that these are in.
    pub(super) namespaces: usize,
    /// Pods that left for it since this process started.
    pub(super) evicted: u64,
}

/// What a rule says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) is_in_progress: bool,
    /// One of the reasons that the API documents (DeviceTaintRuleStatus).
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// "1 pod", "2 pods".
fn number(count: impl Into<u64>, of: &str) -> String {
    let count = count.into();
    if count == 1 { format!("1 {of}") } else { format!("{count} {of}s") }
}

/// The condition of a rule with this effect.
pub(super) fn said(effect: &str, tally: &Tally) -> Said {
    let count = |count: usize, of: &str| number(u64::try_from(count).unwrap_or(u64::MAX), of);
    let pods = format!("{} in {}", count(tally.pods, "pod"), count(tally.namespaces, "namespace"));
    let (reason, mut message) = match effect {
        NO_EXECUTE if tally.pods > 0 => ("PodsPendingEviction", format!("To be evicted: {pods}.")),
        NO_EXECUTE if tally.evicted > 0 => ("Completed", String::new()),
        NO_EXECUTE => ("NotStarted", String::new()),
        "None" => {
            let (published, allocated) = (count(tally.published, "device"), count(tally.allocated, "device"));
            let message = format!(
                "Selects {published} of those that drivers publish and {allocated} of those that are allocated; with the \
                 effect {NO_EXECUTE}, {pods} would be evicted. This is told once for each change of the rule."
            );
            ("NoEffect", message)
        }
        _ => ("OtherEffect", format!("Only the effect {NO_EXECUTE} evicts pods.")),
    };
    if tally.evicted > 0 {
        let space = if message.is_empty() { "" } else { " " };
        message += &format!("{space}Evicted since the control plane started: {}.", number(tally.evicted, "pod"));
    }
    Said { is_in_progress: reason == "PodsPendingEviction", reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn slice(generation: i64, devices: Value) -> SliceFacts {
        let spec = json!({"driver": "d", "pool": {"name": "p", "generation": generation, "resourceSliceCount": 1},
            "devices": devices});
        SliceFacts::new(from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap())
    }

    fn rule(name: &str, effect: &str, time: &str) -> RuleFacts {
        let taint = json!({"key": "maintenance", "effect": effect, "timeAdded": time});
        let spec = json!({"deviceSelector": {"driver": "d"}, "taint": taint});
        RuleFacts::new(from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
    }

    fn given(device: &str, tolerations: Value) -> Given {
        Given {
            driver: "d".into(),
            pool: "p".into(),
            device: device.into(),
            tolerations: from_value(tolerations).unwrap(),
        }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NOW: &str = "2026-01-03T00:00:00Z";

    fn of(given: &[Given], slices: &[SliceFacts], rules: &[RuleFacts]) -> Option<Leaving> {
        leaving(given, slices.iter(), rules.iter(), time(NOW))
    }

    fn tainted(effect: &str) -> Value {
        json!([{"name": "a", "taints": [{"key": "k", "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"}]}, {"name": "b"}])
    }

    #[test]
    fn who_uses_a_tainted_device_leaves_when_patience_ends() {
        let slices = [slice(1, tainted("NoExecute"))];
        let at = |given: Given| of(&[given], &slices, &[]).map(|leaving| leaving.at);
        assert_eq!(at(given("a", json!([]))), Some(time("2026-01-01T00:00:00Z")));
        assert_eq!(at(given("b", json!([]))), None, "another device");
        let patient = json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
        assert_eq!(at(given("a", patient)), Some(time("2026-01-01T00:01:00Z")));
        assert_eq!(at(given("a", json!([{"operator": "Exists"}]))), None);
        let endless = json!([{"operator": "Exists", "tolerationSeconds": i64::MAX}]);
        assert_eq!(at(given("a", endless)), Some(Timestamp::MAX));
        assert_eq!(of(&[given("a", json!([]))], &[slice(1, tainted("NoSchedule"))], &[]), None);
    }

    #[test]
    fn the_newest_generation_of_a_pool_counts() {
        let mine = [given("a", json!([]))];
        let (old, new) = (slice(1, tainted("NoExecute")), slice(2, json!([{"name": "a"}])));
        assert_eq!(of(&mine, &[old.clone(), new], &[]), None);
        let mut other = old.clone();
        (other.pool, other.generation) = ("q".into(), 5);
        assert!(of(&mine, &[old, other], &[]).is_some(), "another pool has its own");
    }

    #[test]
    fn the_first_reason_counts_and_all_rules_are_told() {
        let rules = [
            rule("late", "NoExecute", "2026-01-02T00:00:00Z"),
            rule("early", "NoExecute", "2026-01-01T12:00:00Z"),
            rule("none", "None", "2025-01-01T00:00:00Z"),
        ];
        let mine = [given("b", json!([])), given("c", json!([]))];
        let leaving = of(&mine, &[slice(1, tainted("NoExecute"))], &rules).unwrap();
        assert_eq!(leaving.at, time("2026-01-01T12:00:00Z"));
        assert_eq!(leaving.rules.iter().map(|name| &**name).collect::<Vec<_>>(), ["early", "late"]);
        let mut timeless = rules[0].clone();
        timeless.spec.taint.time_added = None;
        assert_eq!(of(&mine, &[], &[timeless]).unwrap().at, time(NOW));
    }

    #[test]
    fn a_rule_says_how_far_it_is() {
        let some = Tally { published: 4, allocated: 1, pods: 2, namespaces: 1, evicted: 0 };
        let said_of = |effect: &str, tally: Tally| said(effect, &tally);
        let pending = said_of("NoExecute", some);
        assert!(pending.is_in_progress && pending.reason == "PodsPendingEviction");
        assert_eq!(pending.message, "To be evicted: 2 pods in 1 namespace.");
        let done = said_of("NoExecute", Tally { pods: 0, evicted: 1, ..some });
        assert_eq!((done.is_in_progress, done.reason), (false, "Completed"));
        assert_eq!(done.message, "Evicted since the control plane started: 1 pod.");
        assert_eq!(said_of("NoExecute", Tally::default()).reason, "NotStarted");
        let tried = said_of("None", some);
        assert_eq!((tried.is_in_progress, tried.reason), (false, "NoEffect"));
        assert!(tried.message.contains("4 devices") && tried.message.contains("2 pods in 1 namespace would"));
        assert_eq!(said_of("NoSchedule", some).reason, "OtherEffect");
    }
}
