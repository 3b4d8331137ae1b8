//! What is known of a container between two calls: `ROOT/ID/state.json`. ROOT is below /run: a reboot forgets both the
//! containers and their states, so nothing is synced.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Hooks;
use serde::{Deserialize, Serialize};

use super::ContainerError;

/// Version of the file.
pub const VERSION: u32 = 1;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made.
    Creating,
    /// Everything is there but the program.
    Created,
    /// The program runs.
    Running,
    /// The program ended.
    Stopped,
    /// The program is frozen.
    Paused,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Stopped => "stopped",
            Status::Paused => "paused",
        })
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// The container.
    pub id: String,
    /// Its first process, once there is one.
    pub pid: Option<i32>,
    /// When that process began, in clock ticks: tells it from a later one with the same number.
    pub pid_start: u64,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root filesystem.
    pub rootfs: PathBuf,
    /// Its cgroup, below every hierarchy's root.
    pub cgroup: String,
    /// `CLONE_NEW*` flags of the namespaces it has apart from the runtime.
    pub namespaces: u64,
    /// When it was made.
    pub created: String,
    /// The spec's annotations.
    pub annotations: HashMap<String, String>,
    /// Hooks that run later: poststart and poststop.
    pub hooks: Option<Hooks>,
}

/// Letters, digits, `_ + - .`; a path component and nothing else.
pub fn check_id(id: &str) -> Result<(), ContainerError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(known) {
        return Err(ContainerError::Id(id.chars().take(100).collect()));
    }
    Ok(())
}

/// Writes a file so that readers see the old or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

impl State {
    /// Where it stands.
    pub fn file(directory: &Path) -> PathBuf {
        directory.join("state.json")
    }

    /// Writes it.
    pub fn save(&self, directory: &Path) -> Result<(), ContainerError> {
        let path = State::file(directory);
        let bytes = serde_json::to_vec(self).map_err(|error| ContainerError::File {
            what: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        replace(&path, &bytes).map_err(ContainerError::file("write", path))
    }

    /// Reads it.
    pub fn load(directory: &Path, id: &str) -> Result<State, ContainerError> {
        let path = State::file(directory);
        match crate::spec::read_json::<State>(&path) {
            Ok(state) if state.version != VERSION => Err(ContainerError::StateVersion { path, version: state.version }),
            Ok(state) => Ok(state),
            Err(crate::spec::SpecError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(ContainerError::NotFound(id.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the first process is still that one and has not ended.
    pub fn is_alive(&self) -> bool {
        self.pid
            .and_then(process_stat)
            .is_some_and(|(state, start)| start == self.pid_start && !matches!(state, 'Z' | 'X'))
    }
}

/// Those of the processes that descend from `leader` or are of its session.
pub(crate) fn family(leader: i32, pids: &[i32]) -> Vec<i32> {
    let parents: HashMap<i32, (i32, i32)> =
        pids.iter().filter_map(|pid| Some((*pid, stat(*pid, parent_and_session)??))).collect();
    let belongs = |pid: i32| {
        let mut pid = pid;
        // No chain is longer than all of them.
        for _ in 0..=parents.len() {
            match parents.get(&pid) {
                Some((parent, session)) if *parent == leader || *session == leader => return true,
                Some((parent, _)) => pid = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(|pid| *pid != leader && belongs(*pid)).collect()
}

fn parent_and_session(mut fields: std::str::SplitAsciiWhitespace<'_>) -> Option<(i32, i32)> {
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.nth(1)?.parse().ok()?))
}

/// State letter and start time of a process.
pub(crate) fn process_stat(pid: i32) -> Option<(char, u64)> {
    stat(pid, |mut fields| {
        let state = fields.next()?.chars().next()?;
        Some((state, fields.nth(18)?.parse().ok()?))
    })?
}

/// What `read` makes of the fields of proc_pid_stat(5) that follow the name.
fn stat<T>(pid: i32, read: impl FnOnce(std::str::SplitAsciiWhitespace<'_>) -> T) -> Option<T> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so fields are counted after the last one.
    Some(read(text.rsplit_once(')')?.1.split_ascii_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_single_path_components() {
        for good in ["a", "pod-1_x.y+z", "..."] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\n"] {
            check_id(bad).unwrap_err();
        }
    }

    #[test]
    fn a_family_is_told_by_parent_and_session() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let own = std::process::id() as i32;
        let all = || -> Vec<i32> {
            let entries = fs::read_dir("/proc").unwrap().flatten();
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        };
        let leader = child.id() as i32;
        let grandchild = loop {
            let found = family(leader, &all());
            if !found.is_empty() {
                break found;
            }
        };
        assert_eq!(grandchild.len(), 1);
        assert!(family(own, &all()).contains(&grandchild[0]), "a grandchild belongs to the family, too");
        assert!(!family(grandchild[0], &all()).contains(&leader));
        let _ = agent_sys::signal::kill(grandchild[0], libc::SIGKILL);
        child.wait().unwrap();
    }

    #[test]
    fn this_process_is_seen() {
        let (state, start) = process_stat(std::process::id() as i32).unwrap();
        assert!(matches!(state, 'R' | 'S'), "{state}");
        assert!(start > 0);
    }
}
