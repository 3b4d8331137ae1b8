//! `--config FILE`: a YAML map of flags by their long names. A flag on the command line wins over the file.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command};
use serde_yaml::Value;

use crate::failure::Failure;

/// Where the file is looked for when nobody names one.
pub(crate) const DEFAULT: &str = "/etc/gantry/config.yaml";

/// Verbs that take one.
const VERBS: [&str; 2] = ["server", "agent"];

/// The arguments with those of the file behind them; `program` says which flags a verb has.
pub(crate) fn expand(args: Vec<OsString>, program: &Command) -> Result<Vec<OsString>, Failure> {
    let verb = args.get(1).and_then(|verb| verb.to_str());
    let Some(verb) = verb.and_then(|name| program.find_subcommand(name)).filter(|v| VERBS.contains(&v.get_name()))
    else {
        return Ok(args);
    };
    let named = named_file(&args);
    let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(args),
        Err(error) => return Err(Failure::error(format!("--config {}: {error}", path.display()))),
    };
    let further = flags(&text, &args, verb).map_err(|what| Failure::error(format!("{}: {what}", path.display())))?;
    Ok(args.into_iter().chain(further.into_iter().map(OsString::from)).collect())
}

/// The file that the command line names.
fn named_file(args: &[OsString]) -> Option<PathBuf> {
    let mut rest = args.iter().skip(2);
    while let Some(arg) = rest.next() {
        if arg == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// The flags that a file's text asks for, without those that are given already.
fn flags(text: &str, given: &[OsString], verb: &Command) -> Result<Vec<String>, String> {
    let settings: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let settings = match settings {
        Value::Null => return Ok(vec![]),
        Value::Mapping(settings) => settings,
        _ => return Err("expected a map of flags, such as `https-listen-port: 6443`".into()),
    };
    let mut flags = Vec::new();
    for (key, value) in settings {
        let Value::String(name) = key else { return Err(format!("{key:?}: expected the long name of a flag")) };
        let flag = verb.get_arguments().find(|arg| arg.get_long() == Some(&name) && name != "config");
        let flag = flag.ok_or_else(|| format!("{name}: {} has no such flag", verb.get_name()))?;
        if given.iter().any(|arg| is_flag(arg, &name)) {
            continue;
        }
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            match value {
                Value::Bool(true) => flags.push(format!("--{name}")),
                Value::Bool(false) => {}
                _ => return Err(format!("{name}: expected true or false")),
            }
            continue;
        }
        let values = match value {
            Value::Sequence(values) if matches!(flag.get_action(), ArgAction::Append) => values,
            Value::Sequence(_) => return Err(format!("{name}: expected one value, not a list")),
            value => vec![value],
        };
        for value in values {
            flags.push(format!("--{name}={}", scalar(&value).ok_or_else(|| format!("{name}: expected a text"))?));
        }
    }
    Ok(flags)
}

fn is_flag(arg: &OsStr, name: &str) -> bool {
    let rest = arg.to_str().and_then(|arg| arg.strip_prefix("--")).and_then(|arg| arg.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The flag itself, for help: it is read before the other flags are.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// File of flags by their long names; a flag given here wins.
    #[arg(long, default_value = DEFAULT, value_name = "FILE")]
    config: Box<Path>,
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn verb() -> Command {
        Command::new("server")
            .arg(Arg::new("port").long("https-listen-port"))
            .arg(Arg::new("san").long("tls-san").action(ArgAction::Append))
            .arg(Arg::new("off").long("disable-agent").action(ArgAction::SetTrue))
            .arg(Arg::new("config").long("config"))
    }

    fn given(args: &[&str]) -> Vec<OsString> {
        args.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_file_says_flags_and_the_command_line_wins() {
        let text = "https-listen-port: 7443\ntls-san: [a.example, b.example]\ndisable-agent: true\n";
        let all = ["--https-listen-port=7443", "--tls-san=a.example", "--tls-san=b.example", "--disable-agent"];
        assert_eq!(flags(text, &given(&[]), &verb()).unwrap(), all);
        assert_eq!(flags(text, &given(&["--https-listen-port", "1"]), &verb()).unwrap(), all[1..]);
        assert_eq!(flags(text, &given(&["--tls-san=c"]), &verb()).unwrap(), [all[0], all[3]]);
        assert!(flags("# nothing\n", &given(&[]), &verb()).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, expected) in [
            ("tls-sans: x\n", "tls-sans: server has no such flag"),
            ("config: x\n", "config: server has no such flag"),
            ("disable-agent: 1\n", "disable-agent: expected true or false"),
            ("https-listen-port: [1]\n", "https-listen-port: expected one value"),
            ("tls-san: [{a: b}]\n", "tls-san: expected a text"),
            ("- a\n", "expected a map of flags"),
        ] {
            let said = flags(text, &given(&[]), &verb()).unwrap_err();
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }

    #[test]
    fn the_file_is_found_on_the_command_line() {
        assert_eq!(named_file(&given(&["gantry", "server", "--config", "x"])), Some("x".into()));
        assert_eq!(named_file(&given(&["gantry", "server", "--config=y"])), Some("y".into()));
        assert_eq!(named_file(&given(&["gantry", "server"])), None);
    }
}
