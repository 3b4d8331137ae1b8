//! Drives the machine in tests.

use k8s_openapi::jiff::Timestamp;

use crate::facts::{ContainerFacts, PodFacts, PullPolicy, RestartPolicy, Role};
use crate::machine::step;
use crate::protocol::{Command, Event, Exit, Found, ImageNames, Notice};
use crate::state::PodState;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

pub(crate) fn facts(policy: RestartPolicy, roles: &[Role]) -> PodFacts {
    let containers = roles
        .iter()
        .enumerate()
        .map(|(index, role)| ContainerFacts::new(&format!("c{index}"), "i", PullPolicy::IfNotPresent, *role))
        .collect();
    PodFacts { restart_policy: policy, grace_seconds: 30, containers, ..PodFacts::default() }
}

pub(crate) fn exit(code: i32, seconds: i64) -> Exit {
    Exit { code, signal: None, oom_killed: false, finished_at: at(seconds), message: String::new() }
}

/// A container that the agent finds when it comes back, running since then.
pub(crate) fn found(name: &str, since: Option<i64>) -> Found {
    Found {
        name: name.into(),
        attempt: 0,
        image: ImageNames::default(),
        started_at: since.map(at),
        exit: None,
        is_settled: since.is_some(),
        is_started: since.is_some(),
        is_ready: since.is_some(),
        effective: None,
        resources: None,
    }
}

/// Drives a pod and keeps its last commands, and apart from them what people were told.
pub(crate) struct Driver {
    pub(crate) pod: PodState,
    pub(crate) commands: Vec<Command>,
    pub(crate) told: Vec<Notice>,
}

impl Driver {
    /// Of a pod that nothing happened to.
    pub(crate) fn of(facts: PodFacts) -> Self {
        Self { pod: PodState::new(facts), commands: vec![], told: vec![] }
    }

    pub(crate) fn new(facts: PodFacts) -> Self {
        let mut driver = Self::of(facts);
        driver.send(0, Event::Assigned);
        driver
    }

    pub(crate) fn send(&mut self, seconds: i64, event: Event) -> &mut Self {
        let (pod, commands) = step(self.pod.clone(), at(seconds), event);
        pod.validate().unwrap();
        self.pod = pod;
        self.commands.clear();
        self.told.clear();
        for command in commands {
            match command {
                Command::Emit(notice) => self.told.push(notice),
                command => self.commands.push(command),
            }
        }
        self
    }

    pub(crate) fn up(facts: PodFacts) -> Self {
        let mut driver = Self::new(facts);
        driver.send(0, Event::VolumesReady).send(0, Event::SandboxReady { ips: vec!["10.0.0.2".into()] });
        driver
    }

    pub(crate) fn run(&mut self, seconds: i64, container: usize) -> &mut Self {
        self.send(seconds, Event::ImageReady { container, image: ImageNames::default(), pulled: None });
        self.send(seconds, Event::ContainerStarted { container, effective: Default::default() })
    }

    pub(crate) fn exit(&mut self, seconds: i64, container: usize, code: i32) -> &mut Self {
        let attempt = self.pod.containers[container].attempt;
        self.send(seconds, Event::ContainerExited { container, attempt, exit: exit(code, seconds) })
    }
}
