//! Requests that an agent answers: logs, exec, attach, port forwarding. The server dials the agent's kubelet API and
//! passes bytes; it understands neither logs nor stream protocols.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{Message, WebSocketUpgrade};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use controller_object::resource::Subresource;
use controller_object::status::Status;
use futures::StreamExt as _;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{HeaderName, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::forward;
use crate::handle::Context;
use crate::server::State;

/// The largest summary that is read: some kilobytes for each of a node's pods.
const SUMMARY_BYTES: usize = 8 << 20;

/// How a one-way stream is sent over a WebSocket.
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Where the agent of a pod answers, and the pod's container that is meant.
struct Target {
    agent: Agent,
    container: String,
}

/// Where an agent answers.
struct Agent {
    address: IpAddr,
    port: u16,
}

impl Agent {
    /// As a Node says it.
    fn of(node: &Value) -> Result<Self, Status> {
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
        let mut internal = addresses.filter(|address| address["type"] == "InternalIP");
        let address = internal.find_map(|address| address["address"].as_str()?.parse().ok());
        let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
        match (address, port.and_then(|port| u16::try_from(port).ok())) {
            (Some(address), Some(port)) => Ok(Self { address, port }),
            _ => {
                let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                Err(Status::service_unavailable(format!("node {name} has not told its address and port")))
            }
        }
    }

    /// Sends one request over a connection of its own.
    async fn send(&self, state: &State, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, Status> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Status::service_unavailable(format!("the agent at {}:{}: {error}", self.address, self.port))
        };
        let tcp = TcpStream::connect((self.address, self.port)).await.map_err(|error| unreachable(&error))?;
        tcp.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(&state.agent_tls));
        let tls = connector.connect(ServerName::from(self.address), tcp).await.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|error| unreachable(&error))?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| unreachable(&error))
    }

    fn request(&self, method: http::Method, path: &str, query: &[(String, String)]) -> http::request::Builder {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let builder = Request::builder().method(method).uri(format!("{path}?{query}"));
        builder.header(HOST, std::net::SocketAddr::new(self.address, self.port).to_string())
    }
}

fn target(context: &Context, of_container: bool) -> Result<Target, Status> {
    let name = context.name();
    let pod = context.state.registry.current(&context.resource, context.namespace(), name)?.object;
    let node_name = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node_name.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let container = match of_container {
        true => container(context.query.get("container"), name, &pod)?,
        false => String::new(),
    };
    let node = context
        .state
        .registry
        .peek("", "v1", "nodes", None, node_name)
        .ok_or_else(|| Status::service_unavailable(format!("node {node_name} of pod {name} is not registered")))?;
    Ok(Target { agent: Agent::of(&node)?, container })
}

/// The container that is meant, or Kubernetes' words for why that is unclear.
fn container(wanted: Option<&str>, name: &str, pod: &Value) -> Result<String, Status> {
    let of = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str()).collect()
    };
    let main = of("containers");
    let all: Vec<&str> = main.iter().copied().chain(of("initContainers")).chain(of("ephemeralContainers")).collect();
    let annotated =
        pod.pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container").and_then(Value::as_str);
    match (wanted, annotated, main.as_slice()) {
        (Some(wanted), ..) if all.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), ..) => Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        (None, Some(annotated), _) if main.contains(&annotated) => Ok(annotated.to_owned()),
        (None, _, [only]) => Ok((*only).to_owned()),
        (None, ..) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// GET pods/x/log. For a client that asks for a WebSocket each piece of the log is a message.
pub(crate) async fn log(context: &Context, upgrade: Option<OnUpgrade>) -> Result<Response<Body>, Status> {
    let target = target(context, true)?;
    let path =
        format!("/containerLogs/{}/{}/{}", context.namespace().unwrap_or_default(), context.name(), target.container);
    let response = send(context, &target, &path, context.query.pairs(), &[]).await?;
    let (parts, body) = response.into_parts();
    if parts.status != StatusCode::OK {
        let text = http_body_util::BodyExt::collect(http_body_util::Limited::new(body, 64 << 10)).await;
        let text = text.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        return Err(Status::bad_request(text.trim()));
    }
    match upgrade {
        Some(upgrade) => messages(context, upgrade, Body::new(body)).await,
        None => Ok(crate::reply::with_type(StatusCode::OK, "text/plain", Body::new(body))),
    }
}

/// A body as messages of a WebSocket: binary ones, or text in base64 for clients that want that
/// (the subprotocols of Kubernetes' one-way streams).
async fn messages(context: &Context, upgrade: OnUpgrade, body: Body) -> Result<Response<Body>, Status> {
    let mut parts = Request::new(()).into_parts().0;
    parts.headers = context.headers.clone();
    parts.extensions.insert(upgrade);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|error| Status::bad_request(error.to_string()))?;
    let upgrade = upgrade.protocols([BINARY, BASE64]);
    let is_text = upgrade.selected_protocol().is_some_and(|name| name.as_bytes() == BASE64.as_bytes());
    let answer = upgrade.on_upgrade(async move |mut socket| {
        let mut pieces = body.into_data_stream();
        loop {
            tokio::select! {
                piece = pieces.next() => {
                    let Some(Ok(piece)) = piece else { break };
                    let message = match is_text {
                        true => Message::Text(STANDARD.encode(piece).into()),
                        false => Message::Binary(piece),
                    };
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                // Whoever stops reading goes away: nothing else is expected of the client.
                from_client = socket.recv() => match from_client {
                    Some(Ok(message)) if !matches!(message, Message::Close(_)) => {}
                    _ => return,
                },
            }
        }
        // The client may have gone already.
        drop(socket.send(Message::Close(None)).await);
    });
    Ok(answer)
}

/// GET or POST pods/x/exec, pods/x/attach and pods/x/portforward: an upgrade that is passed on.
pub(crate) async fn stream(
    context: &Context,
    subresource: Subresource,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let Some(upgrade) = upgrade else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let target = target(context, subresource != Subresource::PortForward)?;
    let (namespace, name) = (context.namespace().unwrap_or_default(), context.name());
    let path = match subresource {
        Subresource::PortForward => format!("/portForward/{namespace}/{name}"),
        Subresource::Exec => format!("/exec/{namespace}/{name}/{}", target.container),
        _ => format!("/attach/{namespace}/{name}/{}", target.container),
    };
    let query: Vec<(String, String)> = context
        .query
        .pairs()
        .iter()
        .map(|(name, value)| match name.as_str() {
            // The kubelet API has its own names for the streams.
            "stdin" => ("input".into(), value.clone()),
            "stdout" => ("output".into(), value.clone()),
            "stderr" => ("error".into(), value.clone()),
            _ => (name.clone(), value.clone()),
        })
        .collect();
    let passed: Vec<HeaderName> = context
        .headers
        .keys()
        .filter(|name| {
            **name == UPGRADE
                || **name == CONNECTION
                || name.as_str().starts_with("sec-websocket")
                || name.as_str().starts_with("x-stream-protocol")
        })
        .cloned()
        .collect();
    let mut response = send(context, &target, &path, &query, &passed).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        return Ok(Response::from_parts(parts, Body::new(body)));
    }
    let agent = hyper::upgrade::on(&mut response);
    tokio::spawn(forward::join(upgrade, agent));
    let (mut parts, _) = response.into_parts();
    parts.extensions = Default::default();
    Ok(Response::from_parts(parts, Body::empty()))
}

async fn send(
    context: &Context,
    target: &Target,
    path: &str,
    query: &[(String, String)],
    passed: &[HeaderName],
) -> Result<Response<hyper::body::Incoming>, Status> {
    let mut request = target.agent.request(method(context), path, query);
    for name in passed {
        for value in context.headers.get_all(name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Body::empty()).map_err(|_| Status::bad_request("the request cannot be passed on"))?;
    target.agent.send(&context.state, request).await
}

/// GET nodes/x/proxy/PATH: a read of the agent's kubelet API. Upgrades are not passed on: a stream into a container asks
/// for `pods/exec`, and whoever may only read nodes has no way around that here.
pub(crate) async fn node(context: &Context) -> Result<Response<Body>, Status> {
    let node = context.state.registry.current(&context.resource, None, context.name())?.object;
    let agent = Agent::of(&node)?;
    let path: String = context.request.rest.split('/').skip(1).fold(String::new(), |path, segment| {
        path + "/" + &percent_encoding::utf8_percent_encode(segment, percent_encoding::NON_ALPHANUMERIC).to_string()
    });
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let request = agent.request(http::Method::GET, &path, context.query.pairs()).body(Body::empty());
    let request = request.map_err(|_| Status::bad_request("the request cannot be passed on"))?;
    let (parts, body) = agent.send(&context.state, request).await?.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    response.headers_mut().extend(parts.headers.get(CONTENT_TYPE).map(|value| (CONTENT_TYPE, value.clone())));
    Ok(response)
}

/// Figures of one node, as its agent tells them: the kubelet's Summary without what costs more than a look.
pub(crate) async fn figures(state: &State, node: &Value) -> Result<Value, Status> {
    let agent = Agent::of(node)?;
    let query = [("only_cpu_and_memory".to_owned(), "true".to_owned())];
    let request = agent.request(http::Method::GET, "/stats/summary", &query).body(Body::empty());
    let request = request.map_err(|_| Status::bad_request("the request cannot be sent"))?;
    let response = agent.send(state, request).await?;
    let code = response.status();
    let body =
        http_body_util::BodyExt::collect(http_body_util::Limited::new(response.into_body(), SUMMARY_BYTES)).await;
    let summary = body.ok().filter(|_| code == StatusCode::OK);
    let summary = summary.and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    summary.ok_or_else(|| Status::service_unavailable(format!("the agent at {}: no figures ({code})", agent.address)))
}

fn method(context: &Context) -> http::Method {
    match context.request.verb {
        crate::route::Verb::Create => http::Method::POST,
        _ => http::Method::GET,
    }
}
