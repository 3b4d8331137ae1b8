//! The part of the machine that lets running containers have other resources than they were started with: in place, or by
//! a restart where their `resizePolicy` says so. Whether the node has them is decided before; the facts hold what it has
//! given. Kubernetes documentation, "Resize CPU and Memory Resources assigned to Containers"; the words are the kubelet's.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::facts::Resources;
use crate::probe::later;
use crate::protocol::{Command, ResizeNews};
use crate::state::PodState;
use crate::stop;

/// What failed is tried again so long after, as a kubelet comes back to a pod that it could not bring where it should be.
const TRIED_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// How far a running container is on its way to what its spec says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Resize {
    /// It has what it was last given.
    #[default]
    Done,
    /// An answer is on its way; why the try before this one failed.
    Asked(Option<String>),
    /// It could not be given this much.
    Failed {
        /// How much.
        wanted: Resources,
        /// Why.
        message: String,
        /// When it is tried again.
        until: Timestamp,
    },
}

/// Begins whatever lets running containers have what the spec says.
pub(crate) fn begin_due(pod: &mut PodState, now: Timestamp, commands: &mut Vec<Command>) {
    if pod.goes_down() {
        return;
    }
    for index in 0..pod.containers.len() {
        let facts = &pod.facts.containers[index];
        let container = &mut pod.containers[index];
        let (is_due, failed) = match &container.resize {
            Resize::Done => (true, None),
            Resize::Asked(_) => (false, None),
            Resize::Failed { wanted, message, until } => {
                let is_same = *wanted == facts.resources;
                (!is_same || *until <= now, Some(message.clone()).filter(|_| is_same))
            }
        };
        if !container.is_running() || container.applied == facts.resources || !is_due {
            continue;
        }
        if facts.restarts_from(&container.applied) {
            container.restarts_anyway = true;
            let why = format!("Container {} resize requires restart", facts.name);
            let until = later(now, SignedDuration::from_secs(pod.facts.grace_seconds.max(0)));
            stop::begin(pod, index, until, why, now, commands);
        } else {
            container.resize = Resize::Asked(failed);
            let (attempt, to) = (container.attempt, facts.resources);
            commands.push(Command::ResizeContainer { container: index, attempt, to });
        }
    }
}

/// A container was given other resources, or could not be.
pub(crate) fn answered(
    pod: &mut PodState,
    (index, attempt): (usize, u32),
    to: Resources,
    failure: Option<String>,
    now: Timestamp,
    commands: &mut Vec<Command>,
) {
    let Some(container) = pod.containers.get_mut(index) else { return };
    let Resize::Asked(before) = &container.resize else { return };
    if container.attempt != attempt {
        return;
    }
    container.resize = match failure {
        Some(message) => {
            if before.as_ref() != Some(&message) {
                let told = format!("{}: {message}", pod.facts.containers[index].name);
                commands.push(Command::TellResize(ResizeNews::Failed(told)));
            }
            Resize::Failed { wanted: to, message, until: later(now, TRIED_AGAIN_AFTER) }
        }
        None => {
            container.applied = to;
            Resize::Done
        }
    };
}

/// When something that failed is tried again.
pub(crate) fn next_due(pod: &PodState) -> Option<Timestamp> {
    let waits = pod.containers.iter().filter(|container| container.is_running());
    let due = waits.filter_map(|container| match &container.resize {
        Resize::Failed { until, .. } => Some(*until),
        Resize::Done | Resize::Asked(_) => None,
    });
    due.min()
}

/// Notes whether containers are on their way to other resources; people are told when all of them are there.
pub(crate) fn note(pod: &mut PodState, commands: &mut Vec<Command>) {
    let is_under_way = !pod.goes_down() && (0..pod.containers.len()).any(|index| !is_done(pod, index));
    let was_under_way = std::mem::replace(&mut pod.is_resizing, is_under_way);
    if was_under_way && !is_under_way && !pod.goes_down() {
        commands.push(Command::TellResize(ResizeNews::Completed));
    }
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
    let told = all.map(|index| {
        let message = match &pod.containers[index].resize {
            Resize::Failed { message, .. } | Resize::Asked(Some(message)) => Some(message),
            Resize::Done | Resize::Asked(None) => None,
        };
        message.map(|message| format!("{}: {message}", pod.facts.containers[index].name))
    });
    told.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Driver, at, facts};
    use crate::facts::{Pending, PodFacts, RestartPolicy, Role};
    use crate::protocol::Event;
    use crate::status::{HostFacts, status};

    fn with(cpu: i64, memory: i64) -> PodFacts {
        let mut all = facts(RestartPolicy::Never, &[Role::App]);
        all.containers[0].resources =
            Resources { cpu_limit: Some(cpu), memory_limit: Some(memory), ..Resources::default() };
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
        assert_eq!(told(&driver, "PodResizeInProgress"), None);
        assert_eq!(driver.commands, [Command::TellResize(ResizeNews::Completed)]);
        assert_eq!(driver.pod.containers[0].attempt, 0);
    }

    #[test]
    fn what_cannot_be_given_is_told_once_and_tried_again_from_time_to_time() {
        let mut driver = running();
        driver.send(1, Event::SpecChanged(with(100, 10)));
        let to = with(100, 10).containers[0].resources;
        let no = || Event::Resized { container: 0, attempt: 0, to, failure: Some("no".to_owned()) };
        driver.send(1, no());
        let error = Some((Some("Error".to_owned()), Some("c0: no".to_owned())));
        assert_eq!(told(&driver, "PodResizeInProgress"), error);
        let failed = Command::TellResize(ResizeNews::Failed("c0: no".into()));
        assert_eq!(driver.commands, [failed, Command::WakeAt(at(11))]);
        driver.send(11, Event::Tick);
        assert_eq!(driver.commands, [Command::ResizeContainer { container: 0, attempt: 0, to }]);
        assert_eq!(told(&driver, "PodResizeInProgress"), error, "nothing is better yet");
        driver.send(11, no());
        assert_eq!(driver.commands, [Command::WakeAt(at(21))], "that is no news");
        driver.send(12, Event::SpecChanged(with(100, 1000)));
        assert_eq!(told(&driver, "PodResizeInProgress"), None, "it was taken back");
        driver.send(13, Event::SpecChanged(with(100, 20)));
        assert!(matches!(driver.commands[..], [Command::ResizeContainer { .. }]), "another amount is not waited with");
    }

    #[test]
    fn what_the_node_has_not_given_is_told_beside_what_is_under_way() {
        let mut driver = running();
        let waits = PodFacts { pending: Some(Pending::Deferred("later".into())), ..with(200, 1000) };
        driver.send(1, Event::SpecChanged(waits));
        let pending = |reason: &str, message: &str| Some((Some(reason.to_owned()), Some(message.to_owned())));
        assert_eq!(told(&driver, "PodResizePending"), pending("Deferred", "later"));
        assert_eq!(told(&driver, "PodResizeInProgress"), Some((None, None)));
        driver.send(
            2,
            Event::SpecChanged(PodFacts { pending: Some(Pending::Infeasible("never".into())), ..with(200, 1000) }),
        );
        assert_eq!(told(&driver, "PodResizePending"), pending("Infeasible", "never"));
        driver.send(3, Event::SpecChanged(with(200, 1000)));
        assert_eq!(told(&driver, "PodResizePending"), None);
    }

    #[test]
    fn what_is_asked_for_while_a_container_starts_is_given_afterwards() {
        let mut driver = Driver::up(with(100, 1000));
        driver.send(0, Event::ImageReady { container: 0, image: Default::default(), pulled: None });
        driver.send(1, Event::SpecChanged(with(200, 1000)));
        driver.send(1, Event::ContainerStarted { container: 0, effective: Default::default() });
        let to = with(200, 1000).containers[0].resources;
        assert!(driver.commands.contains(&Command::ResizeContainer { container: 0, attempt: 0, to }));
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
