//! What the cluster's network looks like, told to machines that join.

use std::time::Duration;

use api::well_known::{CONFIG_MAP_CLUSTER, NAMESPACE_SYSTEM};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::config::Config;

const AGAIN: Duration = Duration::from_secs(5);

/// The ConfigMap that says it.
pub(crate) fn object(config: &Config) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP_CLUSTER, "namespace": NAMESPACE_SYSTEM},
        "data": {"cluster-cidr": config.cluster_cidr.to_string(), "service-cidr": config.service_cidr.to_string(),
            "cluster-dns": config.cluster_dns.to_string(), "cluster-domain": config.cluster_domain}})
}

/// Writes it, for the flags may be others than those of the last start.
pub(crate) async fn publish(client: kube::Client, object: Value) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE_SYSTEM);
    let params = PatchParams::apply("gantry").force();
    while let Err(error) = api.patch(CONFIG_MAP_CLUSTER, &params, &Patch::Apply(&object)).await {
        tracing::warn!(%error, "telling what the cluster's network looks like");
        tokio::time::sleep(AGAIN).await;
    }
}
