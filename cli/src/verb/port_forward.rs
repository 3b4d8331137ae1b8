//! `gantry port-forward`: ports of this machine that lead to ports of a pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::name_of;
use crate::{pods, screen, target};

const DATA: u8 = 0;
const ERROR: u8 = 1;
const CLOSE: u8 = 255;

/// Flags of `gantry port-forward`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// POD, or TYPE/NAME for one of its pods.
    #[arg(value_name = "POD | TYPE/NAME")]
    target: String,
    /// LOCAL:REMOTE, PORT for both, or :REMOTE for any local port.
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Addresses to listen on, or localhost.
    #[arg(long, default_value = "localhost", value_name = "ADDRESS", value_delimiter = ',')]
    address: Vec<String>,
}

/// A local port (0: any) and the pod's.
#[derive(Debug, PartialEq)]
struct Pair {
    local: u16,
    remote: u16,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let service = service(&session, &catalog, &args.target).await?;
    let pod = pods::pick(&session, &catalog, &args.target).await?;
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if phase != "Running" {
        return Err(Failure::error(format!(
            "unable to forward port because pod is not running. Current status={phase}"
        )));
    }
    let pairs = args.ports.iter().map(|text| pair(text, service.as_ref(), &pod)).collect::<Result<Vec<_>, _>>()?;
    let path = catalog.expect("pods")?.object(&session.namespace, name_of(&pod));
    let mut listeners = Vec::new();
    for pair in &pairs {
        listeners.extend(listen(&args.address, pair).await?);
    }
    let listening = listeners.iter().map(|(listener, remote)| serve(&session, &path, listener, *remote));
    futures::future::join_all(listening).await;
    Ok(ExitCode::SUCCESS)
}

/// The service that is meant, whose ports are translated to those of its pods.
async fn service(session: &Session, catalog: &Catalog, word: &str) -> Result<Option<Value>, Failure> {
    if !word.contains('/') {
        return Ok(None);
    }
    let target = target::one(catalog, word)?;
    if target.kind.kind != "Service" || !target.kind.group.is_empty() {
        return Ok(None);
    }
    let name = target.name.unwrap_or_default();
    session.get(Call::to(target.kind.object(&session.namespace, &name))).await.map(Some)
}

fn pair(text: &str, service: Option<&Value>, pod: &Value) -> Result<Pair, Failure> {
    let (local, remote) = text.split_once(':').map_or((None, text), |(local, remote)| (Some(local), remote));
    let asked = named(remote, service, pod).ok_or_else(|| {
        Failure::error(format!(
            "{text:?}: expected [LOCAL:]REMOTE with a number from 1 to 65535, or the name of a port"
        ))
    })?;
    let local = match local {
        None => asked.0,
        Some("") => 0,
        Some(local) => local.parse::<u16>().map_err(|_| {
            Failure::error(format!("error parsing local port '{local}': expected a number from 0 to 65535"))
        })?,
    };
    Ok(Pair { local, remote: asked.1 })
}

/// The port as it is asked for and the pod's port behind it.
fn named(text: &str, service: Option<&Value>, pod: &Value) -> Option<(u16, u16)> {
    let number = text.parse::<u16>().ok().filter(|number| *number > 0);
    let of_pod = |name: &str| {
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
        let mut ports = containers.filter_map(|one| one["ports"].as_array()).flatten();
        let port = ports.find(|port| port["name"] == name)?;
        port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok())
    };
    let Some(service) = service else {
        let port = number.or_else(|| of_pod(text))?;
        return Some((port, port));
    };
    let mut ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let port = ports.find(|port| port["name"] == text || number.is_some_and(|number| port["port"] == number))?;
    let own = u16::try_from(port["port"].as_u64()?).ok()?;
    let behind = match &port["targetPort"] {
        Value::String(name) => of_pod(name)?,
        other => u16::try_from(other.as_u64().unwrap_or(own.into())).ok()?,
    };
    Some((own, behind))
}

async fn listen(addresses: &[String], pair: &Pair) -> Result<Vec<(TcpListener, u16)>, Failure> {
    let mut listeners: Vec<(TcpListener, u16)> = Vec::new();
    let mut local = pair.local;
    let mut failed = None;
    for address in addresses {
        let ips: Vec<IpAddr> = match address.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            other => vec![other.parse().map_err(|_| Failure::error(format!("{other} is not a valid IP")))?],
        };
        for ip in ips {
            match TcpListener::bind((ip, local)).await {
                Ok(listener) => {
                    // Any port of the first address is the port of all.
                    let bound = listener.local_addr()?;
                    local = bound.port();
                    screen::line(format!("Forwarding from {bound} -> {}", pair.remote))?;
                    listeners.push((listener, pair.remote));
                }
                Err(error) => failed = Some(format!("unable to listen on port {local}: {ip}: {error}")),
            }
        }
    }
    match (listeners.is_empty(), failed) {
        (true, Some(failed)) => Err(Failure::error(failed)),
        _ => Ok(listeners),
    }
}

async fn serve(session: &Session, path: &str, listener: &TcpListener, remote: u16) {
    let mut open = futures::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    screen::note(format!("Handling connection for {}", listener.local_addr().map_or(0, |own| own.port())));
                    open.push(forward(session, path, stream, remote));
                }
                Err(error) => {
                    screen::note(format!("error: accepting a connection: {error}"));
                    return;
                }
            },
            Some(done) = open.next(), if !open.is_empty() => {
                if let Err(failure) = done {
                    screen::note(format!("error forwarding to port {remote}: {failure}"));
                }
            }
        }
    }
}

async fn forward(session: &Session, path: &str, stream: TcpStream, remote: u16) -> Result<(), Failure> {
    let call = Call::to(format!("{path}/portforward")).with("ports", remote.to_string());
    let connection = session.websocket(&call).await?;
    let half_close = connection.supports_stream_close();
    let (mut sink, mut messages) = connection.into_stream().split();
    let (mut read, mut write) = stream.into_split();
    let up = async {
        let mut buffer = vec![DATA; 32 << 10];
        while let Ok(count @ 1..) = read.read(&mut buffer[1..]).await {
            if sink.send(buffer[..=count].to_vec().into()).await.is_err() {
                return;
            }
        }
        if half_close {
            drop(sink.send(vec![CLOSE, DATA].into()).await);
            // The pod's side ends the connection.
            std::future::pending::<()>().await;
        }
    };
    let down = async {
        // The first message of each channel is its port.
        let mut greeted = [false; 2];
        while let Some(Ok(message)) = messages.next().await {
            if !message.is_binary() {
                continue;
            }
            let data = message.into_data();
            match data.split_first() {
                Some((channel @ (&DATA | &ERROR), _)) if !greeted[usize::from(*channel)] => {
                    greeted[usize::from(*channel)] = true;
                }
                Some((&DATA, data)) if write.write_all(data).await.is_err() => return Ok(()),
                Some((&ERROR, text)) => return Err(Failure::new(screen::plain(&String::from_utf8_lossy(text)))),
                _ => {}
            }
        }
        drop(write.shutdown().await);
        Ok(())
    };
    tokio::select! {
        done = down => done,
        () = up => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_have_many_forms() {
        let pod = json!({"spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let service = json!({"spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}]}});
        let read =
            |text: &str, service: Option<&Value>| pair(text, service, &pod).ok().map(|pair| (pair.local, pair.remote));
        assert_eq!(read("80", None), Some((80, 80)));
        assert_eq!(read("9000:http", None), Some((9000, 8080)));
        assert_eq!(read(":80", Some(&service)), Some((0, 8080)));
        assert_eq!(read("web", Some(&service)), Some((80, 8080)));
        for bad in ["0", "x:80", "70000", "80:", "nope"] {
            assert_eq!(read(bad, None), None, "{bad}");
        }
    }
}
