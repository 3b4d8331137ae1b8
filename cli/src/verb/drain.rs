//! `gantry drain`: closes nodes and evicts their pods.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use api::well_known::ANNOTATION_MIRROR;
use http::Method;
use serde_json::{Value, json};

use crate::change::{ChangeArgs, DryRun};
use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::{Catalog, Kind};
use crate::kubeconfig::ConnectArgs;
use crate::list::{self, SelectArgs};
use crate::output::name_of;
use crate::screen;
use crate::verb::cordon;
use crate::verb::delete::until_gone;

/// The pause before a refused eviction is asked for again, as in kubectl.
const AGAIN: Duration = Duration::from_secs(5);

/// Flags of `gantry drain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names of nodes.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Label selector of nodes, such as zone=a.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only pods with these labels.
    #[arg(long, value_name = "SELECTOR")]
    pod_selector: Option<String>,
    /// Also pods that no controller makes anew.
    #[arg(long)]
    force: bool,
    /// Leave pods of DaemonSets where they are.
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Also pods whose emptyDir volumes are lost.
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Delete pods past their budgets, without asking for evictions.
    #[arg(long)]
    disable_eviction: bool,
    /// Seconds that pods get to end; -1 leaves it to them.
    #[arg(long, default_value_t = -1, value_name = "SECONDS", allow_negative_numbers = true)]
    grace_period: i64,
    /// How long at most; 0 is without end.
    #[arg(long, default_value = "0s", value_name = "DURATION")]
    timeout: DurationArg,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
enum Fate {
    Evict,
    /// Stays, for a reason that is told.
    Ignore(&'static str),
    /// Goes, with a warning.
    Warn(&'static str),
    /// Stands against the drain.
    Refuse(&'static str),
    /// Nothing to do and nothing to say.
    Leave,
}

pub(crate) async fn run(connect: &ConnectArgs, args: &Args) -> Result<ExitCode, Failure> {
    let output = args.change.output()?;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let (nodes, mut failures) = cordon::nodes(&session, &catalog, &args.nodes, args.selector.as_deref()).await?;
    for node in &nodes {
        cordon::set(&session, node, &args.change, &output, true).await?;
        match one(&session, catalog.expect("pods")?, &catalog, &node.name, args).await {
            Ok(()) => screen::line(format!("node/{} drained{}", node.name, args.change.dry_run.suffix()))?,
            Err(failure) => failures.push(Failure::error(format!(
                "unable to drain node {:?} due to error: {}, continuing command...",
                node.name,
                failure.to_string().trim_start_matches("error: ")
            ))),
        }
    }
    Ok(crate::verb::told(failures))
}

async fn one(session: &Session, kind: &Kind, catalog: &Catalog, node: &str, args: &Args) -> Result<(), Failure> {
    let select =
        SelectArgs { selector: args.pod_selector.clone(), field_selector: Some(format!("spec.nodeName={node}")) };
    let pods = list::objects(session, kind, None, &select).await?;
    let mut doomed = Vec::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut warned: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for pod in &pods {
        let title = format!("{}/{}", namespace(pod), name_of(pod));
        let daemon_set = match owner(pod).filter(|owner| owner["kind"] == "DaemonSet") {
            Some(owner) => exists(session, catalog, namespace(pod), owner).await?,
            None => false,
        };
        match fate(pod, daemon_set, args) {
            Fate::Evict => doomed.push(pod),
            Fate::Leave => {}
            Fate::Ignore(why) => warned.entry(why).or_default().push(title),
            Fate::Warn(why) => {
                warned.entry(why).or_default().push(title);
                doomed.push(pod);
            }
            Fate::Refuse(why) => refused.entry(why).or_default().push(title),
        }
    }
    let list = |all: &BTreeMap<&str, Vec<String>>| {
        all.iter().map(|(why, pods)| format!("{why}: {}", pods.join(", "))).collect::<Vec<_>>().join("; ")
    };
    if !refused.is_empty() {
        let all = refused.iter().map(|(why, pods)| format!("cannot delete {why}: {}", pods.join(", ")));
        return Err(Failure::error(format!("[{}]", all.collect::<Vec<_>>().join(", "))));
    }
    if !warned.is_empty() {
        screen::note(format!("Warning: {}", list(&warned)));
    }
    let deadline = args.timeout.nonzero().map(|limit| Instant::now() + limit);
    let all = doomed.iter().map(|pod| remove(session, kind, pod, args, deadline));
    futures::future::try_join_all(all).await.map(|_| ())
}

fn namespace(pod: &Value) -> &str {
    pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default()
}

fn owner(pod: &Value) -> Option<&Value> {
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    owners.into_iter().find(|owner| owner["controller"] == true)
}

async fn exists(session: &Session, catalog: &Catalog, namespace: &str, owner: &Value) -> Result<bool, Failure> {
    let text = |key: &str| owner[key].as_str().unwrap_or_default();
    let Some(kind) = catalog.of_object(text("apiVersion"), text("kind")) else { return Ok(false) };
    match session.get(Call::to(kind.object(namespace, text("name")))).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// kubectl's rules in its words; `daemon_set` tells whether the pod belongs to one that exists.
fn fate(pod: &Value, daemon_set: bool, args: &Args) -> Fate {
    let finished = matches!(pod.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
    let mirror = !pod["metadata"]["annotations"][ANNOTATION_MIRROR].is_null();
    if mirror {
        return Fate::Leave;
    }
    if daemon_set && !finished {
        return match args.ignore_daemonsets {
            true => Fate::Ignore("ignoring DaemonSet-managed Pods"),
            false => Fate::Refuse("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"),
        };
    }
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    let has_data = volumes.into_iter().any(|volume| volume.get("emptyDir").is_some());
    if has_data && !finished && !args.delete_emptydir_data {
        return Fate::Refuse("Pods with local storage (use --delete-emptydir-data to override)");
    }
    if owner(pod).is_none() && !finished {
        return match args.force {
            true => Fate::Warn("deleting Pods that declare no controller"),
            false => Fate::Refuse("Pods that declare no controller (use --force to override)"),
        };
    }
    Fate::Evict
}

async fn remove(
    session: &Session,
    kind: &Kind,
    pod: &Value,
    args: &Args,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    let (namespace, name) = (namespace(pod), name_of(pod));
    let uid = pod.pointer("/metadata/uid").and_then(Value::as_str);
    let verb = if args.disable_eviction { "delet" } else { "evict" };
    if args.change.dry_run == DryRun::Client {
        return screen::line(format!("{verb}ing pod {namespace}/{name} (dry run)"));
    }
    screen::line(format!("{verb}ing pod {namespace}/{name}"))?;
    let mut options = json!({"preconditions": {"uid": uid}});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = json!(args.grace_period);
    }
    if args.change.dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    let path = kind.object(namespace, name);
    let timed_out = || {
        Failure::error(format!(
            "error when waiting for pod {name:?} in namespace {namespace:?} to terminate: global timeout reached"
        ))
    };
    loop {
        let sent = match args.disable_eviction {
            true => session.send(Method::DELETE, Call::to(path.clone()).json(&options)).await,
            false => {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
                session.send(Method::POST, Call::to(format!("{path}/eviction")).json(&eviction)).await
            }
        };
        match sent {
            Ok(_) => break,
            Err(failure) if failure.is_not_found() => break,
            // Another pod of that name is none of this node's any more.
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 409) => return Ok(()),
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 429) => {
                screen::note(format!(
                    "error when evicting pods/{name:?} -n {namespace:?} (will retry after {}s): {}",
                    AGAIN.as_secs(),
                    failure.refusal().map(|refusal| refusal.message.as_str()).unwrap_or_default()
                ));
                if deadline.is_some_and(|deadline| Instant::now() + AGAIN > deadline) {
                    return Err(timed_out());
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(failure) => return Err(failure),
        }
    }
    if args.change.dry_run == DryRun::Server {
        return Ok(());
    }
    let gone = until_gone(session, (kind, namespace, name), uid);
    match deadline {
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::time::timeout(left, gone).await.map_err(|_| timed_out())??;
        }
        None => gone.await?,
    }
    screen::line(format!("pod/{name} {verb}ed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn pods_are_kept_from_harm() {
        let args = |flags: &[&str]| Line::parse_from([&["drain", "n"], flags].concat()).args;
        let owned = json!({"metadata": {"ownerReferences": [{"controller": true, "kind": "ReplicaSet"}]}});
        assert_eq!(fate(&owned, false, &args(&[])), Fate::Evict);
        assert!(matches!(fate(&owned, true, &args(&[])), Fate::Refuse(_)));
        assert!(matches!(fate(&owned, true, &args(&["--ignore-daemonsets"])), Fate::Ignore(_)));
        let mut lone = json!({"metadata": {}, "spec": {"volumes": [{"emptyDir": {}}]}});
        assert!(matches!(fate(&lone, false, &args(&["--force"])), Fate::Refuse(why) if why.contains("local storage")));
        assert!(matches!(fate(&lone, false, &args(&["--delete-emptydir-data"])), Fate::Refuse(_)));
        assert!(matches!(fate(&lone, false, &args(&["--delete-emptydir-data", "--force"])), Fate::Warn(_)));
        lone["status"]["phase"] = json!("Succeeded");
        assert_eq!(fate(&lone, false, &args(&[])), Fate::Evict);
    }
}
