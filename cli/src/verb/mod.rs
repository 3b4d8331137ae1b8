//! One file per verb.

mod check;
mod image;
mod reset;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;

/// What `gantry` can be told to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the control plane and, unless told otherwise, the agent of this machine.
    Server(Box<server::Args>),
    /// Work with the images of this machine.
    #[command(subcommand)]
    Image(image::Verb),
    /// Look whether this machine can run pods; say what to do where it cannot.
    Check(check::Args),
    /// Stop every pod of a data directory and remove all that its instance made on this machine.
    Reset(reset::Args),
}

/// Where an instance lives.
#[derive(Debug, clap::Args)]
pub(crate) struct DataDir {
    /// Where everything that must last is kept.
    #[arg(long, default_value = "/var/lib/gantry", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Carries out a verb.
pub(crate) fn run(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Server(args) => server::run(*args),
        Verb::Image(verb) => image::run(verb),
        Verb::Check(args) => check::run(&args),
        Verb::Reset(args) => reset::run(&args),
    }
}
