//! How long to wait before trying again: at once, then 10 s doubling to 5 min; a container that ran
//! for 10 min starts over. Kubernetes documentation, "Pod Lifecycle", container restarts.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LONGEST: SignedDuration = SignedDuration::from_mins(5);
const RESET_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// The memory of one thing's failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure; the first try again comes at once.
    pub fn next_wait(&mut self) -> SignedDuration {
        let wait = match self.failures {
            0 => SignedDuration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(5)).min(LONGEST),
        };
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// How long to wait after one more failure of something that is not tried at once.
    pub fn next_delayed(&mut self) -> SignedDuration {
        self.failures = self.failures.max(1);
        self.next_wait()
    }

    /// Forgets the failures of a container that ran long enough.
    pub fn forgive(&mut self, started_at: Option<Timestamp>, ended_at: Timestamp) {
        if started_at.is_some_and(|started| ended_at.duration_since(started) >= RESET_AFTER) {
            self.failures = 0;
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let waits: Vec<i64> = (0..8).map(|_| backoff.next_wait().as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        backoff.forgive(Some(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH + SignedDuration::from_mins(9));
        assert_eq!(backoff.next_wait().as_secs(), 300);
        backoff.forgive(Some(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH + SignedDuration::from_mins(10));
        assert_eq!(backoff.next_wait().as_secs(), 0);
        assert_eq!(Backoff::default().next_delayed().as_secs(), 10);
    }
}
