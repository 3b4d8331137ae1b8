//! One file per verb.

mod server;

use clap::Subcommand;

/// What `gantry` can be told to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the control plane and, unless told otherwise, the agent of this machine.
    Server(server::Args),
}

/// Carries out a verb. Answers the exit code.
pub(crate) fn run(verb: Verb) -> u8 {
    match verb {
        Verb::Server(args) => server::run(args),
    }
}
