//! What this machine offers to tests, and what an instance leaves on it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_owned()
}

/// The program under test, built beside this program or test.
pub fn gantry() -> PathBuf {
    let exe = std::env::current_exe().expect("a program has a path");
    let dir = exe.parent().expect("a program lies in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("deps lies in a profile directory") } else { dir };
    dir.join("gantry")
}

/// A port of this range that is free now. One below those that the kernel gives to connections stays free until it is
/// listened at, and while who listens is started again.
pub fn free_port(range: Range<u16>) -> u16 {
    loop {
        let port = rand::random_range(range.clone());
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// Pods need root.
pub fn root() -> Result<(), String> {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err("running pods needs root".into()),
    }
}

/// A program of that name in the path.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| format!("there is no program {name}"))
}

/// A stock kubectl that is new enough: older ones validate against OpenAPI v2 and exec over SPDY only.
pub fn modern_kubectl() -> Result<(), String> {
    let output = Command::new(program("kubectl")?).args(["version", "--client", "-o", "json"]).output();
    let output = output.map_err(|error| error.to_string())?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(30..) => Ok(()),
        Ok(minor) => Err(format!("kubectl is 1.{minor}, these steps need 1.30 or newer")),
        Err(_) => Err(format!("kubectl's version is unclear: {minor:?}")),
    }
}

/// The directory of an OCI layout that `hack/image` makes of a recipe.
pub fn image(recipe: &str) -> Result<PathBuf, String> {
    let output =
        Command::new(workspace().join("hack/image")).args([recipe, &format!("hack/recipes/{recipe}")]).output();
    let output = output.map_err(|error| format!("hack/image: {error}"))?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().trim())),
        false => Err(format!("hack/image {recipe}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// What a node is told unless a test gives thresholds of its own: how full the disk of this machine is decides nothing.
const EVICTION: &str = "--eviction-hard=memory.available<100Mi,nodefs.available<100Mi,imagefs.available<100Mi";

/// The eviction thresholds that go with these flags, none if they have some.
pub fn eviction<'a>(flags: impl IntoIterator<Item = &'a str>) -> Option<&'static str> {
    let given = flags.into_iter().any(|flag| flag.starts_with("--eviction-hard"));
    (!given).then_some(EVICTION)
}

/// Imports the OCI layout of an image into a data directory.
#[track_caller]
pub fn import(layout: &Path, data_dir: &Path) {
    let mut command = Command::new(gantry());
    command.args(["image", "import"]).arg(layout).arg("--data-dir").arg(data_dir);
    let output = command.output().expect("gantry runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Processes, mounts, cgroups, links, routes, rule tables and directories that one instance has on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traces {
    /// Monitors, containers and servers, with their process ids.
    pub processes: BTreeSet<String>,
    /// Network namespaces that those are in and this process is not.
    pub namespaces: BTreeSet<PathBuf>,
    /// Lines of the mount table.
    pub mounts: BTreeSet<String>,
    /// Directories of cgroups.
    pub cgroups: BTreeSet<String>,
    /// Network links.
    pub links: BTreeSet<String>,
    /// Routes of the main table.
    pub routes: BTreeSet<String>,
    /// Addresses on loopback.
    pub addresses: BTreeSet<String>,
    /// Tables of nftables.
    pub tables: BTreeSet<String>,
    /// Its run directory, if there is one.
    pub run_dir: Option<PathBuf>,
}

/// The names of the instances that have a run directory.
pub fn instances() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/run/gantry").into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The name of the instance with this data directory: the first eight digits of the SHA-256 of its path.
pub fn instance(data_dir: &Path) -> String {
    let path = data_dir.canonicalize().expect("a data directory");
    let digest = ring::digest::digest(&ring::digest::SHA256, path.as_os_str().as_bytes());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl Traces {
    /// Looks for what the instance of this name, with this data directory, has on the machine.
    pub fn of(instance: &str, data_dir: &Path) -> Self {
        let data_dir = data_dir.display().to_string();
        let marked = |text: &str| text.contains(instance) || text.contains(&data_dir);
        let link = format!("g{}", &instance[..6]);
        let own_namespace = std::fs::read_link("/proc/self/ns/net").ok();
        let mut traces = Self::default();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
                continue;
            }
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            // A process that ended and waits for init to notice has no command line any more.
            if line.is_empty() || !(marked(&line) || marked(&cgroup)) {
                continue;
            }
            traces.processes.insert(format!("{} {line}", entry.file_name().to_string_lossy()));
            let namespace = std::fs::read_link(entry.path().join("ns/net")).ok();
            traces.namespaces.extend(namespace.filter(|namespace| Some(namespace) != own_namespace.as_ref()));
        }
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let keep = |lines: String, mark: &str| -> BTreeSet<String> {
            let own = |line: &&str| line.contains(mark) || line.contains(&data_dir);
            lines.lines().filter(own).map(str::to_owned).collect()
        };
        traces.mounts = keep(std::fs::read_to_string("/proc/self/mounts").unwrap_or_default(), instance);
        traces.cgroups = keep(run("find", &["/sys/fs/cgroup", "-type", "d"]), instance);
        traces.links = keep(run("ls", &["/sys/class/net"]), &link);
        traces.routes = keep(run("ip", &["route"]), &link);
        traces.addresses = keep(run("ip", &["-4", "-o", "address", "show", "lo"]), &format!("lo:{link}"));
        traces.tables = keep(run("nft", &["list", "tables"]), instance);
        traces.run_dir = Some(Path::new("/run/gantry").join(instance)).filter(|dir| dir.exists());
        traces
    }
}

/// The processes of a pod's containers by the name that their start has, from the pids controller.
pub fn container_processes(uid: &str) -> std::collections::BTreeMap<String, BTreeSet<i32>> {
    let output = Command::new("find")
        .args(["/sys/fs/cgroup", "-path", &format!("*/pod{uid}/*"), "-name", "cgroup.procs"])
        .output();
    let files = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mut found = std::collections::BTreeMap::<String, BTreeSet<i32>>::new();
    for file in files.lines() {
        let Some(name) = Path::new(file).parent().and_then(Path::file_name) else { continue };
        // The pod's own group holds no process, the monitor's no container.
        if name == "monitor" || *name == *format!("pod{uid}") {
            continue;
        }
        let pids = std::fs::read_to_string(file).unwrap_or_default();
        let pids = pids.lines().filter_map(|line| line.parse::<i32>().ok());
        found.entry(name.to_string_lossy().into_owned()).or_default().extend(pids);
    }
    found
}

/// A process whose command line holds all of these texts.
pub fn process(texts: &[&str]) -> Option<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        texts.iter().all(|text| line.contains(text))
    })
}
