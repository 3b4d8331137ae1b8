//! Bundles: reading config.json, and the defaults that container engines agree on.

use std::{
    collections::HashSet,
    io::Read,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{self as oci, Capability};

/// No config.json is longer.
const CONFIG_MAX: u64 = 16 << 20;

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// config.json cannot be read.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not a runtime configuration.
    #[error("parse {path}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A version of the specification that we do not know.
    #[error("{path}: ociVersion {version:?}: expected 1.x", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: String,
    },
}

/// Reads JSON of a bounded size.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, SpecError> {
    let fail = |source| SpecError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(CONFIG_MAX).read_to_end(&mut bytes).map_err(fail)?;
    serde_json::from_slice(&bytes).map_err(|source| SpecError::Parse { path: path.to_owned(), source })
}

/// Reads a bundle's config.json.
pub fn load(bundle: &Path) -> Result<oci::Spec, SpecError> {
    let path = bundle.join("config.json");
    let spec: oci::Spec = read_json(&path)?;
    if !spec.version().starts_with("1.") {
        return Err(SpecError::Version { path, version: spec.version().clone() });
    }
    Ok(spec)
}

/// The capabilities container engines give by default.
pub fn default_capabilities() -> HashSet<Capability> {
    [
        Capability::AuditWrite,
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::Kill,
        Capability::Mknod,
        Capability::NetBindService,
        Capability::NetRaw,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysChroot,
    ]
    .into()
}

/// Paths of /proc and /sys that tell about the host or change it; hidden by default.
pub const DEFAULT_MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that are readable only by default.
pub const DEFAULT_READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The configuration that `spec` writes: a shell in namespaces of its own.
pub fn example() -> serde_json::Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| serde_json::json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    serde_json::json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "gantry",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"])
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "cgroup"}
            ],
            "maskedPaths": DEFAULT_MASKED_PATHS,
            "readonlyPaths": DEFAULT_READONLY_PATHS
        }
    })
}

/// The version of the runtime specification we follow.
pub const OCI_VERSION: &str = "1.2.0";
