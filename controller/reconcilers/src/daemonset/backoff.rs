//! Pods that fail again and again on a node come back ever more slowly. Pure: time is told.
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Copy, Debug)]
struct Entry {
    wait: Duration,
    since: Instant,
}

/// Whose pods fail where: the set's uid and generation, and the node.
pub(super) type Place = (Box<str>, i64, Box<str>);

/// What is remembered of failures.
#[derive(Debug, Default)]
pub(super) struct Backoff(HashMap<Place, Entry>);

impl Backoff {
    /// How long the next pod has to wait there still.
    pub(super) fn left(&self, place: &Place, now: Instant) -> Option<Duration> {
        let entry = self.0.get(place)?;
        Some(entry.wait.saturating_sub(now.saturating_duration_since(entry.since))).filter(|left| !left.is_zero())
    }

    /// A pod failed there and is replaced now.
    pub(super) fn note(&mut self, place: Place, now: Instant) {
        // Who was well for so long begins anew; and nothing is remembered for ever.
        self.0.retain(|_, entry| now.saturating_duration_since(entry.since) < 2 * LAST);
        let wait = self.0.get(&place).map_or(FIRST, |entry| (entry.wait * 2).min(LAST));
        self.0.insert(place, Entry { wait, since: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_are_forgotten() {
        let place = |generation| -> Place { ("u".into(), generation, "n".into()) };
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.left(&place(1), start), None);
        for wait in [1, 2, 4, 8] {
            backoff.note(place(1), start);
            assert_eq!(backoff.left(&place(1), start), Some(Duration::from_secs(wait)));
        }
        assert_eq!(backoff.left(&place(1), start + Duration::from_secs(8)), None);
        assert_eq!(backoff.left(&place(2), start), None);
        for _ in 0..20 {
            backoff.note(place(1), start);
        }
        assert_eq!(backoff.left(&place(1), start), Some(LAST));
        backoff.note(place(1), start + 2 * LAST);
        assert_eq!(backoff.left(&place(1), start + 2 * LAST), Some(FIRST));
    }
}
