//! How drivers see nodes: what is known of a CSINode.
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};

/// What is known of a CSINode.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CsiNodeFacts {
    /// The node.
    pub(super) name: String,
    drivers: Vec<CSINodeDriver>,
}

impl CsiNodeFacts {
    /// Takes the facts out.
    pub(crate) fn new(object: CSINode) -> Self {
        Self { name: object.metadata.name.unwrap_or_default(), drivers: object.spec.drivers }
    }

    /// A driver's name of the node.
    pub(super) fn id(&self, driver: &str) -> Option<&str> {
        self.drivers.iter().find(|own| own.name == driver).map(|own| own.node_id.as_str())
    }

    /// The labels that say for a driver where the node is; `None` if it is not there.
    pub(super) fn topology_keys(&self, driver: &str) -> Option<&[String]> {
        let own = self.drivers.iter().find(|own| own.name == driver)?;
        Some(own.topology_keys.as_deref().unwrap_or_default())
    }
}
