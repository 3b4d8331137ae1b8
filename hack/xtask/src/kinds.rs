//! The types whose schemas are generated: every served kind and the bodies of subresources.
//! Those of metrics.k8s.io have no type in k8s-openapi; they stand here.
use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1 as meta};
use schemars::{JsonSchema, SchemaGenerator};
use std::collections::BTreeMap;

/// NodeMetrics is what a node used in a window of time.
#[derive(JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics", rename_all = "camelCase")]
#[expect(dead_code, reason = "its schema is what it is for")]
struct NodeMetrics {
    /// The version of the schema of this object.
    api_version: Option<String>,
    /// The kind of this object.
    kind: Option<String>,
    /// The node's name and labels.
    metadata: meta::ObjectMeta,
    /// The end of the window.
    timestamp: meta::Time,
    /// How long the window is.
    window: String,
    /// What was used, by resource.
    usage: BTreeMap<String, Quantity>,
}

/// PodMetrics is what the containers of a pod used in a window of time.
#[derive(JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics", rename_all = "camelCase")]
#[expect(dead_code, reason = "its schema is what it is for")]
struct PodMetrics {
    /// The version of the schema of this object.
    api_version: Option<String>,
    /// The kind of this object.
    kind: Option<String>,
    /// The pod's name, namespace and labels.
    metadata: meta::ObjectMeta,
    /// The end of the window.
    timestamp: meta::Time,
    /// How long the window is.
    window: String,
    /// The containers that ran in the window.
    containers: Vec<ContainerMetrics>,
}

/// ContainerMetrics is what one container used.
#[derive(JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics", rename_all = "camelCase")]
#[expect(dead_code, reason = "its schema is what it is for")]
struct ContainerMetrics {
    /// The container's name.
    name: String,
    /// What was used, by resource.
    usage: BTreeMap<String, Quantity>,
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// Registers every type, in the order of `facts/resources.tsv`.
pub(crate) fn add_all(generator: &mut SchemaGenerator) {
    add::<k8s_openapi::api::core::v1::Binding>(generator);
    add::<k8s_openapi::api::core::v1::ComponentStatus>(generator);
    add::<k8s_openapi::api::core::v1::ConfigMap>(generator);
    add::<k8s_openapi::api::core::v1::Endpoints>(generator);
    add::<k8s_openapi::api::core::v1::Event>(generator);
    add::<k8s_openapi::api::core::v1::LimitRange>(generator);
    add::<k8s_openapi::api::core::v1::Namespace>(generator);
    add::<k8s_openapi::api::core::v1::Node>(generator);
    add::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(generator);
    add::<k8s_openapi::api::core::v1::PersistentVolume>(generator);
    add::<k8s_openapi::api::core::v1::Pod>(generator);
    add::<k8s_openapi::api::core::v1::PodTemplate>(generator);
    add::<k8s_openapi::api::core::v1::ReplicationController>(generator);
    add::<k8s_openapi::api::core::v1::ResourceQuota>(generator);
    add::<k8s_openapi::api::core::v1::Secret>(generator);
    add::<k8s_openapi::api::core::v1::ServiceAccount>(generator);
    add::<k8s_openapi::api::core::v1::Service>(generator);
    add::<k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicy>(generator);
    add::<k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding>(generator);
    add::<k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration>(generator);
    add::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy>(generator);
    add::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>(generator);
    add::<k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration>(generator);
    add::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>(generator);
    add::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>(generator);
    add::<k8s_openapi::api::apps::v1::ControllerRevision>(generator);
    add::<k8s_openapi::api::apps::v1::DaemonSet>(generator);
    add::<k8s_openapi::api::apps::v1::Deployment>(generator);
    add::<k8s_openapi::api::apps::v1::ReplicaSet>(generator);
    add::<k8s_openapi::api::apps::v1::StatefulSet>(generator);
    add::<k8s_openapi::api::authentication::v1::SelfSubjectReview>(generator);
    add::<k8s_openapi::api::authentication::v1::TokenReview>(generator);
    add::<k8s_openapi::api::authorization::v1::LocalSubjectAccessReview>(generator);
    add::<k8s_openapi::api::authorization::v1::SelfSubjectAccessReview>(generator);
    add::<k8s_openapi::api::authorization::v1::SelfSubjectRulesReview>(generator);
    add::<k8s_openapi::api::authorization::v1::SubjectAccessReview>(generator);
    add::<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler>(generator);
    add::<k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler>(generator);
    add::<k8s_openapi::api::batch::v1::CronJob>(generator);
    add::<k8s_openapi::api::batch::v1::Job>(generator);
    add::<k8s_openapi::api::certificates::v1::CertificateSigningRequest>(generator);
    add::<k8s_openapi::api::certificates::v1::ClusterTrustBundle>(generator);
    add::<k8s_openapi::api::certificates::v1::PodCertificateRequest>(generator);
    add::<k8s_openapi::api::coordination::v1::Lease>(generator);
    add::<k8s_openapi::api::discovery::v1::EndpointSlice>(generator);
    add::<k8s_openapi::api::events::v1::Event>(generator);
    add::<k8s_openapi::api::flowcontrol::v1::FlowSchema>(generator);
    add::<k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration>(generator);
    add::<NodeMetrics>(generator);
    add::<PodMetrics>(generator);
    add::<k8s_openapi::api::networking::v1::IngressClass>(generator);
    add::<k8s_openapi::api::networking::v1::Ingress>(generator);
    add::<k8s_openapi::api::networking::v1::IPAddress>(generator);
    add::<k8s_openapi::api::networking::v1::NetworkPolicy>(generator);
    add::<k8s_openapi::api::networking::v1::ServiceCIDR>(generator);
    add::<k8s_openapi::api::node::v1::RuntimeClass>(generator);
    add::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(generator);
    add::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>(generator);
    add::<k8s_openapi::api::rbac::v1::ClusterRole>(generator);
    add::<k8s_openapi::api::rbac::v1::RoleBinding>(generator);
    add::<k8s_openapi::api::rbac::v1::Role>(generator);
    add::<k8s_openapi::api::resource::v1::DeviceClass>(generator);
    add::<k8s_openapi::api::resource::v1::DeviceTaintRule>(generator);
    add::<k8s_openapi::api::resource::v1::ResourceClaim>(generator);
    add::<k8s_openapi::api::resource::v1::ResourceClaimTemplate>(generator);
    add::<k8s_openapi::api::resource::v1::ResourceSlice>(generator);
    add::<k8s_openapi::api::scheduling::v1::PriorityClass>(generator);
    add::<k8s_openapi::api::scheduling::v1beta1::PodGroup>(generator);
    add::<k8s_openapi::api::scheduling::v1beta1::Workload>(generator);
    add::<k8s_openapi::api::storage::v1::CSIDriver>(generator);
    add::<k8s_openapi::api::storage::v1::CSINode>(generator);
    add::<k8s_openapi::api::storage::v1::CSIStorageCapacity>(generator);
    add::<k8s_openapi::api::storage::v1::StorageClass>(generator);
    add::<k8s_openapi::api::storage::v1::VolumeAttachment>(generator);
    add::<k8s_openapi::api::storage::v1::VolumeAttributesClass>(generator);
    add::<k8s_openapi::api::storagemigration::v1::StorageVersionMigration>(generator);
    add::<k8s_openapi::api::autoscaling::v1::Scale>(generator);
    add::<k8s_openapi::api::policy::v1::Eviction>(generator);
    add::<k8s_openapi::api::authentication::v1::TokenRequest>(generator);
    add::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>(generator);
    add::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>(generator);
    add::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>(generator);
}
