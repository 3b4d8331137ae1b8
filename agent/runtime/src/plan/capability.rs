//! Capability names and their numbers (linux/capability.h), sets as bit masks.

use std::collections::HashSet;

use agent_sys::credential::CapabilitySets;
use oci_spec::runtime as oci;

/// In the order of the kernel's numbers, without `CAP_`.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The sets a process is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// Bounding set.
    pub bounding: u64,
    /// The thread's sets.
    pub sets: CapabilitySets,
    /// Ambient set.
    pub ambient: u64,
}

fn mask(set: &Option<HashSet<oci::Capability>>) -> u64 {
    set.iter().flatten().fold(0, |mask, capability| {
        let name = capability.to_string();
        NAMES.iter().position(|known| *known == name).map_or(mask, |number| mask | 1 << number)
    })
}

/// A spec's capabilities; none at all means all sets are empty, as the specification says for the first process.
/// What the runtime itself may not hand out (it is missing from its own bounding set) is left out, as runc does.
pub fn plan(capabilities: &oci::LinuxCapabilities, own: u64) -> CapabilityPlan {
    let permitted = mask(capabilities.permitted()) & own;
    let inheritable = mask(capabilities.inheritable()) & own;
    CapabilityPlan {
        bounding: mask(capabilities.bounding()) & own,
        sets: CapabilitySets { effective: mask(capabilities.effective()) & permitted, permitted, inheritable },
        ambient: mask(capabilities.ambient()) & permitted & inheritable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_to_the_specification() {
        for (number, name) in NAMES.iter().enumerate() {
            let capability: oci::Capability = name.parse().unwrap();
            assert_eq!(mask(&Some([capability].into())), 1 << number, "{name}");
        }
    }
}
