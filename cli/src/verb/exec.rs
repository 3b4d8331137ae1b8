//! `gantry exec`: runs a command in a container.

use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::name_of;
use crate::{pods, screen, stream};

/// Flags of `gantry exec`.
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
    /// The command, after --.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    if args.command.is_empty() {
        return Err(Failure::error("you must specify at least one command for the container, after --"));
    }
    let tty = args.tty && args.stdin && std::io::stdin().is_terminal();
    if args.tty && !tty {
        screen::note("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let pod = pods::pick(&session, &catalog, &args.target).await?;
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::error(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = pods::container(&pod, args.container.as_deref())?;
    let path = catalog.expect("pods")?.object(&session.namespace, name_of(&pod));
    let mut call = Call::to(format!("{path}/exec"))
        .with("container", container)
        .with_some("stdin", args.stdin.then_some("true"))
        .with("stdout", "true")
        .with_some("stderr", (!tty).then_some("true"))
        .with_some("tty", tty.then_some("true"));
    for word in &args.command {
        call = call.with("command", word);
    }
    stream::outcome(&stream::converse(&session, &call, args.stdin, tty).await?)
}
