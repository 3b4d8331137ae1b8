//! Work that waits for the kernel or the disk, on threads of its own: only so much of it at once as gains anything.
//!
//! A hundred pods that start together wait for the same few locks (of links, of cgroups, of mounts). A thread for each
//! makes none of them faster, and what it was given of memory stays with it.

use std::time::Duration;

use agent_pod::protocol::Failure;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinError;

use super::sandbox::REASON;

/// A hundred pods are up as soon with 8 as with 40, on two processors; one that waits for a disk keeps others from theirs.
const AT_ONCE: usize = 16;
/// Work that hangs (a file server that is gone) keeps its turn. Others wait no longer than this for one.
const PATIENCE: Duration = Duration::from_secs(10);

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE);

/// Waits for a turn. None is there after [`PATIENCE`]: then it goes on without.
pub(crate) async fn turn() -> Option<SemaphorePermit<'static>> {
    tokio::time::timeout(PATIENCE, TURNS.acquire()).await.ok()?.ok()
}

/// Does this in its turn.
///
/// # Errors
///
/// If it panics, or the process ends first.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    let turn = turn().await;
    let done = tokio::task::spawn_blocking(move || {
        // Whoever waits for it may go away: the turn is taken for as long as the work is done.
        let _turn = turn;
        work()
    });
    done.await
}

/// The same for what fails as steps of a pod do.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    run(work).await.unwrap_or_else(|error| Err(Failure { reason: REASON.into(), message: error.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::sync::{Arc, Barrier, Mutex};

    #[tokio::test(start_paused = true)]
    async fn so_much_is_done_at_once_and_what_hangs_keeps_nobody_for_ever() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Nobody goes on before so many are at it.
        let together = Arc::new(Barrier::new(AT_ONCE));
        let all = (0..6 * AT_ONCE).map(|_| {
            let (now, most, together) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&together));
            run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                together.wait();
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        futures::future::join_all(all).await;
        assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);

        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        let stuck: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let hangs = Arc::clone(&hangs);
                tokio::spawn(run(move || hangs.lock().unwrap().recv().is_err()))
            })
            .collect();
        // They have their turns when none is left.
        while TURNS.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let late = tokio::spawn(run(|| 7));
        tokio::task::yield_now().await;
        tokio::time::advance(PATIENCE - Duration::from_secs(1)).await;
        assert!(!late.is_finished());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(late.await.unwrap().unwrap(), 7);
        drop(release);
        for one in stuck {
            assert!(one.await.unwrap().unwrap());
        }
        assert_eq!(TURNS.available_permits(), AT_ONCE);
    }
}
