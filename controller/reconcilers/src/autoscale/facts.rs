//! What autoscaling needs to know of pods, besides what everybody does.
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

/// What is asked for of each resource, in thousandths.
type Requests = Box<[(Box<str>, i64)]>;

/// What a pod says of being ready.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Readiness {
    /// It says that it is not.
    pub(crate) is_denied: bool,
    /// Since when, in seconds since 1970.
    pub(crate) since: i64,
}

/// What a pod may be expected to use, and since when.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadFacts {
    /// When its node took it up, in seconds since 1970.
    pub(crate) started: Option<i64>,
    pub(crate) readiness: Option<Readiness>,
    /// What the pod as a whole asks for, where it does.
    whole: Requests,
    /// The containers that run as long as the pod does.
    containers: Box<[(Box<str>, Requests)]>,
}

fn requests_of(resources: Option<&ResourceRequirements>) -> Requests {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let milli = |text: &str| Quantity::parse(text).ok().map(Quantity::milli);
    requests.into_iter().flatten().filter_map(|(name, own)| Some((name.as_str().into(), milli(&own.0)?))).collect()
}

fn find(requests: &Requests, resource: &str) -> Option<i64> {
    requests.iter().find(|(name, _)| **name == *resource).map(|(_, milli)| *milli)
}

impl LoadFacts {
    /// Takes the facts out.
    pub(crate) fn new(pod: &Pod) -> Self {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten().filter(is_sidecar);
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default().iter().chain(sidecars);
        let ready = status.and_then(|status| status.conditions.iter().flatten().find(|c| c.type_ == "Ready"));
        Self {
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0.as_second()),
            readiness: ready.map(|condition| Readiness {
                is_denied: condition.status == "False",
                since: condition.last_transition_time.as_ref().map_or(0, |time| time.0.as_second()),
            }),
            whole: requests_of(spec.and_then(|spec| spec.resources.as_ref())),
            containers: containers.map(|own| (own.name.as_str().into(), requests_of(own.resources.as_ref()))).collect(),
        }
    }

    /// What the pod, or one of its containers, asks for of a resource, in thousandths. `Err` names a container that
    /// leaves it open: there is nothing then that a percentage could be of.
    pub(crate) fn request(&self, container: Option<&str>, resource: &str) -> Result<i64, &str> {
        if let Some(whole) = find(&self.whole, resource).filter(|_| container.is_none()) {
            return Ok(whole);
        }
        let mut sum = 0_i64;
        for (name, requests) in &self.containers {
            if container.is_none_or(|wanted| *wanted == **name) {
                sum = sum.saturating_add(find(requests, resource).ok_or(&**name)?);
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_the_sum_of_what_runs_all_the_time_or_the_pods_own() {
        let container = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("s", "30m");
        sidecar["restartPolicy"] = "Always".into();
        let mut pod = json!({"spec": {"containers": [container("a", "100m"), container("b", "0.2")],
            "initContainers": [container("i", "5"), sidecar]}});
        let facts = |pod: &serde_json::Value| LoadFacts::new(&serde_json::from_value(pod.clone()).unwrap());
        assert_eq!(facts(&pod).request(None, "cpu"), Ok(330));
        assert_eq!(facts(&pod).request(Some("b"), "cpu"), Ok(200));
        assert_eq!(facts(&pod).request(Some("none"), "cpu"), Ok(0));
        assert_eq!(facts(&pod).request(None, "memory"), Err("a"));
        pod["spec"]["resources"] = json!({"requests": {"memory": "1Ki"}});
        assert_eq!(facts(&pod).request(None, "memory"), Ok(1_024_000));
        assert_eq!(facts(&pod).request(Some("a"), "memory"), Err("a"));
    }

    #[test]
    fn readiness_is_told_with_its_time() {
        let pod = json!({"spec": {"containers": []}, "status": {"startTime": "1970-01-01T00:00:07Z", "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "1970-01-01T00:00:09Z"}]}});
        let facts = LoadFacts::new(&serde_json::from_value(pod).unwrap());
        assert_eq!((facts.started, facts.readiness), (Some(7), Some(Readiness { is_denied: true, since: 9 })));
    }
}
