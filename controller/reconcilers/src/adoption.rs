//! Whether an object may take others for its own.
use crate::error::{ReconcileError, at, code};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use serde::de::DeserializeOwned;

/// A live look: the object is there and stays. What a cache says may be older than the deletion that set the others
/// free, and who is taken by an object that goes is deleted with it.
pub(crate) async fn may_adopt<K>(api: &Api<K>, metadata: &ObjectMeta) -> Result<bool, ReconcileError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.get_metadata(metadata.name.as_deref().unwrap_or_default()).await {
        Ok(found) => Ok(found.metadata.uid == metadata.uid && found.metadata.deletion_timestamp.is_none()),
        Err(error) if code(&error) == 404 => Ok(false),
        Err(error) => Err(at("looking whether it may adopt")(error)),
    }
}
