//! Removing everything that an instance made in the kernel, known by the names that carry it.

use crate::instance::Instance;
use crate::sandbox::{disconnect_all, drop_own_address, on_thread};
use crate::{NetworkError, peers, rules, vacant};

/// Removes every link, the address on loopback, the routes to other nodes and to nowhere, and the nftables tables of the
/// instance; goes on after a failure and tells them all.
///
/// Leases are files of the state directory and go with it. `ip_forward` is left as it is.
pub async fn reset(instance: &str) -> Result<(), NetworkError> {
    let instance = Instance::parse(instance)?;
    on_thread(instance.table(), (), move || {
        let routes = peers::set(&instance, &[]).map(drop);
        let vacant = vacant::set(&instance, None);
        let results =
            [disconnect_all(&instance), drop_own_address(&instance), routes, vacant, rules::remove(&instance)];
        NetworkError::collect(results.into_iter().filter_map(Result::err).collect())
    })
    .await
}
