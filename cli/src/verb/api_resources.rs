//! `gantry api-resources` and `gantry api-versions`: what the server can keep.

use std::process::ExitCode;

use crate::client::Session;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::output::table::Columns;
use crate::screen;

/// Flags of `gantry api-resources`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this group; empty for the core group.
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// Only those that are (or are not) in namespaces.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only those that can do all of these verbs.
    #[arg(long, value_name = "VERB", value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only those of all these categories.
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    categories: Vec<String>,
    /// What to sort by: name or kind.
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<SortBy>,
    /// No line of titles.
    #[arg(long)]
    no_headers: bool,
    /// wide or name.
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SortBy {
    Name,
    Kind,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let form = args.output.as_deref().unwrap_or_default();
    if !matches!(form, "" | "wide" | "name") {
        return Err(Failure::error(format!("--output {form} is not available: expected wide or name")));
    }
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut kinds: Vec<&Kind> = catalog.all().filter(|kind| fits(kind, args)).collect();
    match args.sort_by {
        Some(SortBy::Kind) => kinds.sort_by_key(|kind| kind.kind.clone()),
        Some(SortBy::Name) => kinds.sort_by_key(|kind| kind.plural.clone()),
        None => kinds.sort_by_key(|kind| (kind.group.clone(), kind.plural.clone())),
    }
    if form == "name" {
        kinds.iter().try_for_each(|kind| screen::line(kind.resource()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut rows = Vec::new();
    if !args.no_headers {
        rows.push(words(&["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]));
        if form == "wide" {
            rows[0].extend(words(&["VERBS", "CATEGORIES"]));
        }
    }
    for kind in kinds {
        let mut row = vec![
            kind.plural.clone(),
            kind.short_names.join(","),
            kind.api_version(),
            kind.namespaced.to_string(),
            kind.kind.clone(),
        ];
        if form == "wide" {
            row.extend([kind.verbs.join(","), kind.categories.join(",")]);
        }
        rows.push(row);
    }
    screen::put(Columns::default().set(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn fits(kind: &Kind, args: &Args) -> bool {
    kind.is_preferred()
        && args.api_group.as_ref().is_none_or(|group| kind.group == *group)
        && args.namespaced.is_none_or(|namespaced| kind.namespaced == namespaced)
        && args.verbs.iter().all(|verb| kind.verbs.contains(verb))
        && args.categories.iter().all(|category| kind.categories.contains(category))
}

/// `gantry api-versions`.
pub(crate) async fn versions(connect: &ConnectArgs) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut versions: Vec<String> = catalog.all().map(Kind::api_version).collect();
    versions.sort();
    versions.dedup();
    versions.iter().try_for_each(screen::line)?;
    Ok(ExitCode::SUCCESS)
}
