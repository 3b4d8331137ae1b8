//! All reconcilers on one screen.
use crate::cache::Cache;
use crate::pod::PodFacts;
use crate::record::Recorder;
use crate::{deployment, replicaset};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What the reconcilers need.
pub struct Config {
    /// A client with the identity of the controller of this name, such as `replicaset-controller`.
    pub client_for: Box<dyn Fn(&str) -> kube::Client + Send + Sync>,
    /// Where the pods' addresses come from.
    pub cluster_cidr: ipnet::Ipv4Net,
    /// The length of a node's part of it.
    pub node_prefix: u8,
    /// The certificate (PEM) by which pods know the API server.
    pub root_ca: String,
}

/// Reconciles until it is dropped.
pub async fn run(config: Config) {
    let mut tasks: JoinSet<()> = JoinSet::new();
    let pods: Arc<Cache<PodFacts>> = Cache::new();
    let sets: Arc<Cache<ReplicaSet>> = Cache::new();
    let client = (config.client_for)("replicaset-controller");
    tasks.spawn(replicaset::start(replicaset::Reconciler {
        recorder: Recorder::start(client.clone(), "replicaset-controller"),
        sets: Arc::clone(&sets),
        pods: Arc::clone(&pods),
        client: client.clone(),
    }));
    tasks.spawn(Arc::clone(&pods).reflect(Api::<Pod>::all(client.clone()), watcher::Config::default(), PodFacts::new));
    tasks.spawn(Arc::clone(&sets).reflect(Api::<ReplicaSet>::all(client), watcher::Config::default(), |set| set));
    let client = (config.client_for)("deployment-controller");
    let deployments: Arc<Cache<Deployment>> = Cache::new();
    tasks.spawn(deployment::start(deployment::Reconciler {
        recorder: Recorder::start(client.clone(), "deployment-controller"),
        deployments: Arc::clone(&deployments),
        sets,
        pods,
        client: client.clone(),
    }));
    tasks.spawn(
        deployments.reflect(Api::<Deployment>::all(client), watcher::Config::default(), |deployment| deployment),
    );
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a reconciler ended early");
        }
    }
}
