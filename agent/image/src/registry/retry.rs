//! Whether and when something that failed is tried again. Pure: time and chance are given.

use std::time::Duration;

/// Tries in a row that bring nothing, before we give up.
const FRUITLESS_MAX: u32 = 5;
/// Tries of one thing in all: a registry that cuts after every few bytes is not followed for ever.
const TRIES_MAX: u32 = 200;
const LONGEST: Duration = Duration::from_secs(20);
/// A registry that wants us to wait longer than this is left to whoever asked us.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It would fail again.
    Final,
    /// Another try may do.
    Passing {
        /// How long the registry asked us to wait.
        asked: Option<Duration>,
    },
}

/// The failures of one thing so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tries {
    first: Duration,
    fruitless: u32,
    all: u32,
}

impl Tries {
    /// None yet; `first` is the longest wait after the first failure.
    pub(crate) fn new(first: Duration) -> Self {
        Self { first, fruitless: 0, all: 0 }
    }

    /// Bytes came: the next failure begins anew.
    pub(crate) fn progressed(&mut self) {
        self.fruitless = 0;
    }

    /// How long to wait before the next try, or `None` for none. `chance` is from 0 to 1.
    pub(crate) fn after(&mut self, kind: Kind, chance: f64) -> Option<Duration> {
        let Kind::Passing { asked } = kind else { return None };
        self.fruitless += 1;
        self.all += 1;
        if self.fruitless >= FRUITLESS_MAX || self.all >= TRIES_MAX {
            return None;
        }
        match asked {
            Some(asked) => (asked <= ASKED_MAX).then_some(asked),
            // Half of it fixed, half by chance: many nodes that lost the same registry come back one by one.
            None => {
                let whole = self.first.saturating_mul(1 << (self.fruitless - 1).min(10)).min(LONGEST);
                Some(whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);

    #[test]
    fn waits_grow_and_end() {
        let passing = Kind::Passing { asked: None };
        let mut tries = Tries::new(FIRST);
        let waits: Vec<_> = (0..6).map(|_| tries.after(passing, 1.0).map(|wait| wait.as_millis())).collect();
        assert_eq!(waits, [Some(500), Some(1000), Some(2000), Some(4000), None, None]);
        tries.progressed();
        assert_eq!(tries.after(passing, 0.0), Some(Duration::from_millis(250)));
        assert_eq!(tries.after(Kind::Final, 0.0), None);
        let asked = |seconds| Kind::Passing { asked: Some(Duration::from_secs(seconds)) };
        assert_eq!(tries.after(asked(7), 1.0), Some(Duration::from_secs(7)));
        assert_eq!(tries.after(asked(3600), 1.0), None, "nobody waits an hour");
    }

    #[test]
    fn a_trickle_is_not_followed_for_ever() {
        let mut tries = Tries::new(FIRST);
        let many = std::iter::from_fn(|| {
            tries.progressed();
            tries.after(Kind::Passing { asked: None }, 0.5)
        });
        assert_eq!(many.count(), 199);
    }
}
