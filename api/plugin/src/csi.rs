//! The Container Storage Interface, csi.proto 1.11: what all of its services share. Field numbers and types are those of that
//! page; `node` and `controller` hold what one service asks and answers, `call` the calls.

pub mod call;
pub mod controller;
pub mod node;
mod outcome;

pub use outcome::Outcome;

use std::collections::HashMap;

use prost::Message;

/// Nothing is asked for, or said.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// `csi.v1.Topology`
#[derive(Clone, PartialEq, Message)]
pub struct Topology {
    /// By key.
    #[prost(map = "string, string", tag = "1")]
    pub segments: HashMap<String, String>,
}

/// `csi.v1.VolumeCapability.MountVolume`
#[derive(Clone, PartialEq, Message)]
pub struct MountVolume {
    /// The file system; empty: the driver's choice.
    #[prost(string, tag = "1")]
    pub fs_type: String,
    /// Options.
    #[prost(string, repeated, tag = "2")]
    pub mount_flags: Vec<String>,
    /// The group that files belong to.
    #[prost(string, tag = "3")]
    pub volume_mount_group: String,
}

/// `csi.v1.VolumeCapability.AccessMode`
#[derive(Clone, PartialEq, Message)]
pub struct AccessMode {
    /// `csi.v1.VolumeCapability.AccessMode.Mode`
    #[prost(int32, tag = "1")]
    pub mode: i32,
}

/// `csi.v1.VolumeCapability`
#[derive(Clone, PartialEq, Message)]
pub struct VolumeCapability {
    /// As which.
    #[prost(oneof = "AccessType", tags = "1, 2")]
    pub access_type: Option<AccessType>,
    /// By whom.
    #[prost(message, optional, tag = "3")]
    pub access_mode: Option<AccessMode>,
}

/// As what a volume is used.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AccessType {
    /// As a device.
    #[prost(message, tag = "1")]
    Block(Empty),
    /// As a file system.
    #[prost(message, tag = "2")]
    Mount(MountVolume),
}

/// `csi.v1.CapacityRange`
#[derive(Clone, PartialEq, Message)]
pub struct CapacityRange {
    /// At least so many bytes.
    #[prost(int64, tag = "1")]
    pub required_bytes: i64,
    /// At most so many; 0: any.
    #[prost(int64, tag = "2")]
    pub limit_bytes: i64,
}

impl VolumeCapability {
    /// A volume as a device, or as a file system with these options. `mode` is of [`access_mode`].
    pub fn new(is_block: bool, fs_type: &str, mount_flags: &[String], mode: i32) -> Self {
        let access_type = match is_block {
            true => AccessType::Block(Empty {}),
            false => AccessType::Mount(MountVolume {
                fs_type: fs_type.to_owned(),
                mount_flags: mount_flags.to_vec(),
                volume_mount_group: String::new(),
            }),
        };
        Self { access_type: Some(access_type), access_mode: Some(AccessMode { mode }) }
    }
}

/// The access mode of a volume that Kubernetes gives these modes: the widest (csi.proto, `VolumeCapability.AccessMode.Mode`).
/// `knows_single_writers`: the service that is asked has the capability `SINGLE_NODE_MULTI_WRITER`.
pub fn access_mode(modes: &[String], knows_single_writers: bool) -> i32 {
    const SINGLE_NODE_WRITER: i32 = 1;
    const MULTI_NODE_READER_ONLY: i32 = 3;
    const MULTI_NODE_MULTI_WRITER: i32 = 5;
    const SINGLE_NODE_SINGLE_WRITER: i32 = 6;
    const SINGLE_NODE_MULTI_WRITER: i32 = 7;
    let has = |mode: &str| modes.iter().any(|own| own == mode);
    if has("ReadWriteMany") {
        MULTI_NODE_MULTI_WRITER
    } else if has("ReadOnlyMany") && has("ReadWriteOnce") {
        // Kubernetes has no word for one writer and many readers that CSI takes for a node.
        MULTI_NODE_MULTI_WRITER
    } else if has("ReadOnlyMany") {
        MULTI_NODE_READER_ONLY
    } else if has("ReadWriteOncePod") {
        if knows_single_writers { SINGLE_NODE_SINGLE_WRITER } else { SINGLE_NODE_WRITER }
    } else if knows_single_writers {
        SINGLE_NODE_MULTI_WRITER
    } else {
        SINGLE_NODE_WRITER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_modes_are_the_drivers() {
        let mode = |modes: &[&str], knows| {
            access_mode(&modes.iter().map(|mode| (*mode).to_owned()).collect::<Vec<_>>(), knows)
        };
        assert_eq!((mode(&["ReadWriteOnce"], false), mode(&["ReadWriteOnce"], true)), (1, 7));
        assert_eq!((mode(&["ReadWriteOncePod"], false), mode(&["ReadWriteOncePod"], true)), (1, 6));
        assert_eq!((mode(&["ReadOnlyMany"], true), mode(&["ReadWriteOnce", "ReadWriteMany"], true)), (3, 5));
    }
}
