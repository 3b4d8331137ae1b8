//! `gantry agent`: this machine as a node of a cluster whose server runs elsewhere.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agent::instance::Instance;
use agent::join::{self, Member};
use agent::resolver::ClusterDns;
use api::join_token::JoinToken;
use prometheus_client::registry::Registry;

use super::DataDir;
use crate::config_file::ConfigFile;
use crate::failure::Failure;
use crate::node_flags::NodeArgs;
use crate::process;
use crate::service::{self, LogArgs};
use crate::state_version;

/// Flags of `gantry agent`; names as k3s has them where the thing is the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    data: DataDir,
    /// Where the cluster's server answers: https://HOST:PORT.
    #[arg(long, value_name = "URL", env = "GANTRY_URL")]
    server: String,
    /// What `gantry token create` printed on the server; needed once.
    #[arg(long, value_name = "TOKEN", env = "GANTRY_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// File that holds the token.
    #[arg(long, value_name = "FILE", env = "GANTRY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    log: LogArgs,
}

impl Args {
    /// Where everything is kept.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data.data_dir
    }

    fn token(&self) -> Result<Option<JoinToken>, Failure> {
        let (flag, text) = match (&self.token, &self.token_file) {
            (Some(text), _) => ("--token".to_owned(), text.clone()),
            (None, Some(path)) => {
                let told = |error| Failure::error(format!("--token-file {}: {error}", path.display()));
                (format!("--token-file {}", path.display()), std::fs::read_to_string(path).map_err(told)?)
            }
            (None, None) => return Ok(None),
        };
        text.parse().map(Some).map_err(|error| Failure::error(format!("{flag}: {error}")))
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    args.log.start();
    service::run(serve(args))
}

async fn serve(args: Args) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.data.data_dir)?;
    state_version::claim(&args.data.data_dir)?;
    // What cannot be used is told before anything runs.
    let settings = args.node.settings()?;
    let token = args.token()?;
    let grace = args.node.shutdown_grace()?;
    let mut stop = service::Stop::listen()?;
    let instance = Instance::of(&args.data.data_dir)?;
    let (node_name, node_ip) = (args.node.name()?, args.node.address());
    let wishes = join::Wishes {
        server: args.server.clone(),
        token,
        dir: instance.data_dir.join("agent/tls"),
        node_name: node_name.clone(),
        addresses: vec![node_ip],
    };
    let member = tokio::select! {
        member = join::join(&wishes) => member?,
        () = stop.asked_for() => return Ok(()),
    };
    let (metrics, mut registry) = (agent::metrics::Metrics::default(), Registry::default());
    process::register(&mut registry);
    metrics.register(&mut registry);
    let Member { client, kubelet_tls, cluster, kubeconfig, .. } = &member;
    let config = agent::config::Config {
        instance,
        node_name,
        node_ip,
        labels: args.node.labels(),
        taints: args.node.taints(),
        kubelet_port: args.node.kubelet_port(),
        kubelet_tls: Arc::clone(kubelet_tls),
        cluster_cidr: cluster.cluster_cidr,
        registries: settings.registries,
        service_cidr: cluster.service_cidr,
        cluster_dns: ClusterDns { address: cluster.cluster_dns, domain: cluster.cluster_domain.clone() },
        dns_kubeconfig: kubeconfig.clone(),
        cdi_dirs: args.node.cdi_dirs(),
        eviction: settings.eviction,
        max_pods: args.node.max_pods(),
        pod_max_pids: args.node.pod_max_pids(),
        runtimes: settings.runtimes,
        cpus: settings.cpus,
        topology: settings.topology,
        memory: settings.memory,
        metrics,
        registry: Arc::new(registry),
    };
    let agent = config.start(client.clone()).await?;
    eprintln!("ready {} {}", args.server, kubeconfig.display());
    service::tell_ready();
    tokio::select! {
        () = stop.asked_for() => {}
        () = member.keep() => {}
    }
    agent.end_pods_of_a_machine_that_stops(grace).await;
    agent.drain().await;
    Ok(())
}
