//! The part of the machine that lets running containers have other resources than they were started with: in place, or by
//! a restart where their `resizePolicy` says so. Kubernetes documentation, "Resize CPU and Memory Resources assigned to
//! Containers"; the words are the kubelet's.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::facts::Resources;
use crate::probe::later;
use crate::protocol::Command;
use crate::state::PodState;
use crate::stop;

/// How far a running container is on its way to what its spec says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Resize {
    /// It has what it was last given.
    #[default]
    Done,
    /// An answer is on its way.
    Asked,
    /// It could not be given this much, and why.
    Failed(Resources, String),
}

/// Why the pod cannot grow as its spec says; `None` if it can. More than the node has is never given; that others could
/// use less one day is not waited for, as limits and weights hold whoever asks for more.
pub(crate) fn infeasible(pod: &PodState) -> Option<String> {
    let node = pod.facts.node?;
    let (cpu, memory) = pod.facts.requests;
    let lacks =
        [("cpu", cpu, node.cpu), ("memory", memory, node.memory)].into_iter().find(|(_, asked, has)| asked > has);
    lacks.map(|(name, asked, has)| {
        format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {has}")
    })
}

/// Begins whatever lets running containers have what the spec says.
pub(crate) fn begin_due(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    if pod.goes_down() || infeasible(pod).is_some() {
        return;
    }
    for index in 0..pod.containers.len() {
        let facts = &pod.facts.containers[index];
        let container = &mut pod.containers[index];
        let is_settled = match &container.resize {
            Resize::Done => true,
            Resize::Asked => false,
            // What failed once is tried again when something else is asked for.
            Resize::Failed(wanted, _) => *wanted != facts.resources,
        };
        if !container.is_running() || container.applied == facts.resources || !is_settled {
            continue;
        }
        if facts.restarts_from(&container.applied) {
            container.restarts_anyway = true;
            let why = format!("Container {} resize requires restart", facts.name);
            let until = later(now, SignedDuration::from_secs(pod.facts.grace_seconds.max(0)));
            stop::begin(pod, index, until, why, now, commands);
        } else {
            container.resize = Resize::Asked;
            let (attempt, to) = (container.attempt, facts.resources);
            commands.push(Command::ResizeContainer { container: index, attempt, to });
        }
    }
}

/// A container was given other resources, or could not be.
pub(crate) fn answered(pod: &mut PodState, index: usize, attempt: u32, to: Resources, failure: Option<String>) {
    let Some(container) = pod.containers.get_mut(index) else { return };
    if container.attempt != attempt || container.resize != Resize::Asked {
        return;
    }
    container.resize = match failure {
        Some(message) => Resize::Failed(to, message),
        None => {
            container.applied = to;
            Resize::Done
        }
    };
}

/// Whether a container has what its spec says.
pub(crate) fn is_done(pod: &PodState, index: usize) -> bool {
    pod.containers[index].runs_since().is_none()
        || pod.containers[index].applied == pod.facts.containers[index].resources
}

/// What keeps the pod from having what its spec says, told by the condition `PodResizeInProgress`: nothing, an answer
/// that is on its way, or a failure with its message.
pub(crate) fn in_progress(pod: &PodState) -> Option<Option<String>> {
    let all = (0..pod.containers.len()).filter(|index| !is_done(pod, *index));
    let told = all.map(|index| match &pod.containers[index].resize {
        Resize::Failed(_, message) => Some(format!("{}: {message}", pod.facts.containers[index].name)),
        Resize::Done | Resize::Asked => None,
    });
    told.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Driver, at, facts};
    use crate::facts::{NodeFacts, PodFacts, RestartPolicy, Role};
    use crate::protocol::Event;
    use crate::status::{HostFacts, status};

    fn with(cpu: i64, memory: i64) -> PodFacts {
        let mut all = facts(RestartPolicy::Never, &[Role::App]);
        all.containers[0].resources =
            Resources { cpu_limit: Some(cpu), memory_limit: Some(memory), ..Resources::default() };
        all.requests = (cpu, memory);
        all.node = Some(NodeFacts { cpu: 4000, memory: 1 << 30 });
        all
    }

    fn running() -> Driver {
        let mut driver = Driver::up(with(100, 1000));
        driver.run(0, 0);
        driver
    }

    fn told(driver: &Driver, kind: &str) -> Option<(Option<String>, Option<String>)> {
        let conditions = status(&driver.pod, &Default::default(), &HostFacts::default(), at(0)).conditions.unwrap();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind)?;
        assert_eq!(found.status, "True");
        Some((found.reason, found.message))
    }

    #[test]
    fn a_running_container_is_given_other_resources_in_place() {
        let mut driver = running();
        driver.send(1, Event::SpecChanged(with(200, 2000)));
        let to = with(200, 2000).containers[0].resources;
        assert_eq!(driver.commands, [Command::ResizeContainer { container: 0, attempt: 0, to }]);
        assert_eq!(told(&driver, "PodResizeInProgress"), Some((None, None)));
        driver.send(1, Event::SpecChanged(with(300, 2000)));
        assert_eq!(driver.commands, [], "one after the other");
        driver.send(1, Event::Resized { container: 0, attempt: 0, to, failure: None });
        assert_eq!(driver.commands.len(), 1, "and the newest at last");
        let to = with(300, 2000).containers[0].resources;
        driver.send(1, Event::Resized { container: 0, attempt: 0, to, failure: None });
        assert_eq!((told(&driver, "PodResizeInProgress"), driver.commands.len()), (None, 0));
        assert_eq!(driver.pod.containers[0].attempt, 0);
    }

    #[test]
    fn what_cannot_be_given_is_told_and_not_tried_again() {
        let mut driver = running();
        driver.send(1, Event::SpecChanged(with(100, 10)));
        let (to, failure) = (with(100, 10).containers[0].resources, Some("no".to_owned()));
        driver.send(1, Event::Resized { container: 0, attempt: 0, to, failure });
        let error = (Some("Error".to_owned()), Some("c0: no".to_owned()));
        assert_eq!((told(&driver, "PodResizeInProgress"), driver.commands.len()), (Some(error), 0));
        driver.send(2, Event::SpecChanged(with(100, 1000)));
        assert_eq!(told(&driver, "PodResizeInProgress"), None, "it was taken back");
        driver.send(3, Event::SpecChanged(with(5000, 1000)));
        let message = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000".to_owned();
        assert_eq!(told(&driver, "PodResizePending"), Some((Some("Infeasible".to_owned()), Some(message))));
        assert_eq!((told(&driver, "PodResizeInProgress"), driver.commands.len()), (None, 0));
    }

    #[test]
    fn a_policy_may_want_a_restart() {
        let mut driver = running();
        let mut all = with(100, 2000);
        all.containers[0].restarts_for_memory = true;
        driver.send(1, Event::SpecChanged(all));
        assert_eq!(driver.told[0].message, "Container c0 resize requires restart");
        assert_eq!(driver.commands[0], Command::StopContainer { container: 0, attempt: 0 });
        driver.exit(2, 0, 0).run(2, 0);
        assert_eq!((driver.pod.containers[0].attempt, told(&driver, "PodResizeInProgress")), (1, None));
        let mut all = with(200, 2000);
        all.containers[0].restarts_for_memory = true;
        driver.send(3, Event::SpecChanged(all));
        assert!(matches!(driver.commands[..], [Command::ResizeContainer { .. }]), "not for processor time");
    }
}
