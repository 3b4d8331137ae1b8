//! What probes and hooks do to a container: run a program in it, ask it over HTTP or gRPC, connect to it. Messages are
//! those of the kubelet (`pkg/probe`), where its words are Go's.

pub(crate) mod exec;
pub(crate) mod grpc;
pub(crate) mod http;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use agent_image::registry::trust::Anybody;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// So much of an answer or an output is read.
pub(crate) const OUTPUT_MAX: usize = 10 << 10;

/// A connection, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The number of a port that is given by number or by a name of the container's ports.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|own| own.name.as_ref() == Some(name)) {
                Some(own) => own.container_port,
                // As with the kubelet, digits in quotes are a number.
                None => name.parse().map_err(|_| format!("couldn't find port: {name:?} in the container's ports"))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Connects over TCP. `host` is a name or an address.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            ErrorKind::HostUnreachable => "no route to host".to_owned(),
            ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {}: connect: {why}", authority(host, port))
    })
}

/// Begins TLS with whoever is there. Who answers on the address of a pod cannot be told by a certificate: it is the pod.
pub(crate) async fn tls(stream: TcpStream, host: &str) -> Result<impl Stream + use<>, String> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let made = || Anybody::client_config().map(Arc::new).map_err(|error| error.to_string());
    let config = CONFIG.get_or_init(made).as_ref().map_err(String::clone)?;
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?,
    };
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(name, stream).await.map_err(|error| format!("tls: {error}"))
}

/// `HOST:PORT`, with an IPv6 address in brackets.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The request that an action asks for. `ip` is the pod's address.
pub(crate) fn http_get(action: &HTTPGetAction, container: &Container, ip: &str) -> Result<http::Get, String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
    let is_tls = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let headers = action.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone()));
    let path = action.path.as_deref().unwrap_or("/");
    let url = http::url(is_tls, host, port(container, &action.port)?, path)?;
    Ok(http::Get { url, headers: headers.collect(), is_http2: action.protocol.as_deref() == Some("HTTP2") })
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn ports_have_names_or_numbers() {
        let container: Container =
            from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        let of = |value: IntOrString| port(&container, &value);
        assert_eq!(of(IntOrString::Int(80)), Ok(80));
        assert_eq!(of(IntOrString::String("web".into())), Ok(8080));
        assert_eq!(of(IntOrString::String("81".into())), Ok(81));
        assert!(of(IntOrString::String("other".into())).unwrap_err().contains("\"other\""));
        assert!(of(IntOrString::Int(0)).is_err() && of(IntOrString::Int(70_000)).is_err());
    }
}
