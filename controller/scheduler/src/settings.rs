//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1), as `gantry server --scheduler-config FILE` takes it.
//! What is honoured is read; what means nothing here is told; everything else is refused with its path.
mod arguments;
mod plugins;

use crate::profile::{DEFAULT_NAME, Profile, Profiles, Shared};
use crate::queue::Backoff;
use plugins::Plugins;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// Fields of the file that change nothing here, and why.
const IDLE: [(&str, &str); 7] = [
    ("parallelism", "one pass over the nodes is shared by all pods that are alike"),
    ("percentageOfNodesToScore", "all nodes are scored"),
    ("leaderElection", "the scheduler is a part of the server"),
    ("clientConnection", "the scheduler is a part of the server"),
    ("enableProfiling", "/debug/pprof of the server is on for who may ask for it"),
    ("enableContentionProfiling", "the scheduler waits for no lock"),
    ("delayCacheUntilActive", "the scheduler is a part of the server"),
];

/// What the scheduler is told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How pods are placed, by their `schedulerName`.
    pub profiles: Profiles,
    /// How long pods wait before they are tried again.
    pub backoff: Backoff,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    profiles: Vec<ProfileEntry>,
    pod_initial_backoff_seconds: Option<u64>,
    pod_max_backoff_seconds: Option<u64>,
    #[serde(default)]
    extenders: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileEntry {
    #[serde(default = "default_name")]
    scheduler_name: String,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
    percentage_of_nodes_to_score: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

fn default_name() -> String {
    DEFAULT_NAME.to_owned()
}

impl Settings {
    /// Reads the text of a file; the error names the field and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut value = api::yaml::configuration(text, API_VERSION, KIND)?;
        for (field, why) in IDLE {
            if value.as_object_mut().is_some_and(|fields| fields.remove(field).is_some()) {
                tracing::warn!(field, why, "a field of the scheduler's configuration changes nothing");
            }
        }
        let file: File = strict(value, "")?;
        if !file.extenders.is_empty() {
            return Err("extenders: not supported; use profiles".to_owned());
        }
        let defaults = Self::default();
        let seconds = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_secs);
        let first = seconds(file.pod_initial_backoff_seconds, defaults.backoff.first);
        let longest = seconds(file.pod_max_backoff_seconds, defaults.backoff.longest);
        if first.is_zero() {
            return Err("podInitialBackoffSeconds: expected more than 0".to_owned());
        }
        if longest < first {
            return Err("podMaxBackoffSeconds: expected no less than podInitialBackoffSeconds".to_owned());
        }
        let mut profiles: Vec<Shared> = Vec::new();
        for (index, entry) in file.profiles.into_iter().enumerate() {
            let path = format!("profiles[{index}]");
            if entry.scheduler_name.is_empty() {
                return Err(format!("{path}.schedulerName: expected a name"));
            }
            if profiles.iter().any(|other| *other.name == *entry.scheduler_name) {
                return Err(format!("{path}.schedulerName: {:?} is there already", entry.scheduler_name));
            }
            if entry.percentage_of_nodes_to_score.is_some() {
                let (field, why) = (format!("{path}.percentageOfNodesToScore"), "all nodes are scored");
                tracing::warn!(field, why, "a field of the scheduler's configuration changes nothing");
            }
            profiles.push(Shared::new(profile(entry, &path)?));
        }
        let profiles = if profiles.is_empty() { defaults.profiles } else { Profiles(profiles) };
        Ok(Self { profiles, backoff: Backoff { first, longest } })
    }
}

fn profile(entry: ProfileEntry, path: &str) -> Result<Profile, String> {
    let mut profile = Profile::new(&entry.scheduler_name);
    entry.plugins.apply(&mut profile, &format!("{path}.plugins"))?;
    let mut seen: Vec<&str> = Vec::new();
    for (index, one) in entry.plugin_config.iter().enumerate() {
        let path = format!("{path}.pluginConfig[{index}]");
        if seen.contains(&one.name.as_str()) {
            return Err(format!("{path}.name: {:?} is there already", one.name));
        }
        seen.push(&one.name);
        arguments::apply(&one.name, one.args.clone(), &mut profile, &path)?;
    }
    Ok(profile)
}

/// Reads a value; what is wrong is told with its path, which begins with `path`.
fn strict<T: DeserializeOwned>(value: Value, path: &str) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let below = error.path().to_string();
        let dot = if path.is_empty() || below == "." || below.starts_with('[') { "" } else { "." };
        let below = if below == "." { "" } else { &below };
        let separator = if path.is_empty() && below.is_empty() { "" } else { ": " };
        format!("{path}{dot}{below}{separator}{}", error.into_inner())
    })
}

#[cfg(test)]
mod tests;
