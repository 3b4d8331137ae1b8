use k8s_openapi::api::core::v1::Pod;
use serde_json::{from_value, json};

use super::*;
use crate::facts::PodFacts;
use crate::machine::step;
use crate::protocol::Event;
use crate::status::{HostFacts, status};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn object(policy: &str, images: &[&str]) -> Pod {
    let containers: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(index, image)| json!({"name": format!("c{index}"), "image": image, "imagePullPolicy": policy}))
        .collect();
    from_value(json!({"spec": {"containers": containers}})).unwrap()
}

/// A pod whose sandbox is up, with what was said and done in its last step.
struct Driver {
    object: Pod,
    pod: PodState,
    commands: Vec<Command>,
}

impl Driver {
    fn up(policy: &str, images: &[&str]) -> Self {
        let object = object(policy, images);
        let mut driver = Self { pod: PodState::new(PodFacts::of(&object)), object, commands: vec![] };
        driver.send(0, Event::Assigned).send(0, Event::VolumesReady).send(0, Event::SandboxReady { ips: vec![] });
        driver
    }

    fn send(&mut self, seconds: i64, event: Event) -> &mut Self {
        (self.pod, self.commands) = step(self.pod.clone(), at(seconds), event);
        self.pod.validate().unwrap();
        self
    }

    fn pull_fails(&mut self, seconds: i64, container: usize) -> &mut Self {
        self.send(seconds, Event::ImageFailed { container, fault: ImageFault::Pull, message: "registry r: no".into() })
    }

    /// `TYPE REASON: MESSAGE` of the last step's events.
    fn notices(&self) -> Vec<String> {
        let notices = self.commands.iter().filter_map(|command| match command {
            Command::Emit(notice) => Some(notice),
            _ => None,
        });
        notices.map(|n| format!("{}{}: {}", if n.warning { "!" } else { "" }, n.reason, n.message)).collect()
    }

    fn does(&self, wanted: &Command) -> bool {
        self.commands.contains(wanted)
    }

    fn waiting(&self, container: usize) -> (String, String) {
        let status = status(&self.pod, &self.object, &HostFacts::default(), at(0));
        let state = status.container_statuses.unwrap()[container].state.clone().unwrap();
        let waiting = state.waiting.unwrap();
        (waiting.reason.unwrap(), waiting.message.unwrap_or_default())
    }
}

#[test]
fn a_pull_is_told_in_the_kubelets_words() {
    let mut driver = Driver::up("IfNotPresent", &["nginx"]);
    assert!(driver.does(&Command::EnsureImage { container: 0 }));
    driver.send(0, Event::ImageMissing { container: 0 });
    assert_eq!(driver.notices(), ["Pulling: Pulling image \"nginx\""]);
    assert!(driver.does(&Command::PullImage { container: 0 }));
    let image =
        ImageNames { image: "docker.io/library/nginx:latest".into(), id: "docker.io/library/nginx@sha256:1".into() };
    let pulled =
        Pulled { took: SignedDuration::from_millis(1200), waited: SignedDuration::from_millis(1300), bytes: 77 };
    driver.send(2, Event::ImageReady { container: 0, image, pulled: Some(pulled) });
    assert_eq!(
        driver.notices(),
        ["Pulled: Successfully pulled image \"nginx\" in 1.2s (1.3s including waiting). Image size: 77 bytes."]
    );
    driver.send(2, Event::ContainerStarted { container: 0, effective: Default::default() });
    let status =
        status(&driver.pod, &driver.object, &HostFacts::default(), at(2)).container_statuses.unwrap().remove(0);
    assert_eq!(status.image, "docker.io/library/nginx:latest");
    assert_eq!(status.image_id, "docker.io/library/nginx@sha256:1");
    let mut driver = Driver::up("IfNotPresent", &["nginx"]);
    driver.send(0, Event::ImageReady { container: 0, image: ImageNames::default(), pulled: None });
    assert_eq!(driver.notices(), ["Pulled: Container image \"nginx\" already present on machine"]);
}

#[test]
fn the_policy_decides_whether_a_registry_is_asked() {
    let driver = Driver::up("Always", &["nginx"]);
    assert!(driver.does(&Command::PullImage { container: 0 }), "also where it is present");
    let mut driver = Driver::up("Never", &["nginx"]);
    driver.send(0, Event::ImageMissing { container: 0 });
    assert!(!driver.does(&Command::PullImage { container: 0 }));
    let message = "Container image \"nginx\" is not present with pull policy of Never";
    assert_eq!(driver.waiting(0), ("ErrImageNeverPull".into(), message.into()));
    assert_eq!(
        driver.notices(),
        [format!("!ErrImageNeverPull: {message}"), "!Failed: Error: ErrImageNeverPull".into()]
    );
}

#[test]
fn a_failed_pull_backs_off_as_the_kubelet_does() {
    let mut driver = Driver::up("Always", &["nginx"]);
    driver.pull_fails(0, 0);
    assert_eq!(
        driver.notices(),
        ["!Failed: Failed to pull image \"nginx\": registry r: no", "!Failed: Error: ErrImagePull"]
    );
    assert_eq!(driver.waiting(0), ("ErrImagePull".into(), "registry r: no".into()));
    assert!(driver.does(&Command::WakeAt(at(5))));
    driver.send(5, Event::Tick);
    assert_eq!(driver.notices(), ["BackOff: Back-off pulling image \"nginx\"", "!Failed: Error: ImagePullBackOff"]);
    let message = "Back-off pulling image \"nginx\": ErrImagePull: registry r: no";
    assert_eq!(driver.waiting(0), ("ImagePullBackOff".into(), message.into()));
    assert!(driver.does(&Command::WakeAt(at(10))));
    driver.send(9, Event::Tick);
    assert!(!driver.does(&Command::PullImage { container: 0 }));
    let mut now = 0;
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        now += wait;
        driver.send(now - 1, Event::Tick).send(now, Event::Tick);
        assert!(driver.does(&Command::PullImage { container: 0 }), "after {wait}s");
        driver.pull_fails(now, 0);
    }
    driver.send(now + 300, Event::Tick);
    driver.send(now + 300, Event::ImageReady { container: 0, image: ImageNames::default(), pulled: None });
    assert!(driver.does(&Command::StartContainer { container: 0, attempt: 0 }));
}

#[test]
fn containers_that_share_an_image_wait_together() {
    let mut driver = Driver::up("Always", &["nginx", "nginx", "redis"]);
    driver.pull_fails(0, 0).pull_fails(0, 1);
    assert!(driver.does(&Command::WakeAt(at(5))), "the second failure of one pull doubles nothing");
    driver.send(10, Event::Tick);
    driver.pull_fails(10, 0);
    // The other began with the first and comes back from a long look while that one waits.
    driver.send(11, Event::ImageReady { container: 1, image: ImageNames::default(), pulled: None });
    driver.send(11, Event::ContainerStarted { container: 1, effective: Default::default() });
    let mut driver = Driver::up("IfNotPresent", &["nginx", "nginx"]);
    driver.send(0, Event::ImageMissing { container: 0 }).pull_fails(1, 0);
    driver.send(2, Event::ImageMissing { container: 1 });
    assert!(!driver.does(&Command::PullImage { container: 1 }));
    assert_eq!(driver.waiting(1).0, "ImagePullBackOff");
    driver.send(11, Event::Tick);
    assert!(driver.does(&Command::EnsureImage { container: 0 }) && driver.does(&Command::EnsureImage { container: 1 }));
}

#[test]
fn a_deleted_pod_does_not_wait_for_its_image() {
    let mut driver = Driver::up("Always", &["nginx"]);
    driver.send(1, Event::DeletionRequested { grace_seconds: 30 });
    assert!(driver.does(&Command::CancelPull { container: 0 }) && driver.does(&Command::StopSandbox));
    driver.pull_fails(2, 0);
    assert!(driver.notices().is_empty(), "nobody asked any more");
}

#[test]
fn bad_names_are_told() {
    let mut driver = Driver::up("IfNotPresent", &["A"]);
    let message = "couldn't parse image name \"A\": expected lower case".to_owned();
    driver.send(0, Event::ImageFailed { container: 0, fault: ImageFault::InvalidName, message: message.clone() });
    assert_eq!(driver.waiting(0), ("InvalidImageName".into(), message.clone()));
    assert_eq!(
        driver.notices(),
        [
            format!("!InspectFailed: Failed to apply default image tag \"A\": {message}"),
            "!Failed: Error: InvalidImageName".into()
        ]
    );
}

#[test]
fn durations_are_told_as_go_tells_them() {
    for (millis, text) in
        [(0, "0s"), (950, "950ms"), (1000, "1s"), (1200, "1.2s"), (62_500, "1m2.5s"), (3_600_001, "1h0m0.001s")]
    {
        assert_eq!(go_duration(SignedDuration::from_millis(millis)), text);
    }
}
