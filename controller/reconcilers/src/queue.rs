//! A work queue: keys that need a look. One run per key at a time; news during a run make one more run.
//! Failures are tried again with a growing wait; nothing polls.
use crate::metrics::{self, Figures};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// What a run wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until there are news.
    Wait,
    /// Another run after this time.
    After(Duration),
}

struct State<K> {
    /// With the time since when each waits.
    ready: VecDeque<(K, Instant)>,
    queued: HashSet<K>,
    running: HashSet<K>,
    again: HashSet<K>,
    failures: HashMap<K, u32>,
    /// Runs to come, soonest first.
    later: BTreeSet<(Instant, K)>,
    /// The one entry that each key has there.
    timers: HashMap<K, Instant>,
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    /// Sets the key's next run, instead of the one that was set.
    fn set_timer(&mut self, key: K, at: Instant) {
        if let Some(old) = self.timers.insert(key.clone(), at) {
            self.later.remove(&(old, key.clone()));
        }
        self.later.insert((at, key));
    }

    /// Lets the key wait for its run; tells whether it did not already.
    fn make_ready(&mut self, key: K, figures: &Figures) -> bool {
        let is_new = self.queued.insert(key.clone());
        if is_new {
            self.ready.push_back((key, Instant::now()));
            figures.adds.inc();
            figures.depth.set(i64::try_from(self.ready.len()).unwrap_or(i64::MAX));
        }
        is_new
    }
}

/// The queue.
pub(crate) struct Queue<K> {
    name: &'static str,
    first_backoff: Duration,
    figures: Figures,
    state: Mutex<State<K>>,
    news: Notify,
}

impl<K: Clone + Eq + Hash + Ord + Debug + Send + 'static> Queue<K> {
    /// An empty one; the name is told in logs and metrics.
    pub(crate) fn new(name: &'static str) -> Arc<Self> {
        Self::patient(name, FIRST_BACKOFF)
    }

    /// One whose failures wait longer: what is tried is dear, or somebody else's.
    pub(crate) fn patient(name: &'static str, first_backoff: Duration) -> Arc<Self> {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            failures: HashMap::new(),
            later: BTreeSet::new(),
            timers: HashMap::new(),
        };
        Arc::new(Self {
            name,
            first_backoff,
            figures: metrics::of(name),
            state: Mutex::new(state),
            news: Notify::new(),
        })
    }

    /// The key needs a look.
    pub(crate) fn add(&self, key: K) {
        let mut state = self.lock();
        if state.running.contains(&key) {
            state.again.insert(key);
            return;
        }
        if state.make_ready(key, &self.figures) {
            drop(state);
            self.news.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        // Nothing below can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next key to run, or how long until there may be one.
    fn take(&self, now: Instant) -> Result<K, Option<Duration>> {
        let mut state = self.lock();
        while let Some((at, _)) = state.later.first()
            && *at <= now
            && let Some((_, key)) = state.later.pop_first()
        {
            state.timers.remove(&key);
            if state.running.contains(&key) {
                state.again.insert(key);
            } else {
                state.make_ready(key, &self.figures);
            }
        }
        match state.ready.pop_front() {
            Some((key, since)) => {
                self.figures.depth.set(i64::try_from(state.ready.len()).unwrap_or(i64::MAX));
                self.figures.waited.observe(now.saturating_duration_since(since).as_secs_f64());
                state.queued.remove(&key);
                state.running.insert(key.clone());
                Ok(key)
            }
            None => Err(state.later.first().map(|(at, _)| at.saturating_duration_since(now))),
        }
    }

    fn done(&self, key: K, next: Option<Next>, now: Instant) {
        let mut state = self.lock();
        state.running.remove(&key);
        if state.again.remove(&key) {
            state.make_ready(key.clone(), &self.figures);
        }
        match next {
            Some(next) => {
                state.failures.remove(&key);
                if let Next::After(wait) = next {
                    state.set_timer(key, now + wait);
                }
            }
            None => {
                self.figures.retries.inc();
                let failures = state.failures.entry(key.clone()).or_default();
                let wait = self.first_backoff.saturating_mul(1 << (*failures).min(16)).min(MAX_BACKOFF);
                *failures += 1;
                // What was to be looked at sooner still is.
                let at = state.timers.get(&key).map_or(now + wait, |set| (now + wait).min(*set));
                state.set_timer(key, at);
            }
        }
    }

    /// Runs `handle` for keys as they come, at most `workers` at once, until dropped. `Err` is logged and tried again.
    pub(crate) async fn work<H, F, E>(self: Arc<Self>, workers: usize, handle: H)
    where
        H: Fn(K) -> F,
        F: Future<Output = Result<Next, E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let name = self.name;
        let mut runs: JoinSet<(K, Result<Next, E>)> = JoinSet::new();
        let mut keys: HashMap<tokio::task::Id, K> = HashMap::new();
        loop {
            let mut wait = None;
            while runs.len() < workers {
                match self.take(Instant::now()) {
                    Ok(key) => {
                        let run = handle(key.clone());
                        let (own, worked) = (key.clone(), self.figures.worked.clone());
                        let task = runs.spawn(async move {
                            let began = Instant::now();
                            let result = run.await;
                            worked.observe(began.elapsed().as_secs_f64());
                            (own, result)
                        });
                        keys.insert(task.id(), key);
                    }
                    Err(until) => {
                        wait = until;
                        break;
                    }
                }
            }
            tokio::select! {
                Some(ended) = runs.join_next_with_id(), if !runs.is_empty() => match ended {
                    Ok((id, (key, result))) => {
                        keys.remove(&id);
                        let next = match result {
                            Ok(next) => Some(next),
                            Err(error) => {
                                tracing::info!(reconciler = name, object = ?key, error = api::causes::chain(&error), "tried again");
                                None
                            }
                        };
                        self.done(key, next, Instant::now());
                    }
                    Err(error) => {
                        tracing::error!(reconciler = name, %error, "a run ended early");
                        if let Some(key) = keys.remove(&error.id()) {
                            self.done(key, None, Instant::now());
                        }
                    }
                },
                () = self.news.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn one_run_per_key_and_one_more_for_news() {
        let queue = Queue::new("test");
        let (runs, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, current) = (Arc::clone(&runs), Arc::clone(&at_once));
        let task = tokio::spawn(Arc::clone(&queue).work(4, move |_key: u32| {
            let (runs, at_once) = (Arc::clone(&counted), Arc::clone(&current));
            async move {
                assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
                tokio::time::sleep(Duration::from_secs(1)).await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                runs.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::fmt::Error>(Next::Wait)
            }
        }));
        queue.add(1);
        queue.add(1);
        tokio::time::sleep(Duration::from_millis(500)).await;
        for _ in 0..10 {
            queue.add(1);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets() {
        let queue = Queue::new("test");
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let task = tokio::spawn(Arc::clone(&queue).work(1, move |_key: u32| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move { if run < 5 { Err(std::fmt::Error) } else { Ok(Next::After(Duration::from_secs(100))) } }
        }));
        queue.add(1);
        tokio::time::sleep(Duration::from_millis(4)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        // 5 + 10 + 20 + 40 + 80 ms.
        tokio::time::sleep(Duration::from_millis(160)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 6);
        tokio::time::sleep(Duration::from_secs(101)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 7);
        task.abort();
    }
}
