//! `gantry check`: what this machine lacks to run pods, and what to do about it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;

use super::DataDir;
use crate::failure::Failure;

/// Flags of `gantry check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Port that the API server would listen on.
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    https_listen_port: u16,
    /// Port that the kubelet API would listen on.
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
}

/// How one look at the machine ended.
enum Finding {
    Fine(String),
    /// Works, with less.
    Thin(String),
    /// Does not work: what is wrong and what to do.
    Broken(String, &'static str),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let findings = [
        kernel(),
        root(),
        cgroups(),
        file_system("overlay", "load or build in the overlay module: CONFIG_OVERLAY_FS"),
        namespaces(),
        seccomp(),
        nftables(),
        limits(),
        port("API server", args.https_listen_port),
        port("kubelet API", args.kubelet_port),
        data_dir(&args.data.data_dir),
    ];
    let mut broken = false;
    for finding in findings {
        match finding {
            Finding::Fine(what) => println!("ok    {what}"),
            Finding::Thin(what) => println!("warn  {what}"),
            Finding::Broken(what, todo) => {
                broken = true;
                println!("FAIL  {what}\n      {todo}");
            }
        }
    }
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= (5, 10) {
        true => Finding::Fine(format!("kernel {release}")),
        false => Finding::Broken(format!("kernel {release} is older than 5.10"), "boot a newer kernel"),
    }
}

fn root() -> Finding {
    match nix::unistd::geteuid().is_root() {
        true => Finding::Fine("running as root".into()),
        false => Finding::Broken("not running as root".into(), "run it with sudo: namespaces and cgroups need root"),
    }
}

fn cgroups() -> Finding {
    let Ok(hierarchies) = agent_runtime::cgroup::detect() else {
        return Finding::Broken("no cgroup hierarchy is mounted".into(), "mount cgroup2 on /sys/fs/cgroup");
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
        (missing, _) => Finding::Broken(
            format!("cgroup controllers are off: {}", missing.join(", ")),
            "add cgroup_enable=memory (or the named one) to the kernel's command line and reboot",
        ),
    }
}

fn file_system(name: &str, todo: &'static str) -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match known.lines().any(|line| line.split_whitespace().last() == Some(name)) {
        true => Finding::Fine(format!("file system {name}")),
        false => Finding::Broken(format!("the kernel has no file system {name}"), todo),
    }
}

fn namespaces() -> Finding {
    let missing: Vec<&str> = ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    match missing.is_empty() {
        true => Finding::Fine("namespaces mnt, pid, net, ipc, uts, cgroup".into()),
        false => Finding::Broken(
            format!("the kernel has no namespaces {}", missing.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES and its kinds",
        ),
    }
}

fn seccomp() -> Finding {
    match Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        true => Finding::Fine("seccomp filters".into()),
        false => {
            Finding::Broken("the kernel has no seccomp filters".into(), "boot a kernel with CONFIG_SECCOMP_FILTER")
        }
    }
}

fn nftables() -> Finding {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let opened = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
    match opened {
        Ok(_) => Finding::Fine("netfilter over netlink".into()),
        Err(_) => Finding::Broken("the kernel has no nftables".into(), "load or build in nf_tables: CONFIG_NF_TABLES"),
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
        Err(error) => Finding::Broken(
            format!("port {port} for the {what}: {error}"),
            "stop what listens there, or choose another port with --https-listen-port or --kubelet-port",
        ),
    }
}

fn data_dir(path: &Path) -> Finding {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let Ok(stat) = nix::sys::statvfs::statvfs(existing) else {
        return Finding::Broken(format!("{} cannot be looked at", existing.display()), "choose another --data-dir");
    };
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    match free >= 1 << 30 {
        true => Finding::Fine(format!("{} GiB free for {}", free >> 30, path.display())),
        false => Finding::Thin(format!("less than 1 GiB free for {}", path.display())),
    }
}
