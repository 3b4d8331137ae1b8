//! Gives a new pod the processors and devices that it has for itself, container by container.

use std::sync::Arc;

use agent_pod::facts::{self, Role};
use agent_pod::protocol::Failure;
use k8s_openapi::api::core::v1::Pod;

use super::hint::{Hints, Nodes};
use super::merge::settle;
use super::{Policy, Scope, Settings};
use crate::admission::{UNEXPECTED, rejection};
use crate::cpus::CpuError;
use crate::device::{self, Of};
use crate::execute::Host;

/// Why and how a pod is refused whose things cannot be had close together; the kubelet's words.
fn unaligned(_: ()) -> Failure {
    rejection("TopologyAffinityError", "Resources cannot be allocated with Topology locality")
}

fn refused(error: CpuError) -> Failure {
    match error.reason() {
        Some(reason) => rejection(reason, &error.to_string()),
        None => rejection(UNEXPECTED, &unexpected(&error.to_string())),
    }
}

fn unexpected(why: &str) -> String {
    format!("Allocate failed due to {why}, which is unexpected")
}

/// Gives a pod that is new here what it has for itself. Whether processors are among it: others have less of them then.
///
/// # Errors
///
/// Why the pod is refused. It has nothing then.
pub(crate) async fn place(host: &Arc<Host>, uid: &str, pod: &Pod) -> Result<bool, Failure> {
    let placed = give(host, uid, pod, host.config.topology).await;
    if placed.is_err() && host.config.topology.policy != Policy::None {
        device::forget(host, uid);
    }
    placed
}

async fn give(host: &Arc<Host>, uid: &str, pod: &Pod, settings: Settings) -> Result<bool, Failure> {
    let (cpus, machine, is_asked) = (&host.processors, host.processors.machine(), settings.policy != Policy::None);
    let mut draft = cpus.draft(uid, pod);
    let settled = |hints: Hints| settle(settings.policy, machine, hints).map_err(unaligned);
    let all: Vec<_> = facts::containers(pod).filter(|(_, role)| *role != Role::Ephemeral).collect();
    let of_pod: Option<Option<Nodes>> = match all.first() {
        Some((container, _)) if is_asked && settings.scope == Scope::Pod => {
            let of = Of { host, uid, pod, container };
            let own = draft.as_ref().map(|draft| cpus.hints_of_pod(draft, pod));
            Some(settled([own].into_iter().chain(device::hints_of_pod(of, machine)).collect())?)
        }
        _ => None,
    };
    for (container, role) in &all {
        let of = Of { host, uid, pod, container };
        let nodes = match of_pod {
            Some(nodes) => nodes,
            None if is_asked => {
                let own = draft.as_ref().and_then(|draft| cpus.hints(draft, pod, container, *role));
                settled([own].into_iter().chain(device::hints(of, machine)).collect())?
            }
            None => None,
        };
        if let Some(draft) = &mut draft {
            cpus.give(draft, pod, (container, *role), nodes).map_err(refused)?;
        }
        if is_asked {
            let told = |failure: Failure| rejection(UNEXPECTED, &unexpected(&failure.message));
            device::hold(of, nodes).await.map_err(told)?;
        }
    }
    let has_own = draft.is_some();
    if let Some(draft) = draft {
        cpus.keep(uid, draft);
    }
    Ok(has_own)
}
