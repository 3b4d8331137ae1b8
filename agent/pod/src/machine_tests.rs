use proptest::prelude::*;

use super::*;
use crate::driver::{Driver, at, exit, facts, found};
use crate::facts::{PodFacts, RestartPolicy, Role};
use crate::probe::{Health, ProbeFacts, ProbeKind};
use crate::protocol::{FailedStep, Found, Hook, ImageFault, ImageNames};
use crate::status::{Phase, phase};

#[test]
fn a_pod_goes_up_in_order_and_down_in_reverse() {
    let mut driver = Driver::new(facts(RestartPolicy::Always, &[Role::App]));
    assert_eq!(driver.commands, [Command::SetUpVolumes, Command::StartSandbox]);
    driver.send(0, Event::VolumesReady);
    assert_eq!(driver.commands, [], "containers need both");
    driver.send(0, Event::SandboxReady { ips: vec![] });
    assert_eq!(driver.commands, [Command::EnsureImage { container: 0 }]);
    assert_eq!(phase(&driver.pod), Phase::Pending);
    driver.send(0, Event::ImageReady { container: 0, image: ImageNames::default(), pulled: None });
    assert_eq!(driver.commands, [Command::StartContainer { container: 0, attempt: 0 }]);
    driver.send(1, Event::ContainerStarted { container: 0, effective: Default::default() });
    assert_eq!(phase(&driver.pod), Phase::Running);
    driver.send(2, Event::DeletionRequested { grace_seconds: 5 });
    assert_eq!(driver.commands, [Command::StopContainer { container: 0, attempt: 0 }, Command::WakeAt(at(7))]);
    driver.send(7, Event::Tick);
    assert_eq!(driver.commands, [Command::KillContainer { container: 0, attempt: 0 }]);
    driver.exit(7, 0, 137);
    assert_eq!(driver.commands, [Command::RemoveContainer { container: 0, attempt: 0 }, Command::StopSandbox]);
    driver.send(7, Event::SandboxStopped);
    assert_eq!(driver.commands, [Command::TearDownVolumes]);
    driver.send(7, Event::VolumesTornDown);
    assert_eq!(driver.commands, [Command::Release]);
    assert_eq!(driver.pod.stage, Stage::Gone);
}

#[test]
fn a_crashing_container_backs_off() {
    let mut driver = Driver::up(facts(RestartPolicy::Always, &[Role::App]));
    driver.run(0, 0).exit(1, 0, 1);
    assert_eq!(driver.commands[1..], [Command::EnsureImage { container: 0 }], "the first restart comes at once");
    driver.run(1, 0).exit(2, 0, 1);
    assert_eq!(driver.commands[1..], [Command::WakeAt(at(12))]);
    assert!(
        matches!(&driver.pod.containers[0].stage, ContainerStage::BackingOff { why, .. } if why.reason == "CrashLoopBackOff")
    );
    assert_eq!(phase(&driver.pod), Phase::Running, "a pod that ran once stays Running while it crashes");
    driver.send(11, Event::Tick);
    assert_eq!(driver.commands, [Command::WakeAt(at(12))]);
    driver.send(12, Event::Tick);
    assert_eq!(driver.commands, [Command::EnsureImage { container: 0 }]);
    assert_eq!(driver.pod.containers[0].attempt, 2);
}

#[test]
fn init_containers_run_one_by_one_before_the_others() {
    let mut driver = Driver::up(facts(RestartPolicy::Never, &[Role::Init, Role::Init, Role::App]));
    assert_eq!(driver.commands, [Command::EnsureImage { container: 0 }]);
    driver.run(0, 0).exit(1, 0, 0);
    assert_eq!(driver.commands[1..], [Command::EnsureImage { container: 1 }]);
    driver.run(1, 1).exit(2, 1, 3);
    assert_eq!(phase(&driver.pod), Phase::Failed, "a failed init container with restartPolicy Never ends the pod");
    assert!(driver.commands.contains(&Command::StopSandbox));
}

#[test]
fn sidecars_outlive_the_rest_and_are_then_stopped() {
    let mut driver = Driver::up(facts(RestartPolicy::Never, &[Role::Sidecar, Role::App]));
    driver.run(0, 0);
    assert_eq!(driver.commands, [Command::EnsureImage { container: 1 }]);
    driver.run(0, 1).exit(5, 1, 0);
    assert!(driver.commands.contains(&Command::StopContainer { container: 0, attempt: 0 }));
    driver.send(35, Event::Tick);
    assert_eq!(driver.commands, [Command::KillContainer { container: 0, attempt: 0 }]);
    driver.exit(36, 0, 137);
    assert!(driver.commands.contains(&Command::StopSandbox));
    assert_eq!(phase(&driver.pod), Phase::Succeeded);
}

#[test]
fn a_pod_that_has_ended_is_known_by_the_address_that_it_had() {
    let mut driver = Driver::of(facts(RestartPolicy::Never, &[Role::App]));
    let ips = vec!["10.0.0.9".to_owned()];
    driver.send(0, Event::Adopted { ips: ips.clone(), containers: vec![found("c0", Some(-9))] });
    driver.exit(1, 0, 0).send(2, Event::SandboxStopped).send(3, Event::VolumesTornDown);
    assert_eq!((phase(&driver.pod), &driver.pod.ips), (Phase::Succeeded, &ips));
}

#[test]
fn a_dead_sandbox_is_built_anew() {
    let mut driver = Driver::up(facts(RestartPolicy::Always, &[Role::App, Role::App]));
    driver.run(0, 0).run(0, 1).send(1, Event::SandboxDied);
    assert!(driver.commands.contains(&Command::StopSandbox));
    assert_eq!(driver.pod.containers.iter().map(|c| c.attempt).collect::<Vec<_>>(), [1, 1]);
    driver.send(1, Event::SandboxStopped);
    assert_eq!(driver.commands, [Command::StartSandbox]);
    driver.send(2, Event::SandboxReady { ips: vec![] });
    assert_eq!(driver.commands.len(), 2);
}

#[test]
fn adopted_containers_keep_running() {
    let mut driver = Driver::of(facts(RestartPolicy::Always, &[Role::Init, Role::App]));
    let found = Found { attempt: 3, ..found("c1", Some(-9)) };
    driver.send(0, Event::Adopted { ips: vec!["10.0.0.9".into()], containers: vec![found] });
    assert_eq!(driver.commands, [], "nothing is started, nothing is stopped");
    assert_eq!(phase(&driver.pod), Phase::Running);
    driver.exit(1, 1, 0);
    assert_eq!(driver.pod.containers[1].attempt, 4);
}

/// Hooks are run at least once (Kubernetes documentation, "Container Lifecycle Hooks").
#[test]
fn an_adopted_container_whose_hook_may_not_have_run_runs_it() {
    let mut facts = facts(RestartPolicy::Always, &[Role::App]);
    facts.containers[0].has_post_start = true;
    let adopted = |is_settled| {
        let mut driver = Driver::of(facts.clone());
        let found = Found { is_settled, is_started: is_settled, attempt: 2, ..found("c0", Some(-9)) };
        driver.send(0, Event::Adopted { ips: vec![], containers: vec![found] });
        driver
    };
    assert_eq!(adopted(true).commands, []);
    let mut unknown = adopted(false);
    assert_eq!(unknown.commands, [Command::RunHook { container: 0, attempt: 2, hook: Hook::PostStart }]);
    assert!(!unknown.pod.is_started(0));
    unknown.send(1, Event::HookEnded { container: 0, attempt: 2, hook: Hook::PostStart, succeeded: true });
    assert!(unknown.pod.is_started(0));
}

#[test]
fn an_adopted_sandbox_without_containers_gets_its_volumes_once_more() {
    let mut driver = Driver::of(facts(RestartPolicy::Always, &[Role::App]));
    driver.send(0, Event::Adopted { ips: vec!["10.0.0.9".into()], containers: vec![] });
    assert_eq!(driver.commands, [Command::SetUpVolumes]);
    driver.send(0, Event::VolumesReady);
    assert_eq!(driver.commands, [Command::EnsureImage { container: 0 }]);
}

/// What an agent finds after it was killed: an init container and an application that ended, one that runs, one that
/// was made and never started.
#[test]
fn adopted_containers_that_ended_are_not_run_twice() {
    let ended = |name: &str, attempt, code| Found { attempt, exit: Some(exit(code, -5)), ..found(name, Some(-9)) };
    let made = Found { attempt: 1, ..found("c3", None) };
    let found = vec![ended("c0", 0, 0), ended("c1", 2, 0), found("c2", Some(-4)), made];
    let adopt = |policy| {
        let roles = [Role::Init, Role::App, Role::App, Role::App];
        let mut driver = Driver::of(facts(policy, &roles));
        driver.send(0, Event::Adopted { ips: vec![], containers: found.clone() });
        driver
    };
    let never = adopt(RestartPolicy::Never);
    assert_eq!(never.commands, [Command::EnsureImage { container: 3 }], "only what never ran is started");
    assert_eq!(never.pod.containers.iter().map(|c| c.attempt).collect::<Vec<_>>(), [0, 2, 0, 1]);
    let always = adopt(RestartPolicy::Always);
    assert_eq!(always.commands, [Command::EnsureImage { container: 1 }, Command::EnsureImage { container: 3 }]);
    assert_eq!(always.pod.containers[1].attempt, 3, "the restart count goes on");
    assert_eq!(always.pod.containers[0].stage, ContainerStage::Ended, "init containers do not run again");
}

#[test]
fn a_deleted_pod_that_is_found_is_not_built_up() {
    for first in [Event::Assigned, Event::Resumed { containers: vec![] }] {
        let mut driver = Driver::of(facts(RestartPolicy::Always, &[Role::App]));
        driver.pod.deletion = Some(Deletion { deadline: at(0) });
        driver.send(0, first);
        assert_eq!(driver.commands, [Command::StopSandbox]);
        driver.send(0, Event::SandboxStopped).send(0, Event::VolumesTornDown);
        assert_eq!(driver.commands, [Command::Release]);
    }
    let mut driver = Driver::of(facts(RestartPolicy::Always, &[Role::App]));
    driver.pod.deletion = Some(Deletion { deadline: at(5) });
    driver.send(0, Event::Adopted { ips: vec![], containers: vec![found("c0", Some(-4))] });
    assert_eq!(driver.commands, [Command::StopContainer { container: 0, attempt: 0 }, Command::WakeAt(at(5))]);
}

#[test]
fn a_monitor_that_dies_before_the_containers_are_due_is_a_failure() {
    let mut driver = Driver::new(facts(RestartPolicy::Always, &[Role::App]));
    let parts = |driver: &Driver| match driver.pod.stage.clone() {
        Stage::SettingUp { volumes, sandbox } => (volumes, sandbox),
        stage => panic!("{stage:?}"),
    };
    driver.send(1, Event::SandboxDied);
    assert_eq!(parts(&driver), (Part::Working, Part::Working), "its making has an answer on its way");
    driver.send(1, Event::SandboxReady { ips: vec!["10.0.0.1".into()] });
    let (Part::Working, Part::BackingOff(until, _)) = parts(&driver) else { panic!("{:?}", driver.pod.stage) };
    assert!(driver.commands.contains(&Command::WakeAt(until)));
    driver.send(99, Event::Tick);
    assert_eq!(driver.commands, [Command::StartSandbox]);
    driver.send(99, Event::SandboxReady { ips: vec!["10.0.0.2".into()] });
    assert_eq!((parts(&driver), driver.pod.ips.len()), ((Part::Working, Part::Ready), 1));
    driver.send(99, Event::SandboxReady { ips: vec!["10.0.0.3".into()] });
    assert_eq!(driver.pod.ips, ["10.0.0.2"], "an answer that nobody waits for is not taken");
    driver.send(99, Event::SandboxDied);
    let (Part::Working, Part::BackingOff(until, _)) = parts(&driver) else { panic!("{:?}", driver.pod.stage) };
    assert!(driver.pod.ips.is_empty());
    driver.send(99, Event::VolumesReady);
    assert_eq!(parts(&driver).0, Part::Ready);
    driver.send(until.as_second(), Event::Tick);
    assert_eq!(driver.commands, [Command::StartSandbox]);
    driver.send(until.as_second(), Event::SandboxReady { ips: vec![] });
    assert_eq!(driver.pod.stage, Stage::Up);
}

#[test]
fn a_pod_that_is_deleted_while_it_is_set_up_waits_for_what_is_being_made() {
    let mut driver = Driver::new(facts(RestartPolicy::Always, &[Role::App]));
    driver.send(0, Event::DeletionRequested { grace_seconds: 30 });
    driver.send(0, Event::VolumesFailed(Failure { reason: "FailedMount".into(), message: "no".into() }));
    assert!(!driver.commands.contains(&Command::StopSandbox));
    driver.send(0, Event::SandboxReady { ips: vec![] });
    assert_eq!(driver.commands, [Command::StopSandbox]);
    driver.send(0, Event::SandboxStopped).send(0, Event::VolumesTornDown);
    assert_eq!(driver.commands, [Command::Release]);
}

#[test]
fn what_cannot_be_honoured_is_refused_and_still_deletable() {
    let mut refused = facts(RestartPolicy::Always, &[Role::App]);
    refused.unsupported.push("spec.containers[0].volumeDevices".into());
    let mut driver = Driver::new(refused);
    assert_eq!((driver.pod.stage.clone(), phase(&driver.pod)), (Stage::Refused, Phase::Pending));
    driver.send(1, Event::DeletionRequested { grace_seconds: 0 });
    assert_eq!(driver.commands, [Command::Release]);
}

#[test]
fn what_was_never_made_is_tried_again_what_could_not_run_has_ended() {
    let failure = || Failure { reason: "R".into(), message: "m".into() };
    let failed = |step| {
        let mut driver = Driver::up(facts(RestartPolicy::Never, &[Role::App]));
        driver.send(0, Event::ImageReady { container: 0, image: ImageNames::default(), pulled: None });
        driver.send(0, Event::ContainerFailed { container: 0, step, failure: failure() });
        phase(&driver.pod)
    };
    assert_eq!(failed(FailedStep::Create), Phase::Pending);
    assert_eq!(failed(FailedStep::Start), Phase::Failed);
}

#[test]
fn who_has_devices_has_ended_when_they_are_taken_back() {
    use crate::status::{HostFacts, status};
    use k8s_openapi::api::core::v1::PodStatus;
    let told = |pod: &PodState, before: &str| {
        let object = k8s_openapi::api::core::v1::Pod {
            status: Some(PodStatus { phase: Some(before.into()), ..PodStatus::default() }),
            ..Default::default()
        };
        status(pod, &object, &HostFacts::default(), at(9)).phase.unwrap()
    };
    for (has_claims, while_ending) in [(true, "Running"), (false, "Succeeded")] {
        let own = facts(RestartPolicy::Never, &[Role::App]);
        let mut driver = Driver::up(PodFacts { has_device_claims: has_claims, ..own });
        driver.run(1, 0).exit(2, 0, 0);
        assert!(driver.commands.contains(&Command::StopSandbox));
        assert_eq!(told(&driver.pod, "Running"), while_ending);
        assert_eq!(told(&driver.pod, "Succeeded"), "Succeeded", "what was told is not taken back");
        driver.send(3, Event::SandboxStopped);
        assert_eq!(told(&driver.pod, "Running"), while_ending);
        driver.send(4, Event::VolumesTornDown);
        assert_eq!(told(&driver.pod, "Running"), "Succeeded");
    }
}

#[test]
fn devices_that_cannot_be_prepared_are_told_by_their_own_event() {
    use crate::protocol::PREPARE_FAILED;
    for (reason, event) in [(PREPARE_FAILED, PREPARE_FAILED), ("FailedMount", "FailedMount"), ("x", "FailedMount")] {
        let mut driver = Driver::new(facts(RestartPolicy::Always, &[Role::App]));
        driver.send(1, Event::VolumesFailed(Failure { reason: reason.into(), message: "no".into() }));
        assert_eq!(driver.told.iter().map(|notice| notice.reason).collect::<Vec<_>>(), [event]);
    }
}

#[test]
fn an_exit_told_twice_counts_once() {
    let mut driver = Driver::up(facts(RestartPolicy::Always, &[Role::App]));
    driver.run(0, 0);
    let event = Event::ContainerExited { container: 0, attempt: 0, exit: exit(1, 1) };
    driver.send(1, event.clone()).send(1, event);
    assert_eq!(driver.pod.containers[0].attempt, 1);
}

/// A pod of every kind of container, with every probe and hook, that may be given up.
fn full_facts(policy: RestartPolicy) -> PodFacts {
    let probe = |threshold| {
        let second = SignedDuration::from_secs(1);
        Some(ProbeFacts {
            initial_delay: second,
            period: second,
            success_threshold: 1,
            failure_threshold: threshold,
            grace_seconds: Some(1),
        })
    };
    let mut all = facts(policy, &[Role::Init, Role::Sidecar, Role::App, Role::App, Role::Ephemeral]);
    for index in [1, 2] {
        let container = &mut all.containers[index];
        container.probes = [probe(2), probe(1), probe(1)];
        (container.has_post_start, container.has_pre_stop) = (true, true);
    }
    all
}

/// The same with other resources, for which the first of them is restarted.
fn resized(cpu: i64) -> PodFacts {
    let mut all = full_facts(RestartPolicy::Always);
    for container in &mut all.containers {
        container.resources.cpu_limit = Some(cpu);
        container.restarts_for_cpu = container.name == "c2";
    }
    all
}

fn any_health() -> impl Strategy<Value = Health> {
    prop_oneof![
        3 => Just(Health::Good),
        1 => Just(Health::Warned("w".into())),
        2 => Just(Health::Bad("b".into())),
        1 => Just(Health::Unknown("u".into())),
    ]
}

fn any_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)]
}

fn any_event(containers: usize) -> impl Strategy<Value = Event> {
    let failure = || Failure { reason: "R".into(), message: "m".into() };
    let one = 0..containers;
    prop_oneof![
        Just(Event::VolumesReady),
        Just(Event::VolumesFailed(failure())),
        Just(Event::SandboxReady { ips: vec![] }),
        Just(Event::SandboxFailed(failure())),
        Just(Event::SandboxDied),
        Just(Event::SandboxStopped),
        Just(Event::VolumesTornDown),
        Just(Event::Tick),
        (0i64..4).prop_map(|cpu| Event::SpecChanged(resized(cpu))),
        (0i64..40).prop_map(|grace_seconds| Event::DeletionRequested { grace_seconds }),
        one.clone().prop_map(|container| Event::ImageReady { container, image: ImageNames::default(), pulled: None }),
        one.clone().prop_map(move |container| Event::ImageFailed {
            container,
            fault: ImageFault::Pull,
            message: "m".into()
        }),
        one.clone().prop_map(|container| Event::ImageMissing { container }),
        one.clone().prop_map(|container| Event::ContainerStarted { container, effective: Default::default() }),
        (one.clone(), 0u32..3, any::<bool>(), any::<bool>()).prop_map(|(container, attempt, succeeded, before)| {
            let hook = if before { Hook::PostStart } else { Hook::PreStop };
            Event::HookEnded { container, attempt, hook, succeeded }
        }),
        (one.clone(), 0u32..3, 0usize..3, any_health()).prop_map(|(container, attempt, kind, health)| {
            Event::Probed { container, attempt, kind: ProbeKind::ALL[kind], health }
        }),
        (one.clone(), any::<bool>()).prop_map(move |(container, made)| Event::ContainerFailed {
            container,
            step: if made { FailedStep::Start } else { FailedStep::Create },
            failure: Failure { reason: "R".into(), message: "m".into() }
        }),
        (one, 0u32..4, 0i32..3).prop_map(|(container, attempt, code)| Event::ContainerExited {
            container,
            attempt,
            exit: exit(code, 0)
        }),
    ]
}

/// What an executor would answer to a command, if it answers at all.
fn answer(command: &Command, health: &Health) -> Option<Event> {
    let is_well = matches!(health, Health::Good | Health::Warned(_));
    match command {
        Command::SetUpVolumes => Some(Event::VolumesReady),
        Command::StartSandbox => Some(Event::SandboxReady { ips: vec![] }),
        Command::EnsureImage { container } => Some(Event::ImageMissing { container: *container }),
        Command::PullImage { container } => {
            Some(Event::ImageReady { container: *container, image: ImageNames::default(), pulled: None })
        }
        Command::StartContainer { container, .. } => {
            Some(Event::ContainerStarted { container: *container, effective: Default::default() })
        }
        Command::RunHook { container, attempt, hook } => {
            Some(Event::HookEnded { container: *container, attempt: *attempt, hook: *hook, succeeded: is_well })
        }
        Command::Probe { container, attempt, kind } => {
            Some(Event::Probed { container: *container, attempt: *attempt, kind: *kind, health: health.clone() })
        }
        Command::ResizeContainer { container, attempt, to } => {
            let failure = (!is_well).then(|| "no".to_owned());
            Some(Event::Resized { container: *container, attempt: *attempt, to: *to, failure })
        }
        // One that ignores its stop signal.
        Command::StopContainer { .. } if !is_well => None,
        Command::StopContainer { container, attempt } | Command::KillContainer { container, attempt } => {
            Some(Event::ContainerExited { container: *container, attempt: *attempt, exit: exit(137, 0) })
        }
        Command::StopSandbox => Some(Event::SandboxStopped),
        Command::TearDownVolumes => Some(Event::VolumesTornDown),
        Command::RemoveContainer { .. }
        | Command::TellResize(_)
        | Command::CancelPull { .. }
        | Command::WakeAt(_)
        | Command::Emit(_)
        | Command::Release => None,
    }
}

proptest! {
    /// Answers in any order, late, doubled or never asked for: the machine never panics.
    #[test]
    fn no_event_order_breaks_it(
        policy in any_policy(),
        events in proptest::collection::vec(any_event(5), 0..80),
    ) {
        let mut pod = PodState::new(full_facts(policy));
        for (second, event) in (0i64..).zip(events) {
            pod = step(pod, at(second), event).0;
        }
    }

    /// With an executor that answers each command, in any interleaving with crashes, hooks that fail and probes that do,
    /// a deleted pod goes, and so does what a pod leaves that was active for too long.
    #[test]
    fn a_deleted_pod_always_goes(
        policy in any_policy(),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..60),
        answers in proptest::collection::vec(any_health(), 1..60),
        delete_at in 0usize..60,
        active_for in proptest::option::of(1i64..90),
    ) {
        let deadline = active_for.map(SignedDuration::from_secs);
        let all = PodFacts { active_deadline: deadline, ..full_facts(policy) };
        let mut pod = PodState::new(all);
        let mut pending = vec![Event::Assigned];
        let (mut picks, mut answers) = (picks.into_iter().cycle(), answers.into_iter().cycle());
        let mut asked = std::collections::BTreeSet::new();
        for second in 0..600i64 {
            if second % 7 == 3 {
                pending.push(Event::SpecChanged(PodFacts { active_deadline: deadline, ..resized(second % 3) }));
            }
            if second == delete_at as i64 {
                pending.push(Event::DeletionRequested { grace_seconds: 3 });
            }
            let event = match pending.is_empty() {
                true => Event::Tick,
                false => pending.remove(picks.next().unwrap().index(pending.len())),
            };
            if let Event::Probed { container, attempt, kind, .. } = &event {
                asked.remove(&(*container, *attempt, *kind as usize));
            }
            let (next, commands) = step(pod, at(second), event);
            pod = next;
            prop_assert_eq!(pod.validate(), Ok(()));
            for command in &commands {
                if let Command::Probe { container, attempt, kind } = command {
                    prop_assert!(pod.containers[*container].is_running());
                    prop_assert!(asked.insert((*container, *attempt, *kind as usize)), "asked twice at once");
                }
            }
            if active_for.is_some_and(|limit| second > limit) && pod.stage == Stage::Up {
                prop_assert!(pod.goes_down(), "it was active for too long");
            }
            pending.extend(commands.iter().filter_map(|command| answer(command, &answers.next().unwrap())));
            if pod.stage == Stage::Gone {
                break;
            }
        }
        prop_assert_eq!(pod.stage, Stage::Gone);
    }
}
