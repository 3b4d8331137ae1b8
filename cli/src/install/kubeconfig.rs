//! The administrator's kubeconfig in a user's home. Root never writes there: a process of the user's own does, with
//! no more rights than the user has.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;

use crate::failure::Failure;
use crate::kubeconfig::OWN;
use crate::screen;

/// The hidden verb that the user's process runs.
pub(crate) const VERB: &str = "user-kubeconfig";
/// Whose file it is: without this line nothing is replaced or removed.
const MARK: &str = "# Given by `gantry install`; `gantry uninstall` takes it away.\n";
const LIMIT: u64 = 1 << 20;

/// Gives a user the kubeconfig that the server wrote.
pub(crate) fn hand_over(user: &str) -> Result<(), Failure> {
    let text = std::fs::read_to_string(OWN).map_err(|error| Failure::error(format!("{OWN}: {error}")))?;
    as_user(user, &format!("{MARK}{text}"))
}

/// Takes it away.
pub(crate) fn take_back(user: &str) -> Result<(), Failure> {
    as_user(user, "")
}

fn as_user(name: &str, text: &str) -> Result<(), Failure> {
    let user = User::from_name(name)?.ok_or_else(|| Failure::error(format!("no user {name:?} on this machine")))?;
    let mut child = Command::new("/proc/self/exe")
        .arg(VERB)
        .env_clear()
        .env("HOME", &user.dir)
        .current_dir("/")
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(Failure::error(format!("the kubeconfig of {name} was not changed"))),
    }
}

/// What the user's process does: keeps what comes on standard input, or removes what was kept where nothing comes.
pub(crate) fn run() -> Result<(), Failure> {
    let mut text = String::new();
    std::io::stdin().take(LIMIT).read_to_string(&mut text)?;
    let home = std::env::var_os("HOME").ok_or_else(|| Failure::error("HOME is not set"))?;
    let dir = Path::new(&home).join(".kube");
    match text.is_empty() {
        true => remove(&dir),
        false => keep(&dir, &text),
    }
}

fn is_ours(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

fn keep(dir: &Path, text: &str) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)?;
    let usual = dir.join("config");
    let path = if usual.exists() && !is_ours(&usual) { dir.join("gantry") } else { usual };
    let unnamed = PathBuf::from(format!("{}.new", path.display()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unnamed)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&unnamed, &path)?;
    screen::line(format!("kubeconfig: {}", path.display()))?;
    if path.ends_with("gantry") {
        screen::line(format!("  ~/.kube/config is another cluster's: export KUBECONFIG={}", path.display()))?;
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), Failure> {
    for path in [dir.join("config"), dir.join("gantry")].into_iter().filter(|path| is_ours(path)) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_users_own_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".kube");
        let ours = format!("{MARK}kind: Config\n");
        keep(&dir, &ours).unwrap();
        keep(&dir, &ours).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("config")).unwrap(), ours);
        assert!(!dir.join("gantry").exists());
        std::fs::write(dir.join("config"), "kind: Config\n").unwrap();
        keep(&dir, &ours).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("config")).unwrap(), "kind: Config\n");
        assert!(is_ours(&dir.join("gantry")));
        remove(&dir).unwrap();
        assert!(dir.join("config").exists() && !dir.join("gantry").exists());
    }
}
