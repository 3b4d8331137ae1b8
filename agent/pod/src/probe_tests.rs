use super::*;
use crate::driver::{Driver, at, facts, found};
use crate::facts::{PodFacts, RestartPolicy, Role};
use crate::protocol::Event;
use crate::state::ContainerStage;
use crate::status::{HostFacts, status};

fn probe(delay: i64, period: i64, failure_threshold: u32) -> Option<ProbeFacts> {
    let seconds = SignedDuration::from_secs;
    Some(ProbeFacts {
        initial_delay: seconds(delay),
        period: seconds(period),
        success_threshold: 1,
        failure_threshold,
        grace_seconds: None,
    })
}

/// A pod of one container that runs since 0, with probes for startup, liveness and readiness.
fn running(policy: RestartPolicy, probes: [Option<ProbeFacts>; 3]) -> Driver {
    let mut all = facts(policy, &[Role::App]);
    all.containers[0].probes = probes;
    let mut driver = Driver::up(all);
    driver.run(0, 0);
    driver
}

impl Driver {
    fn says(&mut self, seconds: i64, kind: ProbeKind, health: Health) -> &mut Self {
        let attempt = self.pod.containers[0].attempt;
        self.send(seconds, Event::Probed { container: 0, attempt, kind, health })
    }

    fn asked(&self) -> Vec<ProbeKind> {
        let kinds = self.commands.iter().filter_map(|command| match command {
            Command::Probe { kind, .. } => Some(*kind),
            _ => None,
        });
        kinds.collect()
    }
}

fn bad() -> Health {
    Health::Bad("no".into())
}

#[test]
fn readiness_waits_for_its_delay_and_for_the_first_good_answer() {
    let mut driver = running(RestartPolicy::Always, [None, None, probe(5, 2, 3)]);
    assert_eq!(driver.commands, [Command::WakeAt(at(5))]);
    assert!(!driver.pod.is_ready(0), "nobody has said so yet");
    assert!(driver.pod.is_started(0));
    driver.send(5, Event::Tick);
    assert_eq!(driver.asked(), [ProbeKind::Readiness]);
    driver.send(9, Event::Tick);
    assert_eq!(driver.asked(), [], "an answer is on its way");
    driver.says(9, ProbeKind::Readiness, Health::Good);
    assert!(driver.pod.is_ready(0));
    assert_eq!(driver.asked(), [ProbeKind::Readiness], "it took longer than its period: the next is overdue");
    driver.says(10, ProbeKind::Readiness, bad()).send(11, Event::Tick);
    driver.says(11, ProbeKind::Readiness, bad());
    assert!(driver.pod.is_ready(0), "two of three");
    assert_eq!(driver.told[0].message, "Readiness probe failed: no");
    driver.send(13, Event::Tick).says(13, ProbeKind::Readiness, bad());
    assert!(!driver.pod.is_ready(0));
    assert!(driver.pod.containers[0].is_running(), "readiness restarts nothing");
}

#[test]
fn startup_holds_the_others_back() {
    let mut driver = running(RestartPolicy::Always, [probe(0, 1, 2), probe(0, 1, 1), probe(0, 1, 1)]);
    assert_eq!(driver.asked(), [ProbeKind::Startup]);
    driver.says(0, ProbeKind::Startup, bad()).send(1, Event::Tick);
    assert_eq!(driver.asked(), [ProbeKind::Startup]);
    assert!(!driver.pod.is_started(0));
    driver.says(1, ProbeKind::Startup, Health::Good);
    assert!(driver.pod.is_started(0) && !driver.pod.is_ready(0));
    assert_eq!(driver.asked(), [ProbeKind::Liveness, ProbeKind::Readiness], "at once, and startup never again");
    driver.says(1, ProbeKind::Readiness, Health::Warned("moved".into()));
    assert!(driver.pod.is_ready(0));
    assert_eq!((driver.told[0].reason, &*driver.told[0].message), ("ProbeWarning", "Readiness probe warning: moved"));
}

#[test]
fn liveness_ends_a_container_with_its_own_grace_and_restarts_it() {
    let mut liveness = probe(0, 1, 2);
    liveness.as_mut().unwrap().grace_seconds = Some(4);
    let mut driver = running(RestartPolicy::OnFailure, [None, liveness, probe(0, 1, 1)]);
    driver.says(0, ProbeKind::Readiness, Health::Good).says(0, ProbeKind::Liveness, bad());
    driver.send(1, Event::Tick).says(1, ProbeKind::Liveness, Health::Unknown("?".into()));
    assert_eq!(driver.told[0].reason, "Unhealthy");
    assert_eq!(driver.commands[0], Command::WakeAt(at(2)), "what says nothing counts for nothing");
    driver.send(2, Event::Tick).says(2, ProbeKind::Liveness, bad());
    let told: Vec<_> = driver.told.iter().map(|notice| (notice.reason, notice.message.as_str())).collect();
    let killing = ("Killing", "Container c0 failed liveness probe, will be restarted");
    assert_eq!(told, [("Unhealthy", "Liveness probe failed: no"), killing]);
    assert_eq!(driver.commands[0], Command::StopContainer { container: 0, attempt: 0 });
    assert_eq!(driver.commands.last(), Some(&Command::WakeAt(at(6))));
    driver.send(6, Event::Tick);
    assert!(driver.commands.contains(&Command::KillContainer { container: 0, attempt: 0 }));
    driver.exit(6, 0, 0);
    assert_eq!(driver.pod.containers[0].attempt, 1, "also a clean exit restarts what failed its probe");
    driver.run(7, 0);
    assert!(!driver.pod.is_ready(0), "a new start begins anew");
}

#[test]
fn a_pod_that_never_restarts_ends_by_liveness() {
    let mut driver = running(RestartPolicy::Never, [None, probe(0, 1, 1), None]);
    driver.says(0, ProbeKind::Liveness, bad());
    assert_eq!(driver.told[1].message, "Container c0 failed liveness probe");
    driver.exit(1, 0, 137);
    assert_eq!(driver.pod.containers[0].stage, ContainerStage::Ended);
}

#[test]
fn only_readiness_is_asked_while_a_container_ends() {
    let mut driver = running(RestartPolicy::Always, [None, probe(0, 1, 1), probe(0, 1, 1)]);
    driver.says(0, ProbeKind::Readiness, Health::Good);
    driver.send(0, Event::DeletionRequested { grace_seconds: 9 });
    driver.says(0, ProbeKind::Liveness, bad());
    assert_eq!(driver.told, [], "it was asked before, and nobody cares any more");
    driver.send(1, Event::Tick);
    assert_eq!(driver.asked(), [ProbeKind::Readiness]);
    driver.says(1, ProbeKind::Readiness, bad());
    assert!(!driver.pod.is_ready(0));
}

#[test]
fn who_is_found_stays_ready_until_a_probe_says_otherwise() {
    let mut all = facts(RestartPolicy::Always, &[Role::App]);
    all.containers[0].probes = [probe(0, 10, 1), probe(0, 10, 1), probe(0, 10, 1)];
    all.spread = u16::MAX / 2;
    let mut driver = Driver::of(all);
    driver.send(0, Event::Adopted { ips: vec![], containers: vec![found("c0", Some(-60))] });
    assert!(driver.pod.is_ready(0) && driver.pod.is_started(0));
    let Some(Command::WakeAt(first)) = driver.commands.first() else { panic!("{:?}", driver.commands) };
    assert!((4..5).contains(&first.duration_since(at(0)).as_secs()), "half a period later: {first}");
    driver.send(5, Event::Tick);
    assert_eq!(driver.asked(), [ProbeKind::Liveness, ProbeKind::Readiness], "startup has succeeded before");
    driver.says(5, ProbeKind::Readiness, bad());
    assert!(!driver.pod.is_ready(0));
    assert_eq!(driver.pod.containers[0].attempt, 0);
}

#[test]
fn a_sidecar_comes_up_before_the_next_container_starts() {
    let mut all = facts(RestartPolicy::Always, &[Role::Sidecar, Role::App]);
    all.containers[0].probes = [probe(0, 1, 3), None, None];
    let mut driver = Driver::up(all);
    driver.run(0, 0);
    assert_eq!(driver.asked(), [ProbeKind::Startup]);
    assert!(!driver.commands.contains(&Command::EnsureImage { container: 1 }));
    driver.says(1, ProbeKind::Startup, Health::Good);
    assert!(driver.commands.contains(&Command::EnsureImage { container: 1 }));
}

#[test]
fn conditions_name_who_is_not_ready_and_the_gates_that_are_shut() {
    let object = serde_json::from_value(serde_json::json!({
        "metadata": {"generation": 7},
        "spec": {"containers": [], "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}, {"conditionType": "c"}]},
        "status": {"conditions": [{"type": "a", "status": "True"}, {"type": "b", "status": "False"}]}}))
    .unwrap();
    let mut driver = running(RestartPolicy::Always, [None, None, probe(0, 1, 1)]);
    let ready = |driver: &Driver| {
        let conditions = status(&driver.pod, &object, &HostFacts::default(), at(0)).conditions.unwrap();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!(ready.observed_generation, Some(7));
        (ready.reason.unwrap(), ready.message.unwrap())
    };
    let (reason, message) = ready(&driver);
    assert_eq!((&*reason, &*message), ("ContainersNotReady", "containers with unready status: [c0]"));
    driver.says(0, ProbeKind::Readiness, Health::Good);
    let (reason, message) = ready(&driver);
    assert_eq!(reason, "ReadinessGatesNotReady");
    let b = "the status of pod readiness gate \"b\" is not \"True\", but False";
    assert_eq!(message, format!("{b}; corresponding condition of pod readiness gate \"c\" does not exist."));
}

#[test]
fn what_is_unset_has_the_defaults_of_the_api_and_long_output_is_cut() {
    let facts = ProbeFacts::of(&v1::Probe { failure_threshold: Some(0), ..v1::Probe::default() });
    let second = SignedDuration::from_secs;
    assert_eq!((facts.period, facts.success_threshold, facts.failure_threshold), (second(10), 1, 3));
    assert_eq!((facts.initial_delay, facts.grace_seconds), (second(0), None));
    let mut driver = running(RestartPolicy::Always, [None, None, probe(0, 1, 1)]);
    driver.says(0, ProbeKind::Readiness, Health::Bad("\u{e4}".repeat(9000)));
    assert!(driver.told[0].message.len() < 1100);
}

#[test]
fn uids_spread_the_first_probes() {
    let of = |uid: &str| {
        let mut pod = v1::Pod { spec: Some(v1::PodSpec::default()), ..v1::Pod::default() };
        pod.metadata.uid = Some(uid.into());
        PodFacts::of(&pod).spread
    };
    assert_eq!(of("a-b-c"), of("a-b-c"));
    let spread: Vec<u16> = (0..64).map(|number| of(&format!("0f3c-{number}"))).collect();
    let early = spread.iter().filter(|spread| **spread < u16::MAX / 2).count();
    assert!((10..54).contains(&early), "{spread:?}");
}
