//! The seccomp profile of a container: the default one, or one from a file of this machine. Kubernetes documentation,
//! "Restrict a Container's Syscalls with seccomp".

use std::io::Read as _;

use agent_pod::protocol::Failure;
use agent_runtime::seccomp::default_profile_for;
use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::container::CREATE_ERROR;
use super::{Executor, chain};
use crate::oci::Confinement;

/// A profile that names every call a few times is far smaller.
const MOST_BYTES: u64 = 1 << 20;

/// The profile; `None` where every call is allowed.
pub(super) fn load(executor: &Executor, wish: &Confinement) -> Result<Option<LinuxSeccomp>, Failure> {
    match wish {
        Confinement::None => Ok(None),
        Confinement::Default(capabilities) => Ok(Some(default_profile_for(capabilities))),
        Confinement::File(name) => {
            let dir = executor.host.config.instance.seccomp_dir();
            read(&dir, name).map(Some).map_err(|why| Failure {
                reason: CREATE_ERROR.into(),
                message: format!("cannot load seccomp profile {:?}: {why}", dir.join(name)),
            })
        }
    }
}

/// Reads a profile that must lie below the directory, wherever links lead.
fn read(dir: &std::path::Path, name: &str) -> Result<LinuxSeccomp, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let dir =
        rustix::fs::openat(CWD, dir, flags | OFlags::DIRECTORY, Mode::empty()).map_err(|error| error.to_string())?;
    // A pipe would never answer.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(&dir, name, flags | OFlags::NONBLOCK, Mode::empty(), resolve);
    let mut text = Vec::new();
    let file = std::fs::File::from(file.map_err(|error| error.to_string())?);
    file.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MOST_BYTES {
        return Err(format!("it is larger than {} MiB", MOST_BYTES >> 20));
    }
    serde_json::from_slice(&text)
        .map_err(|error| format!("expected a profile as the OCI runtime specification has it: {}", chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_from_below_its_directory_only() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("seccomp");
        std::fs::create_dir_all(dir.join("a")).unwrap();
        let profile =
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]}"#;
        std::fs::write(dir.join("a/b.json"), profile).unwrap();
        std::fs::write(outer.path().join("c.json"), profile).unwrap();
        std::os::unix::fs::symlink("../c.json", dir.join("link.json")).unwrap();
        assert_eq!(read(&dir, "a/b.json").unwrap().syscalls().as_ref().unwrap()[0].names(), &["chmod"]);
        assert!(read(&dir, "link.json").is_err() && read(&dir, "../c.json").is_err() && read(&dir, "none").is_err());
        std::fs::write(dir.join("d.json"), "{}").unwrap();
        assert!(read(&dir, "d.json").unwrap_err().contains("expected a profile"));
    }
}
