//! What the machine needs to know of a pod's spec.

use k8s_openapi::api::core::v1::{Container, Pod};

const DEFAULT_GRACE_SECONDS: i64 = 30;

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code.
    Always,
    /// When its exit code is not zero.
    OnFailure,
    /// Not at all.
    Never,
}

/// When an image is asked for at its registry. `imagePullPolicy`; the API server fills it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At every start: what the name means may have changed.
    Always,
    /// When it is not on the node.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others until they ended.
    Sidecar,
    /// A container of `spec.containers`.
    App,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFacts {
    /// `name`.
    pub name: String,
    /// `image`.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull: PullPolicy,
    /// Its part.
    pub role: Role,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace_seconds: i64,
    /// Init containers in order, then the others.
    pub containers: Vec<ContainerFacts>,
    /// Fields that this agent cannot honour, by path; empty for a pod that can run.
    pub unsupported: Vec<String>,
}

impl PodFacts {
    /// The facts of a pod as the API server gives it.
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else {
            let unsupported = vec!["spec".to_owned()];
            return Self { restart_policy: RestartPolicy::Never, grace_seconds: 0, containers: vec![], unsupported };
        };
        let restart_policy = match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let facts = |container: &Container, role| ContainerFacts {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            pull: match container.image_pull_policy.as_deref() {
                Some("Always") => PullPolicy::Always,
                Some("Never") => PullPolicy::Never,
                _ => PullPolicy::IfNotPresent,
            },
            role,
        };
        let init = spec.init_containers.iter().flatten().map(|container| {
            facts(container, if api::pod::is_sidecar(container) { Role::Sidecar } else { Role::Init })
        });
        let apps = spec.containers.iter().map(|container| facts(container, Role::App));
        Self {
            restart_policy,
            grace_seconds: spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS),
            containers: init.chain(apps).collect(),
            unsupported: crate::support::unsupported(spec),
        }
    }

    /// Whether a container that ended with `code` runs again.
    pub fn restarts(&self, role: Role, code: i32) -> bool {
        match (role, self.restart_policy) {
            (Role::Sidecar, _) | (Role::App, RestartPolicy::Always) => true,
            (Role::App, RestartPolicy::OnFailure) => code != 0,
            // An init container that succeeded is done whatever the policy.
            (Role::Init, RestartPolicy::Always | RestartPolicy::OnFailure) => code != 0,
            (Role::App | Role::Init, RestartPolicy::Never) => false,
        }
    }
}
