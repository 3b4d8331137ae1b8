//! `gantry taint`: what a node wants pods to tolerate.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::change::{ChangeArgs, PatchKind};
use crate::client::Session;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::workload::WhichArgs;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Flags of `gantry taint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: WhichArgs,
    /// Change taints that are there.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// A taint to set, or one to take away; without an effect all of that key.
#[derive(Debug, PartialEq)]
enum Edit {
    Set { key: String, value: String, effect: String },
    Remove { key: String, effect: Option<String> },
}

impl Edit {
    fn parse(word: &str) -> Result<Self, Failure> {
        let wrong =
            || Failure::error(format!("invalid taint spec: {word}: expected KEY[=VALUE]:EFFECT or KEY[:EFFECT]-"));
        let effect_of = |effect: &str| match EFFECTS.contains(&effect) {
            true => Ok(effect.to_owned()),
            false => Err(Failure::error(format!(
                "invalid taint effect: {effect}, unsupported taint effect: expected NoSchedule, PreferNoSchedule or NoExecute"
            ))),
        };
        if let Some(rest) = word.strip_suffix('-') {
            let (key, effect) = match rest.split_once(':') {
                Some((key, effect)) => (key, Some(effect_of(effect)?)),
                None => (rest, None),
            };
            let key = key.split_once('=').map_or(key, |(key, _)| key);
            return if key.is_empty() { Err(wrong()) } else { Ok(Self::Remove { key: key.into(), effect }) };
        }
        let (taint, effect) = word.split_once(':').ok_or_else(wrong)?;
        let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
        if key.is_empty() {
            return Err(wrong());
        }
        Ok(Self::Set { key: key.into(), value: value.into(), effect: effect_of(effect)? })
    }
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let is_edit = |word: &String| word.contains(':') || word.contains('=') || word.ends_with('-');
    let words = &args.which.targets;
    let first = words.iter().position(is_edit).unwrap_or(words.len());
    let edits = words[first..].iter().map(|word| Edit::parse(word)).collect::<Result<Vec<_>, _>>()?;
    if edits.is_empty() {
        return Err(Failure::error("at least one taint update is required"));
    }
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for node in args.which.find_in(&session, &catalog, &words[..first]).await? {
        if node.kind.kind != "Node" {
            return Err(Failure::error(format!("invalid resource type {}, only node is supported", node.kind.plural)));
        }
        let now = node.object.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
        let changed = match changed(&now, &edits, args.overwrite, &node.name) {
            Ok(changed) => changed,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        let version = node.object.pointer("/metadata/resourceVersion").cloned();
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": changed.0}});
        match args.change.patch(&session, &node, &patch, PatchKind::Merge).await {
            Ok(after) => args.change.tell(&output, node.kind, &after, changed.1)?,
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

/// The taints after the changes, and kubectl's word for them.
fn changed(now: &[Value], edits: &[Edit], overwrite: bool, node: &str) -> Result<(Vec<Value>, &'static str), Failure> {
    let mut taints = now.to_vec();
    let (mut set, mut removed, mut replaced) = (false, false, false);
    for edit in edits {
        match edit {
            Edit::Set { key, value, effect } => {
                let same = |taint: &Value| taint["key"] == key.as_str() && taint["effect"] == effect.as_str();
                let known = taints.iter().any(same);
                if known && !overwrite {
                    return Err(Failure::error(format!(
                        "node {node} already has {key} taint(s) with same effect(s) and --overwrite is false"
                    )));
                }
                taints.retain(|taint| !same(taint));
                let mut taint = json!({"key": key, "effect": effect});
                if !value.is_empty() {
                    taint["value"] = json!(value);
                }
                taints.push(taint);
                set = true;
                replaced |= known;
            }
            Edit::Remove { key, effect } => {
                let before = taints.len();
                taints.retain(|taint| {
                    taint["key"] != key.as_str()
                        || effect.as_ref().is_some_and(|effect| taint["effect"] != effect.as_str())
                });
                if taints.len() == before {
                    let with = effect.as_ref().map(|effect| format!(":{effect}")).unwrap_or_default();
                    return Err(Failure::error(format!("taint \"{key}{with}\" not found")));
                }
                removed = true;
            }
        }
    }
    let done = match (set, removed) {
        (true, true) => "modified",
        (true, false) if replaced => "modified",
        (true, false) => "tainted",
        (false, _) => "untainted",
    };
    Ok((taints, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_and_merged() {
        let edit = |word: &str| Edit::parse(word).ok();
        assert_eq!(edit("a-"), Some(Edit::Remove { key: "a".into(), effect: None }));
        assert!(edit("a:Nope").is_none() && edit("a").is_none() && edit(":NoSchedule").is_none());
        let now = [json!({"key": "a", "value": "1", "effect": "NoSchedule"})];
        let change = |word: &str, overwrite| changed(&now, &[Edit::parse(word)?], overwrite, "n");
        assert!(change("a=2:NoSchedule", false).is_err());
        assert_eq!(change("a=2:NoSchedule", true).ok().map(|(_, done)| done), Some("modified"));
        assert_eq!(change("a=2:NoExecute", false).ok().map(|(all, done)| (all.len(), done)), Some((2, "tainted")));
        assert_eq!(change("a-", false).ok(), Some((vec![], "untainted")));
        assert!(change("b-", false).is_err());
    }
}
