//! Verbs that look, and update.

use std::path::Path;

use oci_spec::runtime::{self as oci, LinuxResources};

use super::{
    CliError,
    args::{ListFormat, UpdateArgs},
    failed,
    run::read_input,
};
use crate::container::{Container, ContainerError};

fn print(value: &serde_json::Value) -> Result<i32, CliError> {
    println!("{value:#}");
    Ok(0)
}

pub(super) fn state(container: &Container) -> Result<i32, CliError> {
    print(&container.oci_state())
}

pub(super) fn ps(container: &Container, format: ListFormat) -> Result<i32, CliError> {
    let id = &container.state.id;
    let mut pids = container.cgroup().and_then(|cgroup| Ok(cgroup.pids()?)).map_err(failed("ps", id))?;
    pids.sort_unstable();
    match format {
        ListFormat::Json => println!("{}", serde_json::json!(pids)),
        ListFormat::Table => {
            println!("{:<9} CMD", "PID");
            for pid in pids {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
                println!("{pid:<9} {}", words.join(" ").trim_end().escape_debug());
            }
        }
    }
    Ok(0)
}

pub(super) fn list(root: &Path, format: ListFormat, quiet: bool) -> Result<i32, CliError> {
    let all = Container::list(root);
    if quiet {
        all.iter().for_each(|container| println!("{}", container.state.id));
        return Ok(0);
    }
    match format {
        ListFormat::Json => println!("{}", serde_json::Value::from_iter(all.iter().map(Container::oci_state))),
        ListFormat::Table => {
            println!("{:<32} {:<8} {:<8} {:<32} CREATED", "ID", "PID", "STATUS", "BUNDLE");
            for container in &all {
                let state = container.oci_state();
                let status = container.status().to_string();
                let bundle = container.state.bundle.display().to_string();
                let (id, created) = (&container.state.id, &container.state.created);
                println!("{id:<32} {:<8} {status:<8} {bundle:<32} {created}", state["pid"]);
            }
        }
    }
    Ok(0)
}

pub(super) fn update(root: &Path, args: &UpdateArgs) -> Result<i32, CliError> {
    let container = Container::load(root, &args.id).map_err(failed("update", &args.id))?;
    let mut resources = match &args.resources {
        Some(path) => serde_json::from_slice(&read_input(path)?)
            .map_err(|source| crate::spec::SpecError::Parse { path: path.clone(), source })?,
        None => LinuxResources::default(),
    };
    // The default of the crate denies every device; an update that does not name devices leaves them alone.
    if args.resources.is_none() {
        resources.set_devices(None);
    }
    if let Some(limit) = args.memory {
        let mut memory = resources.memory().unwrap_or_default();
        memory.set_limit(Some(limit));
        resources.set_memory(Some(memory));
    }
    if args.cpu_share.is_some() || args.cpu_quota.is_some() || args.cpu_period.is_some() {
        let mut cpu = resources.cpu().clone().unwrap_or_default();
        cpu.set_shares(args.cpu_share.or(cpu.shares()));
        cpu.set_quota(args.cpu_quota.or(cpu.quota()));
        cpu.set_period(args.cpu_period.or(cpu.period()));
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = args.pids_limit {
        let mut pids = oci::LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    let apply = || Ok::<_, ContainerError>(container.cgroup()?.apply(&resources)?);
    apply().map_err(failed("update", &args.id)).map(|()| 0)
}

pub(super) fn events(container: &Container) -> Result<i32, CliError> {
    let id = &container.state.id;
    let cgroup = container.cgroup().map_err(failed("events", id))?;
    let stats = cgroup.stats().map_err(|error| failed("events", id)(error.into()))?;
    let data = serde_json::json!({
        "cpu": {"usage": {"total": stats.cpu_usage_nanoseconds}},
        "memory": {"usage": {"usage": stats.memory_usage_bytes}, "workingSet": stats.memory_working_set_bytes},
        "pids": {"current": stats.pids},
    });
    println!("{}", serde_json::json!({"type": "stats", "id": id, "data": data}));
    Ok(0)
}

pub(super) fn spec(bundle: Option<&Path>) -> Result<i32, CliError> {
    let path = bundle.unwrap_or(Path::new(".")).join("config.json");
    let fail = |source| CliError::File { what: "write", path: path.clone(), source };
    let mut file = std::fs::File::create_new(&path).map_err(fail)?;
    std::io::Write::write_all(&mut file, format!("{:#}\n", crate::spec::example()).as_bytes()).map_err(fail)?;
    Ok(0)
}

pub(super) fn features() -> Result<i32, CliError> {
    let capabilities: Vec<String> = crate::plan::capability::NAMES.iter().map(|name| format!("CAP_{name}")).collect();
    print(&serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::spec::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": crate::plan::mount::option_names(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false},
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "mountExtensions": {"idmap": {"enabled": true}}
        }
    }))
}
