//! `gantry edit`: objects in the reader's editor, and back.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use crate::change::{ChangeArgs, PatchKind};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::merge_diff::{meet, merge_diff};
use crate::output::{Output, without_managed_fields};
use crate::screen;
use crate::workload::{WhichArgs, Workload};

/// How often somebody else's changes are taken up before the verb gives in.
const ATTEMPTS: usize = 5;

const HEADER: &str = "\
# Lines that begin with '#' are left out. An empty file ends the edit without a change. What the server refuses
# is shown here again, with the reason.
#
";

/// Flags of `gantry edit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    let objects = args.which.find(&session, &catalog).await?;
    for object in objects {
        match one(&session, object, args, &output).await {
            Ok(()) => {}
            Err(Failure::OutputClosed) => return Err(Failure::OutputClosed),
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

async fn one(session: &Session, mut object: Workload<'_>, args: &Args, output: &Output) -> Result<(), Failure> {
    let file = tempfile::Builder::new()
        .prefix("gantry-edit-")
        .suffix(".yaml")
        .tempfile()
        .map_err(|error| Failure::error(format!("cannot make a file to edit: {error}")))?;
    without_managed_fields(&mut object.object);
    let mut text = api::yaml::print(&object.object)?;
    let mut reason: Option<String> = None;
    loop {
        let shown = format!("{HEADER}{}{text}", reason.as_deref().map(commented).unwrap_or_default());
        write(file.path(), &shown)?;
        run_editor(file.path())?;
        let edited = std::fs::read_to_string(file.path())?;
        if edited == shown && reason.is_none() || is_empty(&edited) {
            return screen::line("Edit cancelled, no changes made.");
        }
        if edited == shown {
            // Saved as it was refused: the reader gave up, and keeps what was written.
            let (_, kept) = file.keep().map_err(|error| Failure::error(error.to_string()))?;
            return Err(Failure::error(format!(
                "{}\nthe edit is kept in {}",
                reason.unwrap_or_default(),
                kept.display()
            )));
        }
        text = edited.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        let wanted = match parse(&edited, &object) {
            Ok(wanted) => wanted,
            Err(failure) => {
                reason = Some(failure.to_string());
                continue;
            }
        };
        let Some(patch) = merge_diff(&object.object, &wanted) else {
            return screen::line("Edit cancelled, no changes made.");
        };
        match send(session, &object, args, patch).await {
            Ok(after) => return args.change.tell(output, object.kind, &after, "edited"),
            // Refused for what it says: shown again in the editor, as kubectl does.
            Err(failure) if failure.refusal().is_some_and(|refusal| matches!(refusal.code, 400 | 409 | 422)) => {
                reason = Some(failure.to_string());
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Sends the change. Where somebody else changed other fields meanwhile, it is put on top of theirs.
async fn send(session: &Session, object: &Workload<'_>, args: &Args, patch: Value) -> Result<Value, Failure> {
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    let mut base = version(&object.object);
    for attempt in 1.. {
        let mut guarded = patch.clone();
        guarded["metadata"]["resourceVersion"] = json!(base);
        match args.change.patch(session, object, &guarded, PatchKind::Merge).await {
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 409) && attempt < ATTEMPTS => {
                let mut now = session.get(Call::to(object.path())).await?;
                without_managed_fields(&mut now);
                let mut theirs = merge_diff(&object.object, &now).unwrap_or_default();
                // The version differs after every change; it is no change of theirs that counts.
                if let Some(metadata) = theirs.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("resourceVersion");
                }
                if meet(&patch, &theirs) {
                    return Err(failure);
                }
                base = version(&now);
            }
            done => return done,
        }
    }
    Err(Failure::error("the object changes faster than it can be edited"))
}

fn parse(text: &str, object: &Workload<'_>) -> Result<Value, Failure> {
    let mut documents = api::yaml::documents(text).map_err(|error| {
        Failure::error(format!("the edited file had a syntax error: {}", crate::failure::chain(&error)))
    })?;
    let (Some(mut wanted), true) = (documents.pop(), documents.is_empty()) else {
        return Err(Failure::error("expected one document"));
    };
    for (pointer, name) in [("/kind", "kind"), ("/apiVersion", "apiVersion"), ("/metadata/name", "metadata.name")] {
        if wanted.pointer(pointer) != object.object.pointer(pointer) {
            return Err(Failure::error(format!("{name} of an object cannot be edited")));
        }
    }
    // Writing the version the object was read at is the verb's own business.
    let version = object.object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
    wanted["metadata"]["resourceVersion"] = version;
    Ok(wanted)
}

fn is_empty(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.starts_with('#'))
}

fn commented(reason: &str) -> String {
    let lines = reason.lines().map(|line| format!("# {line}\n"));
    lines.chain(["#\n".to_owned()]).collect()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::error(format!("{}: {error}", path.display()));
    let mut file = std::fs::File::create(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// Runs the editor of `KUBE_EDITOR` or `EDITOR`, a command line of the shell, else vi.
fn run_editor(path: &Path) -> Result<(), Failure> {
    let named =
        ["KUBE_EDITOR", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|e| !e.is_empty()));
    let editor = named.unwrap_or_else(|| "vi".to_owned());
    let status = Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::error(format!("there was a problem with the editor {editor:?}: {status}"))),
        Err(error) => Err(Failure::error(format!("unable to launch the editor {editor:?}: {error}"))),
    }
}
