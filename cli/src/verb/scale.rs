//! `gantry scale`: how many replicas a workload has.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::screen;
use crate::workload;

/// Flags of `gantry scale`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: workload::WhichArgs,
    /// The new number.
    #[arg(long, value_name = "COUNT")]
    replicas: u32,
    /// Only where this is the number now.
    #[arg(long, value_name = "COUNT")]
    current_replicas: Option<u64>,
    /// Only where the object has this version.
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for object in args.which.find(&session, &catalog).await? {
        match one(&session, &object, args).await {
            Ok(()) => screen::line(format!("{} scaled", object.title()))?,
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

async fn one(session: &Session, object: &workload::Workload<'_>, args: &Args) -> Result<(), Failure> {
    let path = format!("{}/scale", object.path());
    let mut patch = json!({"spec": {"replicas": args.replicas}});
    if args.current_replicas.is_some() || args.resource_version.is_some() {
        let scale = session.get(Call::to(path.clone())).await?;
        let version = scale.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        let now = scale.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(0);
        if let Some(expected) = args.current_replicas.filter(|expected| *expected != now) {
            return Err(Failure::error(format!("Expected replicas to be {expected}, was {now}")));
        }
        if let Some(expected) = args.resource_version.as_deref().filter(|expected| *expected != version) {
            return Err(Failure::error(format!("Expected resource version to be {expected}, was {version}")));
        }
        patch["metadata"] = json!({"resourceVersion": version});
    }
    let call = Call::to(path)
        .with("fieldManager", "gantry")
        .body("application/merge-patch+json", patch.to_string().into_bytes());
    session.send(Method::PATCH, call).await.map(|_| ())
}
