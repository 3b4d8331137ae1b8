//! The kernel steps of a starting container, and how a failing one travels from the child to the parent.

use agent_sys::Errno;

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One step between clone and exec. The text is what the user reads before the path and the reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            const ALL: &'static [Step] = &[$(Step::$name),*];

            /// What was being done.
            pub fn text(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// Talking to the parent.
    Handshake = "talk to the parent process",
    /// setns.
    JoinNamespace = "join namespace",
    /// unshare.
    NewNamespace = "make a new namespace",
    /// clone3 in the joined user namespace.
    Succeed = "make the first process of the container's PID namespace",
    /// The child's own cgroup.
    EnterCgroup = "enter cgroup",
    /// setsid.
    NewSession = "start a new session",
    /// sethostname.
    HostName = "set the host name",
    /// setdomainname.
    DomainName = "set the domain name",
    /// Loopback.
    Loopback = "bring up the loopback link",
    /// A file below /proc/sys.
    Sysctl = "set sysctl",
    /// oom_score_adj.
    OomScore = "write",
    /// Propagation of the root mount.
    RootPropagation = "set the mount propagation of /",
    /// Bind of the root filesystem.
    RootBind = "bind the root filesystem",
    /// Finding or making a mount point.
    MountPoint = "prepare the mount point",
    /// Opening the source of a bind mount.
    BindSource = "open the bind source",
    /// mount of a filesystem.
    Mount = "mount",
    /// Changing attributes of a mount.
    MountAttributes = "change mount attributes of",
    /// Changing propagation of a mount.
    MountPropagation = "change mount propagation of",
    /// mknod.
    Device = "create device",
    /// The links in /dev.
    DeviceLink = "create link",
    /// Masked paths.
    Mask = "mask path",
    /// Read-only paths.
    ReadOnlyPath = "make path read-only",
    /// pivot_root.
    PivotRoot = "pivot into the root filesystem",
    /// Read-only rootfs.
    ReadOnlyRoot = "make the root filesystem read-only",
    /// The pseudo-terminal.
    Terminal = "set up the terminal",
    /// Standard streams.
    Streams = "connect the standard streams",
    /// setrlimit.
    ResourceLimit = "set resource limit",
    /// ioprio_set.
    IoPriority = "set the IO priority",
    /// personality.
    Personality = "set the personality",
    /// AppArmor or SELinux.
    SecurityLabel = "set the security label",
    /// no_new_privs.
    NoNewPrivileges = "set no_new_privs",
    /// Seccomp.
    Seccomp = "load the seccomp filter",
    /// Bounding set.
    BoundingSet = "limit the capability bounding set",
    /// setgroups.
    Groups = "set supplementary groups",
    /// setresgid.
    GroupId = "set the group id",
    /// setresuid.
    UserId = "set the user id",
    /// capset.
    Capabilities = "set capabilities",
    /// Ambient set.
    AmbientSet = "set ambient capabilities",
    /// pdeathsig.
    DieWithParent = "tie the process to its parent",
    /// close_range.
    CloseDescriptors = "close inherited descriptors",
    /// chdir.
    WorkingDirectory = "change to the working directory",
    /// Looking up the program.
    FindProgram = "find the program",
    /// Waiting for start.
    AwaitStart = "wait for start",
    /// A hook that runs inside.
    Hook = "run hook",
    /// execve.
    Exec = "exec",
    /// User namespace maps.
    IdMap = "take the identity of the user namespace",
}

/// A step that failed in the child.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct StepError {
    /// Which.
    pub step: Step,
    /// The kernel's reason.
    pub errno: Errno,
    /// The path, name or value it was about; may be empty.
    pub detail: String,
}

/// The kernel's words for an error number, in lower case.
pub fn errno_text(errno: Errno) -> String {
    let text = std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    let text = text.rfind(" (os error").map_or(text.as_str(), |at| &text[..at]);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

impl StepError {
    fn describe(&self) -> String {
        let reason = errno_text(self.errno);
        match (self.step, self.errno) {
            (Step::FindProgram, Errno::NOENT) if !self.detail.contains('/') => {
                format!("exec: \"{}\": executable file not found in $PATH", self.detail)
            }
            (Step::FindProgram, _) => format!("exec: \"{0}\": stat {0}: {reason}", self.detail),
            (Step::Exec, _) => format!("exec {}: {reason}", self.detail),
            _ if self.detail.is_empty() => format!("{}: {reason}", self.step.text()),
            _ => format!("{} {}: {reason}", self.step.text(), self.detail),
        }
    }

    /// Whether the program to run does not exist.
    pub fn is_missing_program(&self) -> bool {
        matches!(self.step, Step::FindProgram | Step::Exec) && self.errno == Errno::NOENT
    }
}

/// A failure inside the child: borrows its detail, so that making one allocates nothing.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// Which step.
    pub step: Step,
    /// Why.
    pub errno: Errno,
    /// About what.
    pub detail: &'a [u8],
}

/// Names the step of an error.
pub trait At<'a, T> {
    /// Attaches the step and what it was about.
    fn at(self, step: Step, detail: &'a [u8]) -> Result<T, Failure<'a>>;
}

impl<'a, T> At<'a, T> for Result<T, Errno> {
    fn at(self, step: Step, detail: &'a [u8]) -> Result<T, Failure<'a>> {
        self.map_err(|errno| Failure { step, errno, detail })
    }
}

/// Longest detail that travels.
const DETAIL_MAX: usize = 1024;
/// Longest encoded failure.
pub(super) const ENCODED_MAX: usize = 5 + DETAIL_MAX;

/// Encodes a failure into `buffer`; gives the length.
pub(super) fn encode(failure: &Failure<'_>, buffer: &mut [u8; ENCODED_MAX]) -> usize {
    let detail = &failure.detail[..failure.detail.len().min(DETAIL_MAX)];
    buffer[0] = failure.step as u8;
    buffer[1..5].copy_from_slice(&failure.errno.raw_os_error().to_le_bytes());
    buffer[5..5 + detail.len()].copy_from_slice(detail);
    5 + detail.len()
}

/// The reverse; anything malformed reads as a broken handshake.
pub(super) fn decode(bytes: &[u8]) -> StepError {
    let broken = || StepError { step: Step::Handshake, errno: Errno::PROTO, detail: String::new() };
    let (Some(&step), Some(errno)) = (bytes.first(), bytes.get(1..5).and_then(|b| <[u8; 4]>::try_from(b).ok())) else {
        return broken();
    };
    let Some(&step) = Step::ALL.get(usize::from(step)) else { return broken() };
    StepError {
        step,
        errno: Errno::from_raw_os_error(i32::from_le_bytes(errno)),
        detail: String::from_utf8_lossy(&bytes[5..]).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire() {
        let failure = Failure { step: Step::Mount, errno: Errno::PERM, detail: b"\"proc\" at /proc" };
        let mut buffer = [0; ENCODED_MAX];
        let len = encode(&failure, &mut buffer);
        let error = decode(&buffer[..len]);
        assert_eq!(error.to_string(), "mount \"proc\" at /proc: operation not permitted");
        assert_eq!(decode(&[250, 0, 0, 0, 0]).step, Step::Handshake);
        assert_eq!(decode(&[]).step, Step::Handshake);
    }

    #[test]
    fn steps_keep_their_numbers() {
        for (index, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, index);
        }
    }
}
