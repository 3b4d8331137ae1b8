//! `gantry create`: objects from manifests, or of a few kinds from flags.

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use crate::change::DryRun;
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::generate::Generate;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::{self, FileArgs, Manifest};
use crate::output::{Output, name_of, without_managed_fields};
use crate::screen;
use crate::verb::apply::field_validation;

/// Flags of `gantry create`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    generate: Option<Generate>,
    #[command(flatten)]
    files: FileArgs,
    /// `server`: the server decides and stores nothing; `client`: nothing is sent.
    #[arg(long, global = true, value_name = "WHERE", num_args = 0..=1, default_value = "none",
        default_missing_value = "client", require_equals = true)]
    dry_run: DryRun,
    /// What to do with unknown fields: strict (refuse), warn or ignore.
    #[arg(long, global = true, default_value = "strict", value_name = "HOW", require_equals = true)]
    validate: String,
    /// json, yaml, name, jsonpath=..., go-template=...
    #[arg(short = 'o', long, global = true, value_name = "FORMAT")]
    output: Option<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::parse(args.output.as_deref())?;
    let field_validation = field_validation(&args.validate)?;
    if let Some(Generate::Token(token)) = &args.generate {
        let session = Session::open(connect).await?;
        return token.request(&session).await.map(|()| ExitCode::SUCCESS);
    }
    let read = match &args.generate {
        Some(_) => Vec::new(),
        None if args.files.filename.is_empty() => {
            return Err(Failure::error("must specify -f with a file or directory"));
        }
        None => args.files.read()?,
    };
    let session = Session::open(connect).await?;
    let mut catalog = Catalog::of(&session).await?;
    let manifests = match &args.generate {
        Some(generate) => vec![Manifest { source: String::new(), value: generate.object(&session, &catalog).await? }],
        None => read,
    };
    let mut failures = Vec::new();
    for manifest in manifests {
        let kind = |key: &str| manifest.value.get(key).and_then(Value::as_str).unwrap_or_default();
        if catalog.of_object(kind("apiVersion"), kind("kind")).is_none() {
            catalog = Catalog::of(&session).await?;
        }
        match one(&session, &catalog, manifest, args, &output, field_validation).await {
            Ok(()) => {}
            Err(Failure::OutputClosed) => return Err(Failure::OutputClosed),
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

async fn one(
    session: &Session,
    catalog: &Catalog,
    manifest: Manifest,
    args: &Args,
    output: &Output,
    field_validation: &str,
) -> Result<(), Failure> {
    let placed = manifest::place(session, catalog, manifest)?;
    let mut object = placed.value;
    if args.dry_run != DryRun::Client {
        let call = Call::to(placed.kind.collection(Some(&placed.namespace)))
            .with("fieldManager", "gantry-create")
            .with("fieldValidation", field_validation)
            .with_some("dryRun", args.dry_run.query())
            .json(&object);
        object = session.send(Method::POST, call).await.map(|(_, object)| object).map_err(|failure| {
            match (placed.source.as_str(), failure.refusal()) {
                ("", Some(refusal)) if refusal.reason == "AlreadyExists" => {
                    Failure::error(format!("failed to create {}: {}", placed.kind.kind.to_lowercase(), refusal.message))
                }
                ("", _) => failure.while_doing(format!("failed to create {}", placed.kind.kind.to_lowercase())),
                (source, _) => failure.while_doing(format!("error when creating \"{source}\"")),
            }
        })?;
    }
    if !output.is_table() {
        without_managed_fields(&mut object);
        return output.show(placed.kind, &object);
    }
    let suffix = args.dry_run.suffix();
    screen::line(format!("{}/{} created{suffix}", placed.kind.prefix(), name_of(&object)))
}
