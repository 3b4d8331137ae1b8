//! Which runtime runs a pod (`runtimeClassName`). Kubernetes documentation, "Runtime Class". What else a class asks for
//! (overhead, which nodes) was put into the pod when it was created.

use agent_pod::protocol::Failure;
use agent_runtime::monitor::protocol::Runtime;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;

use super::{Executor, failure, sandbox::REASON};
use crate::runtimes::{OTHERS, OWN, Runtimes};

/// The runtime that a pod's class asks for; `None`: our own. Refuses a pod whose class asks for one that is not here.
pub(super) async fn choose(executor: &Executor) -> Result<Option<Runtime>, Failure> {
    let spec = executor.pod.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.runtime_class_name.as_deref());
    let Some(name) = wanted.filter(|name| !name.is_empty()) else { return Ok(None) };
    let api: Api<RuntimeClass> = Api::all(executor.host.client.clone());
    let class = api.get_opt(name).await.map_err(|error| failure(REASON, &error))?;
    let has_own_users = spec.and_then(|spec| spec.host_users) == Some(false);
    let handler = class.as_ref().map(|class| class.handler.as_str());
    judge(name, handler, has_own_users, &executor.host.config.runtimes)
        .map_err(|message| Failure { reason: REASON.into(), message })
}

fn judge(
    name: &str,
    handler: Option<&str>,
    has_own_users: bool,
    runtimes: &Runtimes,
) -> Result<Option<Runtime>, String> {
    let handler = match handler {
        None => return Err(format!("RuntimeClass {name:?} not found")),
        Some(OWN) => return Ok(None),
        Some(handler) => handler,
    };
    match runtimes.get(handler) {
        Some(_) if has_own_users => {
            Err(format!("RuntimeClass handler {handler:?} does not support user namespaces (hostUsers: false)"))
        }
        Some(program) => Ok(Some(Runtime { name: handler.to_owned(), program: program.clone() })),
        None if OTHERS.contains(&handler) => Err(format!(
            "no runtime for {handler:?} is configured: there is no program {handler} in the agent's PATH, and no \
             --oci-runtime {handler}=FILE"
        )),
        None => Err(format!("no runtime for {handler:?} is configured")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_that_are_not_here_are_refused_by_name() {
        let here: Runtimes = [("runc".to_owned(), "/usr/sbin/runc".into())].into();
        let judge = |handler, has_own_users| judge("c", handler, has_own_users, &here);
        assert_eq!(judge(Some("gantry"), true), Ok(None));
        let runc = Runtime { name: "runc".into(), program: "/usr/sbin/runc".into() };
        assert_eq!(judge(Some("runc"), false), Ok(Some(runc)));
        assert!(judge(Some("runc"), true).unwrap_err().contains("does not support user namespaces"));
        assert!(judge(Some("crun"), false).unwrap_err().contains("no --oci-runtime crun=FILE"));
        assert_eq!(judge(Some("x"), false), Err("no runtime for \"x\" is configured".into()));
        assert_eq!(judge(None, false), Err("RuntimeClass \"c\" not found".into()));
    }
}
