//! Waiting for a time of the clock that people and certificates go by.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A clock that is set by less is taken for one that runs a little fast or slow.
const LEAP: SignedDuration = SignedDuration::from_secs(1);

/// The machine's clock, and a look at whether it was set. Sleep of the machine counts as setting it.
pub(crate) struct Clock {
    seen: (Timestamp, Instant),
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { seen: (Timestamp::now(), Instant::now()) }
    }

    /// The time, and by how much the clock was set since the last look.
    pub(crate) fn look(&mut self) -> (Timestamp, Option<SignedDuration>) {
        let now = (Timestamp::now(), Instant::now());
        let by = leap(self.seen, now);
        self.seen = now;
        (now.0, by)
    }
}

fn leap(before: (Timestamp, Instant), now: (Timestamp, Instant)) -> Option<SignedDuration> {
    let passed = SignedDuration::try_from(now.1.saturating_duration_since(before.1)).unwrap_or(SignedDuration::MAX);
    let by = now.0.duration_since(before.0).saturating_sub(passed);
    (by.abs() >= LEAP).then_some(by)
}

/// The moment at which the clock will say this, unless it is set.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> Instant {
    let left = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    // So far away that it does not matter when.
    Instant::now().checked_add(left).unwrap_or_else(|| Instant::now() + Duration::from_secs(u64::from(u32::MAX)))
}

/// Waits until then; for ever where there is no such moment.
pub(crate) async fn sleep_until_moment(at: Option<Instant>) {
    match at {
        None => std::future::pending().await,
        Some(at) => tokio::time::sleep_until(at).await,
    }
}

/// Waits until then; for ever where there is no such time.
pub(crate) async fn sleep_until(at: Option<Timestamp>) {
    match at {
        None => std::future::pending().await,
        Some(at) => {
            let left = at.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_runs() {
        let (wall, steady) = (Timestamp::from_second(1_000_000).unwrap(), Instant::now());
        let later = |seconds: i64, passed: u64| {
            leap((wall, steady), (wall + SignedDuration::from_secs(seconds), steady + Duration::from_secs(passed)))
        };
        assert_eq!(later(30, 30), None);
        assert_eq!(later(3630, 30), Some(SignedDuration::from_hours(1)));
        assert_eq!(later(-3570, 30), Some(SignedDuration::from_hours(-1)));
    }
}
