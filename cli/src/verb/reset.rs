//! `gantry reset`: removes all that an instance made on this machine.

use std::process::ExitCode;

use agent::instance::Instance;

use super::DataDir;
use crate::failure::Failure;

/// Flags of `gantry reset`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Remove the data directory as well: objects, images, volumes.
    #[arg(long)]
    purge: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !args.data.data_dir.exists() {
        println!("nothing to reset: {} does not exist", args.data.data_dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    crate::state_version::check(&args.data.data_dir)?;
    let instance = Instance::of(&args.data.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failures = runtime.block_on(agent::reset::reset(&instance, args.purge));
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    match failures.is_empty() {
        true => {
            println!("reset {}", instance.data_dir.display());
            Ok(ExitCode::SUCCESS)
        }
        false => Ok(ExitCode::FAILURE),
    }
}
