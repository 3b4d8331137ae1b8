//! Verbs for people, and the entry of the one binary `gantry`.
//! Never holds logic of the control plane or the agent.
//! Start reading here.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use agent_sys::allocator::Allocator;
use clap::{CommandFactory as _, Parser};

mod change;
mod client;
mod config_file;
mod describe;
mod duration;
mod failure;
mod generate;
mod install;
mod kind;
mod kubeconfig;
mod list;
mod manifest;
mod merge_diff;
mod node_flags;
mod output;
mod pods;
mod process;
mod rollout;
mod screen;
mod service;
mod state_version;
mod stream;
mod target;
mod terminal;
mod verb;
mod watch;
mod why;
mod workload;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new(&["server", "agent"]);

/// A container orchestrator in one binary.
#[derive(Debug, Parser)]
#[command(name = "gantry", disable_version_flag = true)]
struct Gantry {
    #[command(subcommand)]
    verb: verb::Verb,
    #[command(flatten)]
    connect: kubeconfig::ConnectArgs,
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // The runtime and the monitor fork: they must run before anything could start a thread.
    let called = args.first().and_then(|name| Path::new(name).file_name()?.to_str());
    if called == Some("gantry-oci") {
        return exit_code(agent_runtime::cli::main(args));
    }
    if let [_, verb, config] = args.as_slice()
        && verb == "monitor"
    {
        return exit_code(agent_runtime::monitor::main(Path::new(config)));
    }
    if let [_, verb, config] = args.as_slice()
        && verb == "dns"
    {
        let mut registry = prometheus_client::registry::Registry::default();
        process::register(&mut registry);
        return exit_code(agent::dns::main(Path::new(config), registry));
    }
    let args = match config_file::expand(args, &Gantry::command()) {
        Ok(args) => args,
        Err(failure) => {
            screen::note(failure.to_string());
            return ExitCode::FAILURE;
        }
    };
    let gantry = match Gantry::try_parse_from(args) {
        Ok(gantry) => gantry,
        Err(error) => {
            // Help is no failure; a closed pipe is none either.
            drop(error.print());
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match verb::run(gantry.verb, &gantry.connect) {
        Ok(code) => code,
        Err(failure::Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            screen::note(failure.to_string());
            ExitCode::FAILURE
        }
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_flags_that_fit_together() {
        use clap::CommandFactory as _;
        Gantry::command().debug_assert();
    }
}
