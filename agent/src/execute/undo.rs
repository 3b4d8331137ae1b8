//! Undoes what drivers did for a pod, until they have.

use std::time::Duration;

use agent_pod::protocol::Notice;
use tokio::sync::watch;

use super::Executor;

/// A driver that is being replaced is back within this, mostly.
pub(crate) const DRIVER_WITHIN: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How people are told what cannot be undone now.
pub(crate) struct Told {
    /// The event's reason.
    pub(crate) reason: &'static str,
    /// What its message begins with.
    pub(crate) prefix: &'static str,
}

/// Tries until nothing is left, if it is `is_patient`, and tells people meanwhile: `attempt` says what failed first, and
/// `comings` when drivers come and go. Whether nothing is left.
pub(crate) async fn until_undone<T, A: Future<Output = Option<String>> + Send>(
    executor: &Executor,
    is_patient: bool,
    told: Told,
    mut comings: watch::Receiver<T>,
    attempt: impl Fn() -> A,
) -> bool {
    let mut wait = RETRY;
    loop {
        comings.mark_unchanged();
        let Some(why) = attempt().await else { return true };
        tracing::warn!(uid = executor.uid, reason = told.reason, why, "what a driver did is not undone");
        if !is_patient {
            return false;
        }
        let message = format!("{}{why}", told.prefix);
        let notice = Notice { warning: true, reason: told.reason, message, container: None };
        executor.host.recorder.pod(&executor.host.client, &executor.pod, &notice).await;
        pause(&mut wait, &mut comings).await;
    }
}

/// Waits for a driver that may be the one that was waited for, and no longer than a while that grows: a driver that is here
/// and fails tells nobody when it will not any more.
pub(crate) async fn pause<T>(wait: &mut Duration, comings: &mut watch::Receiver<T>) {
    // Whoever tells of drivers lives as long as this does.
    drop(tokio::time::timeout(*wait, comings.changed()).await);
    *wait = (*wait * 2).min(RETRY_MAX);
}
