//! Waiting for a time of the clock that people and certificates go by.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

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
