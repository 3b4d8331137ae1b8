//! `gantry apply`: server-side apply of manifests.

use std::process::ExitCode;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::change::DryRun;
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::{self, FileArgs, Placed};
use crate::output::{Output, without_managed_fields};
use crate::screen;

/// Flags of `gantry apply`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Take fields that other managers own.
    #[arg(long)]
    force_conflicts: bool,
    /// Name under which the server remembers which fields are ours.
    #[arg(long, default_value = "gantry", value_name = "NAME")]
    field_manager: String,
    /// Apply is always done by the server; the flag is taken for kubectl's sake.
    #[arg(long)]
    server_side: bool,
    /// `server`: the server decides and stores nothing; `client`: nothing is sent.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "server",
        require_equals = true)]
    dry_run: DryRun,
    /// What to do with unknown fields: strict (refuse), warn or ignore.
    #[arg(long, default_value = "strict", value_name = "HOW", num_args = 0..=1, default_missing_value = "strict",
        require_equals = true)]
    validate: String,
    /// Not supported: see the message.
    #[arg(short = 'k', long, value_name = "DIR", hide = true)]
    kustomize: Option<String>,
    /// Not supported: see the message.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    prune: Option<bool>,
    /// json, yaml, name, jsonpath=..., go-template=...
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    if let Some(dir) = &args.kustomize {
        return Err(Failure::error(format!(
            "-k is not supported: gantry does not build kustomizations; try: kubectl kustomize {dir} | gantry apply -f -"
        )));
    }
    if args.prune == Some(true) {
        return Err(Failure::error(
            "--prune is not supported: delete what left the manifests by name, or with gantry delete TYPE -l SELECTOR",
        ));
    }
    if args.files.filename.is_empty() {
        return Err(Failure::error("must specify -f with a file or directory"));
    }
    let output = Output::parse(args.output.as_deref())?;
    let field_validation = field_validation(&args.validate)?;
    let manifests = args.files.read()?;
    let session = Session::open(connect).await?;
    let mut catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for manifest in manifests {
        // A definition applied just now brings a kind that discovery did not know.
        let kind = |key: &str| manifest.value.get(key).and_then(Value::as_str).unwrap_or_default();
        if catalog.of_object(kind("apiVersion"), kind("kind")).is_none() {
            catalog = Catalog::of(&session).await?;
        }
        let done = match manifest::place(&session, &catalog, manifest) {
            Ok(placed) => one(&session, &placed, args, &output, field_validation).await,
            Err(failure) => Err(failure),
        };
        crate::verb::note(done, &mut failures)?;
    }
    Ok(crate::verb::told(failures))
}

/// kubectl's words for the server's `fieldValidation`.
pub(crate) fn field_validation(word: &str) -> Result<&'static str, Failure> {
    match word {
        "strict" | "true" => Ok("Strict"),
        "warn" => Ok("Warn"),
        "ignore" | "false" => Ok("Ignore"),
        other => Err(Failure::error(format!("--validate={other}: expected strict, warn or ignore"))),
    }
}

async fn one(
    session: &Session,
    placed: &Placed<'_>,
    args: &Args,
    output: &Output,
    field_validation: &str,
) -> Result<(), Failure> {
    if placed.name.is_empty() {
        return Err(Failure::error(format!("{}: cannot use generate name with apply", placed.source)));
    }
    let path = placed.kind.object(&placed.namespace, &placed.name);
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    let before = match session.get(Call::to(path.clone())).await {
        Ok(object) => Some(object),
        Err(failure) if failure.is_not_found() => None,
        // Whoever may patch but not read still gets the patch done.
        Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 403) => None,
        Err(failure) => return Err(failure),
    };
    if args.dry_run == DryRun::Client {
        let outcome = if before.is_some() { "configured" } else { "created" };
        return match output.is_table() {
            true => screen::line(format!("{} {outcome}{}", placed.title(), args.dry_run.suffix())),
            false => output.show(placed.kind, &placed.value),
        };
    }
    let mut value = placed.value.clone();
    // What the server manages cannot be applied; exported manifests carry it.
    without_managed_fields(&mut value);
    let call = |force: bool| {
        Call::to(path.clone())
            .with("fieldManager", &args.field_manager)
            .with("force", force.to_string())
            .with("fieldValidation", field_validation)
            .with_some("dryRun", args.dry_run.query())
            .body("application/apply-patch+yaml", value.to_string().into_bytes())
    };
    let sent = match session.send(Method::PATCH, call(args.force_conflicts)).await {
        // What a person did by hand between two applies gives way to the manifest, as in kubectl.
        Err(failure) if failure.refusal().is_some_and(|refusal| only_by_hand(&refusal.managers())) => {
            session.send(Method::PATCH, call(true)).await
        }
        sent => sent,
    };
    let (code, mut object) = sent.map_err(|failure| explain(failure, placed))?;
    if !output.is_table() {
        without_managed_fields(&mut object);
        return output.show(placed.kind, &object);
    }
    let outcome = match (code, before) {
        (StatusCode::CREATED, _) => "created",
        (_, Some(before)) if args.dry_run != DryRun::None && meant(&object) != meant(&before) => "configured",
        (_, Some(before)) if version(&object) == version(&before) => "unchanged",
        (_, Some(_)) => "configured",
        (_, None) => "serverside-applied",
    };
    screen::line(format!("{} {outcome}{}", placed.title(), args.dry_run.suffix()))
}

/// Whether a conflict is with nobody but the verbs of this program and of kubectl, whose fields nobody keeps up.
pub(crate) fn only_by_hand(managers: &[&str]) -> bool {
    let by_hand = |manager: &&str| {
        ["gantry", "kubectl"].iter().any(|tool| *manager == *tool || manager.starts_with(&format!("{tool}-")))
    };
    !managers.is_empty() && managers.iter().all(by_hand)
}

/// What people decide about an object: a trial run gives it no new version to tell a change by.
fn meant(object: &Value) -> Value {
    let mut object = object.clone();
    without_managed_fields(&mut object);
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("generation");
    }
    object
}

fn explain(failure: Failure, placed: &Placed<'_>) -> Failure {
    match failure.refusal() {
        Some(refusal) if refusal.code == 409 && refusal.message.starts_with("Apply failed") => Failure::error(format!(
            "{}: {}\n--force-conflicts takes these fields over; leaving them out of the manifest leaves them \
                 to their managers",
            placed.title(),
            refusal.message
        )),
        _ => failure.while_doing(format!("error when applying \"{}\"", placed.source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_from_people_only() {
        assert!(only_by_hand(&["gantry", "kubectl-edit"]));
        assert!(!only_by_hand(&["gantry", "horizontal-pod-autoscaler"]));
        assert!(!only_by_hand(&["gantryman"]) && !only_by_hand(&[]));
    }
}
