//! `gantry events`: what happened lately, the oldest first.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::describe::events::{last_seen, seen};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::table::{Columns, cell_text};
use crate::output::{Output, list_of, without_managed_fields};
use crate::watch::Follow;
use crate::{screen, target};

/// Flags of `gantry events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those about TYPE/NAME.
    #[arg(long = "for", value_name = "TYPE/NAME")]
    about: Option<String>,
    /// Only those of these types: Normal, Warning.
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Events of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Go on as events happen.
    #[arg(short = 'w', long)]
    watch: bool,
    /// No line of titles.
    #[arg(long)]
    no_headers: bool,
    /// json, yaml, name, jsonpath=..., go-template=...
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::parse(args.output.as_deref())?;
    if let Some(bad) = args.types.iter().find(|kind| !matches!(kind.to_lowercase().as_str(), "normal" | "warning")) {
        return Err(Failure::error(format!("valid --types are Normal or Warning, not {bad}")));
    }
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let kind = catalog.expect("events.v1")?;
    let select = SelectArgs { selector: None, field_selector: about(&catalog, args)? };
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let call = select.narrow(Call::to(kind.collection(namespace)));
    let mut list = list::whole(&session, call.clone()).await?;
    let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
    let mut events = list::take_items(kind, &mut list);
    events.retain(|event| wanted(event, args));
    events.sort_by_key(|event| last_seen(event).unwrap_or_default());
    if events.is_empty() && !args.watch {
        match namespace {
            Some(namespace) => screen::note(format!("No events found in {namespace} namespace.")),
            None => screen::note("No events found."),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut columns = Columns::default();
    if !output.is_table() {
        events.iter_mut().for_each(without_managed_fields);
        output.show(kind, &list_of(events))?;
    } else {
        let mut rows = if args.no_headers { Vec::new() } else { vec![titles(args)] };
        rows.extend(events.iter().map(|event| row(event, args)));
        screen::put(columns.set(&rows))?;
    }
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    let mut follow = Follow::from(version);
    loop {
        let mut watch = follow.open(&session, &call).await?;
        while let Some(event) = follow.next(&mut watch).await? {
            if !matches!(event.kind.as_str(), "ADDED" | "MODIFIED") || !wanted(&event.object, args) {
                continue;
            }
            match output.is_table() {
                true => screen::put(columns.set(&[row(&event.object, args)]))?,
                false => output.show(kind, &event.object)?,
            }
        }
    }
}

fn about(catalog: &Catalog, args: &Args) -> Result<Option<String>, Failure> {
    let Some(word) = &args.about else { return Ok(None) };
    let target = target::one(catalog, word)?;
    let name = target.name.as_deref().unwrap_or_default();
    Ok(Some(format!("involvedObject.kind={},involvedObject.name={name}", target.kind.kind)))
}

fn wanted(event: &Value, args: &Args) -> bool {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    args.types.is_empty() || args.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(kind))
}

fn titles(args: &Args) -> Vec<String> {
    let namespace = args.all_namespaces.then_some("NAMESPACE");
    let titles = namespace.into_iter().chain(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    titles.map(str::to_owned).collect()
}

fn row(event: &Value, args: &Args) -> Vec<String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let object = format!("{}/{}", text("/involvedObject/kind"), text("/involvedObject/name"));
    let mut cells = Vec::new();
    if args.all_namespaces {
        cells.push(cell_text(text("/metadata/namespace")));
    }
    cells.push(seen(event, Timestamp::now()));
    let message = text("/message").trim();
    cells.extend([text("/type"), text("/reason"), &object, message].map(cell_text));
    cells
}
