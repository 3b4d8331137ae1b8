//! What is due after a while, when the clock of the machine is set meanwhile: the while stays as long as it was.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::probe;
use crate::resize::Resize;
use crate::state::{Container, ContainerStage, Part, PodState, Stage, Stop};

impl PodState {
    /// The clock was set: it says so much more than the time that has passed. What had a while to wait waits as long as
    /// before. When things happened stays as it was told, and so does `activeDeadlineSeconds`, which counts from a time that
    /// the status shows.
    pub fn clock_was_set(&mut self, by: SignedDuration) {
        if let Stage::SettingUp { volumes, sandbox } = &mut self.stage {
            for part in [volumes, sandbox] {
                if let Part::BackingOff(until, _) = part {
                    shift(until, by);
                }
            }
        }
        self.containers.iter_mut().for_each(|container| of_container(container, by));
        self.failed_pulls.iter_mut().for_each(|failed| shift(&mut failed.until, by));
        let deletion = self.deletion.as_mut().map(|deletion| &mut deletion.deadline);
        deletion.into_iter().chain(&mut self.winding_down).for_each(|at| shift(at, by));
    }
}

fn of_container(container: &mut Container, by: SignedDuration) {
    match &mut container.stage {
        ContainerStage::PullFailed { told_until, until, .. } => {
            shift(told_until, by);
            shift(until, by);
        }
        ContainerStage::BackingOff { until, .. } => shift(until, by),
        ContainerStage::Waiting
        | ContainerStage::EnsuringImage
        | ContainerStage::Starting
        | ContainerStage::Settling { .. }
        | ContainerStage::Running { .. }
        | ContainerStage::Ended => {}
    }
    match &mut container.stop {
        Stop::Hook { until } | Stop::Turn { until } | Stop::Asked { kill_at: until } => shift(until, by),
        Stop::No | Stop::Killed => {}
    }
    if let Resize::Failed { until, .. } = &mut container.resize {
        shift(until, by);
    }
    probe::due(container).for_each(|at| shift(at, by));
}

fn shift(at: &mut Timestamp, by: SignedDuration) {
    // That is never.
    if *at < Timestamp::MAX {
        *at = at.saturating_add(by).unwrap_or(*at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Driver, at, facts};
    use crate::facts::{RestartPolicy, Role};
    use crate::machine::step;
    use crate::protocol::{Command, Event};

    const KILL: Command = Command::KillContainer { container: 0, attempt: 0 };

    #[test]
    fn a_grace_is_as_long_as_it_was_whichever_way_the_clock_is_set() {
        for hours in [-1, 1] {
            let by = SignedDuration::from_hours(hours);
            let mut driver = Driver::up(facts(RestartPolicy::Always, &[Role::App]));
            driver.run(0, 0);
            driver.send(10, Event::DeletionRequested { grace_seconds: 30 });
            let mut pod = driver.pod.clone();
            pod.clock_was_set(by);
            let (pod, commands) = step(pod, at(39) + by, Event::Tick);
            assert!(!commands.contains(&KILL), "{hours}: {commands:?}");
            assert!(commands.contains(&Command::WakeAt(at(40) + by)), "{hours}: {commands:?}");
            let (_, commands) = step(pod, at(40) + by, Event::Tick);
            assert!(commands.contains(&KILL), "{hours}: {commands:?}");
        }
    }

    #[test]
    fn a_container_that_waits_is_started_after_its_while_and_one_that_waits_for_ever_is_not() {
        let mut pod = PodState::new(facts(RestartPolicy::Always, &[Role::App, Role::App]));
        let why = || crate::protocol::Failure { reason: "r".into(), message: "m".into() };
        pod.containers[0].stage = ContainerStage::BackingOff { until: at(20), why: why() };
        pod.containers[1].stage = ContainerStage::BackingOff { until: Timestamp::MAX, why: why() };
        pod.clock_was_set(SignedDuration::from_secs(-5));
        assert_eq!(pod.containers[0].stage, ContainerStage::BackingOff { until: at(15), why: why() });
        assert_eq!(pod.containers[1].stage, ContainerStage::BackingOff { until: Timestamp::MAX, why: why() });
    }
}
