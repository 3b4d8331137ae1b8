//! What goes into the machine and what comes out.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::facts::{PodFacts, Resources};
use crate::probe::{Health, ProbeKind};

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 + n for signal n.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// When.
    pub finished_at: Timestamp,
    /// What the container left in its termination message file.
    pub message: String,
}

/// The reason of the event that tells that drivers could not prepare the devices of a pod.
pub const PREPARE_FAILED: &str = "FailedPrepareDynamicResources";

/// The word for pods that are ended for what they use, in their status and in events.
pub const EVICTED: &str = "Evicted";

/// Why and how the node ends a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// What the pod's status says.
    pub failure: Failure,
    /// Seconds that its containers have at most; `None`: as many as the pod's own grace period.
    pub grace_seconds: Option<i64>,
    /// The node needs what the pod had, or goes: the condition DisruptionTarget says so.
    pub is_disruption: bool,
    /// The reason of the event that tells.
    pub event: &'static str,
}

/// How far the start of a container came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedStep {
    /// It was never made: its configuration is wrong for now. Tried again whatever the restart policy.
    Create,
    /// It was made and its program could not be run: that counts as an end.
    Start,
}

/// Why something could not be done, for people: a CamelCase reason and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason, as `kubectl get` shows it (`ErrImageNeverPull`, `CreateContainerError`).
    pub reason: String,
    /// The sentence.
    pub message: String,
}

/// What a container does at a turn of its life. `lifecycle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Beside its program, right after that was started.
    PostStart,
    /// Before it is asked to end.
    PreStop,
}

/// Why an image cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFault {
    /// Its name is none.
    InvalidName,
    /// The store of this node cannot tell.
    Inspect,
    /// It is not here and must not be fetched.
    NeverPull,
    /// It could not be fetched.
    Pull,
}

impl ImageFault {
    /// What the container's status says, in the kubelet's words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidName => "InvalidImageName",
            Self::Inspect => "ImageInspectError",
            Self::NeverPull => "ErrImageNeverPull",
            Self::Pull => "ErrImagePull",
        }
    }
}

/// What an image that is here is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageNames {
    /// Its whole name, `docker.io/library/x:latest`.
    pub image: String,
    /// Its digest reference, or its configuration's digest where no registry has it.
    pub id: String,
}

/// How an image was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulled {
    /// How long its pull took.
    pub took: SignedDuration,
    /// How long this container waited for it.
    pub waited: SignedDuration,
    /// Its packed bytes.
    pub bytes: u64,
}

/// What spec, image and defaults came to for one start of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// User of its first process, as the container counts users.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// All groups that it is in, in order.
    pub groups: Vec<u32>,
    /// What it is told to end with: `SIGTERM`, `SIGRTMIN+3`.
    pub stop_signal: String,
}

/// A container found alive or dead when the agent came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name in the pod.
    pub name: String,
    /// Its start, counted from 0; the restart count.
    pub attempt: u32,
    /// The image it runs.
    pub image: ImageNames,
    /// When it started; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// How it ended; `None` while it runs.
    pub exit: Option<Exit>,
    /// Whether its last status showed that it runs, if that was of this start: only then its postStart hook is known to be done.
    pub is_settled: bool,
    /// `started` of its last status, if that was of this start.
    pub is_started: bool,
    /// `ready` of its last status, if that was of this start.
    pub is_ready: bool,
    /// As what it was started; `None` where nothing tells any more.
    pub effective: Option<Effective>,
    /// `resources` of its last status; `None` if that says nothing of them.
    pub resources: Option<Resources>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pod was assigned to this node.
    Assigned,
    /// The agent came back and found the pod's sandbox alive.
    Adopted {
        /// The pod's addresses.
        ips: Vec<String>,
        /// Its containers, newest start of each.
        containers: Vec<Found>,
    },
    /// The agent came back, the sandbox did not: what the pod's last status says of its containers.
    Resumed {
        /// Its containers; none of them is alive.
        containers: Vec<Found>,
    },
    /// The pod's spec says something else now: an image, a deadline, a further ephemeral container.
    SpecChanged(PodFacts),
    /// The API server wants the pod gone within so many seconds.
    DeletionRequested {
        /// The grace period; a later, shorter one overrides.
        grace_seconds: i64,
    },
    /// The node ends the pod, which fails.
    Evicted(Eviction),
    /// All volumes are in place.
    VolumesReady,
    /// A volume could not be set up.
    VolumesFailed(Failure),
    /// Namespaces and network are up.
    SandboxReady {
        /// The pod's addresses.
        ips: Vec<String>,
    },
    /// The sandbox could not be made.
    SandboxFailed(Failure),
    /// The sandbox's monitor is gone and with it every container.
    SandboxDied,
    /// The image of a container is on the node.
    ImageReady {
        /// Index into the pod's containers.
        container: usize,
        /// The image.
        image: ImageNames,
        /// How it was fetched; `None` if it was here.
        pulled: Option<Pulled>,
    },
    /// The image of a container is not on the node.
    ImageMissing {
        /// Index into the pod's containers.
        container: usize,
    },
    /// The image of a container cannot be had.
    ImageFailed {
        /// Index into the pod's containers.
        container: usize,
        /// In which way.
        fault: ImageFault,
        /// Why.
        message: String,
    },
    /// A container runs.
    ContainerStarted {
        /// Index into the pod's containers.
        container: usize,
        /// As what.
        effective: Effective,
    },
    /// A container could not be created or started.
    ContainerFailed {
        /// Index into the pod's containers.
        container: usize,
        /// How far it came.
        step: FailedStep,
        /// Why.
        failure: Failure,
    },
    /// A container ended.
    ContainerExited {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// How.
        exit: Exit,
    },
    /// A hook ended.
    HookEnded {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// Which hook.
        hook: Hook,
        /// Whether it did what it should.
        succeeded: bool,
    },
    /// A container has other resources now, or still those that it had.
    Resized {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// What it was to have.
        to: Resources,
        /// Why it has not.
        failure: Option<String>,
    },
    /// A probe was answered.
    Probed {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// What was asked.
        kind: ProbeKind,
        /// What was found.
        health: Health,
    },
    /// The sandbox is gone.
    SandboxStopped,
    /// The volumes are gone.
    VolumesTornDown,
    /// The time that a `WakeAt` named has come.
    Tick,
}

/// What became of a resize that the node allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResizeNews {
    /// Every container has what it was given.
    Completed,
    /// One could not be given it, which is tried again; its name and why.
    Failed(String),
}

/// Something to be done. Answers come back as events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Set up every volume: answered by `VolumesReady` or `VolumesFailed`.
    SetUpVolumes,
    /// Make namespaces, cgroup and network: answered by `SandboxReady` or `SandboxFailed`.
    StartSandbox,
    /// Look whether the image is there: answered by `ImageReady`, `ImageMissing` or `ImageFailed`.
    EnsureImage {
        /// Index into the pod's containers.
        container: usize,
    },
    /// Fetch the image as its registry has it now: answered by `ImageReady` or `ImageFailed`.
    PullImage {
        /// Index into the pod's containers.
        container: usize,
    },
    /// Nobody waits for the image any more. No answer is expected, to this or to the pull.
    CancelPull {
        /// Index into the pod's containers.
        container: usize,
    },
    /// Create and start: answered by `ContainerStarted` or `ContainerFailed`, later `ContainerExited`.
    StartContainer {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it this is, from 0.
        attempt: u32,
    },
    /// Run a hook of a container: answered by `HookEnded`, unless the container ends before.
    RunHook {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// Which hook.
        hook: Hook,
    },
    /// Give a running container other resources: answered by `Resized`.
    ResizeContainer {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// What it is to have.
        to: Resources,
    },
    /// Tell people how the resize of a running pod goes.
    TellResize(ResizeNews),
    /// Ask how a container does, within the probe's timeout: answered by `Probed`.
    Probe {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
        /// What is asked.
        kind: ProbeKind,
    },
    /// Ask a container to end (its stop signal).
    StopContainer {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
    },
    /// End every process of a container.
    KillContainer {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
    },
    /// Remove what is left of a start that ended, its log excepted.
    RemoveContainer {
        /// Index into the pod's containers.
        container: usize,
        /// Which start of it.
        attempt: u32,
    },
    /// Tear down network and namespaces: answered by `SandboxStopped`.
    StopSandbox,
    /// Tear down volumes: answered by `VolumesTornDown`.
    TearDownVolumes,
    /// Send `Tick` at this time; replaces an earlier wish.
    WakeAt(Timestamp),
    /// Tell people.
    Emit(Notice),
    /// Delete the pod's object: nothing of it is left here.
    Release,
}

/// An Event of the API, without its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
    /// The container it is about.
    pub container: Option<String>,
}
