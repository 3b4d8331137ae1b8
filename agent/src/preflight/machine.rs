//! What the kernel's configuration, limits, ports and disk allow.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::{Finding, Wishes};
use crate::eviction::Limits;
use crate::pressure::Sample;

pub(super) fn findings(wishes: &Wishes<'_>) -> Vec<Finding> {
    let mut findings = vec![
        root(),
        cgroups(),
        file_system("overlay", "load or build in the overlay module: CONFIG_OVERLAY_FS"),
        namespaces(),
        seccomp(),
        nftables(),
        limits(),
    ];
    findings.extend(wishes.ports.iter().map(|(what, number)| port(what, *number)));
    let existing = wishes.data_dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    findings.push(data_dir(existing, wishes.data_dir));
    findings.extend(short(existing, wishes.eviction));
    findings
}

fn broken(what: impl Into<String>, todo: &str) -> Finding {
    Finding::Broken(what.into(), todo.to_owned())
}

fn root() -> Finding {
    match nix::unistd::geteuid().is_root() {
        true => Finding::Fine("running as root".into()),
        false => broken("not running as root", "run it with sudo: namespaces and cgroups need root"),
    }
}

fn cgroups() -> Finding {
    let Ok(hierarchies) = agent_runtime::cgroup::detect() else {
        return broken("no cgroup hierarchy is mounted".to_owned(), "mount cgroup2 on /sys/fs/cgroup");
    };
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let disabled: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| {
            let line = table.lines().find(|line| line.split_whitespace().next() == Some(name));
            // Kernels from 6.12 may leave v1 controllers out of this table; then v2 is what counts.
            line.is_some_and(|line| line.ends_with('0'))
        })
        .collect();
    match (disabled.as_slice(), hierarchies.v1.is_empty()) {
        ([], true) => Finding::Fine("cgroup v2 with cpu, memory, pids".into()),
        ([], false) => Finding::Fine("cgroup v1 (or hybrid) with cpu, memory, pids".into()),
        (missing, _) => broken(
            format!("cgroup controllers are off: {}", missing.join(", ")),
            "add cgroup_enable=memory (or the named one) to the kernel's command line and reboot",
        ),
    }
}

/// Whether the kernel has a file system of this name, or a module that brings it.
pub(super) fn has_file_system(name: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().last() == Some(name)) || is_module(name)
}

fn file_system(name: &str, todo: &str) -> Finding {
    match has_file_system(name) {
        true => Finding::Fine(format!("file system {name}")),
        false => broken(format!("the kernel has no file system {name}"), todo),
    }
}

/// Whether the kernel has a module of this name, which the first mount loads; modprobe(8), modules.dep.
fn is_module(name: &str) -> bool {
    let list = Path::new("/lib/modules").join(super::kernel::release()).join("modules.dep");
    let list = fs::read_to_string(list).unwrap_or_default();
    list.lines().any(|line| line.split('.').next().is_some_and(|path| path.ends_with(&format!("/{name}"))))
}

fn namespaces() -> Finding {
    let missing: Vec<&str> = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    match missing.is_empty() {
        true => Finding::Fine("namespaces mnt, pid, net, ipc, uts, cgroup".into()),
        false => broken(
            format!("the kernel has no namespaces {}", missing.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES and its kinds",
        ),
    }
}

fn seccomp() -> Finding {
    match Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        true => Finding::Fine("seccomp filters".into()),
        false => broken("the kernel has no seccomp filters".to_owned(), "boot a kernel with CONFIG_SECCOMP_FILTER"),
    }
}

fn nftables() -> Finding {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let opened = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
    match opened {
        Ok(_) => Finding::Fine("netfilter over netlink".into()),
        Err(_) => broken("the kernel has no nftables".to_owned(), "load or build in nf_tables: CONFIG_NF_TABLES"),
    }
}

fn limits() -> Finding {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    match limit {
        Ok((_, hard)) if hard >= 65_536 => Finding::Fine(format!("open files: {hard}")),
        Ok((_, hard)) => {
            Finding::Thin(format!("open files: {hard}; 65536 or more is better for many pods (LimitNOFILE)"))
        }
        Err(error) => Finding::Thin(format!("open files: {error}")),
    }
}

fn port(what: &str, port: u16) -> Finding {
    match TcpListener::bind(("0.0.0.0", port)) {
        Ok(_) => Finding::Fine(format!("port {port} for the {what} is free")),
        Err(error) => broken(
            format!("port {port} for the {what}: {error}"),
            "stop what listens there, or choose another port with --https-listen-port or --kubelet-port",
        ),
    }
}

fn data_dir(existing: &Path, path: &Path) -> Finding {
    let Ok(stat) = nix::sys::statvfs::statvfs(existing) else {
        return broken(format!("{} cannot be looked at", existing.display()), "choose another --data-dir");
    };
    let free = stat.blocks_available() * stat.fragment_size();
    match free >= 1 << 30 {
        true => Finding::Fine(format!("{} GiB free for {}", free >> 30, path.display())),
        false => Finding::Thin(format!("less than 1 GiB free for {}", path.display())),
    }
}

/// What the machine has too little left of for a node to take pods.
fn short(existing: &Path, limits: &Limits) -> Vec<Finding> {
    let todo = "free some, or say with --eviction-hard how little is enough, here and to the server: until then no pod is placed";
    limits.met(&Sample::take(existing, existing)).iter().map(|met| broken(met.complaint(), todo)).collect()
}
