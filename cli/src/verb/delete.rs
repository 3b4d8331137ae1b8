//! `gantry delete`: deletes objects and waits until they are gone.

use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::change::DryRun;
use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::manifest::{self, FileArgs};
use crate::output::name_of;
use crate::screen;
use crate::target;
use crate::watch::Watch;

/// Flags of `gantry delete`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    select: SelectArgs,
    /// All objects of the type in the namespace.
    #[arg(long)]
    all: bool,
    /// In all namespaces, with -l or --all.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// What becomes of the objects that these own: background, foreground or orphan.
    #[arg(long, default_value = "background", value_name = "HOW", num_args = 0..=1, require_equals = true,
        default_missing_value = "background")]
    cascade: String,
    /// Seconds that pods get to end; -1 leaves it to the object.
    #[arg(long, default_value_t = -1, value_name = "SECONDS", allow_negative_numbers = true)]
    grace_period: i64,
    /// One second to end.
    #[arg(long, conflicts_with = "grace_period")]
    now: bool,
    /// With --grace-period=0: at once, without waiting for the node.
    #[arg(long)]
    force: bool,
    /// No failure for objects that do not exist; the default with -l and --all.
    #[arg(long)]
    ignore_not_found: bool,
    /// Wait until the objects are gone.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = clap::ArgAction::Set, value_name = "BOOL")]
    wait: bool,
    /// How long to wait; 0 is a week.
    #[arg(long, default_value = "0s", value_name = "DURATION")]
    timeout: DurationArg,
    /// `server`: the server decides and deletes nothing; `client`: nothing is sent.
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_value = "none", default_missing_value = "client",
        require_equals = true)]
    dry_run: DryRun,
    /// `name`: only TYPE/NAME of what was deleted.
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

/// One object to delete.
struct Doomed<'a> {
    kind: &'a Kind,
    namespace: String,
    name: String,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let names_only = match args.output.as_deref() {
        None | Some("") => false,
        Some("name") => true,
        Some(other) => return Err(Failure::error(format!("unexpected -o output mode: {other}: expected name"))),
    };
    let options = options(args)?;
    let manifests = if args.files.filename.is_empty() { Vec::new() } else { args.files.read()? };
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut doomed = Vec::new();
    for manifest in manifests {
        let placed = manifest::place(&session, &catalog, manifest)?;
        doomed.push(Doomed { kind: placed.kind, namespace: placed.namespace, name: placed.name });
    }
    if args.files.filename.is_empty() {
        doomed = selected(&session, &catalog, args).await?;
        if doomed.is_empty() {
            screen::note("No resources found");
        }
    }
    let mut failures = Vec::new();
    let mut gone = Vec::new();
    for object in &doomed {
        let call = Call::to(object.kind.object(&object.namespace, &object.name)).json(&options);
        let answer = match args.dry_run {
            DryRun::Client => session.get(Call::to(object.kind.object(&object.namespace, &object.name))).await,
            DryRun::Server | DryRun::None => session.send(Method::DELETE, call).await.map(|(_, answer)| answer),
        };
        match answer {
            Ok(answer) => {
                let uid = answer.pointer("/details/uid").or(answer.pointer("/metadata/uid"));
                gone.push((object, uid.and_then(Value::as_str).map(str::to_owned)));
                let how = if args.force { "force deleted" } else { "deleted" };
                let how = format!("{how}{}", args.dry_run.suffix());
                match names_only {
                    true => screen::line(format!("{}/{}", object.kind.prefix(), object.name))?,
                    false => screen::line(format!("{} \"{}\" {how}", object.kind.prefix(), object.name))?,
                }
            }
            Err(failure) if failure.is_not_found() && (args.ignore_not_found || by_selection(args)) => {}
            Err(failure) => failures.push(failure),
        }
    }
    if args.wait && args.dry_run == DryRun::None && args.grace_period != 0 {
        let limit = args.timeout.nonzero().unwrap_or(Duration::from_secs(7 * 24 * 3600));
        let all = async {
            for (object, uid) in gone {
                let path = (object.kind, object.namespace.as_str(), object.name.as_str());
                until_gone(&session, path, uid.as_deref()).await?;
            }
            Ok::<(), Failure>(())
        };
        match tokio::time::timeout(limit, all).await {
            Ok(done) => done?,
            Err(_) => failures.push(Failure::error("timed out waiting for the objects to be gone")),
        }
    }
    Ok(crate::verb::told(failures))
}

fn by_selection(args: &Args) -> bool {
    args.all || !args.select.is_empty()
}

fn options(args: &Args) -> Result<Value, Failure> {
    let policy = match args.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => {
            return Err(Failure::error(format!(
                "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
            )));
        }
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (args.now, args.force, args.grace_period) {
        (true, _, _) => Some(1),
        (false, true, -1 | 0) => Some(0),
        (false, true, _) => {
            return Err(Failure::error("--force and --grace-period greater than 0 cannot be specified together"));
        }
        (false, false, 0) => {
            // Without --force a second is the least: the node must confirm that the containers ended.
            Some(1)
        }
        (false, false, -1) => None,
        (false, false, seconds) => Some(seconds),
    };
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = json!(grace);
    }
    if args.force {
        screen::note(
            "Warning: forced deletion does not wait until the node has ended the containers; they may run on.",
        );
    }
    if args.dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    Ok(options)
}

async fn selected<'a>(session: &Session, catalog: &'a Catalog, args: &Args) -> Result<Vec<Doomed<'a>>, Failure> {
    let targets = target::parse(catalog, &args.targets)?;
    if targets.is_empty() {
        return Err(Failure::error(
            "you must specify the objects to delete: -f FILE, TYPE NAME, or TYPE with -l or --all",
        ));
    }
    let mut doomed = Vec::new();
    for target in targets {
        match target.name {
            Some(_) if by_selection(args) => {
                return Err(Failure::error("name cannot be provided when a selector is specified"));
            }
            Some(name) => doomed.push(Doomed { kind: target.kind, namespace: session.namespace.clone(), name }),
            None if !by_selection(args) => {
                return Err(Failure::error("resource(s) were provided, but no name was specified"));
            }
            None => {
                let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
                for object in list::objects(session, target.kind, namespace, &args.select).await? {
                    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
                    let (namespace, name) = (namespace.to_owned(), name_of(&object).to_owned());
                    doomed.push(Doomed { kind: target.kind, namespace, name });
                }
            }
        }
    }
    Ok(doomed)
}

/// Waits until an object, or the one of that uid, does not exist any more.
pub(crate) async fn until_gone(
    session: &Session,
    (kind, namespace, name): (&Kind, &str, &str),
    uid: Option<&str>,
) -> Result<(), Failure> {
    loop {
        let object = match session.get(Call::to(kind.object(namespace, name))).await {
            Ok(object) => object,
            Err(failure) if failure.is_not_found() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let found = text("/metadata/uid");
        if uid.is_some() && found.as_deref() != uid {
            return Ok(());
        }
        let call = Call::to(kind.collection(Some(namespace)))
            .with("fieldSelector", format!("metadata.name={name}"))
            .with_some("resourceVersion", text("/metadata/resourceVersion"));
        let mut watch = match Watch::open(session, call).await {
            Ok(watch) => watch,
            // Compacted meanwhile: look again.
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 410) => continue,
            Err(failure) => return Err(failure),
        };
        while let Some(event) = watch.next().await? {
            if event.kind == "DELETED" {
                return Ok(());
            }
        }
    }
}
