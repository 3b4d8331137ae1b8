//! When the clock is set, or the machine has slept, what was to happen at a time of the day is looked at anew: waits go
//! by another clock, which does neither.
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// A time that does not come: 2200-01-01.
const NEVER: i64 = 7_258_118_400;

/// Calls `news` whenever the clock has leapt, until dropped.
pub(crate) async fn watch(news: impl Fn()) {
    let timer = match timer() {
        Ok(timer) => timer,
        Err(error) => {
            tracing::warn!(%error, "nobody tells when the clock is set");
            return std::future::pending().await;
        }
    };
    loop {
        let Ok(mut ready) = timer.readable().await else { return std::future::pending().await };
        let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8])?));
        match read {
            Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) => {
                tracing::info!("the clock was set, or the machine slept");
                news();
            }
            // Told for nothing, or tried too early.
            Ok(_) | Err(_) => {}
        }
    }
}

/// A timer for a time that does not come, which a clock that leaps cancels.
fn timer() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), flags)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; here the AsyncFd alone owns the descriptor, so it stays open"
    )]
    AsyncFd::new(timer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_goes_on_is_no_news() {
        let told = std::cell::Cell::new(0);
        let wait = tokio::time::timeout(std::time::Duration::from_millis(50), watch(|| told.set(told.get() + 1)));
        assert!(wait.await.is_err());
        assert_eq!(told.get(), 0);
    }
}
