//! What a driver can do, as it says itself: pure.
use api_plugin::csi::controller::{Ability, ControllerCapabilities, Part, PluginCapabilities};

/// What a driver can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    /// It makes and removes volumes.
    pub(super) creates: bool,
    /// It makes volumes of volumes.
    pub(super) clones: bool,
    /// It attaches and detaches.
    pub(super) attaches: bool,
    /// It attaches without the right to write.
    pub(super) attaches_read_only: bool,
    /// It lets volumes grow.
    pub(super) grows: bool,
    /// Volumes grow, but by their nodes alone.
    pub(super) grows_on_nodes: bool,
    /// Access modes that say who writes are known.
    pub(super) knows_single_writers: bool,
    /// Not every node reaches every volume.
    pub(super) has_topology: bool,
    /// It tells how much room is left.
    pub(super) tells_room: bool,
}

impl Abilities {
    /// Takes them out of what the driver says.
    pub(super) fn new(plugin: &PluginCapabilities, controller: &ControllerCapabilities) -> Self {
        let grows = controller.has(Ability::ExpandVolume);
        Self {
            creates: controller.has(Ability::CreateDeleteVolume),
            clones: controller.has(Ability::CloneVolume),
            attaches: controller.has(Ability::PublishUnpublishVolume),
            attaches_read_only: controller.has(Ability::PublishReadonly),
            grows,
            grows_on_nodes: !grows && plugin.can_grow(),
            knows_single_writers: controller.has(Ability::SingleNodeMultiWriter),
            has_topology: plugin.has(Part::AccessibilityConstraints),
            tells_room: controller.has(Ability::GetCapacity),
        }
    }
}
