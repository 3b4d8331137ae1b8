//! The server that all tests of this program share.

use std::path::PathBuf;

use e2e::api::Api;
use e2e::shared::Shared;

static SHARED: Shared = Shared::new();

/// The kubeconfig of the shared server.
pub(crate) fn kubeconfig() -> PathBuf {
    SHARED.place(&["busybox"]).kubeconfig.clone()
}

/// A client with a namespace of its own.
pub(crate) async fn api(name: &str) -> Api {
    Api::fresh(&kubeconfig(), name).await
}
