//! `gantry replace`: puts objects of manifests in the place of those that exist.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::change::{ChangeArgs, DryRun};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::{self, FileArgs, Placed};
use crate::output::Output;
use crate::screen;
use crate::verb::apply::field_validation;
use crate::verb::delete::until_gone;

/// Flags of `gantry replace`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Delete the objects and create them anew.
    #[arg(long)]
    force: bool,
    /// With --force: seconds that pods get to end; -1 leaves it to the object.
    #[arg(long, default_value_t = -1, value_name = "SECONDS", allow_negative_numbers = true, requires = "force")]
    grace_period: i64,
    /// The part of the objects to replace, such as status.
    #[arg(long, value_name = "NAME", conflicts_with = "force")]
    subresource: Option<String>,
    /// What to do with unknown fields: strict (refuse), warn or ignore.
    #[arg(long, default_value = "strict", value_name = "HOW", num_args = 0..=1, default_missing_value = "strict",
        require_equals = true)]
    validate: String,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    if args.files.filename.is_empty() {
        return Err(Failure::error("must specify -f with a file or directory"));
    }
    if args.force && args.change.dry_run != DryRun::None {
        return Err(Failure::error("--dry-run can not be used when --force is set"));
    }
    let output = args.change.output()?;
    let validation = field_validation(&args.validate)?;
    let manifests = args.files.read()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for manifest in manifests {
        let done = match manifest::place(&session, &catalog, manifest) {
            Ok(placed) => one(&session, &placed, args, &output, validation).await,
            Err(failure) => Err(failure),
        };
        crate::verb::note(done, &mut failures)?;
    }
    Ok(crate::verb::told(failures))
}

async fn one(
    session: &Session,
    placed: &Placed<'_>,
    args: &Args,
    output: &Output,
    validation: &str,
) -> Result<(), Failure> {
    if placed.name.is_empty() {
        return Err(Failure::error(format!("{}: cannot use generate name with replace", placed.source)));
    }
    let object = placed.kind.object(&placed.namespace, &placed.name);
    let told = |failure: Failure| failure.while_doing(format!("error when replacing \"{}\"", placed.source));
    if args.force {
        delete(session, placed, args).await?;
        let call = Call::to(placed.kind.collection(Some(&placed.namespace))).with("fieldValidation", validation);
        let call = args.change.prepare(call).json(&placed.value);
        let made = session.send(Method::POST, call).await.map_err(told)?.1;
        return args.change.tell(output, placed.kind, &made, "replaced");
    }
    if args.change.dry_run == DryRun::Client {
        session.get(Call::to(object)).await.map_err(told)?;
        return args.change.tell(output, placed.kind, &placed.value, "replaced");
    }
    let path = match &args.subresource {
        Some(part) => format!("{object}/{}", crate::kind::segment(part)),
        None => object,
    };
    let call = args.change.prepare(Call::to(path).with("fieldValidation", validation)).json(&placed.value);
    let now = session.send(Method::PUT, call).await.map_err(told)?.1;
    args.change.tell(output, placed.kind, &now, "replaced")
}

async fn delete(session: &Session, placed: &Placed<'_>, args: &Args) -> Result<(), Failure> {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = json!(args.grace_period);
    }
    let call = Call::to(placed.kind.object(&placed.namespace, &placed.name)).json(&options);
    match session.send(Method::DELETE, call).await {
        Ok((_, answer)) => {
            let uid = answer.pointer("/details/uid").or(answer.pointer("/metadata/uid")).and_then(Value::as_str);
            screen::line(format!("{} \"{}\" deleted", placed.kind.prefix(), placed.name))?;
            until_gone(session, (placed.kind, &placed.namespace, &placed.name), uid).await
        }
        Err(failure) if failure.is_not_found() => Ok(()),
        Err(failure) => Err(failure),
    }
}
