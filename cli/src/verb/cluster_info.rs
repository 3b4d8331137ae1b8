//! `gantry cluster-info`: where the control plane and the cluster's services answer.

use std::process::ExitCode;

use serde_json::Value;

use crate::client::Session;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::screen;

pub(crate) async fn run(connect: &ConnectArgs) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let select = SelectArgs { selector: Some("kubernetes.io/cluster-service=true".into()), field_selector: None };
    let services = list::objects(&session, catalog.expect("services")?, Some("kube-system"), &select).await?;
    let address = session.address();
    let shown = |name: &str, url: &str| match screen::is_colourful() {
        true => format!("\x1b[32m{name}\x1b[0m is running at \x1b[33m{url}\x1b[0m"),
        false => format!("{name} is running at {url}"),
    };
    screen::line(shown("Kubernetes control plane", address))?;
    for service in &services {
        let labelled = service.pointer("/metadata/labels/kubernetes.io~1name").and_then(Value::as_str);
        let name = labelled.unwrap_or(name_of(service));
        let port = service.pointer("/spec/ports/0/name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let port = port.map(|name| format!(":{name}")).unwrap_or_default();
        let path = format!("{address}/api/v1/namespaces/kube-system/services/{}{port}/proxy", name_of(service));
        screen::line(shown(&screen::plain(name), &screen::plain(&path)))?;
    }
    screen::line("\nTo further debug and diagnose cluster problems, use 'gantry events -A' and 'gantry why POD'.")?;
    Ok(ExitCode::SUCCESS)
}
