//! The machine goes down: pods end in their time before it, the critical ones last, and the node says that it takes no more.
//! Kubernetes documentation, "Node Shutdowns", graceful node shutdown.

use std::sync::Arc;
use std::time::Duration;

use agent_pod::protocol::{Event, Eviction, Failure};
use tokio::time::Instant;

use crate::execute::{Host, sandbox};
use crate::roster::Member;

/// Pods of this priority and above are critical (`system-cluster-critical`).
const CRITICAL: i32 = 2_000_000_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What is left for the last words to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

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
    let is_critical = |member: &Member| {
        let priority = member.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        priority >= CRITICAL || crate::static_pods::is_static(&member.pod)
    };
    tracing::info!(?grace, "the machine goes down: ending pods");
    end(host, grace.total - critical, |member| !is_critical(member)).await;
    end(host, critical, is_critical).await;
    tokio::time::sleep(LAST_WORDS).await;
}

async fn end(host: &Arc<Host>, time: Duration, concerns: impl Fn(&Member) -> bool) {
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
        members[uid].tell(Event::Evicted(Eviction { failure, grace_seconds, is_disruption: true }));
    }
    let is_up = |uid: &String| sandbox::read_record(&host.config.instance.pod_run_dir(uid)).is_some();
    while Instant::now() < until && going.iter().any(is_up) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
