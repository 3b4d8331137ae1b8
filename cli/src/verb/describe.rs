//! `gantry describe`: objects as people read them in full, with their events.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::describe::page::Page;
use crate::describe::{events, kinds, related};
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::manifest::{self, FileArgs};
use crate::target::{self, Target};
use crate::{output, screen};

/// Flags of `gantry describe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE, TYPE NAME (or the beginning of names), TYPE/NAME...
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    /// Label selector, such as app=web,tier!=db.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Objects of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// With the events.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = clap::ArgAction::Set, value_name = "BOOL")]
    show_events: bool,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    let mut found = Vec::new();
    if !args.files.filename.is_empty() {
        for manifest in args.files.read()? {
            let placed = manifest::place(&session, &catalog, manifest)?;
            found.push(session.get(Call::to(placed.kind.object(&placed.namespace, &placed.name))).await?);
        }
    } else if args.targets.is_empty() {
        return Err(Failure::error("You must specify the type of resource to describe"));
    }
    let targets = target::parse(&catalog, &args.targets)?;
    for target in &targets {
        match objects(&session, target, args).await {
            Ok(objects) => found.extend(objects),
            Err(failure) => failures.push(failure),
        }
    }
    if found.is_empty() && failures.is_empty() {
        screen::note(format!("No resources found in {} namespace.", session.namespace));
    }
    for (position, object) in found.iter().enumerate() {
        let mut page = Page::default();
        let now = Timestamp::now();
        let related = match related::of(&session, &catalog, object).await {
            Ok(related) => Some(related),
            // The object itself is worth a page to someone who may not read what belongs to it.
            Err(failure) if failure.is_forbidden() => {
                screen::note(format!("Warning: without what belongs to it: {failure}"));
                None
            }
            Err(failure) => {
                failures.push(failure);
                None
            }
        };
        kinds::write(&mut page, object, related.as_deref(), now);
        if args.show_events && kinds::has_events(object) {
            match events::of(&session, &catalog, object).await {
                Ok(events) => events::write(&mut page, &events, now),
                // Without the right to read events the rest is still worth something.
                Err(failure) => failures.push(failure),
            }
        }
        let gap = if position > 0 { "\n\n" } else { "" };
        screen::put(format!("{gap}{}", page.text()))?;
    }
    Ok(crate::verb::told(failures))
}

async fn objects(session: &Session, target: &Target<'_>, args: &Args) -> Result<Vec<Value>, Failure> {
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let select = SelectArgs { selector: args.selector.clone(), field_selector: None };
    let Some(name) = &target.name else { return list::objects(session, target.kind, namespace, &select).await };
    match session.get(Call::to(target.kind.object(&session.namespace, name))).await {
        Ok(object) => Ok(vec![object]),
        Err(failure) if failure.is_not_found() => {
            // The beginning of a name is enough, as in kubectl.
            let mut all = list::objects(session, target.kind, namespace, &select).await?;
            all.retain(|object| output::name_of(object).starts_with(name.as_str()));
            if all.is_empty() { Err(failure) } else { Ok(all) }
        }
        Err(failure) => Err(failure),
    }
}
