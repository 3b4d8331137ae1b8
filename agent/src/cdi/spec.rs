//! What stands in a file, as the specification names its fields. Unknown ones are refused: what they ask for would be left out
//! in silence.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) cdi_version: String,
    /// `vendor.com/class`
    pub(super) kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "it is for people")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// For whoever has any of the devices.
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// A device.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "it is for people")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// What a container is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerEdits {
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) device_nodes: Vec<DeviceNode>,
    #[serde(default)]
    pub(super) mounts: Vec<MountEdit>,
    #[serde(default)]
    pub(super) hooks: Vec<Hook>,
    #[serde(default)]
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    pub(super) net_devices: Option<serde_json::Value>,
}

/// A device node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    /// In the container, and on the machine unless `host_path` says otherwise.
    pub(super) path: String,
    pub(super) host_path: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    /// Of `rwm` what is allowed.
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MountEdit {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

/// A hook of the OCI runtime specification.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

/// Whether a file of this version is understood: from 0.3.0, the first that was released, to 1.1.
pub(super) fn is_known(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    let numbers = (parts.next().flatten(), parts.next().flatten(), parts.next().flatten(), parts.next());
    matches!(numbers, (Some(0), Some(3..), Some(_), None) | (Some(1), Some(0..=1), Some(_), None))
}

/// Whether this is the name of a kind: a domain, and a class of letters, digits, `-`, `_` and `.`.
pub(super) fn is_kind(kind: &str) -> bool {
    let is_vendor = |vendor: &str| api::name::rfc1123_subdomain(&vendor.to_ascii_lowercase()).is_empty();
    let is_class = |class: &str| class.len() <= 63 && is_word(class, "-_.");
    kind.split_once('/').is_some_and(|(vendor, class)| is_vendor(vendor) && is_class(class))
}

/// Whether this is the name of a device.
pub(super) fn is_device(name: &str) -> bool {
    name.len() <= 253 && is_word(name, "-_.:")
}

/// Letters and digits at both ends, and these too in between.
fn is_word(text: &str, between: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(is_plain) && text.ends_with(is_plain) && text.chars().all(|c| is_plain(c) || between.contains(c))
}
