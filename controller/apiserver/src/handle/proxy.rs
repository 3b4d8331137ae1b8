//! `pods/x/proxy` and `services/x/proxy`: HTTP through the API server. A name may say more: `SCHEME:NAME:PORT`.
//! Kubernetes documentation, "Access Services Running on Clusters".

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use controller_object::status::Status;
use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::{Method, Response, StatusCode};
use rustls::pki_types::ServerName;
use serde_json::Value;

use super::Context;
use crate::forward::{Incoming, Target, forward};
use crate::{tls, webhook};

/// `http:name:port`, `name:port` or `name`.
struct Wanted<'a> {
    is_tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return Err(Status::bad_request(format!("invalid proxy name {text:?}: expected SCHEME:NAME:PORT"))),
        };
        match scheme {
            "" | "http" | "https" => Ok(Self { is_tls: scheme == "https", name, port }),
            other => Err(Status::bad_request(format!("invalid proxy scheme {other:?}: expected http or https"))),
        }
    }
}

/// Passes a request on to a pod or to an endpoint of a Service. `raw_path` is the path as it came, still encoded.
pub(crate) async fn answer(context: Context, raw_path: &str, incoming: Incoming) -> Result<Response<Body>, Status> {
    let wanted = Wanted::parse(context.name())?;
    let address = match context.resource.plural.as_str() {
        "pods" => pod(&context, &wanted)?,
        _ => service(&context, &wanted)?,
    };
    refuse_special(address.ip())?;
    let (prefix, path) = below_proxy(raw_path);
    if path.is_empty() && matches!(incoming.method, Method::GET | Method::HEAD) {
        // Relative links of a page work only below a path that ends with a slash.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = HeaderValue::from_str(&format!("{prefix}/"));
        response.headers_mut().extend(location.ok().map(|location| (LOCATION, location)));
        return Ok(response);
    }
    let query = incoming.path_and_query.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    let incoming = Incoming { path_and_query: format!("{path}{query}"), ..incoming };
    let tls = match wanted.is_tls {
        // Nobody says which certificate a pod should have: Kubernetes trusts any here, too.
        true => Some((tls::trusting_anybody().map_err(Status::internal_error)?, ServerName::from(address.ip()))),
        false => None,
    };
    let target = Target { address, tls, host: address.to_string() };
    let mut response = forward(&target, incoming, HeaderMap::new()).await?;
    // A redirect within the server stays below the proxy.
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(path) = location.filter(|path| path.starts_with('/') && !path.starts_with("//"))
        && let Ok(location) = HeaderValue::from_str(&format!("{prefix}{path}"))
    {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// What this machine keeps to itself is nobody's pod, whatever an object says.
fn refuse_special(address: IpAddr) -> Result<(), Status> {
    let is_broadcast = matches!(address.to_canonical(), IpAddr::V4(address) if address.is_broadcast());
    match is_broadcast || api::address::special(address).is_some() {
        true => Err(Status::bad_request("address not allowed")),
        false => Ok(()),
    }
}

/// Splits a path behind `/NAME/proxy`.
fn below_proxy(path: &str) -> (&str, &str) {
    // .../namespaces/NS/pods/NAME/proxy/REST: the eighth segment of core resources.
    let end = path.match_indices("/proxy").map(|(at, found)| at + found.len());
    let mut ends = end.filter(|end| path[*end..].is_empty() || path[*end..].starts_with('/'));
    // A namespace or a pod may be called "proxy": the subresource is the seventh segment behind /api/v1.
    let at = ends.find(|end| path[..*end].split('/').count() >= 8).unwrap_or(path.len());
    path.split_at(at)
}

fn pod(context: &Context, wanted: &Wanted<'_>) -> Result<SocketAddr, Status> {
    let pod = context.state.registry.current(&context.resource, context.namespace(), wanted.name)?.object;
    let address: Option<IpAddr> =
        pod.pointer("/status/podIP").and_then(Value::as_str).and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| Status::service_unavailable("address not allowed: the pod has none yet"))?;
    let containers = || pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let ports = || containers().flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let number = |port: &Value| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = match wanted.port {
        "" => ports().next().and_then(number).unwrap_or(if wanted.is_tls { 443 } else { 80 }),
        text => match text.parse() {
            Ok(port) => port,
            Err(_) => ports()
                .find(|port| port["name"] == *text)
                .and_then(number)
                .ok_or_else(|| Status::service_unavailable(format!("the pod has no port {text:?}")))?,
        },
    };
    Ok(SocketAddr::new(address, port))
}

fn service(context: &Context, wanted: &Wanted<'_>) -> Result<SocketAddr, Status> {
    let namespace = context.namespace().unwrap_or_default();
    let service = context.state.registry.current(&context.resource, Some(namespace), wanted.name)?.object;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let found = match (wanted.port, ports) {
        ("", [only]) => Some(only),
        (text, ports) => ports.iter().find(|port| {
            port["name"].as_str().unwrap_or_default() == text || text.parse::<u64>().is_ok_and(|n| port["port"] == n)
        }),
    };
    let port = found.and_then(|port| port["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
    let none = || Status::service_unavailable(format!("no endpoints available for service {:?}", context.name()));
    let port = port.ok_or_else(none)?;
    webhook::endpoint(&context.state.registry.store, namespace, wanted.name, port, rand::random())
        .map_err(|error| Status::service_unavailable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_scheme_and_port() {
        let parse = |text| Wanted::parse(text).map(|w| (w.is_tls, w.name.to_owned(), w.port.to_owned())).ok();
        assert_eq!(parse("web"), Some((false, "web".into(), String::new())));
        assert_eq!(parse("web:80"), Some((false, "web".into(), "80".into())));
        assert_eq!(parse("https:web:"), Some((true, "web".into(), String::new())));
        assert_eq!(parse("ftp:web:1"), None);
        for special in ["127.0.0.1", "::1", "169.254.169.254", "0.0.0.0", "fe80::1", "224.0.0.1", "::ffff:127.0.0.1"] {
            assert!(refuse_special(special.parse().unwrap()).is_err(), "{special}");
        }
        assert!(refuse_special("10.42.0.7".parse().unwrap()).is_ok());
        let path = "/api/v1/namespaces/proxy/pods/proxy/proxy/a%2Fb/proxy";
        assert_eq!(below_proxy(path), ("/api/v1/namespaces/proxy/pods/proxy/proxy", "/a%2Fb/proxy"));
        assert_eq!(below_proxy("/api/v1/namespaces/a/services/b:80/proxy").1, "");
    }
}
