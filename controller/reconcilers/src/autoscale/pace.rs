//! How fast a target may follow what its metrics want: pure. Stabilization windows and policies of the Kubernetes
//! documentation, "Horizontal Pod Autoscaling", section "Configurable scaling behavior".
use super::replicas::Tolerance;
use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// What recommended more within this time holds, unless the object says otherwise (`--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_WINDOW_SECONDS: i64 = 300;
/// What a metric may be off without anything being done (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;
/// No policy looks back further; validation sees to it.
const LONGEST_PERIOD_SECONDS: i64 = 1800;

/// The numbers that a target moves between.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) min: i32,
    pub(super) max: i32,
}

/// A number of replicas, and when it was said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Recent {
    at: Timestamp,
    replicas: i32,
}

impl Recent {
    /// A time to come is not recent: the clock was set since.
    fn is_within(&self, seconds: i64, now: Timestamp) -> bool {
        let age = now.as_millisecond() - self.at.as_millisecond();
        (0..seconds.saturating_mul(1000)).contains(&age)
    }
}

/// What is remembered from one look to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Memory {
    recommendations: Vec<Recent>,
    additions: Vec<Recent>,
    removals: Vec<Recent>,
}

fn sum(changes: &[Recent], seconds: i64, now: Timestamp) -> i64 {
    changes.iter().filter(|change| change.is_within(seconds, now)).map(|change| i64::from(change.replicas)).sum()
}

impl Memory {
    /// A memory of nothing but the number that is there: whoever begins anew does not scale down at once.
    pub(super) fn beginning(current: i32, now: Timestamp) -> Self {
        Self { recommendations: vec![Recent { at: now, replicas: current }], ..Self::default() }
    }

    fn recommend(&mut self, replicas: i32, window: i64, now: Timestamp) {
        self.recommendations.retain(|recent| recent.is_within(window, now));
        self.recommendations.push(Recent { at: now, replicas });
    }

    /// The target was scaled.
    pub(super) fn note(&mut self, from: i32, to: i32, now: Timestamp) {
        let changes = if to > from { &mut self.additions } else { &mut self.removals };
        changes.retain(|change| change.is_within(LONGEST_PERIOD_SECONDS, now));
        changes.push(Recent { at: now, replicas: to.abs_diff(from).try_into().unwrap_or(i32::MAX) });
    }

    /// What was there when the period of a policy began, as far as it is known.
    fn at_begin(&self, current: i32, policy: &HPAScalingPolicy, now: Timestamp) -> i64 {
        let period = i64::from(policy.period_seconds);
        i64::from(current) - sum(&self.additions, period, now) + sum(&self.removals, period, now)
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    Up,
    Down,
}

/// The rules of one direction, with what is left open filled in.
struct Rules<'a> {
    direction: Direction,
    given: Option<&'a HPAScalingRules>,
}

impl Rules<'_> {
    fn window(&self) -> i64 {
        let given = self.given.and_then(|rules| rules.stabilization_window_seconds).map(i64::from);
        given.unwrap_or(match self.direction {
            Direction::Up => 0,
            Direction::Down => DOWN_WINDOW_SECONDS,
        })
    }

    fn tolerance(&self) -> f64 {
        let given = self.given.and_then(|rules| Quantity::parse(&rules.tolerance.as_ref()?.0).ok());
        given.map_or(TOLERANCE, |quantity| quantity.nano() as f64 / 1e9)
    }

    fn policies(&self) -> Vec<HPAScalingPolicy> {
        if let Some(policies) = self.given.and_then(|rules| rules.policies.as_ref()) {
            return policies.clone();
        }
        let policy = |kind: &str, value| HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 };
        match self.direction {
            Direction::Up => vec![policy("Pods", 4), policy("Percent", 100)],
            Direction::Down => vec![policy("Percent", 100)],
        }
    }

    /// As far as one policy lets the target go; in whole numbers, for a hundred percent of 10 are never 11.
    fn reach(&self, policy: &HPAScalingPolicy, begin: i64) -> i64 {
        let value = i64::from(policy.value);
        match (self.direction, policy.type_.as_str()) {
            (Direction::Up, "Percent") => -(-begin * (100 + value)).div_euclid(100),
            (Direction::Up, _) => begin + value,
            (Direction::Down, "Percent") => begin * (100 - value) / 100,
            (Direction::Down, _) => begin - value,
        }
    }

    /// As far as the policies let the target go now.
    fn limit(&self, memory: &Memory, current: i32, now: Timestamp) -> i32 {
        let policies = self.policies();
        let reached = policies.iter().map(|policy| self.reach(policy, memory.at_begin(current, policy, now)));
        let select = self.given.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
        // The largest change downwards is the smallest number.
        let furthest = match (select, self.direction) {
            ("Disabled", _) => None,
            ("Min", Direction::Up) | ("Max", Direction::Down) => reached.min(),
            _ => reached.max(),
        };
        let furthest = furthest.unwrap_or_else(|| current.into()).clamp(0, i32::MAX.into());
        let furthest = i32::try_from(furthest).unwrap_or(current);
        // What went beyond its rate before is not turned round, it waits.
        match self.direction {
            Direction::Up => furthest.max(current),
            Direction::Down => furthest.min(current),
        }
    }
}

/// A reason and what it means.
pub(super) type Words = (&'static str, &'static str);

/// What comes of a recommendation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) replicas: i32,
    /// Earlier recommendations hold it back.
    pub(super) stabilized: Option<Words>,
    pub(super) is_limited: bool,
    pub(super) limit: Words,
}

const UP_STABILIZED: Words = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Words = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const TOO_FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FAST_UP: Words =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Words =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const WITHIN: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");

/// The rules of both directions.
pub(super) struct Pace<'a> {
    up: Rules<'a>,
    down: Rules<'a>,
    /// The object has rules of its own.
    is_given: bool,
}

impl<'a> Pace<'a> {
    /// The rules of an object.
    pub(super) fn new(behavior: Option<&'a HorizontalPodAutoscalerBehavior>) -> Self {
        let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
        let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());
        Self {
            up: Rules { direction: Direction::Up, given: up },
            down: Rules { direction: Direction::Down, given: down },
            is_given: behavior.is_some(),
        }
    }

    /// How far metrics may be off.
    pub(super) fn tolerance(&self) -> Tolerance {
        Tolerance { up: self.up.tolerance(), down: self.down.tolerance() }
    }

    /// Follows a recommendation as far as it may be followed now.
    pub(super) fn follow(&self, wanted: i32, bounds: Bounds, memory: &mut Memory, now: Timestamp) -> Verdict {
        let stable = self.stabilize(wanted, bounds.current, memory, now);
        let (replicas, limit) = self.restrict(stable, bounds, memory, now);
        let words = if wanted >= bounds.current && self.is_given { UP_STABILIZED } else { DOWN_STABILIZED };
        Verdict { replicas, stabilized: (stable != wanted).then_some(words), is_limited: replicas != stable, limit }
    }

    fn stabilize(&self, wanted: i32, current: i32, memory: &mut Memory, now: Timestamp) -> i32 {
        let recent = |window: i64| {
            let within = memory.recommendations.iter().filter(move |recent| recent.is_within(window, now));
            within.map(|recent| recent.replicas).chain([wanted])
        };
        let lowest = recent(self.up.window()).min().unwrap_or(wanted);
        let highest = recent(self.down.window()).max().unwrap_or(wanted);
        memory.recommend(wanted, self.up.window().max(self.down.window()), now);
        // Without rules of its own an object goes to the highest of late, up or down.
        if self.is_given { current.max(lowest).min(highest) } else { highest }
    }

    fn restrict(&self, wanted: i32, bounds: Bounds, memory: &Memory, now: Timestamp) -> (i32, Words) {
        let Bounds { current, min, max } = bounds;
        if wanted > current {
            let limit = if self.is_given {
                self.up.limit(memory, current, now)
            } else {
                // Twice as many, and 4 at once, whatever was added before.
                current.saturating_mul(2).max(4)
            };
            let (most, words) = if max > limit { (limit, TOO_FAST_UP) } else { (max, TOO_MANY) };
            if wanted > most {
                return (most, words);
            }
        }
        if wanted < current {
            let limit = if self.is_given { self.down.limit(memory, current, now) } else { 0 };
            let (least, words) = if min < limit { (limit, TOO_FAST_DOWN) } else { (min, TOO_FEW) };
            if wanted < least {
                return (least, words);
            }
        }
        (wanted, WITHIN)
    }
}
