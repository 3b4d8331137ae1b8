//! `gantry why POD`: what keeps a pod from running, on one screen.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::Value;

use crate::client::Session;
use crate::describe::events;
use crate::describe::page::Page;
use crate::duration::age;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::why::{Finding, findings, node_refusals};
use crate::{pods, screen};

/// How many warnings are shown.
const WARNINGS: usize = 5;

/// Flags of `gantry why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// POD, or TYPE/NAME for one of its pods.
    #[arg(value_name = "POD | TYPE/NAME")]
    target: String,
}

/// Exits 0 where nothing keeps the pod from running, else 1.
pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let word = args.target.strip_prefix("pod/").or(args.target.strip_prefix("pods/")).unwrap_or(&args.target);
    let pod = pods::pick(&session, &catalog, word).await?;
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut found = findings(&pod);
    if text("/spec/nodeName").is_empty() {
        // Nodes are everybody's to read in most clusters; without the right the scheduler's own words remain.
        if let Ok(nodes) = list::objects(&session, catalog.expect("nodes")?, None, &SelectArgs::default()).await {
            found.extend(node_refusals(&pod, &nodes));
        }
    }
    let now = Timestamp::now();
    let mut page = Page::default();
    page.field(0, "Pod", format!("{}/{}", text("/metadata/namespace"), name_of(&pod)));
    let since = age(pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str), now);
    page.field(0, "Phase", format!("{} (for {since} since it was created)", text("/status/phase")));
    page.field(0, "Node", if text("/spec/nodeName").is_empty() { "<none>" } else { text("/spec/nodeName") });
    match found.is_empty() {
        true => page.field(0, "Reasons", "none: nothing keeps this pod from running"),
        false => page.heading(0, "Reasons"),
    }
    for Finding { about, what, remedy } in &found {
        page.cells(1, [about.clone(), what.clone()]);
        if let Some(remedy) = remedy {
            page.cells(1, [String::new(), format!("-> {remedy}")]);
        }
    }
    let mut warnings = events::of(&session, &catalog, &pod).await.unwrap_or_default();
    warnings.retain(|event| event["type"] == "Warning");
    let skipped = warnings.len().saturating_sub(WARNINGS);
    if !warnings.is_empty() {
        page.heading(0, "Warnings");
        for event in &warnings[skipped..] {
            let part = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
            page.cells(1, [events::seen(event, now), part("reason"), part("message")]);
        }
    }
    screen::put(page.text())?;
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
