//! Objects made of flags, for `gantry create KIND`.

mod access;
mod network;
mod policy;
mod secret;
mod work;

use std::path::PathBuf;

use base64::Engine;
use http::Method;
use serde_json::{Value, json};

use crate::client::{Call, Session};
use crate::duration::DurationArg;
use crate::failure::Failure;
use crate::kind::Catalog;
use crate::screen;

/// Kinds that can be made of flags.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Generate {
    /// A namespace.
    #[command(visible_alias = "ns")]
    Namespace {
        /// Its name.
        name: String,
    },
    /// A service account.
    #[command(name = "serviceaccount", visible_alias = "sa")]
    ServiceAccount {
        /// Its name.
        name: String,
    },
    /// A config map of literals and files.
    #[command(name = "configmap", visible_alias = "cm")]
    ConfigMap {
        /// Its name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// A secret.
    #[command(subcommand)]
    Secret(secret::Secret),
    /// A deployment.
    #[command(visible_alias = "deploy")]
    Deployment {
        /// Its name.
        name: String,
        /// Image of a container; may be repeated.
        #[arg(long, required = true, value_name = "IMAGE")]
        image: Vec<String>,
        /// How many pods.
        #[arg(long, default_value_t = 1, value_name = "COUNT")]
        replicas: u32,
        /// Port that the container listens on.
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
        /// The command, after --.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// A job: pods that run to their end.
    Job(work::Job),
    /// A cron job: jobs by the clock.
    #[command(name = "cronjob", visible_alias = "cj")]
    CronJob(work::CronJob),
    /// A service for the pods labelled app=NAME.
    #[command(subcommand, visible_alias = "svc")]
    Service(network::Service),
    /// An ingress: which requests from outside go to which services.
    #[command(visible_alias = "ing")]
    Ingress(network::Ingress),
    /// A role: what may be done with which resources of a namespace.
    Role(access::Role),
    /// A cluster role: what may be done with which resources everywhere, and with paths.
    #[command(name = "clusterrole")]
    ClusterRole(access::ClusterRole),
    /// A role binding: who has a role in a namespace.
    #[command(name = "rolebinding")]
    RoleBinding(access::Binding),
    /// A cluster role binding: who has a cluster role everywhere.
    #[command(name = "clusterrolebinding")]
    ClusterRoleBinding(access::Binding),
    /// A budget of pods that may be away at once.
    #[command(name = "poddisruptionbudget", visible_alias = "pdb")]
    Budget(policy::Budget),
    /// A priority of pods.
    #[command(name = "priorityclass", visible_alias = "pc")]
    PriorityClass(policy::PriorityClass),
    /// A quota of a namespace.
    #[command(name = "quota", visible_alias = "resourcequota")]
    Quota(policy::Quota),
    /// A token of a service account.
    Token(Token),
}

/// Where keys and values come from.
#[derive(Debug, clap::Args)]
pub(crate) struct Data {
    /// KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// FILE, KEY=FILE or a directory; may be repeated.
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
}

/// Flags of `gantry create token`.
#[derive(Debug, clap::Args)]
pub(crate) struct Token {
    /// The service account.
    name: String,
    /// Whom the token is for; may be repeated.
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// How long it is good for.
    #[arg(long, value_name = "DURATION")]
    duration: Option<DurationArg>,
    /// Kind of the object with which the token ends: Pod, Secret or Node.
    #[arg(long, value_name = "KIND", requires = "bound_object_name")]
    bound_object_kind: Option<String>,
    /// Name of that object.
    #[arg(long, value_name = "NAME", requires = "bound_object_kind")]
    bound_object_name: Option<String>,
    /// Uid of that object.
    #[arg(long, value_name = "UID", requires = "bound_object_kind")]
    bound_object_uid: Option<String>,
}

impl Token {
    /// Asks the server for the token and shows it.
    pub(crate) async fn request(&self, session: &Session) -> Result<(), Failure> {
        let mut spec = json!({"audiences": self.audience});
        if let Some(duration) = self.duration.and_then(DurationArg::nonzero) {
            spec["expirationSeconds"] = json!(duration.as_secs());
        }
        if let (Some(kind), Some(name)) = (&self.bound_object_kind, &self.bound_object_name) {
            if !matches!(kind.as_str(), "Pod" | "Secret" | "Node") {
                let wrong = format!("--bound-object-kind: {kind:?}: expected Pod, Secret or Node");
                return Err(Failure::error(wrong));
            }
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": kind, "name": name});
            if let Some(uid) = &self.bound_object_uid {
                spec["boundObjectRef"]["uid"] = json!(uid);
            }
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let (namespace, name) = (crate::kind::segment(&session.namespace), crate::kind::segment(&self.name));
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let (_, answer) = session.send(Method::POST, Call::to(path).json(&request)).await?;
        match answer.pointer("/status/token").and_then(Value::as_str) {
            Some(token) => screen::line(token),
            None => Err(Failure::error("the server answered without a token")),
        }
    }
}

impl Generate {
    /// The object that the flags describe; `catalog` is that of the server behind `session`.
    pub(crate) async fn object(&self, session: &Session, catalog: &Catalog) -> Result<Value, Failure> {
        let named = |api_version: &str, kind: &str, name: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        let base64 = |bytes: &[u8]| Value::String(base64::engine::general_purpose::STANDARD.encode(bytes));
        match self {
            Self::Namespace { name } => Ok(named("v1", "Namespace", name)),
            Self::ServiceAccount { name } => Ok(named("v1", "ServiceAccount", name)),
            Self::ConfigMap { name, data } => {
                let mut object = named("v1", "ConfigMap", name);
                for (key, bytes) in data.read()? {
                    match String::from_utf8(bytes) {
                        Ok(text) => object["data"][key] = Value::String(text),
                        Err(error) => object["binaryData"][key] = base64(error.as_bytes()),
                    }
                }
                Ok(object)
            }
            Self::Secret(secret) => secret.object(),
            Self::Job(job) => job.object(session, catalog).await,
            Self::CronJob(job) => Ok(job.object()),
            Self::Service(service) => service.object(),
            Self::Ingress(ingress) => ingress.object(),
            Self::Deployment { name, image, replicas, port, command } => {
                if image.len() > 1 && !command.is_empty() {
                    return Err(Failure::error("cannot specify multiple --image options and command"));
                }
                let mut object = named("apps/v1", "Deployment", name);
                let labels = json!({"app": name});
                let containers = image.iter().map(|image| {
                    let mut container = json!({"name": container_name(image), "image": image});
                    if !command.is_empty() {
                        container["command"] = json!(command);
                    }
                    if let Some(port) = port {
                        container["ports"] = json!([{"containerPort": port}]);
                    }
                    container
                });
                let containers: Vec<Value> = containers.collect();
                object["metadata"]["labels"] = labels.clone();
                object["spec"] = json!({"replicas": replicas, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}});
                Ok(object)
            }
            Self::Role(role) => role.object(catalog),
            Self::ClusterRole(role) => role.object(catalog),
            Self::RoleBinding(binding) => binding.object("RoleBinding"),
            Self::ClusterRoleBinding(binding) => binding.object("ClusterRoleBinding"),
            Self::Budget(budget) => budget.object(),
            Self::PriorityClass(class) => Ok(class.object()),
            Self::Quota(quota) => quota.object(),
            Self::Token(_) => Err(Failure::error("a token is asked for, not created")),
        }
    }
}

/// The last part of an image's name, without tag and digest, in the letters that a container's name may have.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let last = last.split(['@', ':']).next().unwrap_or(last);
    let name: String =
        last.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    name.trim_matches('-').to_owned()
}

impl Data {
    /// Keys and values, each key once.
    fn read(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let mut add = |key: String, value: Vec<u8>| match all.iter().any(|(known, _)| *known == key) {
            true => Err(Failure::error(format!("cannot add key {key:?}: another key by that name already exists"))),
            false => {
                all.push((key, value));
                Ok(())
            }
        };
        for literal in &self.from_literal {
            match literal.split_once('=') {
                Some((key, value)) if !key.is_empty() => add(key.to_owned(), value.as_bytes().to_vec())?,
                _ => return Err(Failure::error(format!("invalid literal source {literal}, expected key=value"))),
            }
        }
        for source in &self.from_file {
            let (key, path) = match source.split_once('=') {
                Some((key, path)) => (Some(key.to_owned()), PathBuf::from(path)),
                None => (None, PathBuf::from(source)),
            };
            let failed = |error: std::io::Error| Failure::error(format!("{}: {error}", path.display()));
            let files = match (path.is_dir(), &key) {
                (true, Some(_)) => return Err(Failure::error(format!("{source}: a directory cannot have one key"))),
                (true, None) => {
                    let entries = std::fs::read_dir(&path).map_err(failed)?;
                    let files =
                        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
                    let mut files: Vec<PathBuf> = files.into_iter().filter(|file| file.is_file()).collect();
                    files.sort();
                    files
                }
                (false, _) => vec![path.clone()],
            };
            for file in files {
                let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let bytes =
                    std::fs::read(&file).map_err(|error| Failure::error(format!("{}: {error}", file.display())))?;
                add(key.clone().unwrap_or(name), bytes)?;
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_names_follow_their_flags() {
        let data = |literals: &[&str]| Data {
            from_literal: literals.iter().map(|literal| (*literal).to_owned()).collect(),
            from_file: Vec::new(),
        };
        let read = |literals: &[&str]| data(literals).read().ok();
        assert_eq!(read(&["a=b=c"]), Some(vec![("a".to_owned(), b"b=c".to_vec())]));
        assert_eq!((read(&["a=b", "a=c"]), read(&["a"])), (None, None));
        assert_eq!(container_name("reg.io:5000/a/My_App:1@sha256:x"), "my-app");
    }
}
