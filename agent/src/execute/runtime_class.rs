//! Which runtime runs a pod (`runtimeClassName`). Kubernetes documentation, "Runtime Class". What else a class asks for
//! (overhead, which nodes) was put into the pod when it was created.

use agent_pod::protocol::Failure;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;

use super::{Executor, failure, sandbox::REASON};

/// The handler of a class whose pods our own runtime runs.
pub(crate) const OWN: &str = "gantry";

/// Refuses a pod whose class asks for a runtime that is not here.
pub(super) async fn check(executor: &Executor) -> Result<(), Failure> {
    let wanted = executor.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    let Some(name) = wanted.filter(|name| !name.is_empty()) else { return Ok(()) };
    let api: Api<RuntimeClass> = Api::all(executor.host.client.clone());
    let class = api.get_opt(name).await.map_err(|error| failure(REASON, &error))?;
    judge(name, class.as_ref().map(|class| class.handler.as_str()))
        .map_err(|message| Failure { reason: REASON.into(), message })
}

fn judge(name: &str, handler: Option<&str>) -> Result<(), String> {
    match handler {
        None => Err(format!("RuntimeClass {name:?} not found")),
        Some(OWN) => Ok(()),
        Some(other) => Err(format!("no runtime for {other:?} is configured")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_runtimes_are_refused_by_name() {
        assert_eq!(judge("c", Some("gantry")), Ok(()));
        assert_eq!(judge("c", Some("x")), Err("no runtime for \"x\" is configured".into()));
        assert_eq!(judge("c", None), Err("RuntimeClass \"c\" not found".into()));
    }
}
