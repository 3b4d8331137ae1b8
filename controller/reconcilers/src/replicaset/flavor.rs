//! The two kinds that keep a number of pods. A ReplicationController is a ReplicaSet with an older selector, so one
//! reconciler serves both and sees ReplicaSets only.
use crate::adoption::may_adopt;
use crate::error::ReconcileError;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{Api, Patch, PatchParams};

/// Which of the two a reconciler serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    ReplicaSet,
    ReplicationController,
}

impl Flavor {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::ReplicaSet => "apps/v1",
            Self::ReplicationController => "v1",
        }
    }

    /// The name of its work queue.
    pub(super) fn queue(self) -> &'static str {
        match self {
            Self::ReplicaSet => "replicaset",
            Self::ReplicationController => "replicationcontroller",
        }
    }

    /// A status without what the kind has no field for.
    pub(super) fn comparable(self, status: &ReplicaSetStatus) -> ReplicaSetStatus {
        match self {
            Self::ReplicaSet => status.clone(),
            Self::ReplicationController => ReplicaSetStatus { terminating_replicas: None, ..status.clone() },
        }
    }

    /// Whether the object may take pods for its own.
    pub(super) async fn may_adopt(
        self,
        client: &kube::Client,
        namespace: &str,
        metadata: &ObjectMeta,
    ) -> Result<bool, ReconcileError> {
        let client = client.clone();
        match self {
            Self::ReplicaSet => may_adopt(&Api::<ReplicaSet>::namespaced(client, namespace), metadata).await,
            Self::ReplicationController => {
                may_adopt(&Api::<ReplicationController>::namespaced(client, namespace), metadata).await
            }
        }
    }

    /// Writes a status by merge patch; answers the object as it is then.
    pub(super) async fn write_status(
        self,
        client: kube::Client,
        namespace: &str,
        name: &str,
        mut patch: serde_json::Value,
    ) -> Result<ReplicaSet, kube::Error> {
        let parameters = PatchParams::default();
        match self {
            Self::ReplicaSet => {
                let sets: Api<ReplicaSet> = Api::namespaced(client, namespace);
                sets.patch_status(name, &parameters, &Patch::Merge(patch)).await
            }
            Self::ReplicationController => {
                if let Some(status) = patch.get_mut("status").and_then(serde_json::Value::as_object_mut) {
                    status.remove("terminatingReplicas");
                }
                let controllers: Api<ReplicationController> = Api::namespaced(client, namespace);
                controllers.patch_status(name, &parameters, &Patch::Merge(patch)).await.map(of_controller)
            }
        }
    }
}

/// A ReplicationController in the form of a ReplicaSet.
pub(crate) fn of_controller(controller: ReplicationController) -> ReplicaSet {
    let spec = controller.spec.unwrap_or_default();
    let selector = LabelSelector { match_labels: spec.selector, match_expressions: None };
    let status = controller.status.map(|status| ReplicaSetStatus {
        available_replicas: status.available_replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
        conditions: status.conditions.map(|conditions| {
            let condition =
                |condition: k8s_openapi::api::core::v1::ReplicationControllerCondition| ReplicaSetCondition {
                    last_transition_time: condition.last_transition_time,
                    message: condition.message,
                    reason: condition.reason,
                    status: Some(condition.status),
                    type_: Some(condition.type_),
                };
            conditions.into_iter().map(condition).collect()
        }),
    });
    ReplicaSet {
        metadata: controller.metadata,
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector,
            template: spec.template,
        },
        status,
    }
}
