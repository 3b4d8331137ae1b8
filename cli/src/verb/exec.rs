//! `gantry exec`: runs a command in a container, over a WebSocket with the channels of `v5.channel.k8s.io`.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::name_of;
use crate::terminal::{self, Raw};
use crate::{pods, screen};

// Channels, the first byte of each message (apimachinery, `remotecommand/constants.go`).
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

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
    let connection = session.websocket(&call).await?;
    let half_close = connection.supports_stream_close();
    let raw = if tty { Some(Raw::enter()?) } else { None };
    let (mut sink, mut stream) = connection.into_stream().split();

    let sending = async {
        let mut input = args.stdin.then(read_stdin);
        let mut resized = signal(SignalKind::window_change()).ok().filter(|_| tty);
        if tty {
            drop(sink.send(resize().into()).await);
        }
        loop {
            let message = tokio::select! {
                data = async { match &mut input { Some(input) => input.recv().await, None => std::future::pending().await } } => match data {
                    Some(data) => data,
                    None => {
                        input = None;
                        if !half_close {
                            continue;
                        }
                        vec![CLOSE, STDIN]
                    }
                },
                Some(()) = async { match &mut resized { Some(signal) => signal.recv().await, None => std::future::pending().await } } => resize(),
            };
            if sink.send(message.into()).await.is_err() {
                // The other half tells how the connection ended.
                std::future::pending::<()>().await;
            }
        }
    };
    let receiving = async {
        while let Some(message) = stream.next().await {
            let message = message.map_err(|error| Failure::error(format!("the connection broke off: {error}")))?;
            if !message.is_binary() {
                continue;
            }
            let data = message.into_data();
            match data.split_first() {
                Some((&STDOUT, text)) => screen::put(text)?,
                Some((&STDERR, text)) => drop(std::io::stderr().write_all(text)),
                Some((&ERROR, status)) if !status.is_empty() => return Ok(serde_json::from_slice::<Value>(status)?),
                _ => {}
            }
        }
        Err(Failure::error("the connection ended before the command did"))
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let status = tokio::select! {
        status = receiving => status,
        () = sending => Err(Failure::error("standard input ended unexpectedly")),
        _ = terminate.recv() => Err(Failure::error("terminated")),
    };
    drop(raw);
    outcome(&status?)
}

/// Standard input in pieces, read by a thread of its own that ends with the process.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut piece = vec![0; 32 * 1024];
        loop {
            piece[0] = STDIN;
            match std::io::stdin().lock().read(&mut piece[1..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) if sender.blocking_send(piece[..=read].to_vec()).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    receiver
}

fn resize() -> Vec<u8> {
    let (width, height) = terminal::size().unwrap_or((80, 24));
    let size = json!({"Width": width, "Height": height}).to_string();
    [&[RESIZE], size.as_bytes()].concat()
}

/// What the status of the error channel means for us.
fn outcome(status: &Value) -> Result<ExitCode, Failure> {
    if status.get("status").and_then(Value::as_str) == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let message = status.get("message").and_then(Value::as_str).unwrap_or("the command failed");
    if status.get("reason").and_then(Value::as_str) == Some("NonZeroExitCode") {
        let causes = status.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
        let mut codes =
            causes.filter(|cause| cause["reason"] == "ExitCode").filter_map(|cause| cause["message"].as_str());
        if let Some(code) = codes.next().and_then(|code| code.parse::<i32>().ok()) {
            screen::note(format!("command terminated with exit code {code}"));
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
    }
    Err(Failure::error(screen::plain(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_passed_on() {
        assert!(outcome(&json!({"status": "Success"})).is_ok());
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "m",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}});
        assert_eq!(outcome(&failed).map(|code| format!("{code:?}")).ok(), Some(format!("{:?}", ExitCode::from(7))));
        assert!(outcome(&json!({"status": "Failure", "message": "no such file"})).is_err());
        assert!(outcome(&json!([])).is_err());
    }
}
