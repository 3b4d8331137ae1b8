//! The seats of all levels and who waits for them. A level has seats of its own; what it does not use others may
//! borrow, as far as it lends. Those who wait stand in queues; each flow is dealt a few of them and takes the
//! shortest, so one greedy flow fills its own queues only; queues take turns.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::config::{Configuration, Limits};

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody more may wait.
    Full,
    /// The wait was too long.
    Late,
}

/// All levels.
pub(super) struct Levels {
    total: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the levels were last set up by.
    configuration: Option<Arc<Configuration>>,
    levels: BTreeMap<String, Level>,
}

#[derive(Default)]
struct Level {
    own: usize,
    lendable: usize,
    /// The most it may use, with what it borrows.
    most: usize,
    used: usize,
    queues: Vec<VecDeque<oneshot::Sender<Permit>>>,
    /// Whose turn is next.
    next: usize,
}

/// A seat of a level, free again when dropped, wherever that happens: also on the way to somebody who went away.
pub(super) struct Permit {
    levels: Arc<Levels>,
    level: String,
    is_counted: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_counted {
            return;
        }
        let mut state = self.levels.state();
        if let Some(level) = state.levels.get_mut(&self.level) {
            level.used = level.used.saturating_sub(1);
        }
        Levels::hand_out(&self.levels, &mut state.levels);
    }
}

impl Levels {
    pub(super) fn new(total: usize) -> Self {
        Self { total, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat of a level, at once or after others.
    pub(super) async fn acquire(
        levels: &Arc<Self>,
        configuration: &Arc<Configuration>,
        name: &str,
        flow: u64,
        longest: Duration,
    ) -> Result<Permit, Refused> {
        let waiting = {
            let mut state = levels.state();
            if !state.configuration.as_ref().is_some_and(|known| Arc::ptr_eq(known, configuration)) {
                levels.configure(&mut state.levels, configuration);
                state.configuration = Some(Arc::clone(configuration));
            }
            let is_free = levels.is_free(&state.levels, name);
            let Some(level) = state.levels.get_mut(name) else { return Err(Refused::Full) };
            if is_free && level.queues.iter().all(VecDeque::is_empty) {
                level.used += 1;
                None
            } else {
                Some(level.wait(configuration.levels.get(name).and_then(|level| level.limits.as_ref()), flow)?)
            }
        };
        match waiting {
            None => Ok(Permit { levels: Arc::clone(levels), level: name.to_owned(), is_counted: true }),
            Some(turn) => match tokio::time::timeout(longest, turn).await {
                Ok(Ok(permit)) => Ok(permit),
                _ => Err(Refused::Late),
            },
        }
    }

    /// Takes changes of the configuration in. Who sits or waits stays; a level that is gone, or has no limits any more,
    /// keeps nothing from others and goes with its last user.
    fn configure(&self, levels: &mut BTreeMap<String, Level>, configuration: &Configuration) {
        levels.retain(|name, level| {
            (level.own, level.lendable, level.most) = (0, 0, 0);
            configuration.levels.get(name).is_some_and(|wanted| wanted.limits.is_some()) || level.used > 0
        });
        for (name, wanted) in &configuration.levels {
            let Some(limits) = &wanted.limits else { continue };
            let own = configuration.seats(name, self.total);
            let level = levels.entry(name.clone()).or_default();
            level.own = own;
            level.lendable = own * limits.lendable_percent as usize / 100;
            level.most = limits.borrowing_percent.map_or(self.total, |percent| own + own * percent as usize / 100);
            let queues = limits.queuing.map_or(0, |queuing| queuing.queues);
            if level.queues.len() < queues {
                level.queues.resize_with(queues, VecDeque::new);
            }
        }
    }

    /// Whether a level may use one more seat: of its own, or of those that others lend and do not use.
    fn is_free(&self, levels: &BTreeMap<String, Level>, name: &str) -> bool {
        let Some(level) = levels.get(name) else { return false };
        if level.used < level.own {
            return true;
        }
        let kept = |level: &Level| level.used.max(level.own - level.lendable);
        let others: usize = levels.iter().filter(|(other, _)| *other != name).map(|(_, level)| kept(level)).sum();
        level.used < level.most && others + level.used < self.total
    }

    /// Gives seats to those who wait, as long as there are any.
    fn hand_out(levels: &Arc<Self>, state: &mut BTreeMap<String, Level>) {
        let waited_for = |level: &Level| level.queues.iter().any(|queue| !queue.is_empty());
        let names = state.iter().filter(|(_, level)| waited_for(level)).map(|(name, _)| name.clone());
        for name in names.collect::<Vec<String>>() {
            while levels.is_free(state, &name) {
                let Some(turn) = state.get_mut(&name).and_then(Level::next_in_turn) else { break };
                let permit = Permit { levels: Arc::clone(levels), level: name.clone(), is_counted: true };
                match turn.send(permit) {
                    Ok(()) => {
                        if let Some(level) = state.get_mut(&name) {
                            level.used += 1;
                        }
                    }
                    // Who went away leaves the seat to the next; it was not counted yet.
                    Err(mut permit) => permit.is_counted = false,
                }
            }
        }
    }
}

impl Level {
    /// A place in the shortest queue of the flow's hand.
    fn wait(&mut self, limits: Option<&Limits>, flow: u64) -> Result<oneshot::Receiver<Permit>, Refused> {
        let queuing = limits.and_then(|limits| limits.queuing).ok_or(Refused::Full)?;
        let hand = deal(flow, queuing.queues.min(self.queues.len()), queuing.hand_size);
        let shortest = hand.into_iter().min_by_key(|at| self.queues[*at].len()).ok_or(Refused::Full)?;
        let queue = &mut self.queues[shortest];
        queue.retain(|turn| !turn.is_closed());
        if queue.len() >= queuing.queue_length_limit {
            return Err(Refused::Full);
        }
        let (turn, waiting) = oneshot::channel();
        queue.push_back(turn);
        Ok(waiting)
    }

    fn next_in_turn(&mut self) -> Option<oneshot::Sender<Permit>> {
        let count = self.queues.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            if let Some(turn) = self.queues.get_mut(at).and_then(VecDeque::pop_front) {
                self.next = (at + 1) % count;
                return Some(turn);
            }
        }
        None
    }
}

/// Different queues for a flow, as cards are dealt (KEP-1040, shuffle sharding).
fn deal(flow: u64, queues: usize, hand_size: usize) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..queues).collect();
    let mut number = flow;
    (0..hand_size.min(queues))
        .map(|_| {
            let left = rest.len() as u64;
            let card = rest.swap_remove((number % left) as usize);
            number /= left;
            card
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::config::{self, Queuing};

    fn configuration(levels: &[(&str, u32, u32, Option<Queuing>)]) -> Configuration {
        let level = |(name, shares, lendable_percent, queuing): &(&str, u32, u32, Option<Queuing>)| {
            let (shares, lendable_percent, queuing) = (*shares, *lendable_percent, *queuing);
            let limits = Some(Limits { shares, lendable_percent, borrowing_percent: None, queuing });
            ((*name).to_owned(), config::Level { name: (*name).to_owned(), uid: String::new(), limits })
        };
        Configuration { schemas: Vec::new(), levels: levels.iter().map(level).collect() }
    }

    const SHORT: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn seats_are_lent_and_come_back_to_those_who_wait() {
        let queuing = Queuing { queues: 4, hand_size: 2, queue_length_limit: 2 };
        let configuration = Arc::new(configuration(&[("a", 1, 50, Some(queuing)), ("b", 1, 50, None)]));
        let levels = Arc::new(Levels::new(8));
        let acquire = async |level: &str, flow: u64, longest| {
            Levels::acquire(&levels, &configuration, level, flow, longest).await
        };
        // Four of its own, and the two that b lends.
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(acquire("a", 1, SHORT).await.expect("a seat"));
        }
        assert_eq!(acquire("a", 1, SHORT).await.err(), Some(Refused::Late));
        // What b keeps it has; the rest is taken, and it has no queues.
        let kept = [acquire("b", 1, SHORT).await.expect("own"), acquire("b", 1, SHORT).await.expect("own")];
        drop(kept);
        let waiting = acquire("a", 1, Duration::from_secs(60));
        let give = async {
            tokio::task::yield_now().await;
            held.pop();
        };
        let (got, ()) = tokio::join!(waiting, give);
        assert!(got.is_ok());
        // Who stops waiting, whether the turn came or not, keeps no seat.
        for _ in 0..3 {
            let (own, configuration) = (Arc::clone(&levels), Arc::clone(&configuration));
            let gone = tokio::spawn(async move {
                Levels::acquire(&own, &configuration, "a", 1, Duration::from_secs(60)).await.map(drop)
            });
            tokio::task::yield_now().await;
            held.pop();
            gone.abort();
            assert!(gone.await.is_err() || levels.state().levels["a"].used <= 6);
        }
        drop((got, held));
        assert!(levels.state().levels.values().all(|level| level.used == 0), "every seat came back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_greedy_flow_fills_its_own_queues_only() {
        let queuing = Queuing { queues: 64, hand_size: 2, queue_length_limit: 5 };
        let configuration = Arc::new(configuration(&[("a", 1, 0, Some(queuing))]));
        let levels = Arc::new(Levels::new(1));
        let seat = Levels::acquire(&levels, &configuration, "a", 0, SHORT).await.expect("a seat");
        let mut greedy = Vec::new();
        for _ in 0..30 {
            let (levels, configuration) = (Arc::clone(&levels), Arc::clone(&configuration));
            greedy.push(tokio::spawn(async move {
                Levels::acquire(&levels, &configuration, "a", 7, Duration::from_secs(9)).await.map(drop)
            }));
        }
        tokio::task::yield_now().await;
        let (own, own_configuration) = (Arc::clone(&levels), Arc::clone(&configuration));
        let modest = tokio::spawn(async move {
            Levels::acquire(&own, &own_configuration, "a", 12_345, Duration::from_secs(9)).await.map(drop)
        });
        tokio::task::yield_now().await;
        drop(seat);
        assert_eq!(modest.await.unwrap(), Ok(()), "somebody modest is served");
        let mut served = 0;
        for task in greedy {
            served += usize::from(task.await.unwrap().is_ok());
        }
        assert_eq!(served, 10, "two queues of five");
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_is_gone_keeps_nothing_from_others() {
        let both = Arc::new(configuration(&[("a", 1, 0, None), ("b", 1, 0, None)]));
        let levels = Arc::new(Levels::new(8));
        let held = Levels::acquire(&levels, &both, "b", 1, SHORT).await.expect("a seat");
        let alone = Arc::new(configuration(&[("a", 1, 0, None)]));
        let mut taken = Vec::new();
        while let Ok(seat) = Levels::acquire(&levels, &alone, "a", 1, SHORT).await {
            taken.push(seat);
        }
        assert_eq!(taken.len(), 8, "all seats are its own now, whoever still sits");
        assert_eq!(Levels::acquire(&levels, &alone, "b", 1, SHORT).await.err(), Some(Refused::Full));
        drop((held, taken));
        assert!(levels.state().levels.values().all(|level| level.used == 0));
    }

    #[test]
    fn hands_have_different_cards() {
        for flow in [0, 1, 77, u64::MAX] {
            let mut hand = deal(flow, 64, 8);
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 8);
        }
        assert!(deal(3, 0, 8).is_empty());
    }
}
