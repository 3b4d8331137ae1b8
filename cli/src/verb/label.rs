//! `gantry label` and `gantry annotate`: sets and takes away labels or annotations.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::change::{ChangeArgs, PatchKind};
use crate::client::Session;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::Output;
use crate::screen;
use crate::workload::{WhichArgs, Workload};

/// Flags of `gantry label` and `gantry annotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: WhichArgs,
    /// Change values that are there.
    #[arg(long)]
    overwrite: bool,
    /// Show what is there.
    #[arg(long)]
    list: bool,
    /// Only where the object has this version.
    #[arg(long, value_name = "VERSION")]
    resource_version: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Which of the two maps is meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mark {
    Label,
    Annotation,
}

impl Mark {
    fn field(self) -> &'static str {
        match self {
            Self::Label => "labels",
            Self::Annotation => "annotations",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Annotation => "annotation",
        }
    }
}

/// A change of one key: its new value, or nothing.
type Edit = (String, Option<String>);

pub(crate) async fn run(connect: &ConnectArgs, args: &Args, mark: Mark) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let (words, edits) = split(&args.which.targets, mark)?;
    if edits.is_empty() && !args.list {
        return Err(Failure::error(format!("at least one {} update is required", mark.word())));
    }
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for object in args.which.find_in(&session, &catalog, &words).await? {
        match one(&session, &object, args, &edits, mark, &output).await {
            Ok(()) => {}
            Err(Failure::OutputClosed) => return Err(Failure::OutputClosed),
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

/// Words before the first `KEY=VALUE` or `KEY-` name objects, the others are changes.
fn split(words: &[String], mark: Mark) -> Result<(Vec<String>, Vec<Edit>), Failure> {
    let is_edit = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().position(is_edit).unwrap_or(words.len());
    let mut edits: Vec<Edit> = Vec::new();
    for word in &words[first..] {
        let edit = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => (key.to_owned(), Some(value.to_owned())),
            (None, Some(key)) if !key.is_empty() => (key.to_owned(), None),
            _ => {
                return Err(Failure::error(format!(
                    "invalid {} spec: {word}: expected KEY=VALUE or KEY-",
                    mark.word()
                )));
            }
        };
        if edits.iter().any(|(key, value)| *key == edit.0 && value.is_some() != edit.1.is_some()) {
            return Err(Failure::error(format!(
                "can not both modify and remove {} in the same command",
                if mark == Mark::Label { "a label" } else { "an annotation" }
            )));
        }
        edits.push(edit);
    }
    Ok((words[..first].to_vec(), edits))
}

async fn one(
    session: &Session,
    object: &Workload<'_>,
    args: &Args,
    edits: &[Edit],
    mark: Mark,
    output: &Output,
) -> Result<(), Failure> {
    let empty = Map::new();
    let now =
        object.object.pointer(&format!("/metadata/{}", mark.field())).and_then(Value::as_object).unwrap_or(&empty);
    if args.list && edits.is_empty() {
        return now
            .iter()
            .try_for_each(|(key, value)| screen::line(format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    let changes = changes(now, edits, args.overwrite, mark)?;
    for (key, value) in edits {
        if value.is_none() && !now.contains_key(key) && output.is_table() {
            screen::line(format!("{} {key:?} not found.", mark.word()))?;
        }
    }
    let mut patch = json!({"metadata": {(mark.field()): changes}});
    if let Some(version) = &args.resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let after = args.change.patch(session, object, &patch, PatchKind::Merge).await?;
    let there = after.pointer(&format!("/metadata/{}", mark.field())).and_then(Value::as_object).unwrap_or(&empty);
    args.change.tell(output, object.kind, &after, outcome(now, there, mark))
}

/// The merge patch of the map.
fn changes(
    now: &Map<String, Value>,
    edits: &[Edit],
    overwrite: bool,
    mark: Mark,
) -> Result<Map<String, Value>, Failure> {
    let mut patch = Map::new();
    for (key, value) in edits {
        match (value, now.get(key).and_then(Value::as_str)) {
            (Some(value), Some(there)) if !overwrite && value != there => {
                return Err(Failure::error(match mark {
                    Mark::Label => format!("'{key}' already has a value ({there}), and --overwrite is false"),
                    Mark::Annotation => {
                        format!(
                            "--overwrite is false but found the following declared annotation(s): '{key}' already has a value ({there})"
                        )
                    }
                }));
            }
            (value, _) => drop(patch.insert(key.clone(), json!(value))),
        }
    }
    Ok(patch)
}

/// kubectl's word for what happened.
fn outcome(before: &Map<String, Value>, after: &Map<String, Value>, mark: Mark) -> &'static str {
    let removed = before.keys().any(|key| !after.contains_key(key));
    match mark {
        Mark::Annotation => "annotated",
        Mark::Label if before == after => "not labeled",
        Mark::Label if removed => "unlabeled",
        Mark::Label => "labeled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn changes_follow_the_names() {
        let (names, edits) = split(&words("pod a b x=1 y-"), Mark::Label).unwrap_or_default();
        assert_eq!(names, words("pod a b"));
        assert_eq!(edits, vec![("x".into(), Some("1".into())), ("y".into(), None)]);
        for bad in ["pod a =1", "pod a x=1 x-", "pod a x=1 -", "pod a x=1 zzz"] {
            assert!(split(&words(bad), Mark::Label).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_that_are_there_are_kept_unless_told() {
        let now = json!({"a": "1"});
        let now = now.as_object().cloned().unwrap_or_default();
        let edit = |value: &str| vec![("a".to_owned(), Some(value.to_owned()))];
        assert!(changes(&now, &edit("2"), false, Mark::Label).is_err());
        assert!(changes(&now, &edit("1"), false, Mark::Label).is_ok());
        assert_eq!(changes(&now, &edit("2"), true, Mark::Label).ok().map(|patch| patch["a"].clone()), Some(json!("2")));
        assert_eq!(outcome(&now, &Map::new(), Mark::Label), "unlabeled");
        assert_eq!(outcome(&now, &now, Mark::Label), "not labeled");
    }
}
