//! `gantry expose`: a Service for the pods of an object.

use std::process::ExitCode;

use http::Method;
use serde_json::{Map, Value, json};

use crate::change::{ChangeArgs, DryRun};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::manifest::FileArgs;
use crate::workload::{WhichArgs, Workload};

/// Flags of `gantry expose`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE NAME or TYPE/NAME...
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Name of the service; by default that of the object.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Ports of the service; by default those of the containers.
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    port: Vec<u16>,
    /// Number or name of the port of the containers.
    #[arg(long, value_name = "PORT")]
    target_port: Option<String>,
    /// TCP, UDP or SCTP.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Labels of the pods, such as app=web; by default those that the object selects.
    #[arg(long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Labels of the service, such as app=web.
    #[arg(short = 'l', long, value_name = "LABELS")]
    labels: Option<String>,
    /// The address; None makes the service headless.
    #[arg(long, value_name = "IP")]
    cluster_ip: Option<String>,
    /// An address from outside that also leads to the service.
    #[arg(long, value_name = "IP")]
    external_ip: Option<String>,
    /// None or ClientIP.
    #[arg(long, value_name = "HOW")]
    session_affinity: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let services = catalog.expect("services")?;
    for object in WhichArgs::named(&args.targets, &args.files).find(&session, &catalog).await? {
        let mut service = service(&object, args)?;
        if args.change.dry_run != DryRun::Client {
            let call = args.change.prepare(Call::to(services.collection(Some(&object.namespace)))).json(&service);
            service = session.send(Method::POST, call).await?.1;
        }
        args.change.tell(&output, services, &service, "exposed")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Labels as the command line has them: `a=b,c=d`.
pub(crate) fn labels(text: &str) -> Result<Map<String, Value>, Failure> {
    let pairs = text.split(',').map(|pair| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), json!(value))),
        _ => Err(Failure::error(format!("unexpected label {pair:?}: expected KEY=VALUE"))),
    });
    pairs.collect()
}

fn service(object: &Workload<'_>, args: &Args) -> Result<Value, Failure> {
    let at = |pointer: &str| object.object.pointer(pointer);
    let kind = object.kind.kind.as_str();
    let selector = match (&args.selector, kind) {
        (Some(text), _) => Some(labels(text)?),
        (None, "Pod") => at("/metadata/labels").and_then(Value::as_object).cloned(),
        (None, "Service" | "ReplicationController") => at("/spec/selector").and_then(Value::as_object).cloned(),
        (None, "Deployment" | "ReplicaSet") => {
            if at("/spec/selector/matchExpressions").and_then(Value::as_array).is_some_and(|all| !all.is_empty()) {
                return Err(Failure::error(
                    "couldn't convert expressions of the selector to map-based selector format; name labels with --selector",
                ));
            }
            at("/spec/selector/matchLabels").and_then(Value::as_object).cloned()
        }
        _ => return Err(Failure::error(format!("cannot expose a {}", object.kind.kind))),
    };
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
        return Err(Failure::error(format!(
            "couldn't retrieve selectors via --selector flag or introspection: the {kind} has no labels and cannot be exposed"
        )));
    };
    let ports = ports(object, args)?;
    let name = args.name.as_deref().unwrap_or(&object.name);
    let mut service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": object.namespace}, "spec": {"selector": selector, "ports": ports}});
    match &args.labels {
        Some(text) => service["metadata"]["labels"] = Value::Object(labels(text)?),
        None => {
            if let Some(labels) = at("/metadata/labels") {
                service["metadata"]["labels"] = labels.clone();
            }
        }
    }
    let set = [("type", &args.kind), ("clusterIP", &args.cluster_ip), ("sessionAffinity", &args.session_affinity)];
    for (field, value) in set {
        if let Some(value) = value {
            service["spec"][field] = json!(value);
        }
    }
    if let Some(ip) = &args.external_ip {
        service["spec"]["externalIPs"] = json!([ip]);
    }
    Ok(service)
}

fn ports(object: &Workload<'_>, args: &Args) -> Result<Vec<Value>, Failure> {
    let from_object: Vec<(u64, String)> = match object.kind.kind.as_str() {
        "Service" => {
            let ports = object.object.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
            ports.filter_map(|port| Some((port["port"].as_u64()?, protocol(port)))).collect()
        }
        kind => {
            let pointer = if kind == "Pod" { "/spec/containers" } else { "/spec/template/spec/containers" };
            let containers = object.object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            let ports = containers.filter_map(|container| container["ports"].as_array()).flatten();
            ports.filter_map(|port| Some((port["containerPort"].as_u64()?, protocol(port)))).collect()
        }
    };
    let wanted: Vec<(u64, String)> = match args.port.as_slice() {
        [] => from_object,
        given => {
            let known =
                |port: u64| from_object.iter().find(|(there, _)| *there == port).map(|(_, protocol)| protocol.clone());
            given.iter().map(|port| (u64::from(*port), known((*port).into()).unwrap_or_else(|| "TCP".into()))).collect()
        }
    };
    if wanted.is_empty() {
        return Err(Failure::error("couldn't find port via --port flag or introspection"));
    }
    let several = wanted.len() > 1;
    let port = |(position, (port, known)): (usize, (u64, String))| {
        let target = match args.target_port.as_deref() {
            Some(text) => text.parse::<u16>().map_or_else(|_| json!(text), |number| json!(number)),
            None => json!(port),
        };
        let protocol = args.protocol.as_ref().map(|text| text.to_uppercase()).unwrap_or(known);
        let mut entry = json!({"port": port, "targetPort": target, "protocol": protocol});
        if several {
            entry["name"] = json!(format!("port-{}", position + 1));
        }
        entry
    };
    Ok(wanted.into_iter().enumerate().map(port).collect())
}

fn protocol(port: &Value) -> String {
    port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned()
}
