//! What becomes of a VolumeAttachment: pure. As the external attacher decides.
use super::ability::Abilities;
use api::well_known::FINALIZER_ATTACHER_PREFIX;
use api_plugin::csi::controller::{AttachRequest, DetachRequest};
use api_plugin::csi::{VolumeCapability, access_mode};
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use std::collections::HashMap;

/// What is to be done about a VolumeAttachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Leave,
    /// The driver attaches nothing: it is attached as it is.
    SayAttached,
    /// The driver attaches the volume.
    Attach,
    /// The driver detaches it.
    Detach,
}

/// The finalizer of a driver's attacher; the name is changed as external attachers change it.
pub(super) fn finalizer(driver: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let name: String = driver.chars().map(fits).collect();
    let end = if name.ends_with('-') { "X" } else { "" };
    format!("{FINALIZER_ATTACHER_PREFIX}{name}{end}")
}

/// Decides about a VolumeAttachment.
pub(super) fn step(driver: &str, held: &VolumeAttachment, abilities: Abilities) -> Step {
    if held.spec.attacher != driver {
        return Step::Leave;
    }
    let is_attached = held.status.as_ref().is_some_and(|status| status.attached);
    let is_ours = held.metadata.finalizers.iter().flatten().any(|own| *own == finalizer(driver));
    match held.metadata.deletion_timestamp {
        // What is not marked was never attached.
        Some(_) => {
            if is_ours {
                Step::Detach
            } else {
                Step::Leave
            }
        }
        None if is_attached => Step::Leave,
        None if abilities.attaches => Step::Attach,
        None => Step::SayAttached,
    }
}

/// What a volume says to its driver.
pub(super) fn of_driver<'a>(
    driver: &str,
    volume: &'a PersistentVolume,
) -> Result<&'a CSIPersistentVolumeSource, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let own = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).filter(|own| own.driver == driver);
    own.ok_or_else(|| format!("persistentvolume {name:?} is of no volume of driver {driver}"))
}

/// How a volume is used.
pub(super) fn capability(
    volume: &PersistentVolume,
    own: &CSIPersistentVolumeSource,
    abilities: Abilities,
) -> VolumeCapability {
    let spec = volume.spec.clone().unwrap_or_default();
    let mode = access_mode(&spec.access_modes.unwrap_or_default(), abilities.knows_single_writers);
    let fs_type = own.fs_type.as_deref().unwrap_or_default();
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    VolumeCapability::new(is_block, fs_type, &spec.mount_options.unwrap_or_default(), mode)
}

/// The request to attach a volume to a node.
pub(super) fn attach(
    volume: &PersistentVolume,
    own: &CSIPersistentVolumeSource,
    node_id: String,
    abilities: Abilities,
    secrets: HashMap<String, String>,
) -> AttachRequest {
    AttachRequest {
        volume_id: own.volume_handle.clone(),
        node_id,
        volume_capability: Some(capability(volume, own, abilities)),
        readonly: abilities.attaches_read_only && own.read_only == Some(true),
        secrets,
        volume_context: own.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
    }
}

/// The request to detach it.
pub(super) fn detach(
    own: &CSIPersistentVolumeSource,
    node_id: String,
    secrets: HashMap<String, String>,
) -> DetachRequest {
    DetachRequest { volume_id: own.volume_handle.clone(), node_id, secrets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    const DRIVER: &str = "d.example";

    fn held(metadata: Value, attached: bool) -> VolumeAttachment {
        from_value(json!({"metadata": metadata, "spec": {"attacher": DRIVER, "nodeName": "n",
            "source": {"persistentVolumeName": "v"}}, "status": {"attached": attached}}))
        .unwrap()
    }

    #[test]
    fn what_is_marked_is_detached_and_what_is_not_was_never_attached() {
        let (all, none) = (Abilities { attaches: true, ..Abilities::default() }, Abilities::default());
        assert_eq!(step(DRIVER, &held(json!({}), false), all), Step::Attach);
        assert_eq!(step(DRIVER, &held(json!({}), false), none), Step::SayAttached);
        assert_eq!(step(DRIVER, &held(json!({}), true), all), Step::Leave);
        assert_eq!(step("other", &held(json!({}), false), all), Step::Leave);
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other"]});
        assert_eq!(step(DRIVER, &held(gone, true), all), Step::Leave);
        let gone = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["external-attacher/d-example"]});
        assert_eq!(step(DRIVER, &held(gone, false), all), Step::Detach);
    }

    #[test]
    fn finalizers_are_named_as_external_attachers_name_them() {
        assert_eq!(finalizer("ebs.csi.aws.com"), "external-attacher/ebs-csi-aws-com");
        assert_eq!(finalizer("a_b."), "external-attacher/a-b-X");
    }

    #[test]
    fn a_driver_is_told_how_the_volume_is_used() {
        let volume: PersistentVolume = from_value(json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteMany"],
            "mountOptions": ["noatime"], "csi": {"driver": DRIVER, "volumeHandle": "h", "fsType": "xfs", "readOnly": true,
                "volumeAttributes": {"pool": "fast"}}}}))
        .unwrap();
        let own = of_driver(DRIVER, &volume).unwrap();
        assert!(of_driver("other", &volume).unwrap_err().contains("no volume of driver other"));
        let of = |abilities: Abilities| attach(&volume, own, "m".into(), abilities, HashMap::new());
        let asked = of(Abilities::default());
        assert_eq!((asked.volume_id.as_str(), asked.node_id.as_str(), asked.readonly), ("h", "m", false));
        assert_eq!(asked.volume_capability, Some(VolumeCapability::new(false, "xfs", &["noatime".into()], 5)));
        assert_eq!(asked.volume_context["pool"], "fast");
        assert!(of(Abilities { attaches_read_only: true, ..Abilities::default() }).readonly);
    }
}
