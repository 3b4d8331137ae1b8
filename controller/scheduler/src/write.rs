//! Writes whose answers nobody reads: the written object comes back, and is not parsed.
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::Request;
use serde::de::IgnoredAny;
use serde_json::Value;

/// PATCH of the status.
pub(crate) async fn patch_status<K: Resource>(
    api: Api<K>,
    name: &str,
    patch: &Patch<Value>,
) -> Result<(), kube::Error> {
    let request = Request::new(api.resource_url()).patch_subresource("status", name, &PatchParams::default(), patch);
    let request = request.map_err(kube::Error::BuildRequest)?;
    api.into_client().request::<IgnoredAny>(request).await.map(drop)
}

/// DELETE.
pub(crate) async fn delete<K: Resource>(api: Api<K>, name: &str, parameters: &DeleteParams) -> Result<(), kube::Error> {
    let request = Request::new(api.resource_url()).delete(name, parameters).map_err(kube::Error::BuildRequest)?;
    api.into_client().request::<IgnoredAny>(request).await.map(drop)
}
