//! Device files: the ones every container has, and the spec's own.

use std::{ffi::CString, path::Path};

use oci_spec::runtime::{Linux, LinuxDeviceType};

use super::{PlanError, clean, cstring};

/// A device file to make.
#[derive(Debug)]
pub struct DevicePlan {
    /// Where, in the container; on the host too, should binding be the only way.
    pub path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Permission bits.
    pub mode: u32,
    /// Device number.
    pub number: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Path, major, minor: the devices the specification promises in every container.
pub const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

pub(super) fn plan(linux: &Linux) -> Result<Vec<DevicePlan>, PlanError> {
    let mut plans = Vec::new();
    let own = linux.devices().iter().flatten();
    for device in own.clone() {
        let invalid = |expected| PlanError::Invalid {
            field: "linux.devices",
            value: device.path().display().to_string(),
            expected,
        };
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return Err(invalid("type c, u, b or p")),
        };
        let part = |value: i64| u32::try_from(value).map_err(|_| invalid("major and minor of 0 or more"));
        plans.push(DevicePlan {
            path: cstring("linux.devices.path", clean(device.path()).into_os_string().into_encoded_bytes())?,
            kind,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            number: libc::makedev(part(device.major())?, part(device.minor())?),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        });
    }
    for (path, major, minor) in DEFAULT {
        if own.clone().any(|device| clean(device.path()) == Path::new(path)) {
            continue;
        }
        plans.push(DevicePlan {
            path: cstring("linux.devices.path", path)?,
            kind: libc::S_IFCHR,
            mode: 0o666,
            number: libc::makedev(major, minor),
            uid: 0,
            gid: 0,
        });
    }
    Ok(plans)
}
