//! `gantry auth reconcile`: makes roles and bindings allow what manifests ask for, and no less.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::access::{Operation, Plan, plan, told};
use crate::change::{ChangeArgs, DryRun};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::{self, FileArgs, Placed};
use crate::output::Output;
use crate::screen;

const GROUP: &str = "rbac.authorization.k8s.io";

/// How often it is begun anew where others change the same object meanwhile.
const ATTEMPTS: usize = 3;

/// Flags of `gantry auth reconcile`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// Take away what roles allow beyond the manifests.
    #[arg(long)]
    remove_extra_permissions: bool,
    /// Take subjects away that bindings have beyond the manifests.
    #[arg(long)]
    remove_extra_subjects: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    if args.files.filename.is_empty() {
        return Err(Failure::error("must specify one of -f and -k"));
    }
    if args.change.dry_run == DryRun::Server {
        return Err(Failure::error("--dry-run=server for command reconcile is not supported yet"));
    }
    let output = args.change.output()?;
    let manifests = args.files.read()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for manifest in manifests {
        let done = match manifest::place(&session, &catalog, manifest) {
            // Other kinds may stand in the same files.
            Ok(placed) if placed.kind.group != GROUP => Ok(()),
            Ok(placed) => one(&session, &placed, args, &output).await,
            Err(failure) => Err(failure),
        };
        crate::verb::note(done, &mut failures)?;
    }
    Ok(crate::verb::told(failures))
}

async fn one(session: &Session, placed: &Placed<'_>, args: &Args, output: &Output) -> Result<(), Failure> {
    if placed.name.is_empty() {
        return Err(Failure::error(format!("{}: cannot use generate name with reconcile", placed.source)));
    }
    let is_binding = placed.value.get("roleRef").is_some();
    let remove = if is_binding { args.remove_extra_subjects } else { args.remove_extra_permissions };
    let path = placed.kind.object(&placed.namespace, &placed.name);
    for attempt in 1.. {
        let existing = match session.get(Call::to(path.clone())).await {
            Ok(object) => Some(object),
            Err(failure) if failure.is_not_found() => None,
            Err(failure) => return Err(failure),
        };
        let mut plan = plan(existing.as_ref(), &placed.value, remove);
        if !plan.protected && args.change.dry_run == DryRun::None {
            match act(session, placed, args, &plan, existing.as_ref()).await {
                Ok(Some(object)) => plan.object = object,
                Ok(None) => {}
                // It came or went since it was read.
                Err(failure) if attempt < ATTEMPTS && is_stale(&failure, plan.operation) => continue,
                Err(failure) => return Err(failure),
            }
        }
        args.change.tell(output, placed.kind, &plan.object, "reconciled")?;
        tell(&plan, is_binding, remove);
        return Ok(());
    }
    Ok(())
}

fn is_stale(failure: &Failure, operation: Operation) -> bool {
    let exists = failure.refusal().is_some_and(|refusal| refusal.code == 409);
    match operation {
        Operation::Update => failure.is_not_found(),
        _ => exists,
    }
}

async fn act(
    session: &Session,
    placed: &Placed<'_>,
    args: &Args,
    plan: &Plan,
    existing: Option<&Value>,
) -> Result<Option<Value>, Failure> {
    let path = placed.kind.object(&placed.namespace, &placed.name);
    let create = async || {
        let collection = placed.kind.collection(placed.kind.namespaced.then_some(placed.namespace.as_str()));
        let call = args.change.prepare(Call::to(collection)).json(&plan.object);
        session.send(Method::POST, call).await.map(|(_, object)| Some(object))
    };
    match plan.operation {
        Operation::None => Ok(None),
        Operation::Create => {
            if placed.kind.namespaced {
                ensure_namespace(session, &placed.namespace).await?;
            }
            create().await
        }
        Operation::Update => {
            let call = args.change.prepare(Call::to(path)).json(&plan.object);
            session.send(Method::PUT, call).await.map(|(_, object)| Some(object))
        }
        Operation::Recreate => {
            let uid = existing.and_then(|object| object.pointer("/metadata/uid"));
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
            match session.send(Method::DELETE, Call::to(path).json(&options)).await {
                Ok(_) => {}
                Err(failure) if failure.is_not_found() => {}
                Err(failure) => return Err(failure),
            }
            create().await
        }
    }
}

/// Makes a namespace that is not there; who may not is told by what follows.
async fn ensure_namespace(session: &Session, name: &str) -> Result<(), Failure> {
    let path = format!("/api/v1/namespaces/{}", crate::kind::segment(name));
    if session.get(Call::to(path)).await.is_ok() {
        return Ok(());
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    match session.send(Method::POST, Call::to("/api/v1/namespaces").json(&namespace)).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.refusal().is_some_and(|refusal| matches!(refusal.code, 403 | 409)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn tell(plan: &Plan, is_binding: bool, remove: bool) {
    let what = match plan.operation {
        Operation::None => return,
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Recreate => "recreate",
    };
    let caveat = match plan.protected {
        true => ", but object opted out (rbac.authorization.kubernetes.io/autoupdate: false)",
        false => "",
    };
    screen::note(format!("\treconciliation required {what}{caveat}"));
    let things = if is_binding { "subjects" } else { "rules" };
    let each = |title: String, values: &[Value]| {
        if !values.is_empty() {
            screen::note(title);
            values.iter().for_each(|value| screen::note(format!("\t\t{}", screen::plain(&told(value)))));
        }
    };
    each(format!("\tmissing {things} added:"), &plan.missing);
    if remove {
        each(format!("\textra {things} removed:"), &plan.extra);
    }
}
