//! `gantry backup`: everything that the control plane keeps, in one file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use controller_apiserver::backup::{self, Description, offline};
use http_body_util::BodyExt as _;

use super::DataDir;
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kubeconfig::ConnectArgs;
use crate::{screen, state_version};

/// Where a running server gives and takes its state.
pub(super) const STATE: &str = "/gantry/v1/state";

/// Flags of `gantry backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write; `-` is standard output.
    file: PathBuf,
    #[command(flatten)]
    data: DataDir,
}

pub(crate) fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let to_standard_output = args.file == Path::new("-");
    let dir = match to_standard_output {
        true => std::env::temp_dir(),
        false => match args.file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        },
    };
    // The owner's alone: it holds every Secret and the cluster's keys.
    let mut unnamed = tempfile::NamedTempFile::new_in(&dir)
        .map_err(|error| Failure::error(format!("creating a file in {}: {error}", dir.display())))?;
    save(connect, args, unnamed.as_file_mut())?;
    // It is read again to its end: a backup that cannot be read is worse than none.
    unnamed.seek(SeekFrom::Start(0))?;
    let description = read(unnamed.as_file_mut())?;
    if to_standard_output {
        unnamed.seek(SeekFrom::Start(0))?;
        std::io::copy(unnamed.as_file_mut(), &mut std::io::stdout().lock())?;
        screen::note(told(&description, "standard output"));
    } else {
        unnamed.as_file().sync_all()?;
        unnamed
            .persist(&args.file)
            .map_err(|error| Failure::error(format!("naming the backup {}: {}", args.file.display(), error.error)))?;
        File::open(&dir)?.sync_all()?;
        screen::line(told(&description, &args.file.display().to_string()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(description: &Description, place: &str) -> String {
    format!("backed up {} keys at revision {} to {place}", description.keys, description.revision)
}

fn read(from: impl Read) -> Result<Description, Failure> {
    Ok(backup::read(from, u64::MAX).map_err(|error| Failure::of(&error))?.description)
}

/// The directory of this machine's control plane, unless flags name another server or nothing is there.
pub(super) fn own(connect: &ConnectArgs, data: &DataDir) -> Option<PathBuf> {
    let dir = data.data_dir.join("server");
    (!connect.names_a_server() && dir.join("store").read_dir().is_ok()).then_some(dir)
}

fn save(connect: &ConnectArgs, args: &Args, file: &mut File) -> Result<(), Failure> {
    if let Some(dir) = own(connect, &args.data) {
        state_version::check(&args.data.data_dir)?;
        match offline::save(&dir, &mut *file) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_in_use() => {}
            Err(error) => return Err(Failure::of(&error)),
        }
    }
    super::converse(download(connect, file))
}

async fn download(connect: &ConnectArgs, file: &mut File) -> Result<(), Failure> {
    let session = Session::open(connect).await?;
    let mut body = session.stream(Call::to(STATE)).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::error(format!("the backup broke off: {error}")))?;
        if let Some(bytes) = frame.data_ref() {
            file.write_all(bytes)?;
        }
    }
    Ok(())
}
