//! A container of a pod as an OCI runtime specification. Pure: values in, `config.json` out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use agent_pod::facts::Resources;
use agent_runtime::plan::capability::NAMES;
use agent_runtime::spec::{DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, OCI_VERSION, default_capabilities};
use api::pod::QosClass;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext,
};
use oci_spec::runtime::{Capability, LinuxSeccomp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cdi::{Edits, Node};
use crate::user::Identity;

const CFS_PERIOD_MICROSECONDS: i64 = 100_000;
const SHM_BYTES: u64 = 64 << 20;
/// A bind mount of something on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) destination: String,
    pub(crate) access: Access,
    /// `rprivate`, `rslave` or `rshared`.
    pub(crate) propagation: &'static str,
    /// Its files are shown as the pod's users own them already.
    pub(crate) is_mapped: bool,
}

/// What a container may do with what is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read and write.
    ReadWrite,
    /// Read; what is mounted below keeps its own rules.
    ReadOnly,
    /// Read, and so whatever is mounted below (`recursiveReadOnly`).
    RecursiveReadOnly,
}

impl Access {
    /// The option of the mount, as the OCI runtime specification names it.
    fn option(self) -> &'static str {
        match self {
            Self::ReadWrite => "rw",
            Self::ReadOnly => "ro",
            Self::RecursiveReadOnly => "rro",
        }
    }
}

/// Everything that makes a container what it is.
pub(crate) struct Parts<'a> {
    pub(crate) spec: &'a PodSpec,
    pub(crate) container: &'a Container,
    /// The first process of the container whose processes it sees: an ephemeral container's target.
    pub(crate) target: Option<i32>,
    /// The user namespace of a pod that has one; owners of what is bound are mapped by it.
    pub(crate) users: Option<&'a Path>,
    pub(crate) qos: QosClass,
    pub(crate) identity: &'a Identity,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) root: PathBuf,
    pub(crate) binds: Vec<Bind>,
    pub(crate) cgroup: String,
    /// Further files of its cgroup (version 2), and what they are to say.
    pub(crate) unified: BTreeMap<String, String>,
    /// The processors that it runs on; `None`: all.
    pub(crate) cpus: Option<String>,
    /// Whether negative OOM scores can be set here (CAP_SYS_RESOURCE).
    pub(crate) can_lower_oom_score: bool,
    /// Bytes of memory of the machine, for OOM scores.
    pub(crate) memory_capacity: i64,
    /// The system calls that it may make; `None`: all.
    pub(crate) seccomp: Option<LinuxSeccomp>,
    /// Devices of the machine for privileged containers: path, `c` or `b`, major, minor, mode.
    pub(crate) devices: Vec<Device>,
    /// Block devices of volumes; those with a mode that writes may be written.
    pub(crate) volume_devices: Vec<Device>,
    /// What files of the Container Device Interface add.
    pub(crate) edits: &'a Edits,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: String,
    pub(crate) kind: &'static str,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) mode: u32,
}

/// Whether a container is privileged.
pub(crate) fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
}

/// The `config.json` of a container.
pub(crate) fn specification(parts: &Parts<'_>) -> Value {
    let security = parts.container.security_context.clone().unwrap_or_default();
    let privileged = security.privileged == Some(true);
    let capabilities = capabilities(security.capabilities.as_ref(), privileged);
    // Without root, capabilities count only where they are ambient; Kubernetes gives none then.
    let effective: &BTreeSet<String> = if parts.identity.uid == 0 { &capabilities } else { &BTreeSet::new() };
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    let pid_is_shared = parts.spec.host_pid == Some(true) || parts.spec.share_process_namespace == Some(true);
    match parts.target {
        Some(pid) => namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")})),
        None if pid_is_shared => {}
        None => namespaces.push(json!({"type": "pid"})),
    }
    if let Some(path) = parts.users {
        namespaces.push(json!({"type": "user", "path": path}));
    }
    let unmasked = privileged || security.proc_mount.as_deref() == Some("Unmasked");
    let none: [&str; 0] = [];
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": parts.container.tty == Some(true),
            "user": user(parts),
            "args": parts.args,
            "env": parts.env,
            "cwd": parts.cwd,
            "capabilities": {"bounding": capabilities, "permitted": effective, "effective": effective, "inheritable": none, "ambient": none},
            "noNewPrivileges": security.allow_privilege_escalation == Some(false),
            "oomScoreAdj": oom_score(parts),
            "apparmorProfile": apparmor(parts, &security),
        },
        "root": {"path": parts.root, "readonly": security.read_only_root_filesystem == Some(true)},
        "mounts": mounts(parts, privileged),
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": parts.cgroup,
            "resources": resources(parts, privileged),
            "devices": devices(parts),
            "maskedPaths": if unmasked { &none[..] } else { &DEFAULT_MASKED_PATHS[..] },
            "readonlyPaths": if unmasked { &none[..] } else { &DEFAULT_READONLY_PATHS[..] },
            "seccomp": parts.seccomp,
            "rootfsPropagation": "rslave",
        },
        "hooks": hooks(parts),
    })
}

/// Device nodes; of two at one path the one that a device brought counts.
fn devices(parts: &Parts<'_>) -> Vec<Value> {
    let is_own = |device: &&Device| parts.edits.nodes.iter().all(|node| node.path != device.path);
    let plain = parts.devices.iter().chain(&parts.volume_devices).filter(is_own);
    let plain = plain.map(|device| {
        json!({"path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
            "fileMode": device.mode})
    });
    let node = |node: &Node| {
        let mut all = json!({"path": node.path, "type": node.kind, "major": node.major, "minor": node.minor});
        // Who does not say whose it is means the container's user.
        let owner = |own: Option<u32>, process: u32| own.or(Some(process).filter(|id| *id != 0));
        for (field, value) in [
            ("fileMode", node.mode),
            ("uid", owner(node.uid, parts.identity.uid)),
            ("gid", owner(node.gid, parts.identity.gid)),
        ] {
            if let Some(value) = value {
                all[field] = value.into();
            }
        }
        all
    };
    plain.chain(parts.edits.nodes.iter().map(node)).collect()
}

/// The hooks of devices.
fn hooks(parts: &Parts<'_>) -> Value {
    let mut all = json!({});
    for (when, hook) in &parts.edits.hooks {
        match all[when].as_array_mut() {
            Some(held) => held.push(hook.clone()),
            None => all[when] = json!([hook]),
        }
    }
    all
}

/// The user of a container's first process, as `config.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    #[serde(default)]
    pub(crate) additional_gids: BTreeSet<u32>,
}

/// Who the first process is: the identity, and the groups that pod and devices add.
pub(crate) fn user(parts: &Parts<'_>) -> User {
    let pod = parts.spec.security_context.clone().unwrap_or_default();
    let mut groups: BTreeSet<u32> = match pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => BTreeSet::new(),
        _ => parts.identity.groups.iter().copied().collect(),
    };
    let wished = pod.supplemental_groups.into_iter().flatten().chain(pod.fs_group);
    groups.extend(wished.filter_map(|gid| u32::try_from(gid).ok()));
    groups.extend(&parts.edits.gids);
    groups.insert(parts.identity.gid);
    User { uid: parts.identity.uid, gid: parts.identity.gid, additional_gids: groups }
}

fn capabilities(wish: Option<&Capabilities>, privileged: bool) -> BTreeSet<String> {
    let full = |name: &str| format!("CAP_{}", name.trim_start_matches("CAP_").to_uppercase());
    let all = || NAMES.iter().map(|name| full(name));
    if privileged {
        return all().collect();
    }
    let mut set: BTreeSet<String> =
        default_capabilities().iter().map(|capability| full(&capability.to_string())).collect();
    let (add, drop) = wish.map_or((&[][..], &[][..]), |wish| {
        (wish.add.as_deref().unwrap_or_default(), wish.drop.as_deref().unwrap_or_default())
    });
    if add.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
        set = all().collect();
    }
    if drop.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
        set.clear();
    }
    for name in drop {
        set.remove(&full(name));
    }
    // Unknown names were never granted by a kernel; they are left out rather than failing the container.
    let known: BTreeSet<String> = all().collect();
    set.extend(add.iter().map(|name| full(name)).filter(|name| known.contains(name)));
    set
}

fn quantity(resources: Option<&ResourceRequirements>, limits: bool, name: &str) -> Option<Quantity> {
    let resources = resources?;
    let list = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
    Quantity::parse(&list?.get(name)?.0).ok()
}

/// CPU shares of a request in thousandths: 1024 a core, at least 2 (kernel documentation, cpu.shares).
pub(crate) fn cpu_shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or(0).clamp(2, 262_144)
}

/// CFS quota of a limit in thousandths.
pub(crate) fn cpu_quota(milli: i64) -> i64 {
    (milli.saturating_mul(CFS_PERIOD_MICROSECONDS) / 1000).max(1000)
}

fn resources(parts: &Parts<'_>, privileged: bool) -> Value {
    let resources = parts.container.resources.as_ref();
    let (cpu_request, cpu_limit) = (quantity(resources, false, "cpu"), quantity(resources, true, "cpu"));
    // A limit without a request is the request, as defaulting does for the API's sake.
    let shares = cpu_shares(cpu_request.or(cpu_limit).map_or(0, Quantity::milli));
    let mut cpu = json!({"shares": shares});
    if let Some(limit) = cpu_limit {
        cpu["quota"] = cpu_quota(limit.milli()).into();
        cpu["period"] = CFS_PERIOD_MICROSECONDS.into();
    }
    if let Some(cpus) = &parts.cpus {
        cpu["cpus"] = cpus.as_str().into();
    }
    let mut memory = json!({});
    if let Some(limit) = quantity(resources, true, "memory") {
        memory["limit"] = limit.value().into();
        // No swap beyond the limit: Kubernetes counts memory, not swap.
        memory["swap"] = limit.value().into();
    }
    let mut devices = vec![json!({"allow": privileged, "access": "rwm"})];
    devices.extend(parts.volume_devices.iter().map(|device| {
        let access = if device.mode & 0o222 == 0 { "rm" } else { "rwm" };
        json!({"allow": true, "type": device.kind, "major": device.major, "minor": device.minor, "access": access})
    }));
    // A pipe is no device, and its rule would be about all of them.
    devices.extend(parts.edits.nodes.iter().filter(|node| node.kind != "p").map(|node| {
        json!({"allow": true, "type": node.kind, "major": node.major, "minor": node.minor, "access": node.access})
    }));
    let mut all = json!({"cpu": cpu, "memory": memory, "devices": devices});
    // Version 1 refuses even an empty one.
    if !parts.unified.is_empty() {
        all["unified"] = json!(parts.unified);
    }
    all
}

/// The settings of a running container's cgroup that these resources mean. Where there is no limit, an earlier one goes.
pub(crate) fn resized(resources: &Resources, unified: &BTreeMap<String, String>) -> Value {
    let shares = cpu_shares(resources.cpu_request.or(resources.cpu_limit).unwrap_or(0));
    let quota = resources.cpu_limit.map_or(-1, cpu_quota);
    let memory = resources.memory_limit.unwrap_or(-1);
    let mut all = json!({"cpu": {"shares": shares, "quota": quota, "period": CFS_PERIOD_MICROSECONDS},
        "memory": {"limit": memory, "swap": memory}});
    if !unified.is_empty() {
        all["unified"] = json!(unified);
    }
    all
}

/// How soon the kernel picks the container when memory runs out. Kubernetes documentation, "Node-pressure
/// Eviction", node out of memory behavior.
fn oom_score(parts: &Parts<'_>) -> i64 {
    let score = match parts.qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = quantity(parts.container.resources.as_ref(), false, "memory").map_or(0, Quantity::value);
            let share = i128::from(request) * 1000 / i128::from(parts.memory_capacity.max(1));
            (1000 - i64::try_from(share).unwrap_or(0)).clamp(3, 999)
        }
    };
    if parts.can_lower_oom_score { score } else { score.max(0) }
}

/// Which system calls a container may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// All.
    None,
    /// Those of the default profile for its capabilities.
    Default(HashSet<Capability>),
    /// Those of a profile in a file below the node's directory of profiles.
    File(String),
}

/// What the container's `seccompProfile`, or its pod's, asks for. Who says nothing gets the default profile.
pub(crate) fn confinement(spec: &PodSpec, container: &Container) -> Confinement {
    let pod = spec.security_context.as_ref().and_then(|pod| pod.seccomp_profile.as_ref());
    let security = container.security_context.as_ref();
    let wish: Option<&SeccompProfile> = security.and_then(|own| own.seccomp_profile.as_ref()).or(pod);
    match wish.map(|wish| wish.type_.as_str()) {
        Some("Unconfined") => Confinement::None,
        Some("Localhost") => {
            Confinement::File(wish.and_then(|wish| wish.localhost_profile.clone()).unwrap_or_default())
        }
        // Privileged containers are confined only where they ask for it.
        None if is_privileged(container) => Confinement::None,
        _ => {
            let names = capabilities(security.and_then(|own| own.capabilities.as_ref()), is_privileged(container));
            let known = names.into_iter().filter_map(|name| serde_json::from_value(name.into()).ok());
            Confinement::Default(known.collect())
        }
    }
}

/// The profile that is named; a machine without AppArmor refuses the container. `RuntimeDefault` is no profile: none is
/// loaded by us.
fn apparmor(parts: &Parts<'_>, security: &SecurityContext) -> Option<String> {
    let pod = parts.spec.security_context.as_ref().and_then(|pod| pod.app_armor_profile.as_ref());
    let wish = security.app_armor_profile.as_ref().or(pod)?;
    wish.localhost_profile.clone().filter(|_| wish.type_ == "Localhost")
}

fn mounts(parts: &Parts<'_>, privileged: bool) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let access = if privileged { "rw" } else { "ro" };
    let mut all = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let binds = parts.binds.iter().map(|bind| {
        let mut options = vec!["rbind", bind.propagation, bind.access.option()];
        options.extend(parts.users.filter(|_| !bind.is_mapped).map(|_| "idmap"));
        (
            bind.destination.as_str(),
            json!({"destination": bind.destination, "type": "bind", "source": bind.source, "options": options}),
        )
    });
    let edits = parts.edits.mounts.iter().map(|own| {
        (
            own.destination.as_str(),
            json!({"destination": own.destination, "type": own.kind, "source": own.source, "options": own.options}),
        )
    });
    // Parents before children, so that a volume below a volume is seen.
    let mut further: Vec<(&str, Value)> = binds.chain(edits).collect();
    further.sort_by_key(|(destination, _)| destination.matches('/').count());
    all.extend(further.into_iter().map(|(_, mount)| mount));
    all
}

/// The size of the memory a pod's containers share.
pub(crate) const fn shm_bytes() -> u64 {
    SHM_BYTES
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    fn build(container: Value) -> Value {
        build_with(container, &Edits::default())
    }

    fn build_with(container: Value, edits: &Edits) -> Value {
        let spec: PodSpec = from_value(json!({"containers": [container]})).unwrap();
        let parts = Parts {
            container: &spec.containers[0],
            target: None,
            users: None,
            qos: QosClass::Burstable,
            identity: &Identity { uid: 0, gid: 0, groups: vec![] },
            args: vec!["/bin/true".into()],
            env: vec![],
            cwd: "/".into(),
            root: "/root".into(),
            binds: vec![],
            cgroup: "/x".into(),
            unified: [("memory.swap.max".to_owned(), "0".to_owned())].into(),
            cpus: Some("1-2".into()),
            can_lower_oom_score: true,
            memory_capacity: 1 << 30,
            seccomp: None,
            devices: vec![],
            volume_devices: vec![],
            edits,
            spec: &spec,
        };
        let value = specification(&parts);
        let parsed: Result<oci_spec::runtime::Spec, _> = from_value(value.clone());
        assert!(parsed.is_ok(), "{parsed:?}");
        value
    }

    #[test]
    fn resources_become_cgroup_settings() {
        let spec = build(json!({"name": "c", "resources": {"requests": {"cpu": "250m", "memory": "256Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi"}}}));
        assert_eq!(
            spec["linux"]["resources"]["cpu"],
            json!({"shares": 256, "quota": 50_000, "period": 100_000, "cpus": "1-2"})
        );
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 512 << 20);
        assert_eq!(spec["linux"]["resources"]["unified"], json!({"memory.swap.max": "0"}));
        assert_eq!(spec["process"]["oomScoreAdj"], 750);
        assert_eq!(build(json!({"name": "c"}))["linux"]["resources"]["cpu"]["shares"], 2);
    }

    #[test]
    fn containers_are_confined_unless_privileged() {
        let plain = build(json!({"name": "c"}));
        assert_eq!(plain["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
        assert!(!plain["linux"]["maskedPaths"].as_array().unwrap().is_empty());
        let changed =
            build(json!({"name": "c", "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}}));
        assert_eq!(changed["process"]["capabilities"]["effective"], json!(["CAP_NET_ADMIN"]));
        let privileged = build(json!({"name": "c", "securityContext": {"privileged": true}}));
        assert_eq!(privileged["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
        assert!(privileged["linux"]["maskedPaths"].as_array().unwrap().is_empty());
    }

    #[test]
    fn devices_bring_nodes_mounts_hooks_and_groups() {
        let node = Node {
            path: "/dev/x".into(),
            host: "/dev/x".into(),
            kind: "c".into(),
            major: 1,
            minor: 3,
            mode: Some(0o600),
            access: "rw".into(),
            uid: None,
            gid: Some(9),
        };
        let pipe = Node { path: "/p".into(), kind: "p".into(), major: 0, minor: 0, ..node.clone() };
        let mount = crate::cdi::Mount {
            source: "/a".into(),
            destination: "/b".into(),
            kind: "bind".into(),
            options: vec!["rbind".into(), "ro".into()],
        };
        let hook = |path: &str| ("createRuntime".to_owned(), json!({"path": path}));
        let edits = Edits {
            nodes: vec![node.clone(), pipe],
            mounts: vec![mount],
            hooks: vec![hook("/1"), hook("/2")],
            gids: vec![44],
            ..Edits::default()
        };
        let spec = build_with(json!({"name": "c"}), &edits);
        let made = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "gid": 9});
        let made_pipe = json!({"path": "/p", "type": "p", "major": 0, "minor": 0, "fileMode": 0o600, "gid": 9});
        assert_eq!(spec["linux"]["devices"], json!([made, made_pipe]));
        let allowed = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
        let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
        assert_eq!(rules[1..], [allowed], "a rule for a pipe would be one for everything");
        let mounts = spec["mounts"].as_array().unwrap();
        assert_eq!(mounts.last().unwrap()["options"], json!(["rbind", "ro"]));
        assert_eq!(spec["hooks"], json!({"createRuntime": [{"path": "/1"}, {"path": "/2"}]}));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([0, 44]));
    }

    #[test]
    fn system_calls_are_confined_as_was_asked_for() {
        let of = |pod: Value, container: Value| {
            let container = json!({"name": "c", "securityContext": container});
            let spec: PodSpec = from_value(json!({"securityContext": pod, "containers": [container]})).unwrap();
            confinement(&spec, &spec.containers[0])
        };
        let profile = |kind: &str| json!({"seccompProfile": {"type": kind, "localhostProfile": "a/b.json"}});
        let Confinement::Default(plain) = of(json!({}), json!({})) else { panic!("nothing was asked for") };
        assert!(plain.contains(&Capability::Chown) && !plain.contains(&Capability::SysAdmin));
        let Confinement::Default(more) = of(json!({}), json!({"capabilities": {"add": ["SYS_ADMIN"]}})) else {
            panic!()
        };
        assert!(more.contains(&Capability::SysAdmin), "its calls are of no use without");
        assert_eq!(of(json!({}), json!({"privileged": true})), Confinement::None);
        assert_eq!(of(profile("Unconfined"), json!({})), Confinement::None);
        assert_eq!(of(profile("Unconfined"), profile("Localhost")), Confinement::File("a/b.json".into()));
        assert!(matches!(of(profile("RuntimeDefault"), json!({"privileged": true})), Confinement::Default(_)));
    }
}
