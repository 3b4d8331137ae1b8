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
    screen::put(script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

/// The script for a shell.
pub(crate) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::Gantry::command(), "gantry", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
