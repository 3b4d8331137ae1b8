//! `gantry restore`: makes the state of the control plane that of a backup.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use controller_apiserver::backup::{BackupError, offline};
use http::Method;

use super::{DataDir, backup};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kubeconfig::ConnectArgs;
use crate::{screen, state_version};

/// Flags of `gantry restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that `gantry backup` wrote.
    file: PathBuf,
    /// Replace the state that is there; it is kept beside the new one.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    data: DataDir,
}

pub(crate) fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let file = File::open(&args.file).map_err(|error| Failure::error(format!("{}: {error}", args.file.display())))?;
    if connect.names_a_server() {
        return super::converse(upload(connect, args));
    }
    state_version::check(&args.data.data_dir)?;
    let dir = args.data.data_dir.join("server");
    match offline::restore(&dir, file, args.force) {
        Ok(restored) => {
            let backup = restored.description;
            screen::line(format!(
                "restored {} keys of {} into {}; start gantry to go on",
                backup.keys,
                backup.created,
                dir.display()
            ))?;
            if let Some(replaced) = restored.replaced {
                screen::line(format!("what was there is kept in {}", replaced.display()))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(BackupError::Occupied(dir)) => Err(occupied(&dir.display().to_string())),
        Err(error) if error.is_in_use() => super::converse(upload(connect, args)),
        Err(error) => Err(Failure::of(&error)),
    }
}

fn occupied(what: &str) -> Failure {
    Failure::error(format!("{what} holds a control plane already: --force replaces its state and keeps a copy"))
}

async fn upload(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    if !args.force {
        return Err(occupied(session.address()));
    }
    let bytes = std::fs::read(&args.file)?;
    let call = Call::to(backup::STATE).body("application/zstd", bytes);
    let (_, answer) = session.send(Method::PUT, call).await?;
    let text = |pointer: &str| answer.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let number = |pointer: &str| answer.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or_default();
    screen::line(format!(
        "restored {} keys of {} on {}: {} differed",
        number("/backup/keys"),
        text("/backup/created"),
        session.address(),
        number("/changed")
    ))?;
    screen::line(format!("what was there is kept in {} on the server", text("/kept")))?;
    Ok(ExitCode::SUCCESS)
}
