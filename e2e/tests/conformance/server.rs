//! The server of this program, with a real node.

use std::path::PathBuf;

use e2e::api::Api;
use e2e::shared;

/// Its kubeconfig.
pub(crate) fn kubeconfig() -> PathBuf {
    shared::kubeconfig(&["busybox"])
}

/// A client with a namespace of its own.
pub(crate) async fn api(name: &str) -> Api {
    Api::fresh(&kubeconfig(), name).await
}
