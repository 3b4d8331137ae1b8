//! Figures by hand and properties, from the rules of the Kubernetes documentation, "Configurable scaling behavior".
use super::pace::{Bounds, Memory, Pace, Verdict};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerBehavior;
use proptest::prelude::*;
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A target that does at once what it is told.
struct Play {
    behavior: Option<HorizontalPodAutoscalerBehavior>,
    bounds: Bounds,
    memory: Memory,
}

impl Play {
    fn new(behavior: Value, current: i32, min: i32, max: i32) -> Self {
        let behavior = serde_json::from_value(behavior).unwrap();
        Self { behavior, bounds: Bounds { current, min, max }, memory: Memory::beginning(current, at(0)) }
    }

    fn look(&mut self, second: i64, wanted: i32) -> Verdict {
        let pace = Pace::new(self.behavior.as_ref());
        let verdict = pace.follow(wanted, self.bounds, &mut self.memory, at(second));
        if verdict.replicas != self.bounds.current {
            self.memory.note(self.bounds.current, verdict.replicas, at(second));
            self.bounds.current = verdict.replicas;
        }
        verdict
    }

    /// Replicas after a look.
    fn after(&mut self, second: i64, wanted: i32) -> i32 {
        self.look(second, wanted).replicas
    }
}

fn down_at_once(policies: &Value) -> Value {
    json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": policies}})
}

#[test]
fn without_rules_it_doubles_and_waits_five_minutes() {
    let mut play = Play::new(Value::Null, 3, 1, 50);
    let first = play.look(15, 50);
    assert_eq!((first.replicas, first.is_limited, first.limit.0), (6, true, "ScaleUpLimit"));
    assert_eq!(play.after(30, 50), 12);
    assert_eq!(play.after(45, 13), 24, "the highest of late counts");
    assert_eq!(play.after(329, 1), 48, "50 were wanted 299 seconds ago");
    let held = play.look(340, 1);
    assert_eq!((held.replicas, held.stabilized.map(|words| words.0)), (13, Some("ScaleDownStabilized")));
    assert_eq!(play.after(346, 1), 1);
    let mut few = Play::new(Value::Null, 1, 1, 50);
    assert_eq!(few.after(15, 50), 4, "four at once");
}

#[test]
fn bounds_hold_and_are_told() {
    let mut play = Play::new(down_at_once(&json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])), 4, 2, 6);
    let up = play.look(15, 9);
    assert_eq!((up.replicas, up.is_limited, up.limit.0), (6, true, "TooManyReplicas"));
    let down = play.look(30, 0);
    assert_eq!((down.replicas, down.is_limited, down.limit.0), (2, true, "TooFewReplicas"));
    let within = play.look(45, 3);
    assert_eq!((within.replicas, within.is_limited, within.limit.0), (3, false, "DesiredWithinRange"));
}

#[test]
fn the_default_policies_of_rules() {
    // The most of 4 more and twice as many in 15 seconds; down to nothing after 300 seconds.
    let mut play = Play::new(json!({}), 1, 1, 100);
    assert_eq!(play.after(15, 100), 5);
    assert_eq!(play.after(20, 100), 5, "four were added within 15 seconds");
    assert_eq!(play.after(30, 100), 10);
    assert_eq!(play.after(100, 1), 10);
    assert_eq!(play.after(329, 1), 10);
    assert_eq!(play.after(331, 1), 1);
}

#[test]
fn policies_count_what_was_done_within_their_period() {
    // The documentation's example: at most 4 pods or 10 % in a minute, from 80.
    let policies = json!([{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]);
    let mut play = Play::new(down_at_once(&policies), 80, 10, 100);
    // 10 % of 80 is 8; of 72 it is 7.2, and 64.8 pods are 64.
    assert_eq!(play.after(15, 10), 72);
    assert_eq!(play.after(60, 10), 72);
    assert_eq!(play.after(76, 10), 64);
    let mut near = Play::new(down_at_once(&policies), 30, 10, 100);
    assert_eq!(near.after(15, 10), 26, "4 pods are more than 10 % of 30");
    let min = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": policies}});
    assert_eq!(Play::new(min, 80, 10, 100).after(15, 10), 76);
    let off = json!({"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"}});
    let kept = Play::new(off, 80, 10, 100).look(15, 10);
    assert_eq!((kept.replicas, kept.limit.0), (80, "ScaleDownLimit"));
    // 10 % more of 10 is 11, and of 11 it is 12.1, which is 13.
    let percent = json!({"scaleUp": {"policies": [{"type": "Percent", "value": 10, "periodSeconds": 15}]}});
    let mut play = Play::new(percent, 10, 1, 100);
    assert_eq!((play.after(15, 100), play.after(31, 100)), (11, 13));
}

#[test]
fn what_was_taken_away_may_come_back_within_the_period() {
    let both = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 5, "periodSeconds": 60}]}});
    let mut play = Play::new(both, 10, 1, 100);
    // From 10 to 5, and within the minute no further than 2 above what was there when it began.
    assert_eq!((play.after(15, 1), play.after(30, 50)), (5, 12));
}

#[test]
fn growth_is_stabilized_too() {
    let slow = json!({"scaleUp": {"stabilizationWindowSeconds": 60}});
    let mut play = Play::new(slow, 4, 1, 100);
    let held = play.look(15, 6);
    assert_eq!((held.replicas, held.stabilized.map(|words| words.0)), (4, Some("ScaleUpStabilized")));
    assert_eq!(play.after(50, 8), 4);
    // What was wanted at 15 and 50 seconds is all that is recent at 61: the lowest is 6.
    assert_eq!(play.after(61, 8), 6);
}

#[test]
fn a_clock_that_is_set_back_freezes_nothing() {
    let mut play = Play::new(Value::Null, 4, 1, 100);
    play.look(100_000, 8);
    assert_eq!(play.after(15, 2), 2, "what was said later than now is not recent");
}

#[test]
fn tolerances_are_read() {
    let own = json!({"scaleUp": {"tolerance": "50m"}, "scaleDown": {}});
    let tolerance = Pace::new(Some(&serde_json::from_value(own).unwrap())).tolerance();
    assert_eq!((tolerance.up, tolerance.down), (0.05, 0.1));
}

/// A rule of one policy, and times and wishes.
fn any_rule() -> impl Strategy<Value = (&'static str, i32, i32)> {
    (prop_oneof![Just("Pods"), Just("Percent")], 1..120_i32, 15..120_i32)
}

fn any_wishes() -> impl Strategy<Value = Vec<(i64, i32)>> {
    proptest::collection::vec((1..40_i64, 0..60_i32), 1..40)
}

proptest! {
    #[test]
    fn never_beyond_its_bounds_nor_against_its_wish(
        up in any_rule(), down in any_rule(), windows in (0..200_i32, 0..400_i32), wishes in any_wishes(),
        bounds in (1..10_i32, 0..40_i32), start in 0..50_i32, has_rules: bool,
    ) {
        let rules = |(kind, value, period): (&str, i32, i32), window: i32| json!({"stabilizationWindowSeconds": window,
            "policies": [{"type": kind, "value": value, "periodSeconds": period}]});
        let behavior = json!({"scaleUp": rules(up, windows.0), "scaleDown": rules(down, windows.1)});
        let (min, max) = (bounds.0, bounds.0 + bounds.1);
        let mut play = Play::new(if has_rules { behavior } else { Value::Null }, start.clamp(min, max), min, max);
        let mut second = 0;
        for (pause, wanted) in wishes {
            second += pause;
            let before = play.bounds.current;
            let after = play.after(second, wanted);
            prop_assert!((min..=max).contains(&after));
            if has_rules {
                let (low, high) = (wanted.min(before), wanted.max(before));
                prop_assert!((low.min(max)..=high.max(min)).contains(&after), "{before} to {after}, wanted {wanted}");
            }
        }
    }

    /// Within no period more is added than the policy lets, counted from what was there when it began.
    #[test]
    fn never_faster_than_its_policy((kind, value, period) in any_rule(), wishes in any_wishes(), start in 1..30_i32) {
        let rules = json!({"stabilizationWindowSeconds": 0, "policies": [{"type": kind, "value": value, "periodSeconds": period}]});
        let mut play = Play::new(json!({"scaleUp": rules, "scaleDown": rules}), start, 0, 1000);
        let mut history = vec![(0, start)];
        let mut second = 0;
        for (pause, wanted) in wishes {
            second += pause;
            let after = play.after(second, wanted);
            // What was there when the period began: changes of that very moment are out of it.
            let begin = second - i64::from(period);
            let held = history.iter().rev().find(|(at, _)| *at <= begin).map_or(start, |(_, replicas)| *replicas);
            let last = history.last().map_or(start, |(_, replicas)| *replicas);
            let (share, rest) = (held * value / 100, held * value % 100);
            let (more, less) = match kind {
                "Pods" => (held + value, held - value),
                _ => (held + share + i32::from(rest > 0), held - share - i32::from(rest > 0)),
            };
            prop_assert!(after <= more.max(last), "{after} of {held}, {value} {kind} in {period} s: {history:?}");
            prop_assert!(after >= less.min(last), "{after} of {held}, {value} {kind} in {period} s: {history:?}");
            history.push((second, after));
        }
    }

    /// Nothing goes below what was wanted at any time within the window.
    #[test]
    fn never_below_what_was_wanted_of_late(wishes in any_wishes(), window in 1..400_i64, has_rules: bool) {
        let behavior = if has_rules { json!({"scaleDown": {"stabilizationWindowSeconds": window}}) } else { Value::Null };
        let window = if has_rules { window } else { 300 };
        let mut play = Play::new(behavior, 5, 1, 1000);
        let mut wanted_at = vec![(0, 5)];
        let mut second = 0;
        for (pause, wanted) in wishes {
            second += pause;
            wanted_at.push((second, wanted));
            let before = play.bounds.current;
            let after = play.after(second, wanted);
            let recent = wanted_at.iter().filter(|(at, _)| second - at < window).map(|(_, wanted)| *wanted);
            let highest = recent.max().unwrap_or(wanted);
            prop_assert!(after >= before.min(highest.max(1)), "{before} to {after}, {highest} wanted of late");
        }
    }
}
