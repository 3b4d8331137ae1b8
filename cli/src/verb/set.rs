//! `gantry set image|env`: one part of a workload's pods.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client::Session;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::screen;
use crate::workload::{WhichArgs, Workload};

const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What can be set.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Images: TYPE/NAME CONTAINER=IMAGE... (* for all containers).
    Image {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Variables: TYPE/NAME KEY=VALUE... KEY- (takes it away).
    Env {
        #[command(flatten)]
        which: WhichArgs,
        /// Only these containers.
        #[arg(short = 'c', long, default_value = "*", value_name = "NAME")]
        containers: String,
    },
}

pub(crate) async fn run(connect: &ConnectArgs, verb: &Verb) -> Result<ExitCode, Failure> {
    let (which, done) = match verb {
        Verb::Image { which } => (which, "image updated"),
        Verb::Env { which, .. } => (which, "env updated"),
    };
    let is_change = |word: &&String| match verb {
        Verb::Image { .. } => word.contains('='),
        Verb::Env { .. } => word.contains('=') || word.ends_with('-'),
    };
    let (changes, words): (Vec<&String>, Vec<&String>) = which.targets.iter().partition(is_change);
    if changes.is_empty() {
        return Err(Failure::error(match verb {
            Verb::Image { .. } => "at least one image update is required: expected CONTAINER=IMAGE",
            Verb::Env { .. } => "at least one environment variable must be provided: expected KEY=VALUE or KEY-",
        }));
    }
    let words: Vec<String> = words.into_iter().cloned().collect();
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for workload in which.find_in(&session, &catalog, &words).await? {
        let at = template_pointer(&workload);
        let patch = match verb {
            Verb::Image { .. } => images(&workload.object, at, &changes),
            Verb::Env { containers, .. } => variables(&workload.object, at, &changes, containers),
        };
        let patched = match patch {
            Ok(patch) => workload.patch(&session, STRATEGIC, &within(at, patch)).await,
            Err(failure) => Err(failure),
        };
        match patched {
            // kubectl is silent where nothing changes.
            Ok(after) if after.get("spec") == workload.object.get("spec") => {}
            Ok(_) => screen::line(format!("{} {done}", workload.title()))?,
            Err(failure) => failures.push(failure),
        }
    }
    Ok(crate::verb::told(failures))
}

/// Where the pod's spec stands in an object.
fn template_pointer(workload: &Workload<'_>) -> &'static [&'static str] {
    match workload.kind.kind.as_str() {
        "Pod" => &["spec"],
        "CronJob" => &["spec", "jobTemplate", "spec", "template", "spec"],
        _ => &["spec", "template", "spec"],
    }
}

fn within(path: &[&str], value: Value) -> Value {
    path.iter().rev().fold(value, |value, key| json!({*key: value}))
}

fn names(object: &Value, at: &[&str], key: &str) -> Vec<String> {
    let list = at.iter().chain([&key]).try_fold(object, |value, key| value.get(*key)).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|container| Some(container.get("name")?.as_str()?.to_owned())).collect()
}

fn images(object: &Value, at: &[&str], changes: &[&String]) -> Result<Value, Failure> {
    let mut patch = json!({});
    let mut missing: Vec<&str> = Vec::new();
    for change in changes {
        let (wanted, image) = change.split_once('=').unwrap_or((change, ""));
        if wanted.is_empty() || image.is_empty() {
            return Err(Failure::error(format!("{change:?}: expected CONTAINER=IMAGE")));
        }
        let mut any = false;
        for key in ["containers", "initContainers"] {
            for name in names(object, at, key).into_iter().filter(|name| wanted == "*" || name == wanted) {
                any = true;
                let entry = json!({"name": name, "image": image});
                match patch.get_mut(key).and_then(Value::as_array_mut) {
                    Some(list) => {
                        list.retain(|known| known["name"] != name.as_str());
                        list.push(entry);
                    }
                    None => patch[key] = json!([entry]),
                }
            }
        }
        if !any {
            missing.push(wanted);
        }
    }
    match missing.first() {
        Some(name) => Err(Failure::error(format!("unable to find container named \"{name}\""))),
        None => Ok(patch),
    }
}

fn variables(object: &Value, at: &[&str], changes: &[&String], wanted: &str) -> Result<Value, Failure> {
    let mut entries = Vec::new();
    for change in changes {
        entries.push(match (change.split_once('='), change.strip_suffix('-')) {
            (Some((name, value)), _) if !name.is_empty() => json!({"name": name, "value": value, "valueFrom": null}),
            (None, Some(name)) if !name.is_empty() => json!({"name": name, "$patch": "delete"}),
            _ => return Err(Failure::error(format!("{change:?}: expected KEY=VALUE or KEY-"))),
        });
    }
    let names = names(object, at, "containers");
    let chosen: Vec<&String> = names.iter().filter(|name| wanted == "*" || *name == wanted).collect();
    if chosen.is_empty() {
        return Err(Failure::error(format!("unable to find container named \"{wanted}\"")));
    }
    let containers: Vec<Value> = chosen.into_iter().map(|name| json!({"name": name, "env": entries})).collect();
    Ok(json!({"containers": containers}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_name_their_containers() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        let change = |text: &str| [text.to_owned()];
        let patch = |text: &str| images(&object, &["spec"], &change(text).iter().collect::<Vec<_>>()).ok();
        assert_eq!(patch("a=x:1"), Some(json!({"containers": [{"name": "a", "image": "x:1"}]})));
        assert_eq!(patch("*=y").and_then(|patch| Some(patch["initContainers"].as_array()?.len())), Some(1));
        assert_eq!(patch("nope=x"), None);
        assert_eq!(patch("a="), None);
        let env = variables(&object, &["spec"], &[&"K=v".to_owned(), &"L-".to_owned()], "b").ok();
        assert_eq!(
            env.map(|env| env["containers"][0]["env"][1].clone()),
            Some(json!({"name": "L", "$patch": "delete"}))
        );
        assert_eq!(within(&["a", "b"], json!(1)), json!({"a": {"b": 1}}));
    }
}
