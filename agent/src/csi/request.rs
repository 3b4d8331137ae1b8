//! What a driver is asked, out of what the API says of a volume. Pure.

use std::collections::BTreeMap;

use api_plugin::csi::{AccessMode, AccessType, Empty, MountVolume, VolumeCapability, access_mode};
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::CSIDriver;
use sha2::{Digest as _, Sha256};

/// A Secret that a call needs: namespace and name.
pub(super) type SecretKey = (String, String);

/// A volume of a driver, as one pod uses it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) driver: String,
    pub(super) handle: String,
    /// The PersistentVolume's name, or that of the volume in the pod.
    pub(super) name: String,
    /// It lives and ends with the pod.
    pub(super) is_inline: bool,
    pub(super) is_block: bool,
    pub(super) fs_type: String,
    pub(super) read_only: bool,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) mount_options: Vec<String>,
    pub(super) access_modes: Vec<String>,
    pub(super) stage_secret: Option<SecretKey>,
    pub(super) publish_secret: Option<SecretKey>,
    pub(super) expand_secret: Option<SecretKey>,
}

impl Wanted {
    /// Of a PersistentVolume.
    pub(super) fn persistent(volume: &PersistentVolume, source: &CSIPersistentVolumeSource) -> Self {
        let spec = volume.spec.clone().unwrap_or_default();
        let secret = |own: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let own = own.as_ref()?;
            Some((own.namespace.clone()?, own.name.clone()?))
        };
        Self {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            name: volume.metadata.name.clone().unwrap_or_default(),
            is_inline: false,
            is_block: spec.volume_mode.as_deref() == Some("Block"),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only == Some(true),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            mount_options: spec.mount_options.unwrap_or_default(),
            access_modes: spec.access_modes.unwrap_or_default(),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
            expand_secret: secret(&source.node_expand_secret_ref),
        }
    }

    /// Of a volume that stands in the pod itself.
    pub(super) fn inline(namespace: &str, uid: &str, name: &str, source: &CSIVolumeSource) -> Self {
        Self {
            driver: source.driver.clone(),
            handle: format!("csi-{}", hex::encode(Sha256::digest(format!("{uid}{name}")))),
            name: name.to_owned(),
            is_inline: true,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            read_only: source.read_only == Some(true),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            access_modes: vec!["ReadWriteOnce".into()],
            publish_secret: source.node_publish_secret_ref.as_ref().map(|own| (namespace.to_owned(), own.name.clone())),
            ..Self::default()
        }
    }

    /// How the volume is used; `group` is the pod's where the driver gives files to it.
    pub(super) fn capability(&self, knows_single_writers: bool, group: Option<u32>) -> VolumeCapability {
        let access_type = match self.is_block {
            true => AccessType::Block(Empty {}),
            false => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group.map(|gid| gid.to_string()).unwrap_or_default(),
            }),
        };
        let mode = access_mode(&self.access_modes, knows_single_writers);
        VolumeCapability { access_type: Some(access_type), access_mode: Some(AccessMode { mode }) }
    }

    /// Whether files are to be given to the pod's group by this node (API reference, CSIDriver, `fsGroupPolicy`).
    pub(super) fn gives_files(&self, driver: Option<&CSIDriver>) -> bool {
        let policy = driver.and_then(|driver| driver.spec.fs_group_policy.as_deref());
        match policy.unwrap_or("ReadWriteOnceWithFSType") {
            "None" => false,
            "File" => true,
            _ => {
                let is_once =
                    self.access_modes.iter().any(|mode| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"));
                is_once && !self.fs_type.is_empty()
            }
        }
    }
}

/// What a driver is told of the pod, where it wants to know (CSIDriver, `podInfoOnMount`).
pub(super) fn pod_info(pod: &Pod, is_inline: bool) -> BTreeMap<String, String> {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let account = spec.and_then(|spec| spec.service_account_name.as_ref());
    [
        ("pod.name", text(pod.metadata.name.as_ref())),
        ("pod.namespace", text(pod.metadata.namespace.as_ref())),
        ("pod.uid", text(pod.metadata.uid.as_ref())),
        ("serviceAccount.name", text(account)),
        ("ephemeral", is_inline.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn files_are_given_as_the_driver_says() {
        let driver = |policy: Value| -> CSIDriver {
            from_value(json!({"metadata": {}, "spec": {"fsGroupPolicy": policy}})).unwrap()
        };
        let wanted = |mode: &str, fs_type: &str| Wanted {
            access_modes: vec![mode.into()],
            fs_type: fs_type.into(),
            ..Wanted::default()
        };
        assert!(wanted("ReadWriteOnce", "ext4").gives_files(None));
        assert!(!wanted("ReadWriteOnce", "").gives_files(None) && !wanted("ReadWriteMany", "ext4").gives_files(None));
        assert!(wanted("ReadWriteMany", "").gives_files(Some(&driver(json!("File")))));
        assert!(!wanted("ReadWriteOnce", "ext4").gives_files(Some(&driver(json!("None")))));
    }

    #[test]
    fn a_capability_says_how_the_volume_is_used() {
        let own = Wanted { fs_type: "xfs".into(), mount_options: vec!["noatime".into()], ..Wanted::default() };
        let AccessType::Mount(mount) = own.capability(false, Some(7)).access_type.unwrap() else { panic!() };
        assert_eq!(
            (mount.fs_type.as_str(), mount.volume_mount_group.as_str(), mount.mount_flags.len()),
            ("xfs", "7", 1)
        );
        let block = Wanted { is_block: true, ..own };
        assert_eq!(block.capability(false, None).access_type, Some(AccessType::Block(Empty {})));
    }
}
