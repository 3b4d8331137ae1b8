//! `gantry top`: what nodes and pods use now, as the server's `metrics.k8s.io` tells it.

use std::process::ExitCode;

use api::quantity::Quantity;
use clap::ValueEnum;
use serde_json::Value;

use crate::client::{Call, Session};
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::output::table::{Columns, cell_text};
use crate::screen;

const NANO_PER_MILLI: i128 = 1_000_000;
const NANO: i128 = 1_000_000_000;
const MEBI: i128 = 1 << 20;

/// What can be looked at.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// What nodes use, and how much of what they have that is.
    #[command(visible_aliases = ["nodes", "no"])]
    Node(NodeArgs),
    /// What pods use.
    #[command(visible_aliases = ["pods", "po"])]
    Pod(PodArgs),
}

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SortBy {
    Cpu,
    Memory,
}

/// How rows are shown.
#[derive(Debug, clap::Args)]
struct RowArgs {
    /// cpu or memory, the most first; without it rows are in the order of names.
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<SortBy>,
    /// Leave out the line of titles.
    #[arg(long)]
    no_headers: bool,
    /// Taken for the sake of kubectl's scripts; answers come as JSON.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    use_protocol_buffers: Option<bool>,
}

/// Flags of `gantry top node`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// One node.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Label selector, such as zone=a.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Percentages of what nodes have, not of what pods may take of it.
    #[arg(long)]
    show_capacity: bool,
    #[command(flatten)]
    rows: RowArgs,
}

/// Flags of `gantry top pod`.
#[derive(Debug, clap::Args)]
pub(crate) struct PodArgs {
    /// One pod.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    select: SelectArgs,
    /// Pods of every namespace.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// A row for every container.
    #[arg(long)]
    containers: bool,
    /// A last row with the sum.
    #[arg(long)]
    sum: bool,
    #[command(flatten)]
    rows: RowArgs,
}

/// CPU in nanocores, memory in nanobytes, as quantities count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    cpu: i128,
    memory: i128,
}

impl Used {
    fn of(quantities: &Value) -> Self {
        let nano = |name: &str| {
            let quantity = quantities.get(name).and_then(Value::as_str).and_then(|text| Quantity::parse(text).ok());
            quantity.map_or(0, Quantity::nano)
        };
        Self { cpu: nano("cpu"), memory: nano("memory") }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    /// Millicores are rounded up, mebibytes down, as kubectl does.
    fn cells(self) -> [String; 2] {
        let milli = (self.cpu + NANO_PER_MILLI - 1) / NANO_PER_MILLI;
        [format!("{milli}m"), format!("{}Mi", self.memory / NANO / MEBI)]
    }

    fn by(self, column: SortBy) -> std::cmp::Reverse<i128> {
        std::cmp::Reverse(match column {
            SortBy::Cpu => self.cpu,
            SortBy::Memory => self.memory,
        })
    }
}

pub(crate) async fn run(connect: &ConnectArgs, verb: &Verb) -> Result<ExitCode, Failure> {
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let metrics = |plural: &str| {
        let found = catalog.find(&format!("{plural}.metrics.k8s.io"));
        found.ok_or_else(|| Failure::error("Metrics API not available"))
    };
    match verb {
        Verb::Node(args) => nodes(&session, catalog.expect("nodes")?, metrics("nodes")?, args).await,
        Verb::Pod(args) => pods(&session, catalog.expect("pods")?, metrics("pods")?, args).await,
    }
    .map(|()| ExitCode::SUCCESS)
}

/// One measured object, or those of a selection.
async fn measured(
    session: &Session,
    kind: &Kind,
    namespace: Option<&str>,
    name: Option<&str>,
    select: &SelectArgs,
) -> Result<Vec<Value>, Failure> {
    match name {
        Some(name) => Ok(vec![session.get(Call::to(kind.object(namespace.unwrap_or_default(), name))).await?]),
        None => list::objects(session, kind, namespace, select).await,
    }
}

fn no_metrics() -> Failure {
    Failure::error("metrics not available yet")
}

async fn nodes(session: &Session, kind: &Kind, metrics: &Kind, args: &NodeArgs) -> Result<(), Failure> {
    if args.name.is_some() && args.selector.is_some() {
        return Err(Failure::error("only one of NAME or --selector can be provided"));
    }
    let select = SelectArgs { selector: args.selector.clone(), field_selector: None };
    let name = args.name.as_deref();
    let found = measured(session, metrics, None, name, &select).await?;
    if found.is_empty() {
        return Err(no_metrics());
    }
    let nodes = measured(session, kind, None, name, &select).await?;
    let mut rows: Vec<(String, Used)> =
        found.iter().map(|own| (name_of(own).to_owned(), Used::of(&own["usage"]))).collect();
    match args.rows.sort_by {
        Some(column) => rows.sort_by_key(|(_, used)| used.by(column)),
        None => rows.sort_by(|a, b| a.0.cmp(&b.0)),
    }
    let has = if args.show_capacity { "capacity" } else { "allocatable" };
    let titles = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"].map(str::to_owned).to_vec();
    let mut table = if args.rows.no_headers { Vec::new() } else { vec![titles] };
    for (name, used) in &rows {
        let node = nodes.iter().find(|node| name_of(node) == name);
        let Some(all) = node.and_then(|node| node.get("status")?.get(has)).map(Used::of) else { continue };
        let [cpu, memory] = used.cells();
        table.push(vec![cell_text(name), cpu, percent(used.cpu, all.cpu), memory, percent(used.memory, all.memory)]);
    }
    // Nodes that did not answer are told, not left out.
    for node in nodes.iter().filter(|node| !rows.iter().any(|(name, _)| name == name_of(node))) {
        let unknown = || "<unknown>".to_owned();
        table.push(vec![cell_text(name_of(node)), unknown(), unknown(), unknown(), unknown()]);
    }
    show(table)
}

/// kubectl cuts the fraction.
fn percent(part: i128, whole: i128) -> String {
    if whole == 0 { "<unknown>".to_owned() } else { format!("{}%", part * 100 / whole) }
}

async fn pods(session: &Session, kind: &Kind, metrics: &Kind, args: &PodArgs) -> Result<(), Failure> {
    if args.name.is_some() && !args.select.is_empty() {
        return Err(Failure::error("only one of NAME or selector can be provided"));
    }
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let found = measured(session, metrics, namespace, args.name.as_deref(), &args.select).await?;
    if found.is_empty() {
        let pods = list::objects(session, kind, namespace, &args.select).await?;
        if pods.is_empty() {
            screen::note(match namespace {
                Some(namespace) => format!("No resources found in {namespace} namespace."),
                None => "No resources found".to_owned(),
            });
            return Ok(());
        }
        return Err(no_metrics());
    }
    let containers = |pod: &Value| pod["containers"].as_array().cloned().unwrap_or_default();
    let total =
        |pod: &Value| containers(pod).iter().map(|own| Used::of(&own["usage"])).fold(Used::default(), Used::plus);
    let mut pods: Vec<(&Value, Used)> = found.iter().map(|pod| (pod, total(pod))).collect();
    let key = |pod: &Value| (pod["metadata"]["namespace"].to_string(), name_of(pod).to_owned());
    match args.rows.sort_by {
        Some(column) => pods.sort_by_key(|(_, used)| used.by(column)),
        None => pods.sort_by_key(|(pod, _)| key(pod)),
    }
    let mut table: Vec<Vec<String>> = Vec::new();
    if !args.rows.no_headers {
        let titles = [
            args.all_namespaces.then_some("NAMESPACE"),
            Some(if args.containers { "POD" } else { "NAME" }),
            args.containers.then_some("NAME"),
            Some("CPU(cores)"),
            Some("MEMORY(bytes)"),
        ];
        table.push(titles.into_iter().flatten().map(str::to_owned).collect());
    }
    for (pod, used) in &pods {
        let mut head = Vec::new();
        if args.all_namespaces {
            head.push(cell_text(pod["metadata"]["namespace"].as_str().unwrap_or_default()));
        }
        head.push(cell_text(name_of(pod)));
        if !args.containers {
            table.push([&head[..], &used.cells()].concat());
            continue;
        }
        let mut parts = containers(pod);
        match args.rows.sort_by {
            Some(column) => parts.sort_by_key(|own| Used::of(&own["usage"]).by(column)),
            None => parts.sort_by_key(|own| own["name"].to_string()),
        }
        for own in parts {
            let name = cell_text(own["name"].as_str().unwrap_or_default());
            table.push([&head[..], &[name], &Used::of(&own["usage"]).cells()].concat());
        }
    }
    if args.sum {
        let sum = pods.iter().map(|(_, used)| *used).fold(Used::default(), Used::plus);
        let before = usize::from(args.all_namespaces) + usize::from(args.containers);
        let blank = vec![String::new(); before + 1];
        table.push([&blank[..], &["________".to_owned(), "________".to_owned()]].concat());
        table.push([&blank[..before], &[String::new()], &sum.cells()].concat());
    }
    show(table)
}

/// The last column is padded too, as kubectl's is.
fn show(mut table: Vec<Vec<String>>) -> Result<(), Failure> {
    table.iter_mut().for_each(|row| row.push(String::new()));
    screen::put(Columns::default().set(&table).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_rounded_as_kubectl_rounds_them() {
        let used = Used::of(&json!({"cpu": "1000001n", "memory": "2047Ki"}));
        assert_eq!(used.cells(), ["2m", "1Mi"]);
        let all = Used::of(&json!({"cpu": "2", "memory": "4Mi"}));
        assert_eq!((percent(used.memory, all.memory), percent(used.cpu, all.cpu)), ("49%".into(), "0%".into()));
        assert_eq!(percent(1, 0), "<unknown>");
    }
}
