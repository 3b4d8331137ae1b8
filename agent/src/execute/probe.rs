//! Runs one probe and tells what it found. What follows is decided in `agent_pod::probe`.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_pod::probe::{Health, ProbeKind};
use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::time::timeout;

use super::action::exec::{self, ExecError};
use super::action::{self, authority, grpc, http};
use super::{Executor, sandbox};
use crate::environment;

/// Asks a container how it does.
pub(crate) async fn ask(executor: &Executor, index: usize, attempt: u32, kind: ProbeKind) -> Health {
    let Some(container) = executor.container(index) else {
        return Health::Unknown(format!("the pod has no container {index}"));
    };
    let probe = match kind {
        ProbeKind::Startup => &container.startup_probe,
        ProbeKind::Liveness => &container.liveness_probe,
        ProbeKind::Readiness => &container.readiness_probe,
    };
    let Some(probe) = probe else { return Health::Unknown("the container has no such probe".into()) };
    let seconds = probe.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(1);
    let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    if let Some(action) = &probe.exec {
        let command = expand(action.command.as_deref().unwrap_or_default(), &container);
        let id = sandbox::id(&container.name, attempt);
        return match exec::run(executor, &id, &command, Some(limit)).await {
            Ok(ran) if ran.code == 0 => Health::Good,
            Ok(ran) => Health::Bad(ran.output),
            Err(error @ ExecError::TimedOut { .. }) => Health::Bad(error.to_string()),
            Err(error @ ExecError::NotRun(_)) => Health::Unknown(error.to_string()),
        };
    }
    match executor.pod_ips.first() {
        Some(ip) => over_network(probe, &container, ip, limit).await,
        None => Health::Unknown("the pod has no address".into()),
    }
}

async fn over_network(probe: &Probe, container: &Container, ip: &str, limit: Duration) -> Health {
    if let Some(action) = &probe.http_get {
        let request = match action::http_get(action, container, ip) {
            Ok(request) => request,
            Err(error) => return Health::Unknown(error),
        };
        return match timeout(limit, http::get(&request)).await {
            Ok(Ok(answer)) => judge(&answer),
            Ok(Err(error)) => Health::Bad(error),
            Err(_) => Health::Bad(format!(
                "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                request.url
            )),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
        let port = match action::port(container, &action.port) {
            Ok(port) => port,
            Err(error) => return Health::Unknown(error),
        };
        return match timeout(limit, action::connect(host, port)).await {
            Ok(Ok(_)) => Health::Good,
            Ok(Err(error)) => Health::Bad(error),
            Err(_) => Health::Bad(format!("dial tcp {}: i/o timeout", authority(host, port))),
        };
    }
    if let Some(action) = &probe.grpc {
        let service = action.service.as_deref().unwrap_or_default();
        let Ok(port) = u16::try_from(action.port) else {
            return Health::Unknown(format!("invalid port number: {}", action.port));
        };
        let is_tls = action.mode.as_deref() == Some("TLS");
        return match grpc::check(ip, port, service, is_tls, limit).await {
            Ok(()) => Health::Good,
            Err(error) => Health::Bad(error),
        };
    }
    Health::Unknown(format!("missing probe handler for {}", container.name))
}

/// What an HTTP answer means: below 400 all is well, but a redirect that leads to another host proves nothing.
fn judge(answer: &http::Answer) -> Health {
    match answer.status.as_u16() {
        200..300 => Health::Good,
        300..400 => {
            let body = String::from_utf8_lossy(&answer.body);
            Health::Warned(format!("Probe terminated redirects, Response body: {body}"))
        }
        code => Health::Bad(format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// `$(NAME)` in a probe's command stands for what the container's spec itself says; nothing else is known here.
fn expand(command: &[String], container: &Container) -> Vec<String> {
    let own = container.env.iter().flatten();
    let known: BTreeMap<String, String> =
        own.map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default())).collect();
    command.iter().map(|word| environment::expand(word, &known)).collect()
}
