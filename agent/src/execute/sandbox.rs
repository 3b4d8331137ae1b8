//! The pod's sandbox: cgroup, monitor with namespaces, network, shared memory and the files of /etc.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_pod::facts;
use agent_pod::protocol::{self, Event, Exit, Failure};
use agent_runtime::cgroup;
use agent_runtime::monitor::protocol::{MonitorConfig, RequestBody, Runtime, VERSION};
use api::pod::{QosClass, recorded_qos_class};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::{Deserialize, Serialize};

use super::blocking::{self, blocking};
use super::{Executor, effective, failure, memory, runtime_class, users};
use crate::failpoint;
use crate::monitor::Monitor;
use crate::oci;
use crate::resolver::{self, ResolvConf};
use crate::rotation;
use crate::worker::Input;

/// What is needed to find a sandbox again after an agent restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ips: Vec<String>,
    pub(crate) host_network: bool,
}

const RECORD_VERSION: u32 = 1;
/// Bytes of the files below [`etc_dir`] together.
const ETC_BYTES: u64 = 1 << 20;
/// A monitor that takes longer than this to remove its containers hangs.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Without the Services of the cluster pods are started all the same after this.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const REASON: &str = "FailedCreatePodSandBox";

pub(crate) fn record_path(run_dir: &Path) -> PathBuf {
    run_dir.join("pod.json")
}

/// The small tmpfs of files that containers may write to: /etc/hosts and its like, termination messages.
pub(crate) fn etc_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("etc")
}

pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("monitor.sock")
}

/// The record in a pod's run directory, if it is one of ours and whole.
pub(crate) fn read_record(run_dir: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(record_path(run_dir)).ok()?).ok()?;
    (record.version == RECORD_VERSION).then_some(record)
}

impl Executor {
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.host.config.instance.pod_run_dir(&self.uid)
    }

    /// The pod's cgroup, by QoS class as Kubernetes lays it out.
    pub(crate) fn cgroup(&self) -> String {
        let root = self.host.config.instance.cgroup_root();
        let class = match recorded_qos_class(&self.pod) {
            QosClass::Guaranteed => "",
            QosClass::Burstable => "/burstable",
            QosClass::BestEffort => "/besteffort",
        };
        format!("/{root}/kubepods{class}/pod{}", self.uid)
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    }
}

/// Makes everything anew. Answers the pod's addresses.
pub(crate) async fn start(executor: &Executor) -> Result<Vec<String>, Failure> {
    // What an earlier try left is removed first. Its run directory is the first that is made and the last that goes.
    if executor.run_dir().exists() {
        stop(executor).await;
    }
    let _order = executor.order.read().await;
    let runtime = runtime_class::choose(executor).await?;
    let this = executor.clone();
    let pid = blocking(move || prepare(&this, runtime)).await?;
    failpoint::reach("sandbox", "prepared");
    let this = executor.clone();
    let (ips, mounted) = tokio::join!(join_network(executor, pid), blocking(move || mount_shared(&this)));
    let ips = ips.and_then(|ips| mounted.map(|()| ips))?;
    failpoint::reach("sandbox", "joined");
    let (this, own_ips) = (executor.clone(), ips.clone());
    blocking(move || write_files(&this, &own_ips)).await?;
    executor.host.services.pod_has(&executor.uid, &executor.pod, &ips);
    // Containers are told of the Services that there are; mostly this was long ago.
    drop(tokio::time::timeout(SERVICES_TIMEOUT, executor.host.services.listed()).await);
    connect(executor).await.map_err(|error| failure(REASON, &error))?;
    Ok(ips)
}

/// Gives the sandbox of a monitor its addresses.
async fn join_network(executor: &Executor, monitor: i32) -> Result<Vec<String>, Failure> {
    if executor.host_network() {
        return Ok(vec![executor.host.config.node_ip.to_string()]);
    }
    let namespace = PathBuf::from(format!("/proc/{monitor}/ns/net"));
    let _turn = blocking::turn().await;
    let addresses = executor.host.network.setup(&executor.uid, &namespace).await;
    Ok(addresses.map_err(|error| failure(REASON, &error))?.iter().map(ToString::to_string).collect())
}

/// Opens the conversation with a living monitor; its exits become events of the worker.
pub(crate) async fn connect(executor: &Executor) -> Result<Monitor, crate::monitor::MonitorError> {
    let (monitor, mut exits) = Monitor::connect(&socket_path(&executor.run_dir())).await?;
    let serial = monitor.serial();
    executor.set_monitor(Some(monitor.clone()));
    let inputs = executor.inputs.clone();
    let own = std::sync::Arc::clone(&executor.monitor);
    let logs = executor.log_dir();
    // What was rotated while no agent listened.
    rotation::compress(logs.clone());
    tokio::spawn(async move {
        while let Some(event) = exits.recv().await {
            use agent_runtime::monitor::protocol::Event as Told;
            let (id, exit) = match event {
                Told::Exited { container, exit } => (container, exit),
                Told::LogRotated { .. } => {
                    rotation::compress(logs.clone());
                    continue;
                }
            };
            drop(inputs.send(Input::Exited { exit: from_monitor(&exit), id }));
        }
        let mut own = own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A conversation that was given up, or has a successor, is no news.
        if own.take_if(|monitor| monitor.serial() == serial).is_some() {
            drop(inputs.send(Input::Machine(Event::SandboxDied)));
        }
    });
    Ok(monitor)
}

/// The monitor's exit in the machine's words.
pub(crate) fn from_monitor(exit: &agent_runtime::monitor::protocol::Exit) -> Exit {
    let now = k8s_openapi::jiff::Timestamp::now();
    Exit {
        code: exit.code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        finished_at: exit.finished_at.parse().unwrap_or(now),
        message: String::new(),
    }
}

/// The name a container start has with its monitor. Container names hold no dots.
pub(crate) fn id(name: &str, attempt: u32) -> String {
    format!("{name}.{attempt}")
}

/// Index and attempt of a monitor's container name.
pub(crate) fn parse_id(pod: &Pod, id: &str) -> Option<(usize, u32)> {
    let (name, attempt) = id.rsplit_once('.')?;
    let index = facts::containers(pod).position(|(container, _)| container.name == name)?;
    Some((index, attempt.parse().ok()?))
}

/// Containers of a living monitor, newest start of each, in the machine's words. One that was made and never started
/// is none: its start is done again.
pub(crate) fn found(states: &[agent_runtime::monitor::protocol::ContainerState], pod: &Pod) -> Vec<protocol::Found> {
    let mut found: Vec<protocol::Found> = Vec::new();
    for state in states.iter().filter(|state| state.started_at.is_some() || state.exit.is_some()) {
        let Some((_, attempt)) = parse_id(pod, &state.id) else { continue };
        let Some((name, _)) = state.id.rsplit_once('.') else { continue };
        let status = statuses(pod).find(|own| own.name == name);
        // A status that lags behind says nothing of this start.
        let is_told = |of: fn(&ContainerStatus) -> bool| {
            status.is_some_and(|status| u32::try_from(status.restart_count) == Ok(attempt) && of(status))
        };
        let one = protocol::Found {
            name: name.to_owned(),
            attempt,
            image: status.map(image_of).unwrap_or_default(),
            started_at: state.started_at.as_deref().and_then(|at| at.parse().ok()),
            exit: state.exit.as_ref().map(from_monitor),
            is_settled: is_told(|status| status.state.as_ref().is_some_and(|state| state.running.is_some())),
            is_started: is_told(|status| status.started == Some(true)),
            is_ready: is_told(|status| status.ready),
            effective: status
                .filter(|status| u32::try_from(status.restart_count) == Ok(attempt))
                .and_then(effective::told),
            resources: status
                .and_then(|status| status.resources.as_ref())
                .map(|resources| facts::Resources::of(Some(resources))),
        };
        match found.iter_mut().find(|other| other.name == one.name) {
            Some(other) if other.attempt < one.attempt => *other = one,
            Some(_) => {}
            None => found.push(one),
        }
    }
    found
}

/// What the pod's status says of each container.
pub(crate) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten()
    })
}

/// The image that a container's status names.
pub(crate) fn image_of(status: &ContainerStatus) -> protocol::ImageNames {
    protocol::ImageNames { image: status.image.clone(), id: status.image_id.clone() }
}

/// Cgroup and monitor. Answers the monitor's pid.
fn prepare(executor: &Executor, runtime: Option<Runtime>) -> Result<i32, Failure> {
    let fail = |error: &(dyn std::error::Error + 'static)| failure(REASON, error);
    let run_dir = executor.run_dir();
    crate::instance::make_dir(&run_dir, 0o700).map_err(|error| fail(&error))?;
    let cgroup_path = executor.cgroup();
    let group = cgroup::open(&cgroup_path).map_err(|error| fail(&error))?;
    group.create().map_err(|error| fail(&error))?;
    group.apply(&pod_resources(&executor.pod, executor.host.config.pod_max_pids)).map_err(|error| fail(&error))?;
    memory::protect(executor);
    let spec = executor.pod.spec.clone().unwrap_or_default();
    let host_network = executor.host_network();
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.clone()).unwrap_or_default();
    let config = MonitorConfig {
        version: VERSION,
        pod_uid: executor.uid.clone(),
        socket: socket_path(&run_dir),
        state_dir: run_dir.clone(),
        cgroup: Some(if group.wants_leaves() { format!("{cgroup_path}/monitor") } else { cgroup_path }),
        hostname: if host_network { None } else { Some(hostname(&executor.pod, &names(executor))?) },
        new_net: !host_network,
        new_ipc: spec.host_ipc != Some(true),
        new_uts: !host_network,
        share_pid: spec.share_process_namespace == Some(true),
        sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
        users: users::claim(executor)?,
        runtime,
    };
    let spawned = agent_runtime::monitor::spawn(&executor.host.program, &config).map_err(|error| fail(&error))?;
    crate::worker::reap(spawned.pid, spawned.pidfd);
    Ok(spawned.pid)
}

/// The names of a pod: the first part alone, and the whole where it has a subdomain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    short: String,
    whole: Option<String>,
}

impl Names {
    fn of(pod: &Pod, cluster_domain: &str) -> Self {
        let spec = pod.spec.as_ref();
        let wished =
            spec.and_then(|spec| spec.hostname.clone()).or_else(|| pod.metadata.name.clone()).unwrap_or_default();
        // A label of at most 63 bytes.
        let short = wished.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|own| !own.is_empty());
        let whole = subdomain.map(|own| format!("{short}.{own}.{namespace}.svc.{cluster_domain}"));
        Self { short, whole }
    }
}

/// The most that the kernel takes (sethostname(2)).
const HOST_NAME_BYTES: usize = 64;

/// What the pod's machine is called: `hostnameOverride`, the whole name with `setHostnameAsFQDN`, else the short one.
fn hostname(pod: &Pod, names: &Names) -> Result<String, Failure> {
    let spec = pod.spec.as_ref();
    if let Some(own) = spec.and_then(|spec| spec.hostname_override.clone()).filter(|own| !own.is_empty()) {
        return Ok(own);
    }
    let Some(whole) = names.whole.as_ref().filter(|_| spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true))
    else {
        return Ok(names.short.clone());
    };
    match whole.len() <= HOST_NAME_BYTES {
        true => Ok(whole.clone()),
        false => Err(Failure {
            reason: REASON.into(),
            message: format!(
                "failed to construct FQDN from Pod hostname and cluster domain, FQDN {whole} is too long ({HOST_NAME_BYTES} \
                 characters is the max, {} characters requested)",
                whole.len()
            ),
        }),
    }
}

/// Limits of the pod as a whole: shares of all requests; quota and memory only when the pod or every container has a limit;
/// processes and threads as the node is told.
pub(super) fn pod_resources(pod: &Pod, max_pids: Option<i64>) -> oci_spec::runtime::LinuxResources {
    let spec = pod.spec.clone().unwrap_or_default();
    let (requests, limits) = (api::pod::requests(&spec), api::pod::limits(&spec));
    let of_pod = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let every = |name: &str| {
        of_pod.is_some_and(|limits| limits.contains_key(name))
            || spec.containers.iter().all(|container| {
                let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
                limits.is_some_and(|limits| limits.contains_key(name))
            })
    };
    let mut value = serde_json::json!({
        "cpu": {"shares": oci::cpu_shares(requests.get("cpu").copied().map_or(0, Quantity::milli))},
        "memory": {},
    });
    if let Some(cpu) = limits.get("cpu").filter(|_| every("cpu")) {
        value["cpu"]["quota"] = oci::cpu_quota(cpu.milli()).into();
        value["cpu"]["period"] = 100_000.into();
    }
    if let Some(memory) = limits.get("memory").filter(|_| every("memory")) {
        value["memory"]["limit"] = memory.value().into();
    }
    if let Some(most) = max_pids {
        value["pids"] = serde_json::json!({"limit": most});
    }
    serde_json::from_value(value).unwrap_or_default()
}

/// The pod's shared memory, and the place for files of /etc. Containers may write to these files: what they fill is
/// this and not the machine's memory.
fn mount_shared(executor: &Executor) -> Result<(), Failure> {
    let run_dir = executor.run_dir();
    agent_volume::directory::tmpfs(&run_dir.join("shm"), Some(oci::shm_bytes()), 0o1777)
        .and_then(|()| agent_volume::directory::tmpfs(&etc_dir(&run_dir), Some(ETC_BYTES), 0o755))
        .map_err(|error| failure(REASON, &error))
}

/// The files of /etc, and the record that lets the sandbox be found again.
fn write_files(executor: &Executor, ips: &[String]) -> Result<(), Failure> {
    let fail = |error: &(dyn std::error::Error + 'static)| failure(REASON, error);
    let run_dir = executor.run_dir();
    let names = names(executor);
    let name = hostname(&executor.pod, &names)?;
    let spec = executor.pod.spec.clone().unwrap_or_default();
    let mut files = vec![("hostname", format!("{name}\n")), ("resolv.conf", resolver(executor, &spec))];
    let hosts = match executor.host_network() {
        true => format!("{HOSTS_OF_HOST}{}", fs::read_to_string("/etc/hosts").unwrap_or_default()),
        false => hosts(&names, ips),
    };
    files.push(("hosts", hosts + &aliases(&spec)));
    let etc = etc_dir(&run_dir);
    for (file, content) in files {
        fs::write(etc.join(file), content).map_err(|error| fail(&error))?;
    }
    let record = Record {
        version: RECORD_VERSION,
        uid: executor.uid.clone(),
        namespace: executor.namespace().into(),
        name: executor.name().into(),
        ips: ips.to_vec(),
        host_network: executor.host_network(),
    };
    let temporary = run_dir.join("pod.json.tmp");
    let bytes = serde_json::to_vec(&record).map_err(|error| fail(&error))?;
    // /run does not survive a reboot, and the record means nothing after one: no sync.
    fs::write(&temporary, bytes).map_err(|error| fail(&error))?;
    fs::rename(&temporary, record_path(&run_dir)).map_err(|error| fail(&error))
}

/// What the kubelet's hosts files begin with; tools look for the first line.
const HOSTS: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
const HOSTS_OF_HOST: &str = "# Kubernetes-managed hosts file (host network).\n";

fn hosts(names: &Names, ips: &[String]) -> String {
    let own = names.whole.iter().chain([&names.short]).cloned().collect::<Vec<_>>().join("\t");
    ips.iter().fold(HOSTS.to_owned(), |text, ip| text + &format!("{ip}\t{own}\n"))
}

fn names(executor: &Executor) -> Names {
    Names::of(&executor.pod, &executor.host.config.cluster_dns.domain)
}

fn aliases(spec: &k8s_openapi::api::core::v1::PodSpec) -> String {
    let aliases = spec.host_aliases.iter().flatten();
    let lines: String = aliases
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")))
        .collect();
    if lines.is_empty() { lines } else { format!("\n# Entries added by HostAliases.\n{lines}") }
}

fn resolver(executor: &Executor, spec: &k8s_openapi::api::core::v1::PodSpec) -> String {
    let (cluster, host) = (&executor.host.config.cluster_dns, ResolvConf::of_host());
    resolver::resolv_conf(spec, executor.namespace(), cluster, &host)
}

/// Removes all of a sandbox that is there; every step is tried whatever the others say.
pub(crate) async fn stop(executor: &Executor) {
    executor.host.services.pod_is_gone(&executor.uid);
    halt(executor).await;
    // A container start that was under way has failed by now, its monitor being gone; it must not mount after us.
    let _order = executor.order.write().await;
    clear(executor).await;
    let host = std::sync::Arc::clone(&executor.host);
    tokio::spawn(blocking::run(move || memory::protect_all(&host)));
    executor.host.pods.has_stopped();
}

/// Ends every process of the sandbox, the monitor included.
async fn halt(executor: &Executor) {
    let monitor = match executor.monitor() {
        Some(monitor) => Some(monitor),
        None => Monitor::connect(&socket_path(&executor.run_dir())).await.ok().map(|(monitor, _)| monitor),
    };
    executor.set_monitor(None);
    if let Some(monitor) = monitor
        && let Err(error) = monitor.request_within(SHUTDOWN_TIMEOUT, RequestBody::Shutdown).await
    {
        // A monitor that is gone has nothing left to shut down; one that hangs is killed with its pod.
        tracing::debug!(error = super::chain(&error), uid = executor.uid, "shutting the pod's monitor down");
    }
    let this = executor.clone();
    let killed = blocking::run(move || {
        let group = match cgroup::open(&this.cgroup()) {
            Ok(group) => group,
            Err(error) => return warn(&this, "opening the pod's cgroup", &error),
        };
        if let Err(error) = group.signal(9) {
            warn(&this, "ending the pod's processes", &error);
        }
        if let Err(error) = group.delete() {
            warn(&this, "removing the pod's cgroup", &error);
        }
    });
    if let Err(error) = killed.await {
        tracing::error!(%error, uid = executor.uid, "ending the pod's processes");
    }
}

/// Removes network, mounts, snapshots and files of a sandbox without processes.
async fn clear(executor: &Executor) {
    let turn = blocking::turn().await;
    if let Err(error) = executor.host.network.teardown(&executor.uid).await {
        warn(executor, "tearing down the pod's network", &error);
    }
    drop(turn);
    let this = executor.clone();
    if let Err(error) = blocking::run(move || sweep(&this)).await {
        tracing::error!(%error, uid = executor.uid, "removing the pod's sandbox");
    }
}

fn warn(executor: &Executor, what: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error = super::chain(error), uid = executor.uid, "{what}");
}

fn sweep(executor: &Executor) {
    let (run_dir, images) = (executor.run_dir(), &executor.host.images);
    // With a root still mounted its snapshot must stay: the next sweep tries again.
    if let Err(error) = agent_volume::removal::unmount_below(&run_dir) {
        return warn(executor, "unmounting the pod's sandbox", &error);
    }
    for entry in fs::read_dir(run_dir.join("c")).into_iter().flatten().flatten() {
        let key = format!("{}_{}", executor.uid, entry.file_name().to_string_lossy());
        if let Err(error) = images.release(&key) {
            warn(executor, "releasing a snapshot", &error);
        }
    }
    if let Err(error) = agent_volume::removal::remove_tree(&run_dir) {
        warn(executor, "removing the pod's run directory", &error);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_pod_is_called_as_its_spec_says() {
        let called = |spec: Value| {
            let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec})).unwrap();
            hostname(&pod, &Names::of(&pod, "cluster.local"))
        };
        assert_eq!(called(json!({"containers": []})).unwrap(), "p");
        assert_eq!(called(json!({"containers": [], "hostname": "h", "subdomain": "s"})).unwrap(), "h");
        let whole = |subdomain: &str| json!({"containers": [], "subdomain": subdomain, "setHostnameAsFQDN": true});
        assert_eq!(called(whole("s")).unwrap(), "p.s.shop.svc.cluster.local");
        assert!(called(whole(&"s".repeat(60))).unwrap_err().message.contains("too long (64"));
        assert_eq!(called(json!({"containers": [], "hostnameOverride": "other.example"})).unwrap(), "other.example");
        let names = Names { short: "h".into(), whole: Some("h.s.n.svc.d".into()) };
        assert!(hosts(&names, &["10.0.0.2".into()]).ends_with("\n10.0.0.2\th.s.n.svc.d\th\n"));
    }
}
