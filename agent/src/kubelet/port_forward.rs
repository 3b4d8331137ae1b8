//! Port forwarding: connections to the pod's loopback. Over WebSocket with two channels per port
//! (`v5.channel.k8s.io`, `v4.channel.k8s.io`), or over SPDY/3.1, bare or within a WebSocket, as kubectl asks for.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{Message as WsMessage, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{self, RawQuery, Request};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

use super::Shared;
use super::spdy::{self, Frame, Reader, Writer};
use super::stream::content;
use crate::execute::{Host, sandbox};
use crate::static_pods::local_uid;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most streams of one client, two for each connection.
const STREAM_LIMIT: usize = 512;
/// The most ports of one WebSocket.
const PORT_LIMIT: usize = 16;
const CLOSE: u8 = 255;
const PIECE: usize = 32 << 10;

pub(super) async fn get(
    extract::State(host): Shared,
    extract::Path((namespace, name)): extract::Path<(String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    mut request: Request,
) -> Response {
    let place = match locate(&host, &namespace, &name).await {
        Ok(place) => place,
        Err(message) => return (StatusCode::BAD_REQUEST, message).into_response(),
    };
    if let Ok(upgrade) = upgrade {
        let ports = match ports(query.as_deref().unwrap_or_default()) {
            Ok(ports) => ports,
            Err(message) => return (StatusCode::BAD_REQUEST, message).into_response(),
        };
        return upgrade.protocols([TUNNEL, "v5.channel.k8s.io", "v4.channel.k8s.io"]).on_upgrade(
            move |socket| async move {
                match socket.protocol().is_some_and(|protocol| protocol.as_bytes() == TUNNEL.as_bytes()) {
                    true => tunnel(socket, place).await,
                    false => channels(socket, place, ports).await,
                }
            },
        );
    }
    let asked =
        request.headers().get("upgrade").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"spdy/3.1"));
    if !asked {
        let message = "expected a WebSocket upgrade, or one to SPDY/3.1 with portforward.k8s.io";
        return (StatusCode::BAD_REQUEST, message).into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else { return };
        let (read, write) = tokio::io::split(TokioIo::new(connection));
        serve_spdy(read, write, place).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static("portforward.k8s.io"));
    response
}

fn ports(query: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if matches!(name.as_ref(), "port" | "ports") {
            for port in value.split(',') {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                ports.push(port.ok_or_else(|| format!("ports: {value:?}: expected numbers from 1 to 65535"))?);
            }
        }
    }
    match ports.len() > PORT_LIMIT {
        true => Err(format!("ports: at most {PORT_LIMIT}")),
        false => Ok(ports),
    }
}

/// The network namespace of a pod, held by its monitor.
#[derive(Debug, Clone)]
struct Place {
    namespace: PathBuf,
}

async fn locate(host: &Arc<Host>, namespace: &str, name: &str) -> Result<Place, String> {
    let api: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let pod = api.get(name).await.map_err(|error| error.to_string())?;
    let run_dir = host.config.instance.pod_run_dir(&local_uid(&pod));
    let absent = || format!("pod {name} does not run");
    let monitor = UnixStream::connect(sandbox::socket_path(&run_dir)).await.map_err(|_| absent())?;
    // Whoever listens on the pod's socket is its monitor, which sits in the pod's network namespace.
    let pid = monitor.peer_cred().ok().and_then(|peer| peer.pid()).ok_or_else(absent)?;
    Ok(Place { namespace: PathBuf::from(format!("/proc/{pid}/ns/net")) })
}

impl Place {
    /// Connects to a port of the pod's loopback. A thread of its own enters the pod's network and ends there: a
    /// worker of the runtime must never be left in another namespace.
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let path = self.namespace.clone();
        let thread = std::thread::Builder::new().name("port-forward".into()).spawn(move || {
            // Nobody waits any more where the client left.
            drop(sender.send(connect_within(&path, port)));
        });
        thread.map_err(|error| format!("no thread for the connection: {error}"))?;
        let stream = receiver.await.map_err(|_| "the connecting thread ended".to_owned())??;
        TcpStream::from_std(stream).map_err(|error| error.to_string())
    }
}

fn connect_within(namespace: &std::path::Path, port: u16) -> Result<std::net::TcpStream, String> {
    let inside = std::fs::File::open(namespace).map_err(|error| format!("the pod's network: {error}"))?;
    nix::sched::setns(&inside, nix::sched::CloneFlags::CLONE_NEWNET)
        .map_err(|errno| format!("entering the pod's network: {errno}"))?;
    let mut failed = String::new();
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        let connected = std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) if failed.is_empty() => failed = format!("connecting to {address} in the pod: {error}"),
            Err(_) => {}
        }
    }
    Err(failed)
}

/// Two channels per port, data and errors; the first message of each says its port.
async fn channels(socket: WebSocket, place: Place, ports: Vec<u16>) {
    let (mut client, mut messages) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<WsMessage>(16);
    let sending = tokio::spawn(async move {
        while let Some(message) = outgoing.recv().await {
            if client.send(message).await.is_err() {
                return;
            }
        }
        drop(client.close().await);
    });
    let mut inputs: HashMap<u8, mpsc::Sender<Vec<u8>>> = HashMap::new();
    for (position, port) in ports.iter().enumerate() {
        // At most 16 ports, so channels stay far below 255.
        let channel = u8::try_from(position * 2).unwrap_or(u8::MAX);
        for channel in [channel, channel + 1] {
            let [low, high] = port.to_le_bytes();
            drop(out.send(WsMessage::Binary(vec![channel, low, high].into())).await);
        }
        let (input, received) = mpsc::channel(4);
        inputs.insert(channel, input);
        tokio::spawn(one_channel(place.clone(), *port, channel, received, out.clone()));
    }
    drop(out);
    let receiving = async {
        while let Some(Ok(message)) = messages.next().await {
            let Some(data) = content(message) else { continue };
            match data.split_first() {
                Some((&CLOSE, [channel])) => drop(inputs.remove(channel)),
                Some((channel, payload)) => {
                    if let Some(input) = inputs.get(channel)
                        && input.send(payload.to_vec()).await.is_err()
                    {
                        inputs.remove(channel);
                    }
                }
                None => {}
            }
        }
    };
    let mut sending = sending;
    tokio::select! {
        () = receiving => sending.abort(),
        _ = &mut sending => {}
    }
}

async fn one_channel(
    place: Place,
    port: u16,
    channel: u8,
    mut input: mpsc::Receiver<Vec<u8>>,
    out: mpsc::Sender<WsMessage>,
) {
    let stream = match place.connect(port).await {
        Ok(stream) => stream,
        Err(message) => {
            let message = [&[channel + 1], message.as_bytes()].concat();
            return drop(out.send(WsMessage::Binary(message.into())).await);
        }
    };
    let (mut read, mut write) = stream.into_split();
    let up = async {
        while let Some(data) = input.recv().await {
            if write.write_all(&data).await.is_err() {
                return;
            }
        }
        drop(write.shutdown().await);
    };
    let down = async {
        let mut buffer = vec![0; PIECE];
        buffer[0] = channel;
        while let Ok(count @ 1..) = read.read(&mut buffer[1..]).await {
            if out.send(WsMessage::Binary(buffer[..=count].to_vec().into())).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(up, down);
    // The pod's end of the connection is the end; the client's half may end before.
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
}

/// SPDY within the messages of a WebSocket.
async fn tunnel(socket: WebSocket, place: Place) {
    let (mut client, mut messages) = socket.split();
    let (ours, theirs) = tokio::io::duplex(PIECE * 2);
    let (mut from_us, mut to_us) = tokio::io::split(ours);
    let incoming = async {
        while let Some(Ok(message)) = messages.next().await {
            if let Some(data) = content(message)
                && to_us.write_all(&data).await.is_err()
            {
                return;
            }
        }
        drop(to_us.shutdown().await);
    };
    let outgoing = async {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from_us.read(&mut buffer).await {
            if client.send(WsMessage::Binary(buffer[..count].to_vec().into())).await.is_err() {
                return;
            }
        }
        drop(client.close().await);
    };
    let (read, write) = tokio::io::split(theirs);
    tokio::pin!(incoming, outgoing);
    tokio::select! {
        () = serve_spdy(read, write, place) => {}
        () = &mut incoming => {}
        () = &mut outgoing => {}
    }
}

/// The streams of a SPDY client.
async fn serve_spdy(
    read: impl AsyncRead + Unpin + Send + 'static,
    mut write: impl AsyncWrite + Unpin + Send + 'static,
    place: Place,
) {
    let (out, mut outgoing) = mpsc::channel::<Vec<u8>>(16);
    let sending = tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if write.write_all(&frame).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        drop(write.shutdown().await);
    });
    if let Err(error) = streams(Reader::new(read), &out, &place).await {
        tracing::debug!(error = %api::causes::chain(&error), "a port-forward ended");
    }
    drop(out);
    sending.abort();
}

async fn streams<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    out: &mpsc::Sender<Vec<u8>>,
    place: &Place,
) -> Result<(), spdy::SpdyError> {
    let mut writer = Writer::new()?;
    let mut tasks = tokio::task::JoinSet::new();
    // Error streams by request, until the data stream of the same request comes.
    let mut errors: HashMap<String, u32> = HashMap::new();
    let mut inputs: HashMap<u32, mpsc::Sender<Vec<u8>>> = HashMap::new();
    while let Some(frame) = reader.next().await? {
        let answer = match frame {
            Frame::Open { stream, headers } => {
                let text = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
                let request = text("requestid").to_owned();
                while tasks.try_join_next().is_some() {}
                inputs.retain(|_, input| !input.is_closed());
                let port = text("port").parse::<u16>().ok().filter(|port| *port > 0);
                match (text("streamtype"), port) {
                    _ if errors.len() + inputs.len() >= STREAM_LIMIT => spdy::refuse(stream),
                    ("error", Some(_)) => {
                        errors.insert(request, stream);
                        writer.reply(stream)?
                    }
                    ("data", Some(port)) => {
                        let (input, received) = mpsc::channel(4);
                        inputs.insert(stream, input);
                        let error = errors.remove(&request);
                        let reply = writer.reply(stream)?;
                        // The client awaits the answer before data.
                        if out.send(reply).await.is_err() {
                            return Ok(());
                        }
                        tasks.spawn(one_stream(place.clone(), port, stream, error, received, out.clone()));
                        continue;
                    }
                    _ => spdy::refuse(stream),
                }
            }
            Frame::Data { stream, data, last } => {
                if let Some(input) = inputs.get(&stream).filter(|_| !data.is_empty()).cloned()
                    && input.send(data).await.is_err()
                {
                    inputs.remove(&stream);
                }
                if last {
                    inputs.remove(&stream);
                }
                continue;
            }
            Frame::Reset { stream } => {
                inputs.remove(&stream);
                errors.retain(|_, error| *error != stream);
                continue;
            }
            Frame::Ping { id } => spdy::pong(id),
            Frame::GoAway => return Ok(()),
        };
        if out.send(answer).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn one_stream(
    place: Place,
    port: u16,
    data: u32,
    error: Option<u32>,
    mut input: mpsc::Receiver<Vec<u8>>,
    out: mpsc::Sender<Vec<u8>>,
) {
    let end = async |message: &str| {
        if let Some(error) = error {
            drop(out.send(spdy::data(error, message.as_bytes(), true)).await);
        }
        drop(out.send(spdy::data(data, &[], true)).await);
    };
    let stream = match place.connect(port).await {
        Ok(stream) => stream,
        Err(message) => return end(&message).await,
    };
    let (mut read, mut write) = stream.into_split();
    let up = async {
        while let Some(piece) = input.recv().await {
            if write.write_all(&piece).await.is_err() {
                return;
            }
        }
        drop(write.shutdown().await);
    };
    let down = async {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            if out.send(spdy::data(data, &buffer[..count], false)).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut down => {}
        () = &mut up => down.await,
    }
    end("").await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_bounded() {
        assert_eq!(ports("ports=80&ports=81,82"), Ok(vec![80, 81, 82]));
        assert!(ports("ports=0").is_err() && ports("ports=x").is_err());
        assert!(ports(&"ports=1&".repeat(17)).is_err());
    }

    #[tokio::test]
    async fn a_connection_is_made_in_the_namespace() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let place = Place { namespace: "/proc/self/ns/net".into() };
        match place.connect(port).await {
            Ok(_) => {}
            Err(message) if message.contains("EPERM") => println!("skipped: entering a namespace needs root"),
            Err(message) => panic!("{message}"),
        }
    }
}
