//! One file per verb.

mod agent;
mod api_resources;
mod apply;
mod attach;
mod auth;
mod autoscale;
mod backup;
mod check;
mod cluster_info;
mod completion;
mod config;
mod cordon;
mod cp;
mod create;
mod delete;
mod describe;
mod diff;
mod drain;
mod edit;
mod events;
mod exec;
mod explain;
mod expose;
mod get;
pub(crate) mod image;
mod install;
mod label;
mod logs;
mod patch;
mod port_forward;
mod replace;
mod reset;
mod restore;
mod rollout;
mod run;
mod scale;
mod server;
mod set;
mod taint;
mod token;
mod top;
mod version;
mod wait;
mod why;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;
use crate::kubeconfig::ConnectArgs;
use crate::screen;

/// What `gantry` can be told to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the control plane and, unless told otherwise, the agent of this machine.
    Server(Box<server::Args>),
    /// Make this machine a node of a cluster that another machine serves.
    Agent(Box<agent::Args>),
    /// Let machines join the cluster, and see which may.
    #[command(subcommand)]
    Token(token::Verb),
    /// Work with the images of this machine.
    #[command(subcommand)]
    Image(image::Verb),
    /// Look whether this machine can run pods; say what to do where it cannot.
    Check(check::Args),
    /// Make gantry a service of this machine (systemd), and start it.
    Install(Box<install::Args>),
    /// Take away what `install` made, and stop every pod.
    Uninstall(install::UninstallArgs),
    /// Keep what `install` hands over; runs as the user whose it is.
    #[command(name = crate::install::kubeconfig::VERB, hide = true)]
    UserKubeconfig,
    /// Write everything that the control plane keeps into one file.
    Backup(backup::Args),
    /// Make the state of the control plane that of a backup.
    Restore(restore::Args),
    /// Stop every pod of a data directory and remove all that its instance made on this machine.
    Reset(reset::Args),
    /// Show objects.
    Get(Box<get::Args>),
    /// Show objects in full, with their events.
    Describe(describe::Args),
    /// Create objects of manifests or flags.
    Create(create::Args),
    /// Make objects be as manifests say.
    Apply(apply::Args),
    /// Delete objects.
    Delete(Box<delete::Args>),
    /// Show what containers write.
    Logs(Box<logs::Args>),
    /// Show what the fields of a kind mean.
    Explain(explain::Args),
    /// Run a command in a container.
    Exec(exec::Args),
    /// Follow and steer the rollout of a workload.
    #[command(subcommand)]
    Rollout(rollout::Verb),
    /// Change how many replicas a workload has.
    Scale(scale::Args),
    /// Let a workload have as many replicas as its load needs.
    Autoscale(Box<autoscale::Args>),
    /// Change one part of a workload's pods.
    #[command(subcommand)]
    Set(set::Verb),
    /// Change fields of objects by a patch.
    Patch(Box<patch::Args>),
    /// Put objects of manifests in the place of those that exist.
    Replace(Box<replace::Args>),
    /// Change objects in an editor.
    Edit(Box<edit::Args>),
    /// Show what apply would change.
    Diff(diff::Args),
    /// Make a service for the pods of an object.
    Expose(Box<expose::Args>),
    /// Show what happened lately.
    Events(events::Args),
    /// Run one pod.
    Run(Box<run::Args>),
    /// Attach to what runs in a container.
    Attach(attach::Args),
    /// Copy files and directories into and out of containers.
    Cp(cp::Args),
    /// Let ports of this machine lead to a pod.
    PortForward(port_forward::Args),
    /// Show what keeps a pod from running.
    Why(why::Args),
    /// Ask who one is and what one may.
    #[command(subcommand)]
    Auth(auth::Verb),
    /// Look at kubeconfigs and change them.
    #[command(subcommand)]
    Config(config::Verb),
    /// Show where the control plane answers.
    ClusterInfo,
    /// Print a script that completes verbs and flags in a shell.
    Completion(completion::Args),
    /// Set and take away labels.
    Label(Box<label::Args>),
    /// Set and take away annotations.
    Annotate(Box<label::Args>),
    /// Let nodes take no new pods.
    Cordon(cordon::Args),
    /// Let nodes take new pods again.
    Uncordon(cordon::Args),
    /// Close nodes and evict their pods.
    Drain(Box<drain::Args>),
    /// Set and take away taints of nodes.
    Taint(Box<taint::Args>),
    /// Show what nodes and pods use.
    #[command(subcommand)]
    Top(top::Verb),
    /// Show the kinds that the server keeps.
    ApiResources(api_resources::Args),
    /// Show the groups and versions that the server keeps.
    ApiVersions,
    /// Wait until something holds.
    Wait(Box<wait::Args>),
    /// Show the versions of this program and of the server.
    Version(version::Args),
}

/// Where an instance lives.
#[derive(Debug, clap::Args)]
pub(crate) struct DataDir {
    /// Where everything that must last is kept.
    #[arg(long, default_value = "/var/lib/gantry", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Carries out a verb.
pub(crate) fn run(verb: Verb, connect: &ConnectArgs) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Server(args) => server::run(*args),
        Verb::Agent(args) => agent::run(*args),
        Verb::Token(verb) => converse(token::run(connect, &verb)),
        Verb::Image(verb) => image::run(verb),
        Verb::Check(args) => check::run(&args),
        Verb::Reset(args) => reset::run(&args),
        Verb::Install(args) => install::install(*args),
        Verb::Uninstall(args) => install::uninstall(&args),
        Verb::UserKubeconfig => crate::install::kubeconfig::run().map(|()| ExitCode::SUCCESS),
        Verb::Backup(args) => backup::run(connect, &args),
        Verb::Restore(args) => restore::run(connect, &args),
        Verb::Get(args) => converse(get::run(connect, &args)),
        Verb::Describe(args) => converse(describe::run(connect, &args)),
        Verb::Create(args) => converse(create::run(connect, &args)),
        Verb::Version(args) => converse(version::run(connect, &args)),
        Verb::Apply(args) => converse(apply::run(connect, &args)),
        Verb::Delete(args) => converse(delete::run(connect, &args)),
        Verb::Logs(args) => converse(logs::run(connect, &args)),
        Verb::Explain(args) => converse(explain::run(connect, &args)),
        Verb::Exec(args) => converse(exec::run(connect, &args)),
        Verb::Rollout(verb) => converse(rollout::run(connect, &verb)),
        Verb::Scale(args) => converse(scale::run(connect, &args)),
        Verb::Autoscale(args) => converse(autoscale::run(connect, &args)),
        Verb::Set(verb) => converse(set::run(connect, &verb)),
        Verb::Patch(args) => converse(patch::run(connect, &args)),
        Verb::Replace(args) => converse(replace::run(connect, &args)),
        Verb::Edit(args) => converse(edit::run(connect, &args)),
        Verb::Diff(args) => converse(diff::run(connect, &args)),
        Verb::Expose(args) => converse(expose::run(connect, &args)),
        Verb::Events(args) => converse(events::run(connect, &args)),
        Verb::Run(args) => converse(run::run(connect, &args)),
        Verb::Cp(args) => converse(cp::run(connect, &args)),
        Verb::Attach(args) => converse(attach::run(connect, &args)),
        Verb::Auth(verb) => converse(auth::run(connect, &verb)),
        Verb::ClusterInfo => converse(cluster_info::run(connect)),
        Verb::Completion(args) => completion::run(&args),
        Verb::Config(verb) => config::run(connect, &verb),
        Verb::PortForward(args) => converse(port_forward::run(connect, &args)),
        Verb::Why(args) => converse(why::run(connect, &args)),
        Verb::Label(args) => converse(label::run(connect, &args, label::Mark::Label)),
        Verb::Annotate(args) => converse(label::run(connect, &args, label::Mark::Annotation)),
        Verb::Cordon(args) => converse(cordon::run(connect, &args, true)),
        Verb::Uncordon(args) => converse(cordon::run(connect, &args, false)),
        Verb::Drain(args) => converse(drain::run(connect, &args)),
        Verb::Top(verb) => converse(top::run(connect, &verb)),
        Verb::Taint(args) => converse(taint::run(connect, &args)),
        Verb::ApiResources(args) => converse(api_resources::run(connect, &args)),
        Verb::ApiVersions => converse(api_resources::versions(connect)),
        Verb::Wait(args) => converse(wait::run(connect, &args)),
    }
}

/// Runs a verb that talks to a server.
fn converse<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(verb);
    // A read of standard input that nobody will answer must not keep the process.
    runtime.shutdown_background();
    done
}

/// Keeps the failure of one object for the end, and goes on with the next; nothing goes on once nobody reads.
fn note(done: Result<(), Failure>, failures: &mut Vec<Failure>) -> Result<(), Failure> {
    match done {
        Err(Failure::OutputClosed) => Err(Failure::OutputClosed),
        done => {
            failures.extend(done.err());
            Ok(())
        }
    }
}

/// Tells failures of single objects, and the exit code that they make.
fn told(failures: Vec<Failure>) -> ExitCode {
    failures.iter().for_each(|failure| screen::note(failure.to_string()));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
