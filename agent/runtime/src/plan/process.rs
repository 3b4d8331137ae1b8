//! The program of a container or of an exec, with everything about its identity and limits.

use std::{ffi::CString, sync::Arc};

use agent_sys::{exec::CStrings, seccomp::Instruction};
use oci_spec::runtime::{self as oci, PosixRlimitType};

use super::{PlanError, capability, capability::CapabilityPlan, cstring};

/// Where programs are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file of security labels and what to write there.
#[derive(Debug)]
pub struct LabelPlan {
    /// Below /proc/self/attr.
    pub path: &'static std::ffi::CStr,
    /// The label.
    pub value: Vec<u8>,
}

/// What a container's `linux` section says of each of its processes. Compiled once, shared by those that join later.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Compiled filter; empty for none.
    pub seccomp: Arc<[Instruction]>,
    /// Its flags.
    pub seccomp_flags: u64,
    /// Execution domain.
    pub personality: Option<u64>,
}

impl Confinement {
    /// Compiles it.
    pub fn of(linux: &oci::Linux) -> Result<Self, PlanError> {
        let (seccomp, seccomp_flags) = match linux.seccomp() {
            Some(profile) => crate::seccomp::compile(profile).map_err(PlanError::Seccomp)?,
            None => (Vec::new(), 0),
        };
        let personality = linux.personality().as_ref().map(|p| match p.domain() {
            oci::LinuxPersonalityDomain::PerLinux => 0,
            oci::LinuxPersonalityDomain::PerLinux32 => 8,
        });
        Ok(Self { seccomp: seccomp.into(), seccomp_flags, personality })
    }
}

/// A program about to run.
#[derive(Debug)]
pub struct ProcessPlan {
    /// As the user wrote it, for messages.
    pub name: Vec<u8>,
    /// Paths to try in order.
    pub candidates: Vec<CString>,
    /// Arguments.
    pub args: CStrings,
    /// Environment.
    pub env: CStrings,
    /// Index in `env` of a HOME that has to be looked up in the container's passwd.
    pub home_wanted: Option<usize>,
    /// Directory.
    pub cwd: CString,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Creation mask.
    pub umask: u32,
    /// Capability sets; `None` leaves them to the kernel's rules.
    pub capabilities: Option<CapabilityPlan>,
    /// no_new_privs.
    pub no_new_privileges: bool,
    /// (kernel number, soft, hard, name).
    pub limits: Vec<(u32, u64, u64, &'static str)>,
    /// Value for /proc/self/oom_score_adj.
    pub oom_score_adj: Option<Vec<u8>>,
    /// What holds for every process of the container.
    pub confinement: Confinement,
    /// Class and priority.
    pub io_priority: Option<(u32, u32)>,
    /// AppArmor or SELinux.
    pub labels: Vec<LabelPlan>,
    /// Wants a pseudo-terminal.
    pub terminal: bool,
    /// Its size: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// Dies with the process that made it.
    pub die_with_parent: bool,
    /// Descriptors from 3 on that stay open.
    pub preserve_fds: u32,
}

fn limit(kind: PosixRlimitType) -> (u32, &'static str) {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => (libc::RLIMIT_CPU, "RLIMIT_CPU"),
        T::RlimitFsize => (libc::RLIMIT_FSIZE, "RLIMIT_FSIZE"),
        T::RlimitData => (libc::RLIMIT_DATA, "RLIMIT_DATA"),
        T::RlimitStack => (libc::RLIMIT_STACK, "RLIMIT_STACK"),
        T::RlimitCore => (libc::RLIMIT_CORE, "RLIMIT_CORE"),
        T::RlimitRss => (libc::RLIMIT_RSS, "RLIMIT_RSS"),
        T::RlimitNproc => (libc::RLIMIT_NPROC, "RLIMIT_NPROC"),
        T::RlimitNofile => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE"),
        T::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"),
        T::RlimitAs => (libc::RLIMIT_AS, "RLIMIT_AS"),
        T::RlimitLocks => (libc::RLIMIT_LOCKS, "RLIMIT_LOCKS"),
        T::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"),
        T::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"),
        T::RlimitNice => (libc::RLIMIT_NICE, "RLIMIT_NICE"),
        T::RlimitRtprio => (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO"),
        T::RlimitRttime => (libc::RLIMIT_RTTIME, "RLIMIT_RTTIME"),
    }
}

/// Lays out a program.
pub fn plan(process: &oci::Process, confinement: Confinement, die_with_parent: bool) -> Result<ProcessPlan, PlanError> {
    let args = process.args().clone().unwrap_or_default();
    let Some(name) = args.first().filter(|name| !name.is_empty()).cloned() else {
        return Err(PlanError::Missing { field: "process.args" });
    };
    if !process.cwd().is_absolute() {
        return Err(PlanError::Invalid {
            field: "process.cwd",
            value: process.cwd().display().to_string(),
            expected: "an absolute path",
        });
    }
    let mut env = process.env().clone().unwrap_or_default();
    let search = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH).to_owned();
    let candidates = if name.contains('/') {
        vec![cstring("process.args", name.clone())?]
    } else {
        let dirs = search.split(':').filter(|dir| !dir.is_empty());
        dirs.map(|dir| cstring("process.args", format!("{dir}/{name}"))).collect::<Result<_, _>>()?
    };
    let home_wanted = (!env.iter().any(|entry| entry.starts_with("HOME="))).then(|| {
        env.push("HOME=/".to_owned());
        env.len() - 1
    });
    let strings = |field: &'static str, list: Vec<String>| -> Result<CStrings, PlanError> {
        Ok(CStrings::new(list.into_iter().map(|s| cstring(field, s)).collect::<Result<_, _>>()?))
    };
    // -1 and beyond would mean "leave unchanged" to the kernel, which is not what anybody asked for.
    let id = |field, id: u32| match id {
        u32::MAX => Err(PlanError::Invalid { field, value: id.to_string(), expected: "an id from 0 to 4294967294" }),
        _ => Ok(id),
    };
    let mut limits: Vec<(u32, u64, u64, &'static str)> = Vec::new();
    for entry in process.rlimits().iter().flatten() {
        let (number, name) = limit(entry.typ());
        if limits.iter().any(|known| known.0 == number) {
            let value = name.to_owned();
            return Err(PlanError::Invalid { field: "process.rlimits", value, expected: "each type once" });
        }
        limits.push((number, entry.soft(), entry.hard(), name));
    }
    let own = agent_sys::credential::capabilities().map_or(u64::MAX, |sets| sets.permitted);
    Ok(ProcessPlan {
        name: name.into_bytes(),
        candidates,
        args: strings("process.args", args)?,
        env: strings("process.env", env)?,
        home_wanted,
        cwd: cstring("process.cwd", process.cwd().clone().into_os_string().into_encoded_bytes())?,
        uid: id("process.user.uid", process.user().uid())?,
        gid: id("process.user.gid", process.user().gid())?,
        groups: process.user().additional_gids().clone().unwrap_or_default(),
        umask: process.user().umask().unwrap_or(0o022) & 0o777,
        capabilities: process.capabilities().as_ref().map(|c| capability::plan(c, own)),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        limits,
        oom_score_adj: process.oom_score_adj().map(|score| score.to_string().into_bytes()),
        confinement,
        io_priority: process.io_priority().as_ref().map(|priority| {
            let class = match priority.class() {
                oci::IOPriorityClass::IoprioClassRt => 1,
                oci::IOPriorityClass::IoprioClassBe => 2,
                oci::IOPriorityClass::IoprioClassIdle => 3,
            };
            (class, priority.priority().clamp(0, 7) as u32)
        }),
        labels: labels(process)?,
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().map(|size| (clamp_size(size.height()), clamp_size(size.width()))),
        die_with_parent,
        preserve_fds: 0,
    })
}

fn clamp_size(size: u64) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

/// Labels are written where the module is active. Asking for AppArmor without it is an error, as in runc; an SELinux
/// label without SELinux is ignored, as there.
fn labels(process: &oci::Process) -> Result<Vec<LabelPlan>, PlanError> {
    let mut labels = Vec::new();
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !p.is_empty() && *p != "unconfined") {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.starts_with(b"Y"));
        if !enabled {
            return Err(PlanError::Invalid {
                field: "process.apparmorProfile",
                value: profile.to_owned(),
                expected: "none: AppArmor is not enabled on this machine",
            });
        }
        labels
            .push(LabelPlan { path: c"/proc/self/attr/apparmor/exec", value: format!("exec {profile}").into_bytes() });
    }
    if let Some(label) = process.selinux_label().as_deref().filter(|l| !l.is_empty())
        && std::path::Path::new("/sys/fs/selinux/enforce").exists()
    {
        labels.push(LabelPlan { path: c"/proc/self/attr/exec", value: label.as_bytes().to_vec() });
    }
    Ok(labels)
}
