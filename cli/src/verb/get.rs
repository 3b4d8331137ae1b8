//! `gantry get`: objects as columns or in full, once or as they change.

use std::process::ExitCode;

use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::client::{Call, JSON, Session, TABLE};
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::manifest::{self, FileArgs};
use crate::output::jsonpath::Path;
use crate::output::table::{Columns, Head, Shown};
use crate::output::{Output, list_of, name_of, without_managed_fields};
use crate::screen;
use crate::target::{self, Target};
use crate::watch::{Event, Follow};

/// Flags of `gantry get`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE, TYPE NAME..., TYPE/NAME... or TYPE,TYPE.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    select: SelectArgs,
    /// Objects of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// json, yaml, wide, name, jsonpath=..., custom-columns=..., go-template=...
    #[arg(short = 'o', long, value_name = "FORMAT")]
    output: Option<String>,
    /// No line of titles.
    #[arg(long)]
    no_headers: bool,
    /// Labels as the last column.
    #[arg(long)]
    show_labels: bool,
    /// Labels that get a column each.
    #[arg(short = 'L', long, value_name = "KEY", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// The type before each name.
    #[arg(long)]
    show_kind: bool,
    /// Also what field managers own, in json and yaml.
    #[arg(long)]
    show_managed_fields: bool,
    /// JSONPath of the value to sort by.
    #[arg(long, value_name = "PATH")]
    sort_by: Option<String>,
    /// No failure for objects that do not exist.
    #[arg(long)]
    ignore_not_found: bool,
    /// Show changes as they happen.
    #[arg(short = 'w', long)]
    watch: bool,
    /// Show changes only.
    #[arg(long)]
    watch_only: bool,
    /// What happened, as the first column of a watch.
    #[arg(long)]
    output_watch_events: bool,
    /// What the server answers at this path, as it is.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["targets", "filename", "selector", "watch", "output"])]
    raw: Option<String>,
}

/// The body of an answer, part by part as it comes: it may be a watch that does not end.
async fn raw(session: &Session, path: &str) -> Result<ExitCode, Failure> {
    if !path.starts_with('/') {
        return Err(Failure::error(format!("--raw: {path:?}: expected a path that begins with /, such as /healthz")));
    }
    let mut body = session.stream(Call::to(path).accept("application/json, */*")).await?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::error(format!("reading the answer of the server: {error}")))?;
        if let Ok(data) = frame.into_data() {
            screen::put(&data)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One answer of the server: a table, an object or a list.
struct Answer<'a> {
    target: Target<'a>,
    namespace: Option<String>,
    value: Value,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = Output::parse(args.output.as_deref())?;
    let sort = args.sort_by.as_deref().map(Path::parse).transpose()?;
    let session = Session::open(connect).await?;
    if let Some(path) = &args.raw {
        return raw(&session, path).await;
    }
    let catalog = Catalog::of(&session).await?;
    let targets = targets(&session, &catalog, args)?;
    let named = targets.iter().any(|(target, _)| target.name.is_some());
    if named && args.all_namespaces && args.files.filename.is_empty() {
        return Err(Failure::error("a resource cannot be retrieved by name across all namespaces"));
    }
    if named && !args.select.is_empty() && args.files.filename.is_empty() {
        return Err(Failure::error("name cannot be provided when a selector is specified"));
    }
    if args.watch || args.watch_only {
        return watch(&session, &output, &targets, args).await;
    }
    let mut answers = Vec::new();
    let mut failures = Vec::new();
    for (target, namespace) in targets {
        match fetch(&session, &target, namespace.as_deref(), args, output.is_table(), sort.is_some()).await {
            Ok(value) => answers.push(Answer { target, namespace, value }),
            Err(failure) if args.ignore_not_found && failure.is_not_found() => {}
            Err(failure) => failures.push(failure),
        }
    }
    let shown = match &output {
        Output::Table { wide } => tables(&answers, args, *wide, sort.as_ref()),
        Output::Columns(columns) => {
            let mut rows = if args.no_headers { Vec::new() } else { vec![columns.titles()] };
            rows.extend(sorted(objects(answers), sort.as_ref()).iter().map(|object| columns.row(object)));
            screen::put(Columns::default().set(&rows))
        }
        output => full(output, answers, args, sort.as_ref()),
    };
    shown?;
    Ok(crate::verb::told(failures))
}

/// What is asked for, each with the namespace to ask in (`None`: all of them).
fn targets<'a>(
    session: &Session,
    catalog: &'a Catalog,
    args: &Args,
) -> Result<Vec<(Target<'a>, Option<String>)>, Failure> {
    if !args.files.filename.is_empty() {
        let manifests = args.files.read()?.into_iter();
        let placed = manifests.map(|manifest| manifest::place(session, catalog, manifest));
        return placed
            .map(|placed| {
                let placed = placed?;
                Ok((Target { kind: placed.kind, name: Some(placed.name) }, Some(placed.namespace)))
            })
            .collect();
    }
    if args.targets.is_empty() {
        return Err(Failure::error("Required resource not specified: expected TYPE, TYPE NAME or TYPE/NAME"));
    }
    let namespace = (!args.all_namespaces).then(|| session.namespace.clone());
    let targets = target::parse(catalog, &args.targets)?;
    Ok(targets.into_iter().map(|target| (target, namespace.clone())).collect())
}

async fn fetch(
    session: &Session,
    target: &Target<'_>,
    namespace: Option<&str>,
    args: &Args,
    table: bool,
    with_objects: bool,
) -> Result<Value, Failure> {
    let prepared = |call: Call| {
        let call = call.accept(if table { TABLE } else { JSON });
        if table && with_objects { call.with("includeObject", "Object") } else { call }
    };
    match &target.name {
        Some(name) => {
            let namespace = namespace.unwrap_or(&session.namespace);
            session.get(prepared(Call::to(target.kind.object(namespace, name)))).await
        }
        None => {
            let call = prepared(Call::to(target.kind.collection(namespace)));
            list::whole(session, args.select.narrow(call)).await
        }
    }
}

fn shown(args: &Args, kind: &Kind, wide: bool, several: bool) -> Shown {
    Shown {
        wide,
        namespace: args.all_namespaces && kind.namespaced,
        prefix: (several || args.show_kind).then(|| kind.prefix()),
        label_columns: args.label_columns.clone(),
        labels: args.show_labels,
    }
}

fn tables(answers: &[Answer<'_>], args: &Args, wide: bool, sort: Option<&Path>) -> Result<(), Failure> {
    let several = answers.iter().any(|answer| answer.target.kind != answers[0].target.kind);
    let mut any = false;
    for group in answers.chunk_by(|left, right| left.target.kind == right.target.kind) {
        let mut lines = Vec::new();
        let kind = group[0].target.kind;
        let shown = shown(args, kind, wide, several);
        for answer in group {
            let Some(head) = Head::of(&answer.value, wide) else {
                return Err(Failure::error(format!("the server cannot print {} as columns", kind.plural)));
            };
            let rows = answer.value.get("rows").and_then(Value::as_array);
            let mut rows: Vec<&Value> = rows.into_iter().flatten().collect();
            if let Some(path) = sort {
                rows.sort_by(|left, right| order(path, left.get("object"), right.get("object")));
            }
            if lines.is_empty() && !rows.is_empty() && !args.no_headers {
                lines.push(head.titles(&shown));
            }
            lines.extend(rows.into_iter().map(|row| head.row(row, &shown)));
        }
        if lines.is_empty() {
            continue;
        }
        let gap = if any { "\n" } else { "" };
        screen::put(format!("{gap}{}", Columns::default().set(&lines)))?;
        any = true;
    }
    if !any && !answers.is_empty() && !args.ignore_not_found {
        match answers[0].namespace.as_ref().filter(|_| answers.iter().any(|answer| answer.target.kind.namespaced)) {
            Some(namespace) => screen::note(format!("No resources found in {namespace} namespace.")),
            None => screen::note("No resources found"),
        }
    }
    Ok(())
}

/// Every single object of the answers.
fn objects(answers: Vec<Answer<'_>>) -> Vec<Value> {
    let each = answers.into_iter().flat_map(|mut answer| match answer.target.name {
        Some(_) => vec![answer.value],
        None => list::take_items(answer.target.kind, &mut answer.value),
    });
    each.collect()
}

fn sorted(mut objects: Vec<Value>, sort: Option<&Path>) -> Vec<Value> {
    if let Some(path) = sort {
        objects.sort_by(|left, right| order(path, Some(left), Some(right)));
    }
    objects
}

/// Numbers by value, anything else by its text; what is missing comes first.
fn order(path: &Path, left: Option<&Value>, right: Option<&Value>) -> std::cmp::Ordering {
    let value = |object: Option<&Value>| object.and_then(|object| path.find(object).first().copied().cloned());
    match (value(left), value(right)) {
        (Some(left), Some(right)) => match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.total_cmp(&right),
            _ => {
                let text = |value: &Value| crate::output::jsonpath::shown(value);
                match (api::quantity::Quantity::parse(&text(&left)), api::quantity::Quantity::parse(&text(&right))) {
                    (Ok(left), Ok(right)) => left.nano().cmp(&right.nano()),
                    _ => text(&left).cmp(&text(&right)),
                }
            }
        },
        (left, right) => left.is_some().cmp(&right.is_some()),
    }
}

fn full(output: &Output, answers: Vec<Answer<'_>>, args: &Args, sort: Option<&Path>) -> Result<(), Failure> {
    let Some(first) = answers.first() else { return Ok(()) };
    let (kind, single) = (first.target.kind, answers.len() == 1 && first.target.name.is_some());
    let mut objects = sorted(objects(answers), sort);
    if !args.show_managed_fields {
        objects.iter_mut().for_each(without_managed_fields);
    }
    match (single, objects.pop()) {
        (true, Some(object)) => output.show(kind, &object),
        (_, last) => {
            objects.extend(last);
            output.show(kind, &list_of(objects))
        }
    }
}

async fn watch(
    session: &Session,
    output: &Output,
    targets: &[(Target<'_>, Option<String>)],
    args: &Args,
) -> Result<ExitCode, Failure> {
    let [(target, namespace)] = targets else {
        return Err(Failure::error("you may only specify a single resource type, or one object, to watch"));
    };
    let wide = matches!(output, Output::Table { wide: true });
    let mut viewer = Viewer {
        output,
        kind: target.kind,
        shown: shown(args, target.kind, wide, false),
        events: args.output_watch_events,
        managed_fields: args.show_managed_fields,
        titles_due: !args.no_headers,
        head: Head::default(),
        columns: Columns::default(),
    };
    let first = match fetch(session, target, namespace.as_deref(), args, output.is_table(), false).await {
        Ok(value) => value,
        Err(failure) if failure.is_not_found() && args.ignore_not_found => return Ok(ExitCode::SUCCESS),
        Err(failure) => return Err(failure),
    };
    let version = |value: &Value| Some(value.pointer("/metadata/resourceVersion")?.as_str()?.to_owned());
    let mut follow = Follow::from(version(&first));
    if !args.watch_only {
        viewer.initial(first, target.name.is_some())?;
    }
    let namespace = match target.name {
        Some(_) => Some(namespace.as_deref().unwrap_or(&session.namespace)),
        None => namespace.as_deref(),
    };
    let call = Call::to(target.kind.collection(namespace)).accept(if output.is_table() { TABLE } else { JSON });
    let call = match &target.name {
        Some(name) => call.with("fieldSelector", format!("metadata.name={name}")),
        None => args.select.narrow(call),
    };
    loop {
        // A server ends watches from time to time; this one goes on where it was.
        let mut watch = follow.open(session, &call).await?;
        while let Some(event) = follow.next(&mut watch).await? {
            viewer.event(event)?;
        }
    }
}

/// Shows the objects of a watch.
struct Viewer<'a> {
    output: &'a Output,
    kind: &'a Kind,
    shown: Shown,
    events: bool,
    managed_fields: bool,
    titles_due: bool,
    head: Head,
    columns: Columns,
}

impl Viewer<'_> {
    fn initial(&mut self, mut value: Value, single: bool) -> Result<(), Failure> {
        if self.output.is_table() {
            return self.table("ADDED", &value);
        }
        let objects = if single { vec![value] } else { list::take_items(self.kind, &mut value) };
        objects.into_iter().try_for_each(|object| self.object("ADDED", object))
    }

    fn event(&mut self, event: Event) -> Result<(), Failure> {
        match self.output.is_table() {
            true => self.table(&event.kind, &event.object),
            false => self.object(&event.kind, event.object),
        }
    }

    fn table(&mut self, event: &str, table: &Value) -> Result<(), Failure> {
        if let Some(head) = Head::of(table, self.shown.wide) {
            self.head = head;
        }
        let with_event = |event: &str, mut cells: Vec<String>| {
            if self.events {
                cells.insert(0, event.to_owned());
            }
            cells
        };
        let rows = table.get("rows").and_then(Value::as_array);
        let rows = rows.into_iter().flatten().map(|row| with_event(event, self.head.row(row, &self.shown)));
        let mut lines: Vec<Vec<String>> = rows.collect();
        if lines.is_empty() {
            return Ok(());
        }
        if self.titles_due {
            lines.insert(0, with_event("EVENT", self.head.titles(&self.shown)));
        }
        self.titles_due = false;
        screen::put(self.columns.set(&lines))
    }

    fn object(&mut self, event: &str, mut object: Value) -> Result<(), Failure> {
        if !self.managed_fields {
            without_managed_fields(&mut object);
        }
        if let Output::Columns(columns) = self.output {
            let titles = self.titles_due.then(|| columns.titles());
            self.titles_due = false;
            let lines: Vec<Vec<String>> = titles.into_iter().chain([columns.row(&object)]).collect();
            return screen::put(self.columns.set(&lines));
        }
        match (self.events, self.output) {
            (true, Output::Json | Output::Yaml) => {
                self.output.show(self.kind, &serde_json::json!({"type": event, "object": object}))
            }
            (true, Output::Name) => screen::line(format!("{event} {}/{}", self.kind.prefix(), name_of(&object))),
            (_, Output::Yaml) => {
                screen::put("---\n")?;
                self.output.show(self.kind, &object)
            }
            _ => self.output.show(self.kind, &object),
        }
    }
}
