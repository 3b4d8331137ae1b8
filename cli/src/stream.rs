//! The streams of a container for a person: exec and attach over a WebSocket with the channels of
//! `v5.channel.k8s.io`.

use std::io::{Read, Write};
use std::process::ExitCode;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::screen;
use crate::terminal::{self, Raw};

// Channels, the first byte of each message (apimachinery, `remotecommand/constants.go`).
/// Goes before every piece of standard input.
pub(crate) const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Passes standard input (where wanted), output and errors until the other side ends; gives its last word.
pub(crate) async fn converse(session: &Session, call: &Call, stdin: bool, tty: bool) -> Result<Value, Failure> {
    relay(session, call, stdin.then(read_stdin), tty, |data| screen::put(data)).await
}

/// The same with an input and an output of the caller's. Pieces of input begin with [`STDIN`].
pub(crate) async fn relay(
    session: &Session,
    call: &Call,
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    tty: bool,
    mut output: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Value, Failure> {
    let connection = session.websocket(call).await?;
    let half_close = connection.supports_stream_close();
    let raw = if tty { Some(Raw::enter()?) } else { None };
    let (mut sink, mut stream) = connection.into_stream().split();

    let sending = async {
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
                Some((&STDOUT, text)) => output(text)?,
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
    status
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
pub(crate) fn outcome(status: &Value) -> Result<ExitCode, Failure> {
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
