//! What is said about an Ingress: its rules and where they lead.

use serde_json::Value;

use super::kinds::{annotations, at, text};
use super::page::Page;
use super::related::{SERVICE_LABEL, of_kind};
use super::service::endpoints;
use super::template::{list, shown, string};
use crate::output::name_of;

/// Writes an Ingress; `related` holds the Services and EndpointSlices of its namespace.
pub(super) fn ingress(page: &mut Page, object: &Value, related: &[Value]) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    page.field(0, "Name", text(object, "/metadata/name"));
    page.values(0, "Labels", &super::template::pairs(at(object, "/metadata/labels"), "="));
    page.field(0, "Namespace", text(object, "/metadata/namespace"));
    let points = list(at(object, "/status/loadBalancer").unwrap_or(&null), "ingress");
    let points: Vec<&str> = points.filter_map(|point| string(point, "ip").or(string(point, "hostname"))).collect();
    page.field(0, "Address", points.join(","));
    page.field(0, "Ingress Class", string(spec, "ingressClassName").unwrap_or("<none>"));
    let default = spec.get("defaultBackend").map(|backend| target(backend, related));
    let default = default.unwrap_or_else(|| "<default>".to_owned());
    page.field(0, "Default backend", &default);
    if list(spec, "tls").next().is_some() {
        page.heading(0, "TLS");
    }
    for tls in list(spec, "tls") {
        let hosts: Vec<String> = list(tls, "hosts").map(|host| shown(Some(host))).collect();
        page.cells(
            1,
            [match string(tls, "secretName") {
                Some(secret) => format!("{secret} terminates {}", hosts.join(",")),
                None => format!("SNI routes {}", hosts.join(",")),
            }],
        );
    }
    page.heading(0, "Rules");
    page.cells(1, ["Host", "Path", "Backends"].map(str::to_owned));
    page.cells(1, ["----", "----", "--------"].map(str::to_owned));
    let mut rules = 0;
    for rule in list(spec, "rules") {
        let Some(http) = rule.get("http") else { continue };
        rules += 1;
        page.cells(1, [string(rule, "host").unwrap_or("*").to_owned(), String::new()]);
        for path in list(http, "paths") {
            let leads = path.get("backend").map(|backend| target(backend, related)).unwrap_or_default();
            page.cells(1, [String::new(), format!("{} ", string(path, "path").unwrap_or_default()), leads]);
        }
    }
    if rules == 0 {
        page.cells(1, ["*".to_owned(), "*".to_owned(), default]);
    }
    page.values(0, "Annotations", &annotations(object));
}

/// A backend and the addresses behind it.
fn target(backend: &Value, related: &[Value]) -> String {
    if let Some(resource) = backend.get("resource") {
        let part = |key: &str| shown(resource.get(key));
        return format!("APIGroup: {}, Kind: {}, Name: {}", part("apiGroup"), part("kind"), part("name"));
    }
    let name = text(backend, "/service/name");
    let (named, numbered) = (text(backend, "/service/port/name"), text(backend, "/service/port/number"));
    let port = if named.is_empty() { &numbered } else { &named };
    let Some(service) = of_kind(related, "Service").find(|service| name_of(service) == name) else {
        return format!("{name}:{port} (<error: services \"{name}\" not found>)");
    };
    let ports = list(service.get("spec").unwrap_or(&Value::Null), "ports");
    let is_meant = |port: &&Value| match named.is_empty() {
        true => shown(port.get("port")) == numbered,
        false => shown(port.get("name")) == named,
    };
    let meant = ports.into_iter().find(is_meant).map(|port| shown(port.get("name"))).unwrap_or_default();
    let is_of = |slice: &&Value| {
        slice.pointer("/metadata/labels").is_some_and(|labels| shown(labels.get(SERVICE_LABEL)) == name)
    };
    let slices: Vec<&Value> = of_kind(related, "EndpointSlice").filter(is_of).collect();
    format!("{name}:{port} ({})", endpoints(&slices, &meant))
}
