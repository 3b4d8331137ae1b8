use super::*;
use crate::driver::{Driver, at, facts};
use crate::facts::{ContainerFacts, ExitCodes, OwnRestart, PodFacts, PullPolicy, RestartPolicy};
use crate::protocol::{EVICTED, Event, Eviction, Failure};
use crate::state::Stage;
use crate::status::{HostFacts, Phase, phase, status};

/// A pod whose first container has hooks and was just started.
fn hooked(policy: RestartPolicy) -> Driver {
    hooked_with(policy, &[Role::App])
}

fn hooked_with(policy: RestartPolicy, roles: &[Role]) -> Driver {
    let mut all = facts(policy, roles);
    (all.containers[0].has_post_start, all.containers[0].has_pre_stop) = (true, true);
    let mut driver = Driver::up(all);
    driver.run(0, 0);
    driver
}

impl Driver {
    fn hook(&mut self, seconds: i64, hook: Hook, succeeded: bool) -> &mut Self {
        let attempt = self.pod.containers[0].attempt;
        self.send(seconds, Event::HookEnded { container: 0, attempt, hook, succeeded })
    }

    fn told(&self) -> Vec<(&str, &str)> {
        self.told.iter().map(|notice| (notice.reason, notice.message.as_str())).collect()
    }
}

const STOP: Command = Command::StopContainer { container: 0, attempt: 0 };
const KILL: Command = Command::KillContainer { container: 0, attempt: 0 };

fn run_hook(hook: Hook) -> Command {
    Command::RunHook { container: 0, attempt: 0, hook }
}

#[test]
fn a_post_start_hook_comes_before_the_next_container_and_before_running() {
    let mut driver = hooked_with(RestartPolicy::Always, &[Role::App, Role::App]);
    assert_eq!(driver.commands, [run_hook(Hook::PostStart)]);
    let first = |driver: &Driver| {
        let status = status(&driver.pod, &Default::default(), &HostFacts::default(), at(0));
        status.container_statuses.unwrap()[0].state.clone().unwrap()
    };
    assert_eq!(first(&driver).waiting.unwrap().reason.unwrap(), "ContainerCreating");
    driver.hook(3, Hook::PostStart, true);
    assert!(first(&driver).running.is_some());
    assert_eq!(driver.commands, [Command::EnsureImage { container: 1 }]);
}

#[test]
fn a_post_start_hook_that_fails_ends_the_container() {
    let mut driver = hooked(RestartPolicy::Always);
    driver.hook(3, Hook::PostStart, false);
    assert_eq!(driver.told(), [("FailedPostStartHook", "PostStartHook failed"), ("Killing", "FailedPostStartHook")]);
    assert!(driver.commands.contains(&run_hook(Hook::PreStop)));
    driver.hook(4, Hook::PreStop, true);
    assert!(driver.commands.contains(&STOP));
    driver.exit(5, 0, 143);
    assert_eq!(driver.pod.containers[0].attempt, 1);
}

#[test]
fn a_pre_stop_hook_takes_of_the_grace_period_and_leaves_two_seconds() {
    let mut driver = hooked(RestartPolicy::Always);
    driver.hook(0, Hook::PostStart, true).send(10, Event::DeletionRequested { grace_seconds: 5 });
    assert_eq!(driver.commands, [run_hook(Hook::PreStop), Command::WakeAt(at(15))]);
    driver.hook(12, Hook::PreStop, false);
    assert_eq!(driver.told(), [("FailedPreStopHook", "PreStopHook failed")]);
    assert_eq!(driver.commands, [STOP, Command::WakeAt(at(15))]);

    let mut slow = hooked(RestartPolicy::Always);
    slow.hook(0, Hook::PostStart, true).send(10, Event::DeletionRequested { grace_seconds: 5 });
    slow.send(15, Event::Tick);
    assert_eq!(slow.commands, [STOP, Command::WakeAt(at(17))], "the hook is not waited for any longer");
    slow.send(17, Event::Tick);
    assert_eq!(slow.commands, [KILL]);
}

#[test]
fn an_exit_of_its_own_runs_no_hook() {
    let mut driver = hooked(RestartPolicy::Never);
    driver.hook(0, Hook::PostStart, true).exit(1, 0, 0);
    assert!(!driver.commands.iter().any(|command| matches!(command, Command::RunHook { .. })));
}

#[test]
fn no_grace_is_no_hook() {
    let mut driver = hooked(RestartPolicy::Always);
    driver.hook(0, Hook::PostStart, true).send(1, Event::DeletionRequested { grace_seconds: 0 });
    assert_eq!(driver.commands, [KILL]);
    let mut later = hooked(RestartPolicy::Always);
    later.hook(0, Hook::PostStart, true).send(1, Event::DeletionRequested { grace_seconds: 30 });
    later.send(2, Event::DeletionRequested { grace_seconds: 0 });
    assert_eq!(later.commands, [KILL], "who deletes by force does not wait");
}

#[test]
fn sidecars_end_after_whom_they_serve_and_in_reverse() {
    let mut driver = Driver::up(facts(RestartPolicy::Always, &[Role::Sidecar, Role::Sidecar, Role::App]));
    driver.run(0, 0).run(0, 1).run(0, 2);
    let stop = |container| Command::StopContainer { container, attempt: 0 };
    driver.send(1, Event::DeletionRequested { grace_seconds: 10 });
    assert_eq!(driver.commands, [stop(2), Command::WakeAt(at(11))]);
    driver.exit(2, 2, 0);
    assert!(driver.commands.contains(&stop(1)) && !driver.commands.contains(&stop(0)));
    driver.send(11, Event::Tick);
    assert!(driver.commands.contains(&Command::KillContainer { container: 1, attempt: 0 }));
    assert!(driver.commands.contains(&stop(0)), "its time is up");
    assert_eq!(driver.commands.last(), Some(&Command::WakeAt(at(13))));
    driver.exit(11, 1, 137).exit(12, 0, 0);
    assert!(driver.commands.contains(&Command::StopSandbox));
}

#[test]
fn a_pod_that_is_active_for_too_long_fails_once_nothing_of_it_runs() {
    let mut all = facts(RestartPolicy::Always, &[Role::App]);
    all.grace_seconds = 4;
    let mut driver = Driver::up(all.clone());
    driver.run(0, 0);
    all.active_deadline = Some(SignedDuration::from_secs(20));
    driver.send(5, Event::SpecChanged(all.clone()));
    assert_eq!(driver.commands, [Command::WakeAt(at(20))], "it counts from the pod's start");
    all.active_deadline = Some(SignedDuration::from_secs(8));
    driver.send(6, Event::SpecChanged(all));
    assert_eq!(driver.commands, [Command::WakeAt(at(8))]);
    driver.send(8, Event::Tick);
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(driver.told(), [("DeadlineExceeded", message), ("Killing", "Stopping container c0")]);
    assert_eq!(driver.commands, [STOP, Command::WakeAt(at(12))]);
    assert_eq!(phase(&driver.pod), Phase::Running);
    driver.exit(9, 0, 143);
    assert_eq!(phase(&driver.pod), Phase::Failed, "and its policy restarts nothing");
    let status = status(&driver.pod, &Default::default(), &HostFacts::default(), at(9));
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("DeadlineExceeded"), Some(message)));
    assert!(driver.commands.contains(&Command::StopSandbox));
}

#[test]
fn a_pod_that_is_not_up_in_its_time_is_taken_down() {
    let mut all = facts(RestartPolicy::Always, &[Role::App]);
    all.active_deadline = Some(SignedDuration::from_secs(3));
    let mut driver = Driver::new(all);
    driver.send(1, Event::VolumesReady);
    assert_eq!(driver.commands, [Command::WakeAt(at(3))]);
    driver.send(3, Event::Tick).send(4, Event::SandboxReady { ips: vec![] });
    assert_eq!(driver.commands, [Command::StopSandbox]);
    driver.send(4, Event::SandboxStopped).send(4, Event::VolumesTornDown);
    assert_eq!((driver.pod.stage.clone(), phase(&driver.pod)), (Stage::Finished, Phase::Failed));
}

#[test]
fn containers_have_restart_policies_of_their_own() {
    let own = |policy, rules| {
        let mut all = facts(RestartPolicy::Always, &[Role::App, Role::Init]);
        all.containers[0].restart = Some(OwnRestart { policy, rules });
        all.containers[1].restart = all.containers[0].restart.clone();
        all
    };
    let never = own(RestartPolicy::Never, vec![ExitCodes { is_negated: false, values: vec![42, 43] }]);
    assert_eq!([0, 1, 42, 43].map(|code| never.restarts(0, code)), [false, false, true, true]);
    assert_eq!([0, 1, 42].map(|code| never.restarts(1, code)), [false, false, true]);
    let except = own(RestartPolicy::Never, vec![ExitCodes { is_negated: true, values: vec![42] }]);
    assert_eq!([0, 1, 42].map(|code| except.restarts(0, code)), [true, true, false]);
    let failing = own(RestartPolicy::OnFailure, vec![]);
    assert_eq!([0, 1].map(|code| failing.restarts(0, code)), [false, true]);
    assert!(!never.restarts_after_probe(0) && failing.restarts_after_probe(0));
}

#[test]
fn ephemeral_containers_come_later_run_once_and_count_for_nothing() {
    let with = |count: usize| {
        let mut all = facts(RestartPolicy::Always, &[Role::Init, Role::App]);
        for number in 0..count {
            let name = format!("debug{number}");
            all.containers.push(ContainerFacts::new(&name, "i", PullPolicy::IfNotPresent, Role::Ephemeral));
        }
        all
    };
    let mut driver = Driver::up(with(0));
    driver.run(0, 0).send(1, Event::SpecChanged(with(1)));
    assert_eq!(driver.commands, [Command::EnsureImage { container: 2 }], "also while an init container hangs");
    driver.run(1, 2).exit(2, 2, 1);
    driver.exit(3, 0, 0).run(3, 1).send(4, Event::SpecChanged(with(2)));
    assert_eq!(driver.commands, [Command::EnsureImage { container: 3 }], "the first one is not run again");
    driver.run(4, 3);
    assert_eq!(phase(&driver.pod), Phase::Running);
    let status = status(&driver.pod, &Default::default(), &HostFacts::default(), at(4));
    let ephemeral = status.ephemeral_container_statuses.unwrap();
    assert!(ephemeral[0].state.as_ref().unwrap().terminated.is_some());
    assert!(ephemeral[1].state.as_ref().unwrap().running.is_some());
    assert_eq!(status.container_statuses.unwrap().len(), 1);
}

#[test]
fn an_ephemeral_container_is_refused_alone() {
    let mut driver = Driver::up(facts(RestartPolicy::Always, &[Role::App]));
    driver.run(0, 0);
    let mut all = driver.pod.facts.clone();
    let debug = ContainerFacts::new("debug", "i", PullPolicy::IfNotPresent, Role::Ephemeral);
    all.containers.push(ContainerFacts { unsupported: vec!["volumeDevices".into()], ..debug });
    driver.send(1, Event::SpecChanged(all));
    assert_eq!(driver.told(), [("UnsupportedField", "this node cannot honour volumeDevices")]);
    assert_eq!(driver.commands, [], "and it is not tried again");
    assert_eq!(phase(&driver.pod), Phase::Running);
}

#[test]
fn another_image_restarts_the_container() {
    let mut driver = Driver::up(facts(RestartPolicy::Never, &[Role::App]));
    driver.run(0, 0);
    let mut changed = facts(RestartPolicy::Never, &[Role::App]);
    changed.containers[0].image = "j".into();
    driver.send(1, Event::SpecChanged(changed));
    assert_eq!(driver.told(), [("Killing", "Container c0 definition changed, will be restarted")]);
    assert_eq!(driver.commands[0], STOP);
    driver.exit(2, 0, 0);
    assert!(driver.commands.contains(&Command::EnsureImage { container: 0 }));
    let same: PodFacts = driver.pod.facts.clone();
    driver.run(2, 0).send(3, Event::SpecChanged(same));
    assert_eq!(driver.commands, []);
}

#[test]
fn who_takes_too_much_is_evicted_once() {
    let mut all = facts(RestartPolicy::Always, &[Role::App]);
    all.grace_seconds = 4;
    let mut driver = Driver::up(all);
    driver.run(0, 0);
    let eviction = |message: &str| Eviction {
        failure: Failure { reason: EVICTED.into(), message: message.into() },
        grace_seconds: Some(0),
        is_disruption: true,
        event: EVICTED,
    };
    driver.send(5, Event::Evicted(eviction("too much")));
    assert_eq!(driver.told(), [("Evicted", "too much"), ("Killing", "Stopping container c0")]);
    driver.exit(6, 0, 143);
    assert_eq!(phase(&driver.pod), Phase::Failed);
    driver.send(7, Event::Evicted(eviction("again")));
    assert_eq!(driver.told(), [], "what is over is not evicted");
    let status = status(&driver.pod, &Default::default(), &HostFacts::default(), at(9));
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("too much")));
    let told = status.conditions.unwrap().into_iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!((told.reason.as_deref(), told.message.as_deref()), (Some("TerminationByKubelet"), Some("too much")));
}
