//! `gantry wait`: until a condition holds, a value is there, or an object is gone.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::manifest::{self, FileArgs};
use crate::output::jsonpath::{Path, shown};
use crate::output::name_of;
use crate::verb::delete::until_gone;
use crate::watch::Watch;
use crate::{screen, target};

/// Flags of `gantry wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// TYPE NAME, TYPE/NAME..., or TYPE with -l or --all.
    #[arg(value_name = "TYPE[/NAME]")]
    targets: Vec<String>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    select: SelectArgs,
    /// All objects of the type.
    #[arg(long)]
    all: bool,
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// condition=NAME[=VALUE], delete, create or jsonpath={PATH}[=VALUE].
    #[arg(long = "for", value_name = "WHAT")]
    until: String,
    /// How long at most; 0 looks once, a negative one is a week.
    #[arg(long, default_value = "30s", value_name = "DURATION", allow_hyphen_values = true)]
    timeout: DurationArg,
}

/// What is waited for.
#[derive(Debug, PartialEq)]
enum Goal {
    Condition(String, String),
    Value(Path, Option<String>),
    Deleted,
    Created,
}

impl Goal {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::error(format!(
                "unrecognized condition: {text:?}: expected condition=NAME[=VALUE], delete, create or jsonpath={{PATH}}[=VALUE]"
            ))
        };
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            return if name.is_empty() { Err(wrong()) } else { Ok(Self::Condition(name.into(), value.into())) };
        }
        if let Some(path) = text.strip_prefix("jsonpath=") {
            // The value follows the last brace; a path without braces has none inside that could be meant.
            let split = path.rfind('}').map_or(0, |end| end + 1);
            let (path, value) = match path[split..].split_once('=') {
                Some((rest, value)) => (&path[..split + rest.len()], Some(value.trim_matches(['"', '\'']).to_owned())),
                None => (path, None),
            };
            return Ok(Self::Value(Path::parse(path.trim_matches(['"', '\'']))?, value));
        }
        match text.to_lowercase().as_str() {
            "delete" => Ok(Self::Deleted),
            "create" => Ok(Self::Created),
            _ => Err(wrong()),
        }
    }

    fn holds(&self, object: &Value) -> bool {
        match self {
            Self::Condition(name, value) => {
                let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
                let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
                conditions.into_iter().flatten().any(|condition| {
                    let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default();
                    let observed = condition.get("observedGeneration").and_then(Value::as_i64);
                    // What was said about an older spec does not count.
                    let stale = matches!((observed, generation), (Some(seen), Some(now)) if seen < now);
                    text("type").eq_ignore_ascii_case(name) && text("status").eq_ignore_ascii_case(value) && !stale
                })
            }
            Self::Value(path, Some(value)) => {
                let found = path.find(object);
                matches!(found.as_slice(), [one] if shown(one) == *value)
            }
            Self::Value(path, None) => !path.find(object).is_empty(),
            Self::Created => true,
            Self::Deleted => false,
        }
    }
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let goal = Goal::parse(&args.until)?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let limit = match args.timeout.nonzero() {
        Some(limit) => limit,
        None if args.timeout.is_negative() => Duration::from_secs(7 * 24 * 3600),
        None => Duration::ZERO,
    };
    let end = tokio::time::Instant::now() + limit;
    let objects = objects(&session, &catalog, args).await?;
    if objects.is_empty() {
        return match goal {
            Goal::Deleted => Ok(ExitCode::SUCCESS),
            _ => Err(Failure::error("no matching resources found")),
        };
    }
    let mut failures = Vec::new();
    for (kind, namespace, name) in objects {
        let place = (kind, namespace.as_str(), name.as_str());
        // Even without time to wait, one look is taken.
        let until = end.max(tokio::time::Instant::now() + Duration::from_millis(500));
        let reached = async {
            match goal {
                Goal::Deleted => until_gone(&session, place, None).await,
                _ => until_holds(&session, place, &goal).await,
            }
        };
        match tokio::time::timeout_at(until, reached).await {
            Ok(Ok(())) => screen::line(format!("{}/{name} condition met", kind.prefix()))?,
            Ok(Err(failure)) => failures.push(failure),
            Err(_) => {
                failures.push(Failure::error(format!("timed out waiting for the condition on {}/{name}", kind.plural)))
            }
        }
    }
    Ok(crate::verb::told(failures))
}

async fn objects<'a>(
    session: &Session,
    catalog: &'a Catalog,
    args: &Args,
) -> Result<Vec<(&'a Kind, String, String)>, Failure> {
    let mut found = Vec::new();
    if !args.files.filename.is_empty() {
        for manifest in args.files.read()? {
            let placed = manifest::place(session, catalog, manifest)?;
            found.push((placed.kind, placed.namespace, placed.name));
        }
        return Ok(found);
    }
    let targets = target::parse(catalog, &args.targets)?;
    if targets.is_empty() {
        return Err(Failure::error("expected TYPE NAME, TYPE/NAME, or TYPE with -l or --all"));
    }
    for target in targets {
        match target.name {
            Some(name) => found.push((target.kind, session.namespace.clone(), name)),
            None if args.all || !args.select.is_empty() => {
                let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
                for object in list::objects(session, target.kind, namespace, &args.select).await? {
                    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
                    found.push((target.kind, namespace.to_owned(), name_of(&object).to_owned()));
                }
            }
            None => return Err(Failure::error("resource(s) were provided, but no name was specified")),
        }
    }
    Ok(found)
}

async fn until_holds(
    session: &Session,
    (kind, namespace, name): (&Kind, &str, &str),
    goal: &Goal,
) -> Result<(), Failure> {
    loop {
        let mut call =
            Call::to(kind.collection(Some(namespace))).with("fieldSelector", format!("metadata.name={name}"));
        match session.get(Call::to(kind.object(namespace, name))).await {
            Ok(object) if goal.holds(&object) => return Ok(()),
            Ok(object) => {
                let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
                call = call.with_some("resourceVersion", version);
            }
            Err(failure) if failure.is_not_found() && *goal == Goal::Created => {}
            Err(failure) => return Err(failure),
        }
        let mut watch = match Watch::open(session, call).await {
            Ok(watch) => watch,
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 410) => continue,
            Err(failure) => return Err(failure),
        };
        while let Some(event) = watch.next().await? {
            match event.kind.as_str() {
                "ADDED" | "MODIFIED" if goal.holds(&event.object) => return Ok(()),
                "DELETED" => {
                    return Err(Failure::error(format!("{}/{name} was deleted while waiting", kind.prefix())));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(goal: &str, object: &Value) -> Option<bool> {
        Goal::parse(goal).ok().map(|goal| goal.holds(object))
    }

    #[test]
    fn goals_are_read_and_judged() {
        let object = json!({"metadata": {"generation": 2}, "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]}});
        assert_eq!(holds("condition=ready", &object), Some(true));
        assert_eq!(holds("condition=Ready=False", &object), Some(false));
        assert_eq!(holds("condition=Old", &object), Some(false));
        assert_eq!(holds("jsonpath={.status.phase}=Running", &object), Some(true));
        assert_eq!(holds("jsonpath='{.status.phase}'=Failed", &object), Some(false));
        assert_eq!(holds("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", &object), Some(true));
        assert_eq!(holds("jsonpath={.status.nothing}", &object), Some(false));
        assert_eq!(holds("delete", &object), Some(false));
        assert_eq!(holds("nonsense", &object), None);
    }
}
