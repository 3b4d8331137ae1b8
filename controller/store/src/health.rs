//! Whether the disk does its part: told at once to the log, and to whoever watches.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::metrics::Metrics;

/// A write that takes longer is logged.
const SLOW: Duration = Duration::from_secs(1);
/// A write that takes longer is trouble.
const STALLED: Duration = Duration::from_secs(10);

/// What keeps a store from writing. Reads and watches go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The disk refused a write; none is accepted until it takes writes again.
    Refused {
        /// In the disk's words.
        reason: String,
    },
    /// One write has not come back for more than ten seconds.
    Stalled,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Refused { reason } => write!(f, "the store's disk takes no writes: {reason}"),
            Trouble::Stalled => {
                write!(f, "a write to the store's disk has not come back for more than {} s", STALLED.as_secs())
            }
        }
    }
}

/// The write that is on its way.
#[derive(Debug)]
struct Writing {
    since: Instant,
    /// It was logged as slow.
    logged: bool,
}

/// What the writer and the watchdog tell each other.
#[derive(Debug)]
struct State {
    slow: Duration,
    stalled: Duration,
    writing: Option<Writing>,
    /// The watchdog looks again by itself, within a second or so: a write that begins need not wake it.
    awake: bool,
    closed: bool,
}

/// The state of the disk as the writer and its watchdog see it.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<State>,
    /// Wakes the watchdog.
    began: Condvar,
    trouble: watch::Sender<Option<Trouble>>,
    metrics: Metrics,
}

impl Health {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let state = State { slow: SLOW, stalled: STALLED, writing: None, awake: false, closed: false };
        Self { state: Mutex::new(state), began: Condvar::new(), trouble: watch::Sender::new(None), metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer hands a group to the disk.
    pub(crate) fn begin(&self) {
        let mut state = self.state();
        state.writing = Some(Writing { since: Instant::now(), logged: false });
        // Of many writes in a row only the first wakes anybody.
        if !std::mem::replace(&mut state.awake, true) {
            drop(state);
            self.began.notify_one();
        }
    }

    /// The disk answered.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        let Some(Writing { since, .. }) = state.writing.take() else { return };
        let took = since.elapsed();
        self.metrics.persist_seconds.observe(took.as_secs_f64());
        if took > state.slow {
            tracing::warn!(?took, "a write to the store's disk was slow");
        }
        // While the lock is held nobody can find the write that has just ended stalled.
        if self.trouble.send_if_modified(|trouble| trouble.take_if(|own| *own == Trouble::Stalled).is_some()) {
            self.metrics.stalled.set(0);
            tracing::info!(?took, "the store's disk answers again");
        }
    }

    /// The watchdog: nothing else tells that a disk hangs. Sleeps while nothing is written; returns when closed.
    pub(crate) fn guard(&self) {
        let mut state = self.state();
        while !state.closed {
            let again = self.look(&mut state);
            state.awake = again.is_some();
            state = match again {
                Some(again) => self.began.wait_timeout(state, again).unwrap_or_else(PoisonError::into_inner).0,
                None => self.began.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Tells of the write under way what is to be told by now, and says how long until there is more.
    fn look(&self, state: &mut State) -> Option<Duration> {
        let write = state.writing.as_mut()?;
        let took = write.since.elapsed();
        if took < state.slow {
            return Some(state.slow - took);
        }
        if !std::mem::replace(&mut write.logged, true) {
            tracing::warn!(?took, "the store waits for its disk");
        }
        if took < state.stalled {
            return Some(state.stalled - took);
        }
        let stalls = |trouble: &mut Option<Trouble>| {
            let is_new = trouble.is_none();
            if is_new {
                *trouble = Some(Trouble::Stalled);
            }
            is_new
        };
        if self.trouble.send_if_modified(stalls) {
            self.metrics.stalled.set(1);
            tracing::error!(?took, "the store's disk hangs: writes wait, reads and watches go on");
        }
        None
    }

    /// Ends the watchdog.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.began.notify_one();
    }

    /// The disk refused, or still refuses.
    pub(crate) fn refused(&self, reason: &str) {
        self.metrics.refusing.set(1);
        self.metrics.stalled.set(0);
        self.trouble.send_replace(Some(Trouble::Refused { reason: reason.to_owned() }));
    }

    /// The disk takes writes again.
    pub(crate) fn recovered(&self) {
        self.metrics.refusing.set(0);
        self.trouble.send_replace(None);
    }

    /// Finds writes slow and stalled sooner.
    #[cfg(test)]
    pub(crate) fn shorten(&self, slow: Duration, stalled: Duration) {
        let mut state = self.state();
        (state.slow, state.stalled) = (slow, stalled);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }
}
