//! The machine goes down: pods end in their time before it, the critical ones last, and the node says that it takes no more.
//! Kubernetes documentation, "Node Shutdowns", graceful node shutdown.

use std::sync::Arc;
use std::time::Duration;

use agent_pod::protocol::{Event, Eviction, Failure};
use tokio::time::Instant;

use crate::execute::{Host, sandbox};
use crate::roster::Member;
use crate::static_pods::{is_critical, is_static};

/// How long the last words of what has ended are waited for: nobody may be there to take them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long pods have when the machine goes down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grace {
    /// All of them together.
    pub total: Duration,
    /// What of it is for critical ones.
    pub critical: Duration,
}

/// Whether the machine is going down, as systemd says.
pub async fn is_coming() -> bool {
    let asked = tokio::process::Command::new("systemctl").arg("is-system-running").output();
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stdout).trim() == "stopping",
        // Without systemd nobody says so.
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Ends all pods, in at most this time.
pub(crate) async fn end_pods(host: &Arc<Host>, grace: Grace) {
    host.is_going_down.send_replace(true);
    let critical = grace.critical.min(grace.total);
    let is_critical = |member: &Member| is_critical(&member.pod);
    tracing::info!(?grace, "the machine goes down: ending pods");
    let mut ended = end(host, grace.total - critical, |member| !is_critical(member)).await;
    ended.extend(end(host, critical, is_critical).await);
    let members = || host.pods.members();
    let is_told = |uid: &String| members().get(uid).is_none_or(|own| own.is_over() || is_static(&own.pod));
    host.pods.until(Instant::now() + LAST_WORDS, || ended.iter().all(is_told)).await;
}

/// Ends those that are concerned in this time; their uids.
async fn end(host: &Arc<Host>, time: Duration, concerns: impl Fn(&Member) -> bool) -> Vec<String> {
    let until = Instant::now() + time;
    let members = host.pods.members();
    let going: Vec<String> = members
        .iter()
        .filter(|(_, member)| !member.is_over() && concerns(member))
        .map(|(uid, _)| uid.clone())
        .collect();
    for uid in &going {
        let failure = Failure {
            reason: "Terminated".into(),
            message: "Pod was terminated in response to imminent node shutdown.".into(),
        };
        let grace_seconds = Some(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        members[uid].tell(Event::Evicted(Eviction {
            failure,
            grace_seconds,
            is_disruption: true,
            event: "NodeShutdown",
        }));
    }
    let is_down = |uid: &String| sandbox::read_record(&host.config.instance.pod_run_dir(uid)).is_none();
    host.pods.until(until, || going.iter().all(is_down)).await;
    going
}
