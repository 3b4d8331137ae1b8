//! `gantry install` and `gantry uninstall`: gantry as a service of this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use super::completion;
use crate::failure::Failure;
use crate::install::{self, PACKAGED_UNIT, RECORD, Record, Step, Wishes, act};
use crate::{Gantry, config_file, screen};

/// Flags of `gantry install`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the program goes.
    #[arg(long, default_value = "/usr/local/bin", value_name = "DIR")]
    bin_dir: PathBuf,
    /// Make this machine a node of a cluster that another machine serves; --server and --token belong into
    /// /etc/gantry/config.yaml or behind --.
    #[arg(long)]
    agent: bool,
    /// Who gets the kubeconfig; by default who called sudo, or root.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Install only; the service starts with the machine.
    #[arg(long)]
    no_start: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Flags of `gantry server`, or `gantry agent`, for the service; /etc/gantry/config.yaml takes them as well.
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

/// Flags of `gantry uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArgs {
    /// Remove objects, images, volumes and /etc/gantry as well.
    #[arg(long)]
    purge: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn install(args: Args) -> Result<ExitCode, Failure> {
    let verb = if args.agent { "agent" } else { "server" };
    // A node has no administrator's kubeconfig to give.
    let user = args.user.or_else(|| std::env::var("SUDO_USER").ok()).or_else(|| Some("root".into()));
    let wishes = Wishes {
        data_dir: data_dir(verb, &args.flags)?,
        bin_dir: args.bin_dir,
        program: std::env::current_exe()?,
        verb,
        flags: args.flags,
        user: user.filter(|_| !args.agent),
        has_config: Path::new(config_file::DEFAULT).exists(),
        start: !args.no_start,
    };
    let (steps, _) = install::install(&wishes, completion::script);
    if !args.dry_run {
        may_change_services()?;
        if Path::new(PACKAGED_UNIT).exists() {
            return Err(Failure::error(format!(
                "{PACKAGED_UNIT} exists: gantry is installed as a package; upgrade that one, or remove it first"
            )));
        }
    }
    carry_out(&steps, args.dry_run, &mut |step| Err(step))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn uninstall(args: &UninstallArgs) -> Result<ExitCode, Failure> {
    if !args.dry_run {
        may_change_services()?;
    }
    let text = match std::fs::read_to_string(RECORD) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::error(format!(
                "{RECORD} does not exist: gantry was not installed with `gantry install` (a package: apt remove gantry)"
            )));
        }
        Err(error) => return Err(Failure::error(format!("{RECORD}: {error}"))),
    };
    let record: Record = serde_json::from_str(&text).map_err(|error| Failure::error(format!("{RECORD}: {error}")))?;
    let mut failures = Vec::new();
    // What cannot be taken away does not keep the rest.
    carry_out(&install::uninstall(&record, args.purge), args.dry_run, &mut |failure| {
        failures.push(failure);
        Ok(())
    })?;
    Ok(super::told(failures))
}

fn carry_out(
    steps: &[Step],
    dry_run: bool,
    failed: &mut dyn FnMut(Failure) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for step in steps {
        screen::line(step.to_string())?;
        if !dry_run {
            act::act(step).or_else(&mut *failed)?;
        }
    }
    Ok(())
}

fn may_change_services() -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::error("a service is installed by root: sudo gantry install"));
    }
    // sd_booted(3): how a program learns that systemd runs the machine.
    if !Path::new("/run/systemd/system").exists() {
        return Err(Failure::error("this machine is not run by systemd: let its init system start `gantry server`"));
    }
    Ok(())
}

/// Where a service with these flags, and those of the configuration file, keeps everything.
fn data_dir(verb: &str, flags: &[String]) -> Result<PathBuf, Failure> {
    let line = config_file::expand(install::command_line(verb, flags), &Gantry::command())?;
    let gantry = Gantry::try_parse_from(line).map_err(|error| Failure::new(error.to_string()))?;
    match gantry.verb {
        super::Verb::Server(server) => Ok(server.data_dir().to_owned()),
        super::Verb::Agent(agent) => Ok(agent.data_dir().to_owned()),
        _ => Err(Failure::error("expected flags of `gantry server` or `gantry agent`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_server_are_checked() {
        let flags = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(data_dir("server", &flags(&["--data-dir=/srv/g"])).unwrap(), Path::new("/srv/g"));
        let agent = flags(&["--server=https://a:1", "--data-dir=/srv/a"]);
        assert_eq!(data_dir("agent", &agent).unwrap(), Path::new("/srv/a"));
        assert!(data_dir("agent", &[]).unwrap_err().to_string().contains("--server"));
        let said = data_dir("server", &flags(&["--bogus"])).unwrap_err().to_string();
        assert!(said.contains("--bogus"), "{said}");
    }
}
