//! Kernel settings of the namespace of the calling thread: `/proc/sys/net` shows each thread its own.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::NetworkError;

/// Lets the host route; `reset` leaves it so, for others may have come to rely on it.
pub(crate) fn enable() -> Result<(), NetworkError> {
    set("ipv4/ip_forward", "1")
}

/// Settings of a pod's link, before it comes up:
/// - it forwards, whatever new links do by default;
/// - a packet with another source than the pod's is dropped;
/// - it takes packets from loopback addresses, which the rules of Services send to pods (and the table of the pod
///   network drops what comes back in for one);
/// - no IPv6, or the pod could reach the host's services by a link-local address past every rule.
pub(crate) fn prepare_link(link: &str) -> Result<(), NetworkError> {
    set(&format!("ipv4/conf/{link}/forwarding"), "1")?;
    set(&format!("ipv4/conf/{link}/rp_filter"), "1")?;
    set(&format!("ipv4/conf/{link}/route_localnet"), "1")?;
    match set(&format!("ipv6/conf/{link}/disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(NetworkError::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    // Writing, even the same value, walks all links; and where `/proc/sys` is read-only the right value is enough.
    let result = match fs::read_to_string(&path) {
        Ok(current) if current.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value),
        Err(error) => Err(error),
    };
    result.map_err(|source| NetworkError::Setting { path, source })
}
