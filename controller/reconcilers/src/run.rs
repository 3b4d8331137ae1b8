//! All reconcilers on one screen.
use crate::cache::{Cache, Key, key_of};
use crate::certificate;
use crate::claim::ClaimFacts;
use crate::endpoints::{self, BackendFacts, EndpointsFacts, ServiceFacts, SliceFacts};
use crate::history::Keeper;
use crate::namespaced_default::{self, NamespaceFacts, RootCaFacts};
use crate::node::{self, NodeFacts};
use crate::pod::{PodFacts, PodWriter};
use crate::record::Recorder;
use crate::{
    abandoned, aggregation, attachment, autoscale, cronjob, csi, daemonset, deployment, device_taint, disruption,
    ephemeral_volume, garbage, job, manifests, namespace, protection, quota, replicaset, resource_claim, statefulset,
    volume_binding,
};
use api::volume::{Claim, Class, Volume};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::resource::v1::{DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment};
use kube::Api;
use kube::runtime::watcher;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinSet;

/// What the reconcilers need.
pub struct Config {
    /// A client with the identity of the controller of this name, such as `replicaset-controller`.
    pub client_for: Box<dyn Fn(&str) -> kube::Client + Send + Sync>,
    /// Where the pods' addresses come from.
    pub cluster_cidr: ipnet::Ipv4Net,
    /// Where the Services' addresses come from.
    pub service_cidr: ipnet::Ipv4Net,
    /// The length of a node's part of the pods' addresses.
    pub node_prefix: u8,
    /// Files of objects to apply.
    pub manifests: Arc<Path>,
    /// Who applies them.
    pub administrator: kube::Client,
    /// Drivers of storage whose controller service is called here, by name, and the socket of each.
    pub csi_controllers: BTreeMap<String, PathBuf>,
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
        flavor: replicaset::Flavor::ReplicaSet,
        recorder: Recorder::start(client.clone(), "replicaset-controller"),
        sets: Arc::clone(&sets),
        writer: PodWriter { client: client.clone(), pods: Arc::clone(&pods) },
    }));
    let backends: Arc<Cache<BackendFacts>> = Cache::new();
    let api = Api::<Pod>::all(client.clone());
    tasks.spawn(Arc::clone(&pods).reflect_both(api, PodFacts::new, Arc::clone(&backends), BackendFacts::new));
    tasks.spawn(Arc::clone(&sets).reflect(Api::<ReplicaSet>::all(client), watcher::Config::default(), |set| set));
    let client = (config.client_for)("replication-controller");
    let controllers: Arc<Cache<ReplicaSet>> = Cache::new();
    tasks.spawn(replicaset::start(replicaset::Reconciler {
        flavor: replicaset::Flavor::ReplicationController,
        recorder: Recorder::start(client.clone(), "replication-controller"),
        sets: Arc::clone(&controllers),
        writer: PodWriter { client: client.clone(), pods: Arc::clone(&pods) },
    }));
    let api = Api::<ReplicationController>::all(client);
    tasks.spawn(Arc::clone(&controllers).reflect(api, watcher::Config::default(), replicaset::of_controller));
    let client = (config.client_for)("deployment-controller");
    let deployments: Arc<Cache<Deployment>> = Cache::new();
    tasks.spawn(deployment::start(deployment::Reconciler {
        recorder: Recorder::start(client.clone(), "deployment-controller"),
        deployments: Arc::clone(&deployments),
        sets: Arc::clone(&sets),
        pods: Arc::clone(&pods),
        client: client.clone(),
    }));
    tasks.spawn(Arc::clone(&deployments).reflect(
        Api::<Deployment>::all(client),
        watcher::Config::default(),
        |deployment| deployment,
    ));
    let all = watcher::Config::default;
    let client = (config.client_for)("disruption-controller");
    let budgets: Arc<Cache<PodDisruptionBudget>> = Cache::new();
    let stateful_sets: Arc<Cache<StatefulSet>> = Cache::new();
    tasks.spawn(disruption::start(disruption::Reconciler {
        recorder: Recorder::start(client.clone(), "controllermanager"),
        budgets: Arc::clone(&budgets),
        pods: Arc::clone(&pods),
        deployments,
        replica_sets: sets,
        stateful_sets: Arc::clone(&stateful_sets),
        replication_controllers: controllers,
        client: client.clone(),
    }));
    tasks.spawn(budgets.reflect(Api::<PodDisruptionBudget>::all(client), all(), |budget| budget));

    let client = (config.client_for)("job-controller");
    let jobs: Arc<Cache<Job>> = Cache::new();
    tasks.spawn(job::start(job::Reconciler {
        recorder: Recorder::start(client.clone(), "job-controller"),
        jobs: Arc::clone(&jobs),
        writer: PodWriter { client: client.clone(), pods: Arc::clone(&pods) },
    }));
    tasks.spawn(job::delete_finished((config.client_for)("ttl-after-finished-controller"), Arc::clone(&jobs)));
    tasks.spawn(Arc::clone(&jobs).reflect(Api::<Job>::all(client), all(), |job| job));
    let client = (config.client_for)("cronjob-controller");
    let crons: Arc<Cache<CronJob>> = Cache::new();
    tasks.spawn(cronjob::start(cronjob::Reconciler {
        recorder: Recorder::start(client.clone(), "cronjob-controller"),
        crons: Arc::clone(&crons),
        jobs,
        client: client.clone(),
    }));
    tasks.spawn(crons.reflect(Api::<CronJob>::all(client), all(), |cron| cron));

    let client = (config.client_for)("horizontal-pod-autoscaler");
    let autoscalers: Arc<Cache<HorizontalPodAutoscaler>> = Cache::new();
    let autoscaling = autoscale::Reconciler::new(client.clone(), Arc::clone(&autoscalers), Arc::clone(&pods));
    tasks.spawn(autoscale::start(autoscaling));
    tasks.spawn(autoscalers.reflect(Api::<HorizontalPodAutoscaler>::all(client), all(), |autoscaler| autoscaler));

    let client = (config.client_for)("resourcequota-controller");
    let quotas: Arc<Cache<quota::QuotaFacts>> = Cache::new();
    tasks.spawn(quota::start(quota::Reconciler::new(client.clone(), Arc::clone(&quotas), Arc::clone(&pods))));
    tasks.spawn(quotas.reflect(Api::<ResourceQuota>::all(client), all(), quota::QuotaFacts::new));

    let client = (config.client_for)("pvc-protection-controller");
    let claims: Arc<Cache<ClaimFacts>> = Cache::new();
    tasks.spawn(protection::claims(client.clone(), Arc::clone(&claims), Arc::clone(&pods)));
    tasks.spawn(Arc::clone(&claims).reflect(Api::<PersistentVolumeClaim>::all(client), all(), ClaimFacts::new));
    let client = (config.client_for)("pv-protection-controller");
    let volumes: Arc<Cache<protection::VolumeFacts>> = Cache::new();
    tasks.spawn(protection::volumes(client.clone(), Arc::clone(&volumes)));
    tasks.spawn(volumes.reflect(Api::<PersistentVolume>::all(client), all(), protection::VolumeFacts::new));

    let client = (config.client_for)("podgroup-protection-controller");
    let groups: Arc<Cache<protection::GroupFacts>> = Cache::new();
    tasks.spawn(protection::groups(client.clone(), Arc::clone(&groups), Arc::clone(&pods)));
    tasks.spawn(groups.reflect(Api::<PodGroup>::all(client), all(), protection::GroupFacts::new));

    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let client = (config.client_for)("service-account-controller");
    let namespaces: Arc<Cache<NamespaceFacts>> = Cache::new();
    let accounts: Arc<Cache<Key>> = Cache::new();
    tasks.spawn(namespaced_default::service_accounts(client.clone(), Arc::clone(&namespaces), Arc::clone(&accounts)));
    let api = Api::<ServiceAccount>::all(client);
    tasks.spawn(accounts.reflect(api, named(namespaced_default::ACCOUNT), |account| key_of(&account.metadata)));
    let client = (config.client_for)("root-ca-cert-publisher");
    let maps: Arc<Cache<RootCaFacts>> = Cache::new();
    let certificate = config.root_ca;
    let publisher =
        namespaced_default::root_ca(client.clone(), Arc::clone(&namespaces), Arc::clone(&maps), certificate);
    tasks.spawn(publisher);
    tasks.spawn(maps.reflect(Api::<ConfigMap>::all(client), named(namespaced_default::ROOT_CA), RootCaFacts::new));

    let client = (config.client_for)("namespace-controller");
    tasks.spawn(namespace::start(client.clone(), Arc::clone(&namespaces), Arc::clone(&pods)));
    let api = Api::<Namespace>::all(client);
    tasks.spawn(namespaces.reflect(api, watcher::Config::default(), NamespaceFacts::new));

    let monitor = (config.client_for)("node-controller");
    let nodes: Arc<Cache<NodeFacts>> = Cache::new();
    let leases: Arc<Cache<node::LeaseFacts>> = Cache::new();
    tasks.spawn(node::start(node::Reconciler {
        client: monitor.clone(),
        nodes: Arc::clone(&nodes),
        leases: Arc::clone(&leases),
        pods: Arc::clone(&pods),
        ranges: node::Ranges::new(config.cluster_cidr, config.node_prefix),
    }));
    tasks.spawn(Arc::clone(&nodes).reflect(
        Api::<Node>::all(monitor.clone()),
        watcher::Config::default(),
        NodeFacts::new,
    ));
    let ephemeral = (config.client_for)("ephemeral-volume-controller");
    let recorder = Recorder::start(ephemeral.clone(), "ephemeral-volume-controller");
    tasks.spawn(ephemeral_volume::start(ephemeral, Arc::clone(&pods), recorder));
    let client = (config.client_for)("resource-claim-controller");
    let (device_claims, templates) = (Cache::new(), Cache::new());
    tasks.spawn(resource_claim::start(resource_claim::Reconciler {
        recorder: Recorder::start(client.clone(), "resource_claim"),
        pods: Arc::clone(&pods),
        claims: Arc::clone(&device_claims),
        templates: Arc::clone(&templates),
        client: client.clone(),
    }));
    let taints = (config.client_for)("device-taint-eviction-controller");
    let (slices, rules) = (Cache::new(), Cache::new());
    tasks.spawn(device_taint::start(device_taint::Reconciler {
        recorder: Recorder::start(taints.clone(), "device-taint-eviction"),
        pods: Arc::clone(&pods),
        claims: Arc::clone(&device_claims),
        slices: Arc::clone(&slices),
        rules: Arc::clone(&rules),
        client: taints.clone(),
    }));
    let api = Api::<ResourceSlice>::all(taints.clone());
    tasks.spawn(slices.reflect(api, all(), device_taint::SliceFacts::new));
    tasks.spawn(rules.reflect(Api::<DeviceTaintRule>::all(taints), all(), device_taint::RuleFacts::new));
    let api = Api::<ResourceClaim>::all(client.clone());
    tasks.spawn(device_claims.reflect(api, all(), resource_claim::DeviceClaimFacts::new));
    let api = Api::<ResourceClaimTemplate>::all(client);
    tasks.spawn(templates.reflect(api, all(), |template| key_of(&template.metadata)));
    let binder = (config.client_for)("persistent-volume-binder");
    let (bindings, volumes, classes) = (Cache::new(), Cache::new(), Cache::new());
    let attacher = (config.client_for)("attachdetach-controller");
    let (drivers, attachments) = (Cache::new(), Cache::new());
    tasks.spawn(attachment::start(attachment::Reconciler {
        recorder: Recorder::start(attacher.clone(), "attachdetach-controller"),
        pods: Arc::clone(&pods),
        claims: Arc::clone(&bindings),
        volumes: Arc::clone(&volumes),
        nodes: Arc::clone(&nodes),
        drivers: Arc::clone(&drivers),
        attachments: Arc::clone(&attachments),
        unready: Default::default(),
        client: attacher.clone(),
    }));
    tasks.spawn(drivers.reflect(Api::<CSIDriver>::all(attacher.clone()), all(), attachment::DriverFacts::new));
    let api = Api::<VolumeAttachment>::all(attacher);
    tasks.spawn(Arc::clone(&attachments).reflect(api, all(), attachment::AttachmentFacts::new));
    if !config.csi_controllers.is_empty() {
        let client = (config.client_for)("csi-controller");
        let recorder = Recorder::start(client.clone(), "csi-controller");
        let csi_nodes: Arc<Cache<csi::CsiNodeFacts>> = Cache::new();
        for (name, socket) in config.csi_controllers {
            tasks.spawn(csi::start(csi::Reconciler {
                driver: csi::Driver::new(name, socket),
                recorder: recorder.clone(),
                claims: Arc::clone(&bindings),
                volumes: Arc::clone(&volumes),
                classes: Arc::clone(&classes),
                nodes: Arc::clone(&nodes),
                csi_nodes: Arc::clone(&csi_nodes),
                attachments: Arc::clone(&attachments),
                client: client.clone(),
            }));
        }
        tasks.spawn(csi_nodes.reflect(Api::<CSINode>::all(client), all(), csi::CsiNodeFacts::new));
    }
    tasks.spawn(volume_binding::start(volume_binding::Reconciler {
        recorder: Recorder::start(binder.clone(), "persistentvolume-controller"),
        claims: Arc::clone(&bindings),
        volumes: Arc::clone(&volumes),
        classes: Arc::clone(&classes),
        nodes: Arc::clone(&nodes),
        client: binder.clone(),
    }));
    tasks.spawn(bindings.reflect(Api::<PersistentVolumeClaim>::all(binder.clone()), all(), Claim::new));
    tasks.spawn(volumes.reflect(Api::<PersistentVolume>::all(binder.clone()), all(), Volume::new));
    tasks.spawn(classes.reflect(Api::<StorageClass>::all(binder), all(), Class::new));

    let client = (config.client_for)("statefulset-controller");
    let revisions: Arc<Cache<ControllerRevision>> = Cache::new();
    tasks.spawn(statefulset::start(statefulset::Reconciler {
        writer: PodWriter { client: client.clone(), pods: Arc::clone(&pods) },
        history: Keeper { client: client.clone(), revisions: Arc::clone(&revisions) },
        sets: Arc::clone(&stateful_sets),
        claims,
        recorder: Recorder::start(client.clone(), "statefulset-controller"),
    }));
    tasks.spawn(stateful_sets.reflect(Api::<StatefulSet>::all(client.clone()), all(), |set| set));
    let api = Api::<ControllerRevision>::all(client);
    tasks.spawn(Arc::clone(&revisions).reflect(api, all(), |revision| revision));
    let client = (config.client_for)("daemon-set-controller");
    let daemon_sets: Arc<Cache<DaemonSet>> = Cache::new();
    tasks.spawn(daemonset::start(daemonset::Reconciler {
        writer: PodWriter { client: client.clone(), pods: Arc::clone(&pods) },
        history: Keeper { client: client.clone(), revisions },
        sets: Arc::clone(&daemon_sets),
        nodes: Arc::clone(&nodes),
        recorder: Recorder::start(client.clone(), "daemonset-controller"),
    }));
    tasks.spawn(daemon_sets.reflect(Api::<DaemonSet>::all(client), all(), |set| set));

    let slices_client = (config.client_for)("endpointslice-controller");
    let endpoints_client = (config.client_for)("endpoint-controller");
    let services: Arc<Cache<ServiceFacts>> = Cache::new();
    let slices: Arc<Cache<SliceFacts>> = Cache::new();
    let classic: Arc<Cache<EndpointsFacts>> = Cache::new();
    tasks.spawn(endpoints::start(endpoints::Reconciler {
        slices_client: slices_client.clone(),
        mirror_client: (config.client_for)("endpointslicemirroring-controller"),
        endpoints_client: endpoints_client.clone(),
        services: Arc::clone(&services),
        pods: backends,
        slices: Arc::clone(&slices),
        endpoints: Arc::clone(&classic),
        nodes: Arc::clone(&nodes),
        gone: Arc::default(),
    }));
    tasks.spawn(services.reflect(Api::<Service>::all(slices_client.clone()), all(), ServiceFacts::new));
    tasks.spawn(slices.reflect(Api::<EndpointSlice>::all(slices_client), all(), SliceFacts::new));
    tasks.spawn(classic.reflect(Api::<Endpoints>::all(endpoints_client), all(), EndpointsFacts::new));

    let collector = (config.client_for)("pod-garbage-collector");
    tasks.spawn(abandoned::start(abandoned::Reconciler { client: collector, nodes: Arc::clone(&nodes), pods }));
    let api = Api::<Lease>::namespaced(monitor, api::well_known::NAMESPACE_NODE_LEASE);
    tasks.spawn(leases.reflect(api, watcher::Config::default(), node::LeaseFacts::new));

    let client = (config.client_for)("clusterrole-aggregation-controller");
    let roles: Arc<Cache<ClusterRole>> = Cache::new();
    tasks.spawn(aggregation::start(client.clone(), Arc::clone(&roles)));
    tasks.spawn(roles.reflect(Api::<ClusterRole>::all(client), all(), |role| role));

    let ranges = [config.cluster_cidr, config.service_cidr];
    tasks.spawn(certificate::start((config.client_for)("certificate-controller"), ranges));
    tasks.spawn(manifests::start(config.administrator, config.manifests));
    tasks.spawn(garbage::start((config.client_for)("generic-garbage-collector")));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a reconciler ended early");
        }
    }
}
