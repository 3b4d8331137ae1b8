//! `gantry patch`: changes fields of objects by a patch.

use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use crate::change::{ChangeArgs, DryRun, PatchKind};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::Output;
use crate::workload::{WhichArgs, Workload};

/// The largest patch file that is taken, the limit of a request.
const PATCH_LIMIT: u64 = 3 << 20;

/// Flags of `gantry patch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: WhichArgs,
    /// The patch, as JSON or YAML.
    #[arg(short = 'p', long, value_name = "PATCH", conflicts_with = "patch_file")]
    patch: Option<String>,
    /// A file with the patch.
    #[arg(long, value_name = "FILE")]
    patch_file: Option<PathBuf>,
    /// How the patch is written.
    #[arg(long = "type", default_value = "strategic", value_name = "TYPE")]
    how: PatchKind,
    /// The part of the object to change, such as status or scale.
    #[arg(long, value_name = "NAME")]
    subresource: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let patch = read(args)?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for object in args.which.find(&session, &catalog).await? {
        match one(&session, &object, args, &patch, &output).await {
            Ok(()) => {}
            Err(Failure::OutputClosed) => return Err(Failure::OutputClosed),
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

fn read(args: &Args) -> Result<Value, Failure> {
    let (text, from) = match (&args.patch, &args.patch_file) {
        (Some(text), _) => (text.clone(), "--patch".to_owned()),
        (None, Some(file)) => {
            let failed = |error: std::io::Error| {
                Failure::error(format!("unable to read patch file: {}: {error}", file.display()))
            };
            if std::fs::metadata(file).map_err(failed)?.len() > PATCH_LIMIT {
                return Err(Failure::error(format!("{}: larger than 3 MiB", file.display())));
            }
            (std::fs::read_to_string(file).map_err(failed)?, file.display().to_string())
        }
        (None, None) => {
            return Err(Failure::error("must specify --patch or --patch-file containing the contents of the patch"));
        }
    };
    let mut documents = api::yaml::documents(&text).map_err(|error| {
        Failure::error(format!("unable to parse {text:?} of {from}: {}", crate::failure::chain(&error)))
    })?;
    match (documents.pop(), documents.is_empty()) {
        (Some(patch), true) => Ok(patch),
        (None, _) => Err(Failure::error(format!("{from} is empty: expected a patch"))),
        (Some(_), false) => Err(Failure::error(format!("{from}: expected one document"))),
    }
}

async fn one(
    session: &Session,
    object: &Workload<'_>,
    args: &Args,
    patch: &Value,
    output: &Output,
) -> Result<(), Failure> {
    let after = match (&args.subresource, args.change.dry_run) {
        (Some(part), how) if how != DryRun::Client => {
            let path = format!("{}/{}", object.path(), crate::kind::segment(part));
            let call = args.change.prepare(Call::to(path)).body(args.how.media_type(), patch.to_string().into_bytes());
            session.send(Method::PATCH, call).await?.1
        }
        _ => args.change.patch(session, object, patch, args.how).await?,
    };
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    let same = match args.change.dry_run {
        DryRun::None => version(&after) == version(&object.object),
        DryRun::Client | DryRun::Server => after == object.object,
    };
    let done = if same { "patched (no change)" } else { "patched" };
    args.change.tell(output, object.kind, &after, done)
}
