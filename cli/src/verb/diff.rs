//! `gantry diff`: what `gantry apply` would change. Exits 0 without differences, 1 with some, 2 on failures.

use std::path::Path;
use std::process::{Command, ExitCode};

use http::Method;
use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::{self, FileArgs, Placed};
use crate::output::without_managed_fields;
use crate::screen;

/// Flags of `gantry diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Name under which the server remembers which fields are ours.
    #[arg(long, default_value = "gantry", value_name = "NAME")]
    field_manager: String,
    /// Apply is always done by the server; the flag is taken for kubectl's sake.
    #[arg(long)]
    server_side: bool,
    /// As if fields were taken from other managers.
    #[arg(long)]
    force_conflicts: bool,
    /// Also what field managers own.
    #[arg(long)]
    show_managed_fields: bool,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    match compare(connect, args).await {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(failure) => {
            screen::note(failure.to_string());
            Ok(ExitCode::from(2))
        }
    }
}

async fn compare(connect: &ConnectArgs, args: &Args) -> Result<u8, Failure> {
    if args.files.filename.is_empty() {
        return Err(Failure::error("must specify -f with a file or directory"));
    }
    let manifests = args.files.read()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let dir = |name: &str| {
        let made = tempfile::Builder::new().prefix(name).tempdir();
        made.map_err(|error| Failure::error(format!("cannot make a directory to compare in: {error}")))
    };
    let (live_dir, merged_dir) = (dir("LIVE-")?, dir("MERGED-")?);
    for manifest in manifests {
        let placed = manifest::place(&session, &catalog, manifest)?;
        let (live, merged) = both(&session, &placed, args).await?;
        let (live, merged) = hidden(&placed, live, merged);
        let name = file_name(&placed);
        for (dir, object) in [(live_dir.path(), live), (merged_dir.path(), merged)] {
            if let Some(object) = object {
                let text = api::yaml::print(&object)?;
                std::fs::write(dir.join(&name), text)
                    .map_err(|error| Failure::error(format!("{}: {error}", dir.display())))?;
            }
        }
    }
    shown(live_dir.path(), merged_dir.path())
}

/// The object as it is, and as it would be.
async fn both(session: &Session, placed: &Placed<'_>, args: &Args) -> Result<(Option<Value>, Option<Value>), Failure> {
    let path = placed.kind.object(&placed.namespace, &placed.name);
    let mut live = match session.get(Call::to(path.clone())).await {
        Ok(object) => Some(object),
        Err(failure) if failure.is_not_found() => None,
        Err(failure) => return Err(failure),
    };
    let mut value = placed.value.clone();
    without_managed_fields(&mut value);
    let call = |force: bool| {
        Call::to(path.clone())
            .with("fieldManager", &args.field_manager)
            .with("force", force.to_string())
            .with("dryRun", "All")
            .body("application/apply-patch+yaml", value.to_string().into_bytes())
    };
    let mut merged = match session.send(Method::PATCH, call(args.force_conflicts)).await {
        Err(failure)
            if failure.refusal().is_some_and(|refusal| crate::verb::apply::only_by_hand(&refusal.managers())) =>
        {
            session.send(Method::PATCH, call(true)).await?.1
        }
        sent => sent?.1,
    };
    if !args.show_managed_fields {
        live.iter_mut().for_each(without_managed_fields);
        without_managed_fields(&mut merged);
    }
    Ok((live, Some(merged)))
}

/// Values of secrets do not belong on a screen; that they change does.
fn hidden(placed: &Placed<'_>, mut live: Option<Value>, mut merged: Option<Value>) -> (Option<Value>, Option<Value>) {
    if placed.kind.kind != "Secret" || !placed.kind.group.is_empty() {
        return (live, merged);
    }
    let data =
        |object: &Option<Value>| object.as_ref().and_then(|object| object.get("data").cloned()).unwrap_or_default();
    let (before, after) = (data(&live), data(&merged));
    let mask = |object: &mut Option<Value>, other: &Value, changed: &str| {
        let values = object.as_mut().and_then(|object| object.get_mut("data")?.as_object_mut());
        for (key, value) in values.into_iter().flatten() {
            let same = other.get(key).is_none_or(|there| there == value);
            *value = json!(if same { "***" } else { changed });
        }
    };
    mask(&mut live, &after, "*** (before)");
    mask(&mut merged, &before, "*** (after)");
    (live, merged)
}

fn file_name(placed: &Placed<'_>) -> String {
    let kind = placed.kind;
    let group = if kind.group.is_empty() { String::new() } else { format!("{}.", kind.group) };
    let namespace = if kind.namespaced { placed.namespace.as_str() } else { "" };
    format!("{group}{}.{}.{namespace}.{}", kind.version, kind.kind, placed.name).replace(['/', '\0'], "_")
}

/// Runs `diff -u -N`, or the program of `KUBECTL_EXTERNAL_DIFF`, on the two directories.
fn shown(live: &Path, merged: &Path) -> Result<u8, Failure> {
    let external = std::env::var("KUBECTL_EXTERNAL_DIFF").ok().filter(|command| !command.is_empty());
    let words: Vec<&str> = match &external {
        Some(command) => command.split_whitespace().collect(),
        None => vec!["diff", "-u", "-N"],
    };
    let (program, flags) =
        words.split_first().ok_or_else(|| Failure::error("KUBECTL_EXTERNAL_DIFF names no program"))?;
    let status = Command::new(program).args(flags).arg(live).arg(merged).status();
    let status = status.map_err(|error| Failure::error(format!("failed to run {program:?}: {error}")))?;
    match status.code() {
        Some(code @ (0 | 1)) => Ok(u8::from(code == 1)),
        _ => Err(Failure::error(format!("{program:?} ended with {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_but_their_changes_show() {
        let catalog = crate::kind::tests::catalog();
        let Some(mut kind) = catalog.find("pods").cloned() else { panic!("the catalog has pods") };
        kind.kind = "Secret".into();
        let placed = Placed {
            source: String::new(),
            kind: &kind,
            namespace: "default".into(),
            name: "s".into(),
            value: Value::Null,
        };
        let (live, merged) = hidden(
            &placed,
            Some(json!({"data": {"a": "MQ==", "b": "Mg=="}})),
            Some(json!({"data": {"a": "MQ==", "b": "Mw==", "c": "NA=="}})),
        );
        assert_eq!(live, Some(json!({"data": {"a": "***", "b": "*** (before)"}})));
        assert_eq!(merged, Some(json!({"data": {"a": "***", "b": "*** (after)", "c": "***"}})));
        assert_eq!(file_name(&placed), "v1.Secret.default.s");
    }
}
