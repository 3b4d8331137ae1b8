//! One start of a container: image, snapshot, specification, monitor.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use agent_image::store::Image;
use agent_pod::facts::{self, Resources};
use agent_pod::protocol::{Effective, FailedStep, Failure};
use agent_runtime::monitor::protocol::RequestBody;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret, VolumeMount};
use kube::api::Api;
use nix::mount::{MsFlags, mount};

use super::blocking::{self, blocking};
use super::sandbox::{self, id};
use super::users::{self, Users};
use super::{Executor, chain, effective, failure, propagation, stop_signal, subpath, termination, volume};
use crate::cdi;
use crate::device::{self, Given};
use crate::dra;
use crate::environment::{self, Sources};
use crate::failpoint;
use crate::monitor::Monitor;
use crate::oci::{self, Access, Bind, Device, Parts, User};
use crate::rotation;
use crate::user::{self, Wish};

const SIGKILL: i32 = 9;
pub(crate) const CREATE_ERROR: &str = "CreateContainerError";
const CONFIG_ERROR: &str = "CreateContainerConfigError";

/// How a container is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Its stop signal, to its first process.
    Stop,
    /// SIGKILL, to every process.
    Kill,
}

impl Executor {
    /// A container by its number with the machine.
    pub(crate) fn container(&self, index: usize) -> Option<Container> {
        facts::containers(&self.pod).nth(index).map(|(container, _)| container)
    }

    pub(super) fn bundle(&self, id: &str) -> PathBuf {
        self.run_dir().join("c").join(id)
    }
}

fn missing(index: usize) -> Failure {
    Failure { reason: CREATE_ERROR.into(), message: format!("the pod has no container {index}") }
}

/// Creates and starts the container. Answers as what.
pub(crate) async fn start(executor: &Executor, index: usize, attempt: u32) -> Result<Effective, (FailedStep, Failure)> {
    let (monitor, id, effective) =
        create(executor, index, attempt).await.map_err(|failure| (FailedStep::Create, failure))?;
    if let Err(error) = monitor.request(RequestBody::Start { container: id.clone() }).await {
        // What could not be started is of no use; an ended start is kept until the next one runs.
        drop(monitor.request(RequestBody::Delete { container: id }).await);
        return Err((FailedStep::Start, failure("RunContainerError", &error)));
    }
    if let (Some(container), Some(earlier)) = (executor.container(index), attempt.checked_sub(1)) {
        forget(executor, &monitor, self::id(&container.name, earlier)).await;
    }
    Ok(effective)
}

/// Lets the monitor forget a start that has a successor. Until then it is what an agent that was killed learns from
/// that the container ended.
async fn forget(executor: &Executor, monitor: &Monitor, id: String) {
    if let Err(error) = monitor.request(RequestBody::Delete { container: id.clone() }).await {
        tracing::debug!(error = chain(&error), uid = executor.uid, id, "deleting the earlier start of a container");
    }
    remove_files(executor, id).await;
}

/// Everything up to the program's first instruction. Answers the monitor and the container's name with it.
async fn create(executor: &Executor, index: usize, attempt: u32) -> Result<(Monitor, String, Effective), Failure> {
    let container = executor.container(index).ok_or_else(|| missing(index))?;
    let sources = fetch_sources(executor, &container).await?;
    let mut given = device::give(executor, &container).await?;
    // A device that a plugin names too is given once.
    let claimed = dra::devices(executor, &container)?.into_iter().filter(|name| !given.cdi.contains(name));
    let claimed: Vec<String> = claimed.collect();
    given.cdi.extend(claimed);
    let (id, name) = (id(&container.name, attempt), container.name.clone());
    let bundle = executor.bundle(&id);
    let log = executor.log_dir().join(&container.name).join(format!("{attempt}.log"));
    let request = RequestBody::Create {
        container: id.clone(),
        bundle: bundle.clone(),
        log: Some(log.clone()),
        log_limits: Some(rotation::LIMITS),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
    };
    let monitor = executor.monitor().ok_or_else(|| failure(CREATE_ERROR, &crate::monitor::MonitorError::Gone))?;
    let target = target(executor, &monitor, &container.name).await?;
    let stop_signal = stop_signal::of(executor, &container);
    let this = executor.clone();
    let key = format!("{}_{id}", executor.uid);
    let user = blocking(move || {
        let logs = this.log_dir();
        this.host.config.instance.make_owned(&logs).map_err(|error| failure(CREATE_ERROR, &error))?;
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent).map_err(|error| failure(CREATE_ERROR, &error))?;
            rotation::forget_earlier(parent, attempt);
        }
        rotation::link(
            &this.host.config.instance.log_link_dir(),
            this.namespace(),
            this.name(),
            &container.name,
            &key,
            &log,
        );
        write_bundle(&this, &container, (&sources, &given), target, &bundle, &key)
    })
    .await?;
    failpoint::reach("container", "written");
    monitor.request(request).await.map_err(|error| failure(CREATE_ERROR, &error))?;
    failpoint::reach("container", "created");
    // Somebody may have got processors meanwhile that were shared when this one's were written down.
    if executor.host.processors.free().is_some() {
        let (this, group) = (executor.clone(), group(executor, &id));
        blocking(move || {
            this.host.processors.place(&this.uid, &name, &group);
            Ok(())
        })
        .await?;
    }
    let stop_signal = stop_signal::name(stop_signal);
    Ok((monitor, id, effective::of(&user, stop_signal)))
}

/// The cgroup of a container's start.
fn group(executor: &Executor, id: &str) -> String {
    format!("{}/{id}", executor.cgroup())
}

/// The first process of the container that an ephemeral container looks into. `targetContainerName`.
async fn target(executor: &Executor, monitor: &Monitor, name: &str) -> Result<Option<i32>, Failure> {
    let mut ephemeral = executor.pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let target = ephemeral.find(|own| own.name == name).and_then(|own| own.target_container_name.as_ref());
    let Some(target) = target.filter(|target| !target.is_empty()) else { return Ok(None) };
    let states = monitor.list().await.map_err(|error| failure(CREATE_ERROR, &error))?;
    let runs = states.iter().find(|state| {
        state.exit.is_none() && state.id.rsplit_once('.').is_some_and(|(container, _)| container == target)
    });
    match runs.and_then(|state| state.pid) {
        Some(pid) => Ok(Some(pid)),
        None => Err(Failure {
            reason: CREATE_ERROR.into(),
            message: format!("unable to find target container {target:?}: it does not run"),
        }),
    }
}

/// Gets the ConfigMaps and Secrets that the environment refers to.
async fn fetch_sources(executor: &Executor, container: &Container) -> Result<Sources, Failure> {
    let (config_maps, secrets) = environment::references(container);
    let mut sources = Sources::default();
    let (client, namespace) = (&executor.host.client, executor.namespace());
    let fail = |error: kube::Error| failure(CONFIG_ERROR, &error);
    for name in config_maps {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        sources.config_maps.extend(api.get_opt(&name).await.map_err(fail)?.map(|map| (name, map)));
    }
    for name in secrets {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        sources.secrets.extend(api.get_opt(&name).await.map_err(fail)?.map(|secret| (name, secret)));
    }
    Ok(sources)
}

/// The root file system, mounted, and `config.json` beside it. Answers the user that this says.
fn write_bundle(
    executor: &Executor,
    container: &Container,
    (sources, given): (&Sources, &Given),
    target: Option<i32>,
    bundle: &Path,
    key: &str,
) -> Result<User, Failure> {
    let fail = |error: &(dyn std::error::Error + 'static)| failure(CREATE_ERROR, error);
    let image = executor.host.images.find(container.image.as_deref().unwrap_or_default()).map_err(|e| fail(&e))?;
    let image = image.ok_or_else(|| Failure { reason: CREATE_ERROR.into(), message: "the image is gone".into() })?;
    let users = users::of(executor)?;
    let root = mount_root(executor, &image, bundle, key, users.as_ref())?;
    let config = executor.host.images.config(&image).map_err(|error| fail(&error))?;
    let config = config.config().clone().unwrap_or_default();
    let spec = executor.pod.spec.clone().unwrap_or_default();

    let identity = user::identity(&root, config.user().as_deref().unwrap_or_default(), wish(&spec, container))?;
    if let Some(users) = &users {
        let fail = |message| Failure { reason: CONFIG_ERROR.into(), message };
        users.check_identity(&identity).map_err(fail)?;
    }
    let mut place = executor.host.place(&executor.pod_ips);
    place.service_links = executor.host.services.links(executor.namespace(), &spec);
    let variables = environment::variables(&executor.pod, container, sources, &place)?;
    let image_env = config.env().clone().unwrap_or_default();
    let mut env = merge_environment(&image_env, &variables, &executor.pod);
    let edits = cdi::edits(&executor.host.config.cdi_dirs, &given.cdi).map_err(|error| fail(&error))?;
    let of_devices = given.env.iter().map(|(name, value)| format!("{name}={value}"));
    of_devices.chain(edits.env.iter().cloned()).for_each(|pair| set(&mut env, pair));
    let known: BTreeMap<String, String> = variables.into_iter().collect();
    let args = arguments(container, &config, &known)?;
    let cwd = container.working_dir.clone().filter(|dir| !dir.is_empty()).or_else(|| config.working_dir().clone());
    let mut binds = binds(executor, container, bundle, &known, users.as_ref())?;
    binds.extend(given.mounts.iter().map(|(source, destination, read_only)| Bind {
        source: source.clone(),
        destination: destination.clone(),
        access: if *read_only { Access::ReadOnly } else { Access::ReadWrite },
        propagation: "rprivate",
        is_mapped: false,
    }));
    let mut attached = volume_devices(executor, container)?;
    for (host, inside, permissions) in &given.devices {
        if users.is_some() && host != Path::new(inside) {
            let message = format!("device {} cannot be {inside} with hostUsers: false", host.display());
            return Err(Failure { reason: CREATE_ERROR.into(), message });
        }
        attached.push(device_node(host, inside, permissions)?);
    }
    if let Some(node) = edits.nodes.iter().find(|node| users.is_some() && node.host != node.path) {
        let message = format!("device {} cannot be {} with hostUsers: false", node.host, node.path);
        return Err(Failure { reason: CREATE_ERROR.into(), message });
    }
    let parts = Parts {
        spec: &spec,
        container,
        target,
        users: users.as_ref().map(|users| users.pin.as_path()),
        qos: api::pod::recorded_qos_class(&executor.pod),
        identity: &identity,
        args,
        env,
        cwd: cwd.filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into()),
        root,
        binds,
        cgroup: group(executor, key.rsplit('_').next().unwrap_or(key)),
        unified: super::memory::files(executor, &Resources::of(container.resources.as_ref())),
        cpus: executor.host.processors.of_container(&executor.uid, &container.name),
        can_lower_oom_score: executor.host.can_lower_oom_score,
        memory_capacity: executor.host.memory_capacity,
        seccomp: super::profile::load(executor, &oci::confinement(&spec, container))?,
        devices: if oci::is_privileged(container) { host_devices() } else { vec![] },
        volume_devices: attached,
        edits: &edits,
    };
    let bytes = serde_json::to_vec(&oci::specification(&parts)).map_err(|error| fail(&error))?;
    // It holds the values of Secrets.
    let path = bundle.join("config.json");
    let file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(&bytes)).map_err(|error| fail(&error))?;
    Ok(oci::user(&parts))
}

fn wish(spec: &k8s_openapi::api::core::v1::PodSpec, container: &Container) -> Wish {
    let (pod, own) = (spec.security_context.as_ref(), container.security_context.as_ref());
    let number = |own: Option<i64>, pod: Option<i64>| own.or(pod).and_then(|id| u32::try_from(id).ok());
    Wish {
        uid: number(own.and_then(|c| c.run_as_user), pod.and_then(|c| c.run_as_user)),
        gid: number(own.and_then(|c| c.run_as_group), pod.and_then(|c| c.run_as_group)),
        must_not_be_root: own.and_then(|c| c.run_as_non_root).or(pod.and_then(|c| c.run_as_non_root)) == Some(true),
    }
}

fn mount_root(
    executor: &Executor,
    image: &Image,
    bundle: &Path,
    key: &str,
    users: Option<&Users>,
) -> Result<PathBuf, Failure> {
    let fail = |error: &(dyn std::error::Error + 'static)| failure(CREATE_ERROR, error);
    let snapshot = executor.host.images.snapshot(key, image).map_err(|error| fail(&error))?;
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root).map_err(|error| fail(&error))?;
    // What an agent that was killed mounted is not mounted upon.
    agent_volume::removal::unmount_below(bundle).map_err(|error| fail(&error))?;
    if let Some(users) = users {
        let mounted = users.mount_root(&snapshot, &root, bundle);
        return mounted.map(|()| root).map_err(|message| Failure { reason: CREATE_ERROR.into(), message });
    }
    let options = snapshot.options();
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_os_str())).map_err(|error| {
        Failure { reason: CREATE_ERROR.into(), message: format!("mount overlay on {}: {error}", root.display()) }
    })?;
    Ok(root)
}

/// Gives a variable its value, whatever it had before.
fn set(env: &mut Vec<String>, pair: String) {
    let name = pair.split('=').next().unwrap_or_default();
    env.retain(|other| other.split('=').next() != Some(name));
    env.push(pair);
}

/// Image variables, then Kubernetes' own, then the pod's.
fn merge_environment(
    image: &[String],
    variables: &[(String, String)],
    pod: &k8s_openapi::api::core::v1::Pod,
) -> Vec<String> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match all.iter_mut().find(|(own, _)| own == name) {
        Some(entry) => entry.1 = value.to_owned(),
        None => all.push((name.to_owned(), value.to_owned())),
    };
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let wished = pod.spec.as_ref().and_then(|spec| spec.hostname.as_ref()).filter(|own| !own.is_empty());
    if let Some(name) = wished.or(pod.metadata.name.as_ref()) {
        set("HOSTNAME", name);
    }
    for pair in image {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(name, value);
    }
    for (name, value) in variables {
        set(name, value);
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// `command` replaces the image's entry point and with it its arguments; `args` replaces the arguments.
fn arguments(
    container: &Container,
    image: &oci_spec::image::Config,
    known: &BTreeMap<String, String>,
) -> Result<Vec<String>, Failure> {
    let expand = |list: &Vec<String>| list.iter().map(|text| environment::expand(text, known)).collect::<Vec<_>>();
    let command = container.command.as_ref().filter(|list| !list.is_empty());
    let own = container.args.as_ref().filter(|list| !list.is_empty());
    let entry = image.entrypoint().clone().unwrap_or_default();
    let all: Vec<String> = match (command, own) {
        (Some(command), own) => expand(command).into_iter().chain(own.map(expand).unwrap_or_default()).collect(),
        (None, Some(own)) => entry.into_iter().chain(expand(own)).collect(),
        (None, None) => entry.into_iter().chain(image.cmd().clone().unwrap_or_default()).collect(),
    };
    match all.is_empty() {
        true => Err(Failure {
            reason: CREATE_ERROR.into(),
            message: "no command specified: neither the container nor its image names one".into(),
        }),
        false => Ok(all),
    }
}

/// The pod's shared files and the container's volumes.
fn binds(
    executor: &Executor,
    container: &Container,
    bundle: &Path,
    known: &BTreeMap<String, String>,
    users: Option<&Users>,
) -> Result<Vec<Bind>, Failure> {
    let run_dir = executor.run_dir();
    let etc = sandbox::etc_dir(&run_dir);
    let shared = |source: &Path, destination: &str, read_only| Bind {
        source: source.to_owned(),
        destination: destination.to_owned(),
        access: if read_only { Access::ReadOnly } else { Access::ReadWrite },
        propagation: "rprivate",
        is_mapped: false,
    };
    let mut binds = vec![
        shared(&run_dir.join("shm"), "/dev/shm", false),
        shared(&etc.join("hosts"), "/etc/hosts", false),
        shared(&etc.join("hostname"), "/etc/hostname", false),
        shared(&etc.join("resolv.conf"), "/etc/resolv.conf", false),
    ];
    let id = bundle.file_name().unwrap_or_default().to_string_lossy();
    let termination = termination::path(&run_dir, &id);
    // Whoever the container runs as may write it; nobody else reaches it.
    fs::write(&termination, "")
        .and_then(|()| fs::set_permissions(&termination, fs::Permissions::from_mode(0o666)))
        .map_err(|error| failure(CREATE_ERROR, &error))?;
    let destination = container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into());
    binds.push(Bind {
        source: termination,
        destination,
        access: Access::ReadWrite,
        propagation: "rprivate",
        is_mapped: false,
    });
    for (index, mounted) in container.volume_mounts.iter().flatten().enumerate() {
        let bind = volume_bind(executor, mounted, (bundle, index), known, users)?;
        // A volume on one of the shared files wins over it.
        binds.retain(|other| other.destination != bind.destination);
        binds.push(bind);
    }
    Ok(binds)
}

fn volume_bind(
    executor: &Executor,
    mounted: &VolumeMount,
    (bundle, index): (&Path, usize),
    known: &BTreeMap<String, String>,
    users: Option<&Users>,
) -> Result<Bind, Failure> {
    let fail = |message: String| Failure { reason: CONFIG_ERROR.into(), message };
    let mut place = volume::place(executor, &mounted.name)
        .ok_or_else(|| fail(format!("the pod has no volume {:?}", mounted.name)))?;
    let image = match users {
        Some(users) => volume::image_layers(executor, &mounted.name).map_err(fail)?.map(|layers| (users, layers)),
        None => None,
    };
    if let Some((users, layers)) = &image {
        place.path = bundle.join(format!("image-{index}"));
        users.mount_image(layers, &place.path, bundle).map_err(fail)?;
    }
    let sub_path = subpath::wanted(mounted, known).map_err(fail)?;
    let source = match sub_path.as_deref().filter(|path| !path.is_empty()) {
        None => place.path,
        Some(path) => subpath::bind(&place.path, path, &bundle.join(format!("subpath-{index}")))
            .map_err(|error| fail(format!("subPath {path:?} of volume {:?}: {error}", mounted.name)))?,
    };
    let access = match mounted.recursive_read_only.as_deref() {
        _ if mounted.read_only != Some(true) && !place.read_only => Access::ReadWrite,
        Some("Enabled") => Access::RecursiveReadOnly,
        Some("IfPossible") if executor.host.recursive_read_only => Access::RecursiveReadOnly,
        _ => Access::ReadOnly,
    };
    let propagation = match mounted.mount_propagation.as_deref() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        _ => "rprivate",
    };
    propagation::check(&source, propagation).map_err(fail)?;
    if let Some(users) = users.filter(|_| image.is_none()) {
        users.check(&mounted.name, &source).map_err(fail)?;
    }
    let destination = mounted.mount_path.clone();
    Ok(Bind { source, destination, access, propagation, is_mapped: image.is_some() })
}

/// The block devices of volumes that a container asks for.
fn volume_devices(executor: &Executor, container: &Container) -> Result<Vec<Device>, Failure> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let fail = |message: String| Failure { reason: CONFIG_ERROR.into(), message };
    let mut devices = Vec::new();
    for wanted in container.volume_devices.iter().flatten() {
        let place = volume::place(executor, &wanted.name)
            .ok_or_else(|| fail(format!("the pod has no volume {:?}", wanted.name)))?;
        let metadata = fs::metadata(&place.path).map_err(|error| fail(format!("{}: {error}", place.path.display())))?;
        if !metadata.file_type().is_block_device() {
            return Err(fail(format!("volume {:?} is not a block device", wanted.name)));
        }
        let number = metadata.rdev();
        devices.push(Device {
            path: wanted.device_path.clone(),
            kind: "b",
            major: u64::from(rustix::fs::major(number)),
            minor: u64::from(rustix::fs::minor(number)),
            mode: if place.read_only { 0o440 } else { 0o660 },
        });
    }
    Ok(devices)
}

/// A device of the machine as a plugin wants it in a container.
fn device_node(host: &Path, inside: &str, permissions: &str) -> Result<Device, Failure> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let fail = |message: String| Failure {
        reason: CREATE_ERROR.into(),
        message: format!("device {}: {message}", host.display()),
    };
    let metadata = fs::metadata(host).map_err(|error| fail(error.to_string()))?;
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => "b",
        kind if kind.is_char_device() => "c",
        _ => return Err(fail("it is none".into())),
    };
    let number = metadata.rdev();
    let mode = if permissions.contains('w') { 0o666 } else { 0o444 };
    let (major, minor) = (u64::from(rustix::fs::major(number)), u64::from(rustix::fs::minor(number)));
    Ok(Device { path: inside.to_owned(), kind, major, minor, mode })
}

/// The machine's own device nodes, for privileged containers.
fn host_devices() -> Vec<Device> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let skipped = ["pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "ptmx", "console", "core"];
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| !skipped.contains(&name)))
        .filter_map(|entry| {
            let metadata = entry.path().symlink_metadata().ok()?;
            let kind = match metadata.file_type() {
                kind if kind.is_char_device() => "c",
                kind if kind.is_block_device() => "b",
                _ => return None,
            };
            let number = metadata.rdev();
            Some(Device {
                path: entry.path().to_str()?.to_owned(),
                kind,
                major: u64::from(rustix::fs::major(number)),
                minor: u64::from(rustix::fs::minor(number)),
                mode: metadata.mode() & 0o7777,
            })
        })
        .collect()
}

/// Tells a container to end.
pub(crate) async fn signal(executor: &Executor, index: usize, attempt: u32, how: Signal) {
    let (Some(container), Some(monitor)) = (executor.container(index), executor.monitor()) else { return };
    let signal = match how {
        Signal::Stop => stop_signal::of(executor, &container),
        Signal::Kill => SIGKILL,
    };
    let request = RequestBody::Signal { container: id(&container.name, attempt), signal, all: how == Signal::Kill };
    if let Err(error) = monitor.request(request).await {
        // It ended a moment before: its exit is on its way.
        tracing::debug!(error = chain(&error), uid = executor.uid, "signalling a container");
    }
}

/// Removes the files of a start that ended. The monitor remembers it until the next one runs.
pub(crate) async fn remove(executor: &Executor, index: usize, attempt: u32) {
    if let Some(container) = executor.container(index) {
        remove_files(executor, id(&container.name, attempt)).await;
    }
}

async fn remove_files(executor: &Executor, id: String) {
    executor.processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    drop(executor.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
    let (bundle, images, key) = (executor.bundle(&id), executor.host.images.clone(), format!("{}_{id}", executor.uid));
    let termination = termination::path(&executor.run_dir(), &id);
    let removed = blocking::run(move || {
        // What cannot be unmounted keeps its snapshot.
        agent_volume::removal::unmount_below(&bundle).map_err(|error| failure("", &error))?;
        images.release(&key).map_err(|error| failure("", &error))?;
        agent_volume::removal::remove_tree(&bundle).map_err(|error| failure("", &error))?;
        agent_volume::removal::remove_tree(&termination).map_err(|error| failure("", &error))
    });
    if let Ok(Err(failure)) = removed.await {
        tracing::warn!(error = failure.message, uid = executor.uid, id, "removing a container's files");
    }
}
