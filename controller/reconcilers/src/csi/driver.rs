//! The connection to a driver's controller service. It is made when it is needed, and made again after it broke.
use super::ability::Abilities;
use super::error::CsiError;
use api_plugin::csi::controller::Part;
use api_plugin::grpc::{CallError, Plugin};
use std::path::PathBuf;
use tokio::sync::Mutex;

/// A driver whose controller service we call.
#[derive(Debug)]
pub(crate) struct Driver {
    name: String,
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

/// A connection, and who answers there.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) plugin: Plugin,
    pub(super) abilities: Abilities,
}

impl Driver {
    /// The driver of this name, at this socket.
    pub(crate) fn new(name: String, socket: PathBuf) -> Self {
        Self { name, socket, connection: Mutex::new(None) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The connection; the driver there must be the one that is meant, and ready.
    pub(super) async fn connection(&self) -> Result<Connection, CsiError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let away =
            |source: CallError| CsiError::Away { driver: self.name.clone(), socket: self.socket.clone(), source };
        let plugin = Plugin::connect(&self.socket).await.map_err(away)?;
        if plugin.probe().await.map_err(away)?.ready.is_some_and(|ready| !ready.value) {
            return Err(CsiError::Unfit(format!("driver {} is not ready yet", self.name)));
        }
        let info = plugin.driver_info().await.map_err(away)?;
        if info.name != self.name {
            return Err(CsiError::Unfit(format!(
                "--csi-controller {}: at {} driver {:?} answers",
                self.name,
                self.socket.display(),
                info.name
            )));
        }
        let of_plugin = plugin.driver_capabilities().await.map_err(away)?;
        if !of_plugin.has(Part::ControllerService) {
            return Err(CsiError::Unfit(format!("driver {} has no controller service", self.name)));
        }
        let of_controller = plugin.controller_capabilities().await.map_err(away)?;
        let abilities = Abilities::new(&of_plugin, &of_controller);
        tracing::info!(driver = self.name, version = info.vendor_version, ?abilities, "a driver's controller answers");
        Ok(held.insert(Connection { plugin, abilities }).clone())
    }

    /// Notes what a call has said of the connection: another driver may answer at the next.
    pub(super) async fn note<T>(&self, result: Result<T, CallError>) -> Result<T, CallError> {
        if result.as_ref().is_err_and(CallError::is_of_the_connection) {
            *self.connection.lock().await = None;
        }
        result
    }
}
