//! Step 10: carries out the commands of the pod machine. No decisions here: each command ends in an event.

mod action;
pub(crate) mod blocking;
pub(crate) mod container;
pub(crate) mod effective;
mod hook;
pub(crate) mod image;
pub(crate) mod memory;
mod probe;
mod profile;
mod propagation;
mod resize;
mod runtime_class;
pub(crate) mod sandbox;
mod stop_signal;
pub(crate) mod subpath;
pub(crate) mod termination;
pub(crate) mod undo;
pub(crate) mod users;
pub(crate) mod volume;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use agent_image::store::ImageStore;
use agent_network::Network;
use agent_pod::protocol::{Command, Event, Failure, Notice, ResizeNews};
use agent_runtime::seal::Program;
pub(crate) use api::causes::chain;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Preconditions};

use crate::allocation;
use crate::config::Config;
use crate::cpus::Cpus;
use crate::csi::Drivers;
use crate::device::Devices;
use crate::dra::{self, DeviceDrivers};
use crate::environment::{Allocatable, Place};
use crate::event;
use crate::failpoint::Step;
use crate::kubelet::{access::Access, usage::Usage};
use crate::metrics;
use crate::monitor::Monitor;
use crate::objects::Objects;
use crate::pulls::Pulls;
use crate::roster::Roster;
use crate::rotation;
use crate::service::Known;
use crate::static_pods::{is_static, mirror};

/// What every pod of this node shares.
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) client: kube::Client,
    pub(crate) images: ImageStore,
    pub(crate) pulls: Pulls,
    pub(crate) network: Network,
    pub(crate) services: Arc<Known>,
    pub(crate) memory_capacity: i64,
    pub(crate) allocatable: Allocatable,
    /// The same with the number of pods, by the names of resources.
    pub(crate) room: api::pod::Amounts,
    pub(crate) can_lower_oom_score: bool,
    /// Whether mounts below a mount can be made read-only with it.
    pub(crate) recursive_read_only: bool,
    /// This program, to be run as pod monitors.
    pub(crate) program: Program,
    pub(crate) recorder: event::Recorder,
    /// The objects that volumes show.
    pub(crate) objects: Objects,
    /// Those that are here.
    pub(crate) pods: Roster,
    /// The machine goes down.
    pub(crate) is_going_down: tokio::sync::watch::Sender<bool>,
    /// Devices of plugins.
    pub(crate) devices: Devices,
    /// Who has which processors.
    pub(crate) processors: Cpus,
    /// Held while the memory of all pods is protected.
    pub(crate) protecting: Mutex<()>,
    /// Drivers of storage.
    pub(crate) drivers: Drivers,
    /// Drivers of devices.
    pub(crate) device_drivers: DeviceDrivers,
    /// What was measured last.
    pub(crate) usage: Usage,
    /// Who may use the kubelet API.
    pub(crate) access: Access,
}

impl Host {
    pub(crate) fn place(&self, pod_ips: &[String]) -> Place {
        Place {
            node_name: self.config.node_name.clone(),
            host_ip: self.config.node_ip.to_string(),
            pod_ips: pod_ips.to_vec(),
            allocatable: self.allocatable,
            service_links: Default::default(),
        }
    }
}

/// The hands of one pod's worker. Cheap to clone: commands run beside each other.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) host: Arc<Host>,
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) pod_ips: Vec<String>,
    /// The open conversation with the pod's monitor, while there is one.
    pub(crate) monitor: Arc<Mutex<Option<Monitor>>>,
    /// Held shared by whatever makes or uses the sandbox and the volumes, alone by what removes them.
    pub(crate) order: Arc<tokio::sync::RwLock<()>>,
    /// What the pod's volumes show.
    pub(crate) live: Arc<volume::live::Live>,
    pub(crate) inputs: tokio::sync::mpsc::UnboundedSender<crate::worker::Input>,
    /// The processes of containers that a program was run in, by the name that the start has with the monitor.
    processes: Arc<Mutex<HashMap<String, oci_spec::runtime::Process>>>,
    /// What ends the hooks of containers, when dropped; by the name that the start has with the monitor.
    running: Arc<Mutex<HashMap<String, tokio::sync::watch::Sender<()>>>>,
    /// What ends the pull that a container waits for, when dropped.
    pub(crate) awaited: Arc<Mutex<HashMap<usize, tokio::sync::oneshot::Sender<()>>>>,
}

/// A failure of an error with its causes.
pub(crate) fn failure(reason: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { reason: reason.into(), message: chain(error) }
}

impl Executor {
    pub(crate) fn new(
        host: Arc<Host>,
        uid: String,
        pod: Arc<Pod>,
        inputs: tokio::sync::mpsc::UnboundedSender<crate::worker::Input>,
    ) -> Self {
        let (monitor, order, awaited) = (Arc::default(), Arc::default(), Arc::default());
        let (live, processes, running, pod_ips) = (Arc::default(), Arc::default(), Arc::default(), Vec::new());
        Self { host, uid, pod, pod_ips, monitor, order, live, inputs, processes, running, awaited }
    }

    /// The pod's object is new or changed.
    pub(crate) fn take(&mut self, pod: Arc<Pod>) {
        self.live.pod_is(&pod);
        self.pod = pod;
    }

    pub(crate) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn monitor(&self) -> Option<Monitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_monitor(&self, monitor: Option<Monitor>) {
        *self.monitor.lock().unwrap_or_else(PoisonError::into_inner) = monitor;
    }

    /// Runs one command. `WakeAt` is the worker's own business.
    pub(crate) async fn run(self, command: Command) -> Option<Event> {
        let (operation, host, began) = (metrics::operation(&command), Arc::clone(&self.host), Instant::now());
        let step = Step::of(&command);
        step.reach("asked");
        let outcome = self.carry_out(command).await;
        step.reach("done");
        if let Some(operation) = operation {
            host.config.metrics.carried_out(operation, began.elapsed(), outcome.as_ref());
        }
        outcome
    }

    async fn carry_out(self, command: Command) -> Option<Event> {
        tracing::debug!(
            hop = "agent",
            kind = "Pod",
            object = format!("{}/{}", self.namespace(), self.name()),
            uid = self.uid,
            ?command
        );
        match command {
            Command::SetUpVolumes => {
                let _order = self.order.read().await;
                let set_up = async {
                    volume::set_up(&self).await?;
                    dra::prepare(&self).await
                };
                Some(match set_up.await {
                    Ok(()) => Event::VolumesReady,
                    Err(failure) => Event::VolumesFailed(failure),
                })
            }
            Command::StartSandbox => Some(match sandbox::start(&self).await {
                Ok(ips) => Event::SandboxReady { ips },
                Err(failure) => Event::SandboxFailed(failure),
            }),
            Command::EnsureImage { container } => Some(image::ensure(&self, container).await),
            Command::PullImage { container } => image::pull(&self, container).await,
            Command::CancelPull { container } => {
                image::cancel(&self, container);
                None
            }
            Command::StartContainer { container, attempt } => {
                let _order = self.order.read().await;
                Some(match container::start(&self, container, attempt).await {
                    Ok(effective) => Event::ContainerStarted { container, effective },
                    Err((step, failure)) => Event::ContainerFailed { container, step, failure },
                })
            }
            Command::RunHook { container, attempt, hook } => {
                let succeeded = hook::run(&self, container, attempt, hook).await;
                Some(Event::HookEnded { container, attempt, hook, succeeded })
            }
            Command::ResizeContainer { container, attempt, to } => {
                let failure = resize::apply(&self, container, attempt, to).await.err();
                Some(Event::Resized { container, attempt, to, failure })
            }
            Command::TellResize(news) => {
                let (warning, reason, message) = match news {
                    ResizeNews::Completed => (false, "ResizeCompleted", allocation::completed(&self.pod)),
                    ResizeNews::Failed(error) => (true, "ResizeError", allocation::failed(&self.pod, &error)),
                };
                let notice = Notice { warning, reason, message, container: None };
                self.host.recorder.pod(&self.host.client, &self.pod, &notice).await;
                None
            }
            Command::Probe { container, attempt, kind } => {
                let health = probe::ask(&self, container, attempt, kind).await;
                self.host.config.metrics.probed(kind, &health);
                Some(Event::Probed { container, attempt, kind, health })
            }
            Command::StopContainer { container, attempt } => {
                container::signal(&self, container, attempt, container::Signal::Stop).await;
                None
            }
            Command::KillContainer { container, attempt } => {
                container::signal(&self, container, attempt, container::Signal::Kill).await;
                None
            }
            Command::RemoveContainer { container, attempt } => {
                let _order = self.order.read().await;
                container::remove(&self, container, attempt).await;
                None
            }
            Command::StopSandbox => {
                sandbox::stop(&self).await;
                Some(Event::SandboxStopped)
            }
            Command::TearDownVolumes => {
                let _order = self.order.write().await;
                volume::tear_down(&self, true).await;
                Some(Event::VolumesTornDown)
            }
            Command::Emit(notice) => {
                self.host.recorder.pod(&self.host.client, &self.pod, &notice).await;
                None
            }
            Command::Release => {
                self.release().await;
                None
            }
            Command::WakeAt(_) => None,
        }
    }

    /// Deletes the pod's object and the last files. Tried until the server has said that it is gone.
    async fn release(&self) {
        let is_static = is_static(&self.pod);
        let api: Api<Pod> = Api::namespaced(self.host.client.clone(), self.namespace());
        let preconditions = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        let mut wait = std::time::Duration::from_millis(100);
        loop {
            let released = match is_static {
                true => mirror::forget(self).await,
                false => api.delete(self.name(), &params).await.map(drop),
            };
            match released {
                Ok(()) => break,
                // Gone already, or another pod has the name now, which may be another node's.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => break,
                Err(error) => tracing::warn!(%error, uid = self.uid, "releasing the pod's object"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(std::time::Duration::from_secs(10));
        }
        self.remove_logs().await;
    }

    /// Removes the pod's logs, if they are this instance's.
    pub(crate) async fn remove_logs(&self) {
        let (logs, instance) = (self.log_dir(), self.host.config.instance.clone());
        let removed = blocking::run(move || match instance.owns(&logs) {
            true => {
                rotation::unlink(&instance.log_link_dir(), &logs);
                agent_volume::removal::remove_tree(&logs)
            }
            false => Ok(()),
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), uid = self.uid, "removing the pod's logs"),
            Err(error) => tracing::error!(%error, uid = self.uid, "removing the pod's logs"),
        }
    }

    /// The pod's directory of logs: `NAMESPACE_NAME_UID`.
    pub(crate) fn log_dir(&self) -> std::path::PathBuf {
        self.host.config.instance.log_dir().join(format!("{}_{}_{}", self.namespace(), self.name(), self.uid))
    }
}
