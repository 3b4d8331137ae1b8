//! The arguments, as runc names them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::CliError;

/// An OCI container runtime with runc's arguments.
#[derive(Debug, Parser)]
#[command(name = "gantry-oci", version, args_override_self = true)]
pub struct Cli {
    /// Directory of container states.
    #[arg(long, default_value = super::DEFAULT_ROOT)]
    pub root: PathBuf,
    /// File that errors are written to as well.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// Its format.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Accepted; there is no debug log.
    #[arg(long)]
    pub debug: bool,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// key=value.
    Text,
    /// One object per line.
    Json,
}

/// How listings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a container.
    Create(CreateArgs),
    /// Start a container that was made.
    Start {
        /// The container.
        id: String,
    },
    /// Make and start a container, and wait for its end.
    Run(CreateArgs),
    /// Print the state of a container.
    State {
        /// The container.
        id: String,
    },
    /// Send a signal to a container.
    Kill {
        /// To all its processes.
        #[arg(short, long)]
        all: bool,
        /// The container.
        id: String,
        /// Name or number.
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Remove a container.
    Delete {
        /// Also one that runs; one that is missing is fine.
        #[arg(short, long)]
        force: bool,
        /// The container.
        id: String,
    },
    /// Run a process in a container.
    Exec(ExecArgs),
    /// Freeze a container.
    Pause {
        /// The container.
        id: String,
    },
    /// Thaw a container.
    Resume {
        /// The container.
        id: String,
    },
    /// List the processes of a container.
    Ps {
        /// Format.
        #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
        format: ListFormat,
        /// The container.
        id: String,
        /// Accepted for runc's sake.
        #[arg(trailing_var_arg = true, hide = true)]
        options: Vec<String>,
    },
    /// List containers.
    List {
        /// Format.
        #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
        format: ListFormat,
        /// Names only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Change the limits of a container.
    Update(UpdateArgs),
    /// Print the usage of a container.
    Events {
        /// Once; following is not supported.
        #[arg(long)]
        stats: bool,
        /// The container.
        id: String,
    },
    /// Write an example config.json.
    Spec {
        /// Where.
        #[arg(short, long)]
        bundle: Option<PathBuf>,
    },
    /// Print what the runtime supports.
    Features,
}

/// Arguments of create and run.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Bundle directory.
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that gets the master side of the terminal.
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// File for the id of the first process.
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Do not pivot.
    #[arg(long)]
    pub no_pivot: bool,
    /// Descriptors from 3 on to pass.
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
    /// Accepted: no session keyring is made.
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Return once the container runs (run only).
    #[arg(short, long)]
    pub detach: bool,
    /// Leave the container after its end (run only).
    #[arg(long)]
    pub keep: bool,
    /// Name of the container.
    pub id: String,
}

/// Arguments of exec.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Unix socket that gets the master side of the terminal.
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// Directory.
    #[arg(long)]
    pub cwd: Option<PathBuf>,
    /// Environment.
    #[arg(short, long)]
    pub env: Vec<String>,
    /// With a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// UID[:GID].
    #[arg(short, long)]
    pub user: Option<String>,
    /// Further groups.
    #[arg(short = 'g', long = "additional-gids")]
    pub additional_gids: Vec<u32>,
    /// JSON file of the process.
    #[arg(short, long)]
    pub process: Option<PathBuf>,
    /// Return once it runs.
    #[arg(short, long)]
    pub detach: bool,
    /// File for its id.
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// Further capabilities.
    #[arg(short, long)]
    pub cap: Vec<String>,
    /// Set no_new_privs.
    #[arg(long)]
    pub no_new_privs: bool,
    /// Descriptors from 3 on to pass.
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container.
    pub id: String,
    /// Program and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

/// Arguments of update.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// JSON of `linux.resources`; `-` is standard input.
    #[arg(short, long)]
    pub resources: Option<PathBuf>,
    /// Memory limit in bytes.
    #[arg(long, allow_hyphen_values = true)]
    pub memory: Option<i64>,
    /// Relative CPU weight.
    #[arg(long)]
    pub cpu_share: Option<u64>,
    /// CPU quota in microseconds.
    #[arg(long, allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// CPU period in microseconds.
    #[arg(long)]
    pub cpu_period: Option<u64>,
    /// Process limit.
    #[arg(long, allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// The container.
    pub id: String,
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// A signal by name (`TERM`, `SIGTERM`) or number.
pub(super) fn signal(text: &str) -> Result<i32, CliError> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match SIGNALS.iter().position(|known| *known == name) {
        Some(index) => Some(index as i32 + 1),
        None => name.parse().ok().filter(|number| (0..=64).contains(number)),
    };
    number.ok_or_else(|| {
        CliError::Argument(format!("signal {text:?}: expected a name such as SIGTERM or a number to 64"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("KILL", 9), ("SIGTERM", 15), ("sys", 31), ("34", 34), ("0", 0)] {
            assert_eq!(signal(text).unwrap(), number);
        }
        signal("65").unwrap_err();
        signal("SIGNOPE").unwrap_err();
    }

    #[test]
    fn the_arguments_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
