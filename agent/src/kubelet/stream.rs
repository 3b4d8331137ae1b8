//! Exec and attach: kubectl's channels over WebSocket to the frames of the pod's monitor.
//! Kubernetes `v5.channel.k8s.io`: a byte for the channel, then data; 255 closes one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_runtime::monitor::protocol::{AttachRequest, ExecRequest, Hello};
use agent_runtime::monitor::stream::{self, Channel, End, Size};
use axum::extract::ws::{
    CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
};
use axum::extract::{self, RawQuery};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

use super::Shared;
use crate::execute::{Host, chain, sandbox};
use crate::monitor;
use crate::static_pods::local_uid;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const NORMAL_CLOSURE: u16 = 1000;
/// How long a client may take to say that it has read the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a client wants of a stream.
#[derive(Debug, Default)]
struct Wish {
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wish {
    fn parse(query: &str) -> Self {
        let mut wish = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let set = value != "false" && value != "0";
            match name.as_ref() {
                "command" => wish.command.push(value.into_owned()),
                "input" => wish.stdin = set,
                "output" => wish.stdout = set,
                "error" => wish.stderr = set,
                "tty" => wish.tty = set,
                _ => {}
            }
        }
        wish
    }
}

type Names = extract::Path<(String, String, String)>;
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

pub(super) async fn exec(
    extract::State(host): Shared,
    extract::Path(names): Names,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let wish = Wish::parse(query.as_deref().unwrap_or_default());
    answer(host, names, wish, true, upgrade).await
}

pub(super) async fn attach(
    extract::State(host): Shared,
    extract::Path(names): Names,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let wish = Wish::parse(query.as_deref().unwrap_or_default());
    answer(host, names, wish, false, upgrade).await
}

async fn answer(
    host: Arc<Host>,
    names: (String, String, String),
    wish: Wish,
    is_exec: bool,
    upgrade: Upgrade,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        // SPDY clients fall back to WebSocket where they can; the others are told.
        Err(_) => {
            return (
                StatusCode::BAD_REQUEST,
                "expected a WebSocket upgrade with v5.channel.k8s.io or v4.channel.k8s.io",
            )
                .into_response();
        }
    };
    if is_exec && wish.command.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container").into_response();
    }
    let place = match locate(&host, &names).await {
        Ok(place) => place,
        Err(message) => return (StatusCode::BAD_REQUEST, message).into_response(),
    };
    upgrade.protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"]).on_upgrade(move |socket| async move {
        let is_v5 = socket.protocol().is_some_and(|protocol| protocol.as_bytes().starts_with(b"v5"));
        converse(socket, place, wish, is_exec, is_v5).await;
    })
}

/// A running container and how to reach its monitor.
struct Place {
    socket: PathBuf,
    bundle: PathBuf,
    id: String,
}

async fn locate(host: &Arc<Host>, (namespace, name, container): &(String, String, String)) -> Result<Place, String> {
    let api: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let pod = api.get(name).await.map_err(|error| error.to_string())?;
    let run_dir = host.config.instance.pod_run_dir(&local_uid(&pod));
    let socket = sandbox::socket_path(&run_dir);
    let absent = || format!("container {container} is not running in pod {name}");
    let (monitor, _) = crate::monitor::Monitor::connect(&socket).await.map_err(|_| absent())?;
    let states = monitor.list().await.map_err(|_| absent())?;
    let prefix = format!("{container}.");
    let running = states
        .into_iter()
        .find(|state| state.id.starts_with(&prefix) && state.exit.is_none() && state.started_at.is_some());
    let id = running.ok_or_else(absent)?.id;
    Ok(Place { bundle: run_dir.join("c").join(&id), socket, id })
}

async fn converse(socket: WebSocket, place: Place, wish: Wish, is_exec: bool, is_v5: bool) {
    let (mut client, mut messages) = socket.split();
    let outcome = match open(&place, &wish, is_exec).await {
        Err(message) => Err(message),
        Ok((monitor, rest)) => relay(&mut client, &mut messages, monitor, rest, &wish, is_v5).await,
    };
    let status = match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: error executing command {:?}, exit code {code}", wish.command),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
        Err(message) => {
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500})
        }
    };
    let mut frame = vec![ERROR];
    frame.extend_from_slice(status.to_string().as_bytes());
    // A client that left does not need its result.
    drop(client.send(Frame::Binary(frame.into())).await);
    drop(client.send(Frame::Close(Some(CloseFrame { code: NORMAL_CLOSURE, reason: "".into() }))).await);
    // The client's own close tells that it has read everything; a connection dropped before that can lose the result.
    let goodbye = async { while let Some(Ok(_)) = messages.next().await {} };
    drop(tokio::time::timeout(GOODBYE, goodbye).await);
}

/// Opens the monitor's side. Answers the connection and the bytes that came with its welcome.
async fn open(place: &Place, wish: &Wish, is_exec: bool) -> Result<(UnixStream, Vec<u8>), String> {
    let hello = match is_exec {
        true => {
            let mut process = monitor::process(&place.bundle).await?;
            process.set_args(Some(wish.command.clone()));
            Hello::Exec(ExecRequest { container: place.id.clone(), process, stdin: wish.stdin, tty: wish.tty })
        }
        false => Hello::Attach(AttachRequest {
            container: place.id.clone(),
            stdin: wish.stdin,
            stdout: wish.stdout,
            stderr: wish.stderr,
        }),
    };
    monitor::open(&place.socket, &hello).await.map_err(|error| chain(&error))
}

type ToClient = SplitSink<WebSocket, Frame>;

/// Carries data both ways until the process ends. Answers its exit code. The two ways never wait for each
/// other: a process may refuse to read on until its output was taken.
async fn relay(
    client: &mut ToClient,
    messages: &mut SplitStream<WebSocket>,
    monitor: UnixStream,
    rest: Vec<u8>,
    wish: &Wish,
    is_v5: bool,
) -> Result<i32, String> {
    let (mut read, mut write) = monitor.into_split();
    let input = async {
        let mut takes_input = true;
        while let Some(Ok(message)) = messages.next().await {
            let Some(data) = content(message) else { continue };
            if let Some(frame) = to_monitor(&data, is_v5).filter(|_| takes_input) {
                // A process that ended reads no more; its exit code is on the way.
                takes_input = write.write_all(&frame).await.is_ok();
            }
        }
        // Dropping the connection tells the monitor that nobody listens any more.
        "the client went away".to_owned()
    };
    let output = async {
        let mut decoder = stream::Decoder::starting_with(rest);
        loop {
            match next_frame(&mut read, &mut decoder).await? {
                (Channel::Stdout, data) if wish.stdout => send(client, STDOUT, &data).await?,
                (Channel::Stderr, data) if wish.stderr => send(client, STDERR, &data).await?,
                (Channel::End, data) => {
                    return match serde_json::from_slice(&data) {
                        Ok(End::Code(code)) => Ok(code),
                        Ok(End::Error(message)) => Err(message),
                        Err(error) => Err(error.to_string()),
                    };
                }
                _ => {}
            }
        }
    };
    tokio::select! {
        outcome = output => outcome,
        gone = input => Err(gone),
    }
}

async fn next_frame(read: &mut OwnedReadHalf, decoder: &mut stream::Decoder) -> Result<(Channel, Vec<u8>), String> {
    let mut buffer = [0u8; 32 << 10];
    loop {
        if let Some(frame) = decoder.next().map_err(|error| error.to_string())? {
            return Ok(frame);
        }
        match read.read(&mut buffer).await {
            Ok(0) | Err(_) => return Err("the pod's monitor is gone".into()),
            Ok(count) => decoder.push(&buffer[..count]),
        }
    }
}

async fn send(client: &mut ToClient, channel: u8, data: &[u8]) -> Result<(), String> {
    let mut frame = Vec::with_capacity(data.len() + 1);
    frame.push(channel);
    frame.extend_from_slice(data);
    client.send(Frame::Binary(frame.into())).await.map_err(|error| error.to_string())
}

/// What a message carries. PyPI's kubernetes client sends its bytes as text, which kubelets take as well.
pub(super) fn content(message: Frame) -> Option<Bytes> {
    match message {
        Frame::Binary(data) => Some(data),
        Frame::Text(text) => Some(text.into()),
        Frame::Ping(_) | Frame::Pong(_) | Frame::Close(_) => None,
    }
}

/// A client's message as the monitor's frame. What is not understood is ignored, as kubelets do.
fn to_monitor(data: &[u8], is_v5: bool) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct TerminalSize {
        width: u16,
        height: u16,
    }
    let (channel, payload) = data.split_first()?;
    match *channel {
        // Without v5, an empty message is how some clients end their input.
        STDIN if payload.is_empty() && !is_v5 => Some(stream::encode(Channel::CloseStdin, &[])),
        STDIN if payload.is_empty() => None,
        STDIN => Some(stream::encode(Channel::Stdin, payload)),
        RESIZE => {
            let size: TerminalSize = serde_json::from_slice(payload).ok()?;
            let size = Size { width: size.width, height: size.height };
            Some(stream::encode(Channel::Resize, &serde_json::to_vec(&size).ok()?))
        }
        CLOSE if payload == [STDIN] => Some(stream::encode(Channel::CloseStdin, &[])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_frames() {
        let decode = |frame: Vec<u8>| {
            let mut decoder = stream::Decoder::starting_with(frame);
            decoder.next().unwrap().unwrap()
        };
        assert_eq!(decode(to_monitor(b"\0hi", true).unwrap()), (Channel::Stdin, b"hi".to_vec()));
        assert_eq!(decode(to_monitor(&[255, 0], true).unwrap()).0, Channel::CloseStdin);
        let resize = to_monitor(b"\x04{\"Width\":80,\"Height\":24}", true).unwrap();
        assert_eq!(decode(resize), (Channel::Resize, br#"{"width":80,"height":24}"#.to_vec()));
        assert!(to_monitor(b"\x04junk", true).is_none() && to_monitor(b"", true).is_none());
        assert!(to_monitor(b"\x07x", true).is_none());
    }

    #[test]
    fn queries_say_what_is_wanted() {
        let wish = Wish::parse("command=sh&command=-c&command=a%20b&input=1&output=1&tty=false");
        assert_eq!(wish.command, ["sh", "-c", "a b"]);
        assert!(wish.stdin && wish.stdout && !wish.stderr && !wish.tty);
    }
}
