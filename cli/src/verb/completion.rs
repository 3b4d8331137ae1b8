//! `gantry completion`: a script that teaches a shell the verbs and flags.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::failure::Failure;
use crate::screen;

/// Flags of `gantry completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell: `source <(gantry completion bash)`.
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Gantry::command(), "gantry", &mut script);
    screen::put(script)?;
    Ok(ExitCode::SUCCESS)
}
