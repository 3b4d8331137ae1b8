//! Verbs for people, and the entry of the one binary `gantry`.
//! Never holds logic of the control plane or the agent.
//! Start reading here.

use clap::Parser;

mod verb;

/// A container orchestrator in one binary.
#[derive(Debug, Parser)]
#[command(name = "gantry", disable_version_flag = true)]
struct Gantry {
    #[command(subcommand)]
    verb: verb::Verb,
}

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(verb::run(Gantry::parse().verb))
}
