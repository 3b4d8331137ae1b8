//! `gantry rollout status|history|undo|pause|resume|restart`.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::describe::template;
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::kubeconfig::ConnectArgs;
use crate::output::table::cell_text;
use crate::rollout::progress::{Progress, progress};
use crate::rollout::revisions;
use crate::screen;
use crate::watch::Watch;
use crate::workload::{WhichArgs, Workload};

const MERGE: &str = "application/merge-patch+json";

/// What can be done with a rollout.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Show how far it is, until it is finished.
    Status {
        #[command(flatten)]
        which: WhichArgs,
        /// Wait until it is finished.
        #[arg(short = 'w', long, default_value_t = true, num_args = 0..=1, require_equals = true,
            default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
        watch: bool,
        /// Fail unless this is the revision.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        revision: i64,
        /// How long at most; 0 is without end.
        #[arg(long, default_value = "0s", value_name = "DURATION")]
        timeout: DurationArg,
    },
    /// Show the revisions.
    History {
        #[command(flatten)]
        which: WhichArgs,
        /// Show the pods of this revision.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        revision: i64,
    },
    /// Go back to the revision before, or another one.
    Undo {
        #[command(flatten)]
        which: WhichArgs,
        /// The revision to go back to; 0 is the one before.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        to_revision: i64,
    },
    /// Let changes wait.
    Pause {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Let changes go on.
    Resume {
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Replace every pod.
    Restart {
        #[command(flatten)]
        which: WhichArgs,
    },
}

pub(crate) async fn run(connect: &ConnectArgs, verb: &Verb) -> Result<ExitCode, Failure> {
    let (Verb::Status { which, .. }
    | Verb::History { which, .. }
    | Verb::Undo { which, .. }
    | Verb::Pause { which }
    | Verb::Resume { which }
    | Verb::Restart { which }) = verb;
    let session = Session::open(connect).await?;
    let catalog = Catalog::of(&session).await?;
    let mut failures = Vec::new();
    for workload in which.find(&session, &catalog).await? {
        let done = match verb {
            Verb::Status { watch, revision, timeout, .. } => {
                let revision = (*revision > 0).then_some(*revision);
                let follow = status(&session, &workload, *watch, revision);
                match timeout.nonzero() {
                    None => follow.await,
                    Some(limit) => match tokio::time::timeout(limit, follow).await {
                        Ok(done) => done,
                        Err(_) => Err(Failure::error("timed out waiting for the condition")),
                    },
                }
            }
            Verb::History { revision, .. } => history(&session, &catalog, &workload, *revision).await,
            Verb::Undo { to_revision, .. } => undo(&session, &catalog, &workload, *to_revision).await,
            Verb::Pause { .. } => pause(&session, &workload, true).await,
            Verb::Resume { .. } => pause(&session, &workload, false).await,
            Verb::Restart { .. } => restart(&session, &workload).await,
        };
        crate::verb::note(done, &mut failures)?;
    }
    Ok(crate::verb::told(failures))
}

async fn status(session: &Session, workload: &Workload<'_>, watch: bool, revision: Option<i64>) -> Result<(), Failure> {
    let mut object = workload.object.clone();
    loop {
        if told(workload, &object, revision)? || !watch {
            return Ok(());
        }
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let call = Call::to(workload.kind.collection(Some(&workload.namespace)))
            .with("fieldSelector", format!("metadata.name={}", workload.name))
            .with_some("resourceVersion", version);
        match Watch::open(session, call).await {
            Ok(mut events) => {
                while let Some(event) = events.next().await? {
                    match event.kind.as_str() {
                        "DELETED" => return Err(Failure::error("object has been deleted")),
                        "BOOKMARK" => {}
                        _ => {
                            object = event.object;
                            if told(workload, &object, revision)? {
                                return Ok(());
                            }
                        }
                    }
                }
            }
            // Compacted meanwhile: look again.
            Err(failure) if failure.refusal().is_some_and(|refusal| refusal.code == 410) => {}
            Err(failure) => return Err(failure),
        }
        object = session.get(Call::to(workload.path())).await?;
    }
}

/// Tells how far it is; true once there is nothing to wait for.
fn told(workload: &Workload<'_>, object: &Value, revision: Option<i64>) -> Result<bool, Failure> {
    match progress(&workload.kind.kind, object, revision) {
        Progress::Waiting(text) => screen::line(text).map(|()| false),
        Progress::Done(text) => screen::line(text).map(|()| true),
        Progress::Failed(text) => Err(Failure::error(text)),
    }
}

async fn history(session: &Session, catalog: &Catalog, workload: &Workload<'_>, asked: i64) -> Result<(), Failure> {
    let revisions = revisions::of(session, catalog, workload).await?;
    if asked > 0 {
        let revision = revisions::target(&revisions, asked)?;
        let text = template::text(&revision.template);
        return screen::put(format!("{} with revision #{asked}\n{text}\n", workload.title()));
    }
    // Two spaces apart, unlike other tables of kubectl; the blank after the title is kubectl's too.
    let mut text = format!("{} \nREVISION  CHANGE-CAUSE\n", workload.title());
    for revision in revisions {
        let cause = revision.cause.as_deref().unwrap_or("<none>");
        text.push_str(&format!("{:<10}{}\n", revision.number, cell_text(cause)));
    }
    screen::line(text)
}

async fn undo(session: &Session, catalog: &Catalog, workload: &Workload<'_>, to: i64) -> Result<(), Failure> {
    if is_paused(&workload.object) {
        return Err(Failure::error(
            "cannot undo a paused deployment; resume it first with 'gantry rollout resume' and try again",
        ));
    }
    let revisions = revisions::of(session, catalog, workload).await?;
    let revision = revisions::target(&revisions, to)?;
    if workload.object.pointer("/spec/template") == Some(&revision.template) {
        return screen::line(format!(
            "{} skipped rollback (current template already matches revision {})",
            workload.title(),
            revision.number
        ));
    }
    let patch = revisions::patch_to(revision, &workload.object);
    workload.patch(session, "application/json-patch+json", &patch).await?;
    screen::line(format!("{} rolled back", workload.title()))
}

fn is_paused(object: &Value) -> bool {
    object.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false)
}

async fn pause(session: &Session, workload: &Workload<'_>, paused: bool) -> Result<(), Failure> {
    let done = if paused { "paused" } else { "resumed" };
    let resource = workload.kind.resource();
    if workload.kind.kind != "Deployment" {
        return Err(Failure::error(format!("{resource} \"{}\": only deployments can be {done}", workload.name)));
    }
    if is_paused(&workload.object) == paused {
        let state = if paused { "is already paused" } else { "is not paused" };
        return Err(Failure::error(format!("{resource} \"{}\" {state}", workload.name)));
    }
    workload.patch(session, MERGE, &json!({"spec": {"paused": paused}})).await?;
    screen::line(format!("{} {done}", workload.title()))
}

async fn restart(session: &Session, workload: &Workload<'_>) -> Result<(), Failure> {
    if !matches!(workload.kind.kind.as_str(), "Deployment" | "DaemonSet" | "StatefulSet") {
        return Err(Failure::error(format!(
            "{} cannot be restarted: expected a deployment, daemonset or statefulset",
            workload.title()
        )));
    }
    if is_paused(&workload.object) {
        return Err(Failure::error("can't restart paused deployment (run rollout resume first)"));
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let last = workload.object.pointer("/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt");
    if last.and_then(Value::as_str) == Some(&now) {
        return Err(Failure::error(format!(
            "failed to create patch for {}: if restart has already been triggered within the past second, please wait before attempting to trigger another",
            workload.name
        )));
    }
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    workload.patch(session, MERGE, &patch).await?;
    screen::line(format!("{} restarted", workload.title()))
}
