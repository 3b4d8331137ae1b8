//! What an installation is made of: the steps that make it, and those that take it away. Pure; `act` carries them out.

pub(crate) mod act;
pub(crate) mod kubeconfig;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use serde::{Deserialize, Serialize};

const UNIT: &str = include_str!("gantry.service");
const CONFIG: &str = include_str!("config.yaml");

/// The unit's name.
pub(crate) const SERVICE: &str = "gantry.service";
/// Where an installation is remembered, so that all of it can be taken away.
pub(crate) const RECORD: &str = "/etc/gantry/installed.json";
/// What Debian's package brings; both at once would fight.
pub(crate) const PACKAGED_UNIT: &str = "/lib/systemd/system/gantry.service";

/// What the plan depends on.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    /// Where programs go.
    pub(crate) bin_dir: PathBuf,
    /// The program that runs now.
    pub(crate) program: PathBuf,
    /// What the service is: `server` or `agent`.
    pub(crate) verb: &'static str,
    /// Its flags for the unit.
    pub(crate) flags: Vec<String>,
    /// Where the server keeps everything.
    pub(crate) data_dir: PathBuf,
    /// Who gets a kubeconfig; nobody where this is `None`.
    pub(crate) user: Option<String>,
    /// Whether `/etc/gantry/config.yaml` exists: it is the user's.
    pub(crate) has_config: bool,
    /// Whether the service is started.
    pub(crate) start: bool,
}

/// What an installation left on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Files to remove.
    pub(crate) files: Vec<PathBuf>,
    /// The data directory that the service was told.
    pub(crate) data_dir: PathBuf,
    /// Who was given a kubeconfig.
    pub(crate) user: Option<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Copy a program over, all at once: what runs of the old one goes on.
    Copy { from: PathBuf, to: PathBuf },
    /// Make a symbolic link.
    Link { to: &'static str, at: PathBuf },
    /// Write a file, all at once.
    Write { path: PathBuf, content: String },
    /// Run a program of the machine.
    Run(Vec<&'static str>),
    /// Give a user the administrator's kubeconfig.
    Adopt { user: String },
    /// Take it away again where it was not changed.
    Disown { user: String },
    /// Stop every pod and remove what the agent made.
    Reset { data_dir: PathBuf, purge: bool },
    /// Remove a file.
    Remove(PathBuf),
    /// Remove a directory with all that is in it.
    RemoveAll(PathBuf),
}

/// The steps of an installation, and what it leaves.
pub(crate) fn install(wishes: &Wishes, completion: impl Fn(Shell) -> String) -> (Vec<Step>, Record) {
    let program = wishes.bin_dir.join("gantry");
    let mut steps = Vec::new();
    if wishes.program != program {
        steps.push(Step::Copy { from: wishes.program.clone(), to: program.clone() });
    }
    let oci = wishes.bin_dir.join("gantry-oci");
    steps.push(Step::Link { to: "gantry", at: oci.clone() });
    let mut files = vec![program.clone(), oci];
    let mut write = |path: PathBuf, content| {
        files.push(path.clone());
        steps.push(Step::Write { path, content });
    };
    write(Path::new("/etc/systemd/system").join(SERVICE), unit(&program, wishes.verb, &wishes.flags));
    for (shell, path) in [
        (Shell::Bash, "/etc/bash_completion.d/gantry"),
        (Shell::Zsh, "/usr/local/share/zsh/site-functions/_gantry"),
        (Shell::Fish, "/etc/fish/completions/gantry.fish"),
    ] {
        write(path.into(), completion(shell));
    }
    if !wishes.has_config && wishes.verb == "server" {
        // It stays after `uninstall`, as the user's settings do.
        steps.push(Step::Write { path: crate::config_file::DEFAULT.into(), content: CONFIG.into() });
    }
    let record = Record { files, data_dir: wishes.data_dir.clone(), user: wishes.user.clone() };
    let text = serde_json::to_string_pretty(&record).unwrap_or_default();
    steps.push(Step::Write { path: RECORD.into(), content: text });
    steps.push(Step::Run(vec!["systemctl", "daemon-reload"]));
    steps.push(Step::Run(vec!["systemctl", "enable", SERVICE]));
    if wishes.start {
        // A service that runs is replaced; its pods go on.
        steps.push(Step::Run(vec!["systemctl", "restart", SERVICE]));
        steps.extend(wishes.user.clone().map(|user| Step::Adopt { user }));
    }
    (steps, record)
}

/// The steps that take an installation away; with `purge` the objects, images, volumes and settings as well.
pub(crate) fn uninstall(record: &Record, purge: bool) -> Vec<Step> {
    let mut steps = vec![
        Step::Run(vec!["systemctl", "disable", "--now", SERVICE]),
        Step::Reset { data_dir: record.data_dir.clone(), purge },
    ];
    steps.extend(record.user.clone().map(|user| Step::Disown { user }));
    steps.extend(record.files.iter().cloned().map(Step::Remove));
    steps.push(match purge {
        true => Step::RemoveAll("/etc/gantry".into()),
        false => Step::Remove(RECORD.into()),
    });
    steps.push(Step::Run(vec!["systemctl", "daemon-reload"]));
    steps
}

/// The unit for a program with flags.
fn unit(program: &Path, verb: &str, flags: &[String]) -> String {
    let words = flags.iter().map(|flag| format!(" {}", quoted(flag))).collect::<String>();
    UNIT.replace("@PROGRAM@ server", &format!("{} {verb}{words}", quoted(&program.to_string_lossy())))
}

/// A word of a command line as systemd.service(5), "COMMAND LINES", reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}

/// What the service would be called with.
pub(crate) fn command_line(verb: &str, flags: &[String]) -> Vec<OsString> {
    ["gantry", verb].into_iter().map(OsString::from).chain(flags.iter().map(OsString::from)).collect()
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Copy { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::Link { to, at } => write!(f, "link {} to {to}", at.display()),
            Self::Write { path, .. } => write!(f, "write {}", path.display()),
            Self::Run(words) => f.write_str(&words.join(" ")),
            Self::Adopt { user } => write!(f, "give {user} a kubeconfig"),
            Self::Disown { user } => write!(f, "take the kubeconfig from {user}"),
            Self::Reset { data_dir, purge: false } => write!(f, "stop the pods of {}", data_dir.display()),
            Self::Reset { data_dir, purge: true } => write!(f, "stop the pods of {} and remove it", data_dir.display()),
            Self::Remove(path) | Self::RemoveAll(path) => write!(f, "remove {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes() -> Wishes {
        Wishes {
            bin_dir: "/usr/local/bin".into(),
            program: "/root/gantry".into(),
            verb: "server",
            flags: vec!["--node-label=a=b c".into(), "--tls-san".into(), "x.example".into()],
            data_dir: "/var/lib/gantry".into(),
            user: Some("ada".into()),
            has_config: false,
            start: true,
        }
    }

    #[test]
    fn all_that_is_installed_is_taken_away() {
        let (steps, record) = install(&wishes(), |_| "script".into());
        let away = uninstall(&record, true);
        for step in &steps {
            let undone = match step {
                Step::Copy { to: path, .. } | Step::Link { at: path, .. } | Step::Write { path, .. } => {
                    away.contains(&Step::Remove(path.clone())) || path.starts_with("/etc/gantry")
                }
                Step::Adopt { user } => away.contains(&Step::Disown { user: user.clone() }),
                _ => true,
            };
            assert!(undone, "{step}");
        }
        assert!(away.contains(&Step::RemoveAll("/etc/gantry".into())));
        let kept = uninstall(&record, false);
        assert!(kept.contains(&Step::Reset { data_dir: "/var/lib/gantry".into(), purge: false }));
        assert!(!kept.iter().any(|step| matches!(step, Step::RemoveAll(_))), "settings are the user's");
    }

    #[test]
    fn a_second_installation_leaves_what_is_right_and_what_is_the_users() {
        let again = Wishes { program: "/usr/local/bin/gantry".into(), has_config: true, start: false, ..wishes() };
        let (steps, record) = install(&again, |_| String::new());
        assert!(!steps.iter().any(|step| matches!(step, Step::Copy { .. } | Step::Adopt { .. })));
        assert!(!steps.iter().any(|step| matches!(step, Step::Write { path, .. } if path.ends_with("config.yaml"))));
        assert!(record.files.contains(&"/usr/local/bin/gantry".into()));
    }

    #[test]
    fn the_unit_keeps_pods_and_quotes_flags() {
        let unit = unit(Path::new("/usr/local/bin/gantry"), "server", &wishes().flags);
        let line = "ExecStart=/usr/local/bin/gantry server \"--node-label=a=b c\" --tls-san x.example";
        assert!(unit.lines().any(|l| l == line), "{unit}");
        assert!(unit.contains("KillMode=process\nDelegate=yes\n"));
        assert_eq!(quoted("50%$x\"\\"), "\"50%%$$x\\\"\\\\\"");
    }
}
