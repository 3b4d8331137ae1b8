//! What devices add to a container, checked; what this machine's nodes are is looked up here.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use serde_json::{Value, json};

use super::spec::{ContainerEdits, DeviceNode, Hook, MountEdit};

/// When hooks run (OCI runtime specification, POSIX-platform hooks).
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// All that a container's devices add to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Edits {
    /// `NAME=VALUE`; later ones count.
    pub(crate) env: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) mounts: Vec<Mount>,
    /// When, and the hook as the OCI runtime specification has it.
    pub(crate) hooks: Vec<(String, Value)>,
    pub(crate) gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) host: String,
    /// `c`, `b`, `u` or `p`.
    pub(crate) kind: String,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) mode: Option<u32>,
    /// Of `rwm` what is allowed.
    pub(crate) access: String,
    /// `None`: whoever the container runs as.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) kind: String,
    pub(crate) options: Vec<String>,
}

/// Adds what a file says; the error names the field that cannot be honoured.
pub(super) fn add(edits: &mut Edits, own: &ContainerEdits) -> Result<(), String> {
    for (field, value) in [("intelRdt", &own.intel_rdt), ("netDevices", &own.net_devices)] {
        if value.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(format!("containerEdits.{field} is not supported by this node"));
        }
    }
    for pair in &own.env {
        match pair.split_once('=') {
            Some((name, _)) if !name.is_empty() && !pair.contains('\0') => edits.env.push(pair.clone()),
            _ => return Err(format!("containerEdits.env: {pair:?}: expected NAME=VALUE")),
        }
    }
    for wanted in &own.device_nodes {
        let node = node(wanted).map_err(|why| format!("containerEdits.deviceNodes: {}: {why}", wanted.path))?;
        edits.nodes.retain(|other| other.path != node.path);
        edits.nodes.push(node);
    }
    for wanted in &own.mounts {
        let mount = mount(wanted).map_err(|why| format!("containerEdits.mounts: {}: {why}", wanted.container_path))?;
        edits.mounts.retain(|other| other.destination != mount.destination);
        edits.mounts.push(mount);
    }
    for wanted in &own.hooks {
        edits.hooks.push(hook(wanted).map_err(|why| format!("containerEdits.hooks: {}: {why}", wanted.path))?);
    }
    for gid in own.additional_gids.iter().filter(|gid| **gid != 0) {
        if !edits.gids.contains(gid) {
            edits.gids.push(*gid);
        }
    }
    Ok(())
}

/// A path in a container or of this machine.
fn is_plain(path: &str) -> bool {
    Path::new(path).is_absolute() && !path.contains('\0') && !path.split('/').any(|part| part == "..")
}

/// What a file does not say of a device node is as it is on this machine.
fn node(wanted: &DeviceNode) -> Result<Node, String> {
    let host = wanted.host_path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| wanted.path.clone());
    if !is_plain(&wanted.path) || !is_plain(&host) {
        return Err("expected absolute paths".to_owned());
    }
    let access = wanted.permissions.clone().filter(|all| !all.is_empty()).unwrap_or_else(|| "rwm".to_owned());
    if !access.chars().all(|c| "rwm".contains(c)) {
        return Err(format!("permissions {access:?}: expected some of rwm"));
    }
    let kind = wanted.kind.clone().filter(|kind| !kind.is_empty());
    if let Some(kind) = &kind
        && !matches!(kind.as_str(), "b" | "c" | "u" | "p")
    {
        return Err(format!("type {kind:?}: expected b, c, u or p"));
    }
    let (is_pipe, numbers) = (kind.as_deref() == Some("p"), wanted.major.zip(wanted.minor));
    let (kind, major, minor, mode) = match (kind, numbers) {
        (Some(kind), Some((major, minor))) => (kind, major, minor, None),
        (Some(kind), None) if is_pipe => (kind, 0, 0, None),
        (kind, _) => {
            let metadata = std::fs::metadata(&host).map_err(|error| format!("{host}: {error}"))?;
            let found = match metadata.file_type() {
                kind if kind.is_block_device() => "b",
                kind if kind.is_char_device() => "c",
                _ => return Err(format!("{host} is no device")),
            };
            if let Some(kind) = kind.filter(|kind| kind != found && !(kind == "u" && found == "c")) {
                return Err(format!("{host} is of type {found}, not {kind}"));
            }
            let number = metadata.rdev();
            let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
            (found.to_owned(), i64::from(major), i64::from(minor), Some(metadata.mode() & 0o777))
        }
    };
    let mode = wanted.file_mode.or(mode);
    Ok(Node { path: wanted.path.clone(), host, kind, major, minor, mode, access, uid: wanted.uid, gid: wanted.gid })
}

fn mount(wanted: &MountEdit) -> Result<Mount, String> {
    if !is_plain(&wanted.container_path) {
        return Err("expected an absolute path".to_owned());
    }
    let kind = wanted.kind.clone().filter(|kind| !kind.is_empty()).unwrap_or_else(|| "bind".to_owned());
    if kind == "bind" && !is_plain(&wanted.host_path) {
        return Err(format!("hostPath {:?}: expected an absolute path", wanted.host_path));
    }
    let mut options = wanted.options.clone();
    let is_bind = |option: &String| option == "bind" || option == "rbind";
    if kind == "bind" && !options.iter().any(is_bind) {
        options.insert(0, "rbind".to_owned());
    }
    let (source, destination) = (wanted.host_path.clone(), wanted.container_path.clone());
    Ok(Mount { source, destination, kind, options })
}

fn hook(wanted: &Hook) -> Result<(String, Value), String> {
    if !HOOKS.contains(&wanted.hook_name.as_str()) {
        return Err(format!("hookName {:?}: expected one of {}", wanted.hook_name, HOOKS.join(", ")));
    }
    if !is_plain(&wanted.path) {
        return Err("expected an absolute path".to_owned());
    }
    let mut hook = json!({"path": wanted.path, "args": wanted.args, "env": wanted.env});
    match wanted.timeout {
        Some(seconds) if seconds <= 0 => return Err(format!("timeout {seconds}: expected more than 0")),
        Some(seconds) => hook["timeout"] = seconds.into(),
        None => {}
    }
    Ok((wanted.hook_name.clone(), hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(edits: Value) -> Result<Edits, String> {
        let own: ContainerEdits = serde_json::from_value(edits).map_err(|error| error.to_string())?;
        let mut all = Edits::default();
        add(&mut all, &own).map(|()| all)
    }

    #[test]
    fn what_a_file_does_not_say_of_a_node_is_the_machines() {
        let edits = read(json!({"deviceNodes": [{"path": "/dev/zero"},
            {"path": "/dev/own", "hostPath": "/dev/null", "permissions": "rw", "fileMode": 384, "uid": 7},
            {"path": "/dev/told", "type": "c", "major": 1, "minor": 7}]}))
        .unwrap();
        let short: Vec<_> =
            edits.nodes.iter().map(|node| (&*node.path, node.major, node.minor, &*node.access)).collect();
        assert_eq!(short, [("/dev/zero", 1, 5, "rwm"), ("/dev/own", 1, 3, "rw"), ("/dev/told", 1, 7, "rwm")]);
        assert_eq!((edits.nodes[1].mode, edits.nodes[1].uid, edits.nodes[1].gid), (Some(0o600), Some(7), None));
    }

    #[test]
    fn mounts_are_binds_and_hooks_are_the_runtimes() {
        let edits = read(json!({"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["ro", "nosuid"]}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/x", "args": ["x", "y"], "timeout": 3}],
            "additionalGids": [0, 44, 44]}))
        .unwrap();
        assert_eq!(edits.mounts[0].options, ["rbind", "ro", "nosuid"]);
        let hook = json!({"path": "/bin/x", "args": ["x", "y"], "env": [], "timeout": 3});
        assert_eq!(edits.hooks, [("createContainer".to_owned(), hook)]);
        assert_eq!(edits.gids, [44]);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (edits, why) in [
            (json!({"intelRdt": {"closID": "x"}}), "containerEdits.intelRdt is not supported"),
            (json!({"netDevices": [{}]}), "containerEdits.netDevices is not supported"),
            (json!({"env": ["novalue"]}), "expected NAME=VALUE"),
            (json!({"deviceNodes": [{"path": "/dev/../etc/x"}]}), "expected absolute paths"),
            (json!({"deviceNodes": [{"path": "/etc"}]}), "/etc is no device"),
            (json!({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}), "/dev/null is of type c, not b"),
            (json!({"deviceNodes": [{"path": "/dev/null", "permissions": "x"}]}), "expected some of rwm"),
            (
                json!({"mounts": [{"hostPath": "a", "containerPath": "/b"}]}),
                "hostPath \"a\": expected an absolute path",
            ),
            (json!({"hooks": [{"hookName": "later", "path": "/x"}]}), "expected one of prestart"),
            (json!({"hooks": [{"hookName": "poststop", "path": "/x", "timeout": 0}]}), "expected more than 0"),
            (json!({"envs": []}), "unknown field `envs`"),
        ] {
            let error = read(edits.clone()).unwrap_err();
            assert!(error.contains(why), "{edits}: {error}");
        }
    }
}
