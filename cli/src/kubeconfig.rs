//! Which cluster, user and namespace a verb speaks for: flags, `KUBECONFIG`, `~/.kube/config`, then this machine's own.

use std::path::{Path, PathBuf};

use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::failure::Failure;

/// Where `gantry server` writes the administrator's kubeconfig.
pub(crate) const OWN: &str = "/etc/gantry/kubeconfig.yaml";

/// Flags that every verb with a cluster takes, before or after the verb.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectArgs {
    /// The kubeconfig; by default those of KUBECONFIG, ~/.kube/config or /etc/gantry/kubeconfig.yaml.
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Act as this user.
    #[arg(long = "as", global = true, value_name = "USER")]
    impersonate: Option<String>,
    /// With --as: act as a member of this group; may be repeated.
    #[arg(long, global = true, value_name = "GROUP", requires = "impersonate")]
    as_group: Vec<String>,
    /// Namespace; by default the context's.
    #[arg(short = 'n', long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

impl ConnectArgs {
    /// Whether a flag says which server is meant.
    pub(crate) fn names_a_server(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// The files that `config` reads and writes, the first of them for what is new; they need not exist.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        if let Some(file) = &self.kubeconfig {
            return Ok(vec![file.clone()]);
        }
        if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
            return Ok(std::env::split_paths(&list).filter(|file| !file.as_os_str().is_empty()).collect());
        }
        let found = candidates(self)?;
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
        Ok(if found.is_empty() { home.into_iter().collect() } else { found })
    }
}

/// A configuration and the place that it came from.
pub(crate) struct Found {
    pub(crate) config: Config,
    pub(crate) source: String,
}

/// Reads what the flags and the environment name.
pub(crate) async fn find(args: &ConnectArgs) -> Result<Found, Failure> {
    let files = candidates(args)?;
    let source = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(":");
    if files.is_empty() {
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
            && let Ok(config) = Config::incluster()
        {
            return Ok(Found { config, source: "the pod's service account".into() });
        }
        return Err(Failure::error(format!(
            "no kubeconfig: none of KUBECONFIG, ~/.kube/config and {OWN} exists; name one with --kubeconfig"
        )));
    }
    let mut merged = Kubeconfig::default();
    for file in &files {
        let read = Kubeconfig::read_from(file).map_err(|error| in_file(file, &error))?;
        merged = merged.merge(read).map_err(|error| in_file(file, &error))?;
    }
    if let Some(wanted) = &args.context
        && !merged.contexts.iter().any(|context| context.name == *wanted)
    {
        return Err(Failure::error(format!("context {wanted:?} does not exist in {source}")));
    }
    let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(merged, &options)
        .await
        .map_err(|error| Failure::error(format!("{source}: {}", crate::failure::chain(&error))))?;
    if let Some(user) = &args.impersonate {
        config.auth_info.impersonate = Some(user.clone());
        config.auth_info.impersonate_groups = Some(args.as_group.clone()).filter(|groups| !groups.is_empty());
    }
    // Logs and watches are silent for as long as nothing happens.
    config.read_timeout = None;
    // A person sees a refusal at once; a verb that asks again says so.
    config.default_retry = false;
    Ok(Found { config, source })
}

fn in_file(file: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::error(format!("{}: {}", file.display(), crate::failure::chain(error)))
}

fn candidates(args: &ConnectArgs) -> Result<Vec<PathBuf>, Failure> {
    if let Some(file) = &args.kubeconfig {
        return match file.exists() {
            true => Ok(vec![file.clone()]),
            false => Err(Failure::error(format!("stat {}: no such file or directory", file.display()))),
        };
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        // Files of the list that do not exist are left out, as kubectl does.
        let files: Vec<PathBuf> = std::env::split_paths(&list).filter(|file| file.exists()).collect();
        return match files.is_empty() {
            true => Err(Failure::error(format!("no file of KUBECONFIG={} exists", list.to_string_lossy()))),
            false => Ok(files),
        };
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    let known = home.into_iter().chain([PathBuf::from(OWN)]);
    Ok(known.into_iter().find(|file| file.exists()).into_iter().collect())
}
