//! Which kernel settings a pod may have: those that belong to a namespace of its own. The monitor writes them in the
//! host's mount namespace, so any other key would change the whole machine (`kernel.core_pattern` runs a program as root).

use std::path::PathBuf;

/// The file of a setting, or what is wrong with its name.
/// sysctl(5), ipc_namespaces(7) and network_namespaces(7) name what is kept per namespace.
pub(super) fn file_of(key: &str, new_net: bool, new_ipc: bool) -> Result<PathBuf, &'static str> {
    let is_part = |part: &str| {
        let mut bytes = part.bytes();
        !part.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let parts: Vec<&str> = key.split('.').collect();
    if !parts.iter().all(|part| is_part(part)) {
        return Err("expected words of letters, digits, - and _ with single dots between");
    }
    let (own, missing) = match parts.as_slice() {
        ["net", _, ..] => (new_net, "it belongs to the network namespace, which is the host's"),
        ["fs", "mqueue", _] => (new_ipc, "it belongs to the IPC namespace, which is the host's"),
        ["kernel", name] if *name == "sem" || name.starts_with("shm") || name.starts_with("msg") => {
            (new_ipc, "it belongs to the IPC namespace, which is the host's")
        }
        _ => (
            false,
            "expected net.*, kernel.shm*, kernel.msg*, kernel.sem or fs.mqueue.*: others are the whole machine's",
        ),
    };
    match own {
        true => Ok(parts.iter().fold(PathBuf::from("/proc/sys"), |path, part| path.join(part))),
        false => Err(missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_own_namespaces_are_written() {
        for key in ["kernel.shmmax", "kernel.shm_rmid_forced", "kernel.msgmni", "kernel.sem", "fs.mqueue.msg_max"] {
            assert!(file_of(key, false, true).is_ok(), "{key}");
            assert!(file_of(key, true, false).is_err(), "{key} of the host");
        }
        assert_eq!(
            file_of("net.ipv4.ip_forward", true, false).unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/ip_forward")
        );
        assert!(file_of("net.ipv4.ip_forward", false, true).is_err());
        for key in [
            "kernel.core_pattern",
            "kernel.hostname",
            "fs.file-max",
            "vm.swappiness",
            "net",
            "",
            "net..kernel.core_pattern",
            "net/../kernel/core_pattern",
            "net.x/../../kernel/core_pattern",
            "kernel.shm/../core_pattern",
            "kernel.shm.x",
            "/etc/passwd",
        ] {
            assert!(file_of(key, true, true).is_err(), "{key}");
        }
    }
}
