//! `gantry scale`: how many replicas a workload has.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::screen;
use crate::watch::Follow;
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
    /// How long to wait until there are so many; 0 does not wait.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    timeout: DurationArg,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for object in args.which.find(&session, &catalog).await? {
        let scaled = async {
            one(&session, &object, args).await?;
            let Some(limit) = args.timeout.nonzero() else { return Ok(()) };
            let waited = tokio::time::timeout(limit, until_scaled(&session, &object, args.replicas)).await;
            waited.unwrap_or_else(|_| Err(Failure::error("timed out waiting for the condition")))
        };
        match scaled.await {
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

/// Follows the object until its controller has seen the change and counts as many.
async fn until_scaled(session: &Session, object: &workload::Workload<'_>, wanted: u32) -> Result<(), Failure> {
    let name = object.name.as_str();
    let call = Call::to(object.kind.collection(Some(&object.namespace)))
        .with("fieldSelector", format!("metadata.name={name}"));
    let mut follow = Follow::default();
    loop {
        let mut watch = follow.open(session, &call).await?;
        while let Some(event) = follow.next(&mut watch).await? {
            if event.kind == "DELETED" {
                return Err(Failure::error(format!("{} was deleted", object.title())));
            }
            let number = |pointer: &str| event.object.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let has_seen = number("/status/observedGeneration") >= number("/metadata/generation");
            if has_seen && number("/status/replicas") == u64::from(wanted) {
                return Ok(());
            }
        }
    }
}
