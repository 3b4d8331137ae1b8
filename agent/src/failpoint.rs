//! Points at which a test ends this process at once, as a pulled plug would.
//!
//! `GANTRY_FAILPOINT=StartContainer:done` ends it when a container has been started and nobody has heard of it yet. A point
//! is a command of the pod machine (`asked`, `done`) or a place within one. Builds without debug assertions have none.

/// A step of the agent.
#[derive(Debug)]
pub(crate) struct Step(#[cfg(debug_assertions)] String);

#[cfg(debug_assertions)]
impl Step {
    /// The step that carries out a command: the command's name.
    pub(crate) fn of(command: &agent_pod::protocol::Command) -> Self {
        // Mostly nobody asks, and the name need not be made.
        let text = asked().map(|_| format!("{command:?}")).unwrap_or_default();
        Self(text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned())
    }

    /// Ends the process if the test asked for it at this moment of the step.
    pub(crate) fn reach(&self, moment: &str) {
        reach(&self.0, moment);
    }
}

/// What `GANTRY_FAILPOINT` says.
#[cfg(debug_assertions)]
fn asked() -> Option<&'static str> {
    static ASKED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ASKED.get_or_init(|| std::env::var("GANTRY_FAILPOINT").ok()).as_deref()
}

/// Ends the process if the test asked for it at this moment of a step.
#[cfg(debug_assertions)]
pub(crate) fn reach(step: &str, moment: &str) {
    if asked().and_then(|asked| asked.split_once(':')) == Some((step, moment)) {
        tracing::error!(step, moment, "a test ends this process here");
        // Nothing that runs at an ordinary end may run.
        if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL) {
            tracing::error!(%error, "it cannot");
        }
    }
}

#[cfg(not(debug_assertions))]
impl Step {
    pub(crate) fn of(_: &agent_pod::protocol::Command) -> Self {
        Self()
    }

    pub(crate) fn reach(&self, _: &str) {}
}

#[cfg(not(debug_assertions))]
pub(crate) fn reach(_: &str, _: &str) {}
