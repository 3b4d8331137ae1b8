//! The whole control plane on one screen.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controller_apiserver::authn::User;
use controller_apiserver::config_file::{self, ConfigFileError};
use controller_apiserver::server::{self, ApiServer, BuildError};
use controller_apiserver::service::Ranges;
use controller_apiserver::topic;
use controller_scheduler::settings::Settings;
use controller_store::disk::Disk;
use controller_store::driver::DriverError;
use controller_store::model::CommitError;
use controller_store::seal::Seal;
use controller_store::store::{self, Store};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::{disk, network};

/// The user that binds pods; the role of that name is one of the defaults.
const SCHEDULER: &str = "system:kube-scheduler";

/// The user that applies the files of `server/manifests`, with the group that may do everything.
const ADMINISTRATOR: &str = "system:admin";
const MASTERS: &str = "system:masters";

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory of the control plane could not be made.
    #[error("creating {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The scheduler's configuration cannot be used.
    #[error("--scheduler-config")]
    Scheduler(#[from] ConfigFileError),
    /// The store could not be opened.
    #[error("opening the store")]
    Store(#[from] DriverError),
    /// What is to be sealed anew could not be written.
    #[error("writing sealed values")]
    Reseal(#[from] CommitError),
    /// The API server could not be assembled.
    #[error("assembling the API server")]
    ApiServer(#[from] BuildError),
    /// The port could not be had.
    #[error("listening on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// A control plane that serves.
pub struct ControlPlane {
    /// The API server, for clients in this process.
    pub api: Arc<ApiServer>,
    /// Where it listens.
    pub address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Config {
    /// Opens the store, assembles the API server and starts to serve, then starts scheduler and reconcilers.
    pub async fn start(mut self) -> Result<ControlPlane, StartError> {
        let scheduling = self.scheduler.as_deref().map(|path| config_file::read(path, Settings::parse));
        let scheduling = scheduling.transpose()?.unwrap_or_default();
        let server_dir = self.data_dir.join("server");
        private_dir(&server_dir).map_err(|source| StartError::Directory { path: server_dir.clone(), source })?;
        let mut metrics = std::mem::take(&mut self.metrics);
        let seal = self.encryption.take().map(|encryption| Arc::new(encryption) as Arc<dyn Seal>);
        let of_store = store::Config { seal, topic_of: Some(topic::of), ..store::Config::default() };
        let (of_store, of_scheduler) = (of_store, controller_scheduler::metrics::Metrics::default());
        of_store.metrics.register(&mut metrics);
        of_scheduler.register(&mut metrics);
        controller_reconcilers::metrics::register(&mut metrics);
        let store = Arc::new(Store::open(Disk::open(&server_dir.join("store"))?, of_store)?);
        // Keys may have changed since these were written.
        store.reseal().await?;
        let trouble = store.trouble();
        let api = server::Config {
            dir: server_dir.clone(),
            names: self.names(),
            event_ttl: self.event_ttl,
            services: Ranges { cidr: self.service_cidr, dns: self.cluster_dns },
            metrics,
            audit: self.audit.take(),
            local_storage: self.local_storage,
        };
        let api = Arc::new(api.build(store).await?);

        let address = SocketAddr::new(self.bind_address, self.port);
        let listening = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;

        // Pods are led to a server that listens on loopback only by the rules of their node.
        let announced = if self.bind_address.is_unspecified() { self.advertise_address } else { self.bind_address };
        api.announce(announced, address.port()).await?;

        let mut tasks = JoinSet::new();
        let announcing = Arc::clone(&api);
        tasks.spawn(async move { announcing.keep_announced(announced, address.port()).await });
        let serving = Arc::clone(&api);
        tasks.spawn(async move { serving.serve(listener).await });
        let telling = Arc::clone(&api);
        tasks.spawn(async move { telling.keep_availability_told().await });

        let scheduler = kube::Client::new(api.client(User::new(SCHEDULER, &[])), "default");
        let scheduler =
            controller_scheduler::driver::Config { client: scheduler, metrics: of_scheduler, settings: scheduling };
        tasks.spawn(controller_scheduler::driver::run(scheduler));
        let administrator = kube::Client::new(api.client(User::new(ADMINISTRATOR, &[MASTERS])), "default");
        let network = network::object(&self);
        tasks.spawn(async move { network::publish(administrator, network).await });
        let teller = kube::Client::new(api.client(User::new(ADMINISTRATOR, &[MASTERS])), "default");
        tasks.spawn(disk::tell(teller, self.node_name, trouble));
        let serving = Arc::clone(&api);
        let reconcilers = controller_reconcilers::Config {
            client_for: Box::new(move |name| {
                kube::Client::new(serving.client(User::service_account("kube-system", name)), "default")
            }),
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            node_prefix: self.node_prefix,
            manifests: server_dir.join("manifests").into(),
            administrator: kube::Client::new(api.client(User::new(ADMINISTRATOR, &[MASTERS])), "default"),
            csi_controllers: self.csi_controllers,
            root_ca: api.ca().to_owned(),
        };
        tasks.spawn(controller_reconcilers::run(reconcilers));
        Ok(ControlPlane { api, address, tasks })
    }
}

/// A directory that nobody else may enter: the store holds every Secret, and the keys lie beside it.
fn private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

impl ControlPlane {
    /// Ends watches, lets requests finish, and makes the last commits durable.
    pub async fn drain(mut self) {
        self.api.shutdown();
        // What decides has no state of its own: it is ended, not asked.
        self.tasks.shutdown().await;
    }
}
