//! `gantry cordon` and `gantry uncordon`: whether a node takes new pods.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::change::{ChangeArgs, PatchKind};
use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::{Output, name_of};
use crate::workload::Workload;

/// Flags of `gantry cordon` and `gantry uncordon`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of nodes.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Label selector, such as zone=a.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args, closed: bool) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let (nodes, mut failures) = nodes(&session, &catalog, &args.nodes, args.selector.as_deref()).await?;
    for node in &nodes {
        if let Err(failure) = set(&session, node, &args.change, &output, closed).await {
            failures.push(failure);
        }
    }
    Ok(crate::verb::told(failures))
}

/// The nodes that are named or selected, and the failures of those that cannot be read.
pub(crate) async fn nodes<'a>(
    session: &Session,
    catalog: &'a Catalog,
    names: &[String],
    selector: Option<&str>,
) -> Result<(Vec<Workload<'a>>, Vec<Failure>), Failure> {
    let kind = catalog.expect("nodes")?;
    let of = |object: Value| Workload { kind, namespace: String::new(), name: name_of(&object).to_owned(), object };
    match (names, selector) {
        ([], None) => Err(Failure::error("expected the name of a node, or a selector with -l")),
        ([], Some(selector)) => {
            let select = SelectArgs { selector: Some(selector.to_owned()), field_selector: None };
            Ok((list::objects(session, kind, None, &select).await?.into_iter().map(of).collect(), Vec::new()))
        }
        (_, Some(_)) => Err(Failure::error("error: cannot specify both a node name and a --selector option")),
        (names, None) => {
            let (mut found, mut failures) = (Vec::new(), Vec::new());
            for name in names {
                let name = name.strip_prefix("node/").or(name.strip_prefix("nodes/")).unwrap_or(name);
                match session.get(Call::to(kind.object("", name))).await {
                    Ok(object) => found.push(of(object)),
                    Err(failure) => failures.push(failure),
                }
            }
            Ok((found, failures))
        }
    }
}

/// Closes or opens one node, and says so.
pub(crate) async fn set(
    session: &Session,
    node: &Workload<'_>,
    change: &ChangeArgs,
    output: &Output,
    closed: bool,
) -> Result<(), Failure> {
    let word = if closed { "cordoned" } else { "uncordoned" };
    let is_closed = node.object.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
    if is_closed == closed {
        return change.tell(output, node.kind, &node.object, &format!("already {word}"));
    }
    let patch = json!({"spec": {"unschedulable": closed.then_some(true)}});
    let after = change.patch(session, node, &patch, PatchKind::Merge).await?;
    change.tell(output, node.kind, &after, word)
}
