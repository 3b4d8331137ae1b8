//! Runs one lifecycle hook. When, and what follows from its end, is decided in `agent_pod`.

use std::sync::PoisonError;
use std::time::Duration;

use agent_pod::protocol::Hook;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;

use super::action::{self, exec, http};
use super::{Executor, sandbox};

/// Runs a hook, until the container ends at most; whether it did what it should.
pub(crate) async fn run(executor: &Executor, index: usize, attempt: u32, hook: Hook) -> bool {
    let Some(container) = executor.container(index) else { return false };
    let id = sandbox::id(&container.name, attempt);
    let mut end = {
        let mut running = executor.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.entry(id.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    };
    let outcome = tokio::select! {
        outcome = carry_out(executor, &container, &id, hook) => outcome,
        // Whoever it asked may never answer.
        _ = end.changed() => Err("the container ended before".into()),
    };
    match outcome {
        Ok(()) => true,
        Err(error) => {
            // Not for events: a hook's output may hold secrets.
            tracing::info!(uid = executor.uid, index, ?hook, error, "a hook failed");
            false
        }
    }
}

async fn carry_out(executor: &Executor, container: &Container, id: &str, hook: Hook) -> Result<(), String> {
    let lifecycle = container.lifecycle.clone().unwrap_or_default();
    let handler = match hook {
        Hook::PostStart => lifecycle.post_start,
        Hook::PreStop => lifecycle.pre_stop,
    };
    let handler = handler.ok_or("the container has no such hook")?;
    if let Some(action) = handler.exec {
        let ran = exec::run(executor, id, &action.command.unwrap_or_default(), None).await;
        return match ran.map_err(|error| error.to_string())? {
            exec::Ran { code: 0, .. } => Ok(()),
            exec::Ran { code, output } => Err(format!("exit code {code}: {output}")),
        };
    }
    if let Some(action) = handler.http_get {
        let ip = executor.pod_ips.first().ok_or("the pod has no address")?;
        // Whatever it answers, it was told.
        return http::get(&action::http_get(&action, container, ip)?).await.map(drop);
    }
    if let Some(sleep) = handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // The API server takes `tcpSocket` for old manifests' sake; no kubelet runs it.
    Err("invalid handler: expected exec, httpGet or sleep".into())
}
