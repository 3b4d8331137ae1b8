//! `gantry attach`: the streams of a process that runs in a container.

use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::name_of;
use crate::{pods, screen, stream};

/// Flags of `gantry attach`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// POD, or TYPE/NAME for one of its pods.
    #[arg(value_name = "POD | TYPE/NAME")]
    target: String,
    /// The container.
    #[arg(short = 'c', long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal.
    #[arg(short = 't', long)]
    tty: bool,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let pod = pods::pick(&session, &catalog, &args.target).await?;
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::error(format!("cannot attach a container in a completed pod; current phase is {phase}")));
    }
    let container = pods::container(&pod, args.container.as_deref())?;
    let status = to(&session, &catalog, &pod, &container, args.stdin, args.tty).await?;
    stream::outcome(&status)
}

/// Attaches to a container, as far as it has the streams.
pub(crate) async fn to(
    session: &Session,
    catalog: &Catalog,
    pod: &Value,
    container: &str,
    stdin: bool,
    wants_tty: bool,
) -> Result<Value, Failure> {
    let has = |field: &str| {
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let all = lists.iter().filter_map(|list| pod.get("spec")?.get(*list)?.as_array()).flatten();
        all.filter(|one| one["name"] == container).any(|one| one[field] == true)
    };
    if wants_tty && !has("tty") {
        screen::note(format!("error: Unable to use a TTY - container {container} did not allocate one"));
    }
    let mut tty = has("tty") && wants_tty;
    if tty && !(stdin && std::io::stdin().is_terminal()) {
        screen::note("Unable to use a TTY - input is not a terminal or the right kind of file");
        tty = false;
    }
    let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(&session.namespace);
    let path = catalog.expect("pods")?.object(namespace, name_of(pod));
    let call = Call::to(format!("{path}/attach"))
        .with("container", container)
        .with_some("stdin", stdin.then_some("true"))
        .with("stdout", "true")
        .with_some("stderr", (!has("tty")).then_some("true"))
        .with_some("tty", has("tty").then_some("true"));
    if stdin && tty {
        screen::note("If you don't see a command prompt, try pressing enter.");
    }
    stream::converse(session, &call, stdin, tty).await
}
