//! `gantry-oci`: runc's arguments.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::container::{self, Container, ContainerError};

mod args;
mod console;
mod query;
mod run;

pub use args::{Cli, Verb};

/// Where states are kept when `--root` does not say.
pub const DEFAULT_ROOT: &str = "/run/gantry-oci";

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The container.
    #[error("{verb} {id}")]
    Container {
        /// The verb.
        verb: &'static str,
        /// The container.
        id: String,
        /// Why.
        #[source]
        source: ContainerError,
    },
    /// A file of the command line.
    #[error("{what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("read")]
    Spec(#[from] crate::spec::SpecError),
    /// A kernel call.
    #[error("{what}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: agent_sys::Errno,
    },
    /// An argument.
    #[error("{0}")]
    Argument(String),
}

fn failed(verb: &'static str, id: &str) -> impl FnOnce(ContainerError) -> CliError {
    let id = id.to_owned();
    move |source| CliError::Container { verb, id, source }
}

/// Runs the command line; the process must have one thread. Returns the exit code.
pub fn main(args: Vec<OsString>) -> i32 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            let text = container::error::chain(&error);
            eprintln!("gantry-oci: {text}");
            log(&cli, &text);
            1
        }
    }
}

fn dispatch(cli: &Cli) -> Result<i32, CliError> {
    let root = cli.root.as_path();
    let load = |verb, id: &str| Container::load(root, id).map_err(failed(verb, id));
    match &cli.verb {
        Verb::Create(create) => run::create(root, create),
        Verb::Run(create) => run::run(root, create),
        Verb::Exec(exec) => run::exec(root, exec),
        Verb::Start { id } => load("start", id)?.start().map_err(failed("start", id)).map(|()| 0),
        Verb::State { id } => query::state(&load("state", id)?),
        Verb::Kill { all, id, signal } => {
            let signal = args::signal(signal)?;
            load("kill", id)?.kill(signal, *all).map_err(failed("kill", id)).map(|()| 0)
        }
        Verb::Delete { force, id } => match Container::load(root, id) {
            Err(ContainerError::NotFound(_)) if *force => Ok(0),
            found => found.and_then(|c| c.delete(*force)).map_err(failed("delete", id)).map(|()| 0),
        },
        Verb::Pause { id } => load("pause", id)?.pause(true).map_err(failed("pause", id)).map(|()| 0),
        Verb::Resume { id } => load("resume", id)?.pause(false).map_err(failed("resume", id)).map(|()| 0),
        Verb::Ps { format, id, .. } => query::ps(&load("ps", id)?, *format),
        Verb::List { format, quiet } => query::list(root, *format, *quiet),
        Verb::Update(update) => query::update(root, update),
        Verb::Events { id, .. } => query::events(&load("events", id)?),
        Verb::Spec { bundle } => query::spec(bundle.as_deref()),
        Verb::Features => query::features(),
    }
}

/// Callers such as containerd read the reason of a failure from here.
fn log(cli: &Cli, text: &str) {
    let Some(path) = &cli.log else { return };
    let time = container::clock();
    let line = match cli.log_format {
        args::LogFormat::Json => serde_json::json!({"level": "error", "msg": text, "time": time}).to_string(),
        args::LogFormat::Text => format!("time=\"{time}\" level=error msg={text:?}"),
    };
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    // The error went to standard error already.
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

/// The verbs, for messages of the product's own command line.
pub fn is_verb(name: &str) -> bool {
    <Verb as Subcommand>::has_subcommand(name)
}
