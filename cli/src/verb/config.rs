//! `gantry config`: looks at kubeconfigs and changes them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::kubeconfig::ConnectArgs;
use crate::output::json_text;
use crate::output::table::Columns;
use crate::screen;

/// What can be done with kubeconfigs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Show all of it; keys and certificates only with --raw.
    View(View),
    /// Show the contexts.
    GetContexts {
        /// Only these.
        names: Vec<String>,
        /// No line of titles.
        #[arg(long)]
        no_headers: bool,
        /// name.
        #[arg(short = 'o', long, value_name = "FORMAT")]
        output: Option<String>,
    },
    /// Show the names of the clusters.
    GetClusters,
    /// Show the names of the users.
    GetUsers,
    /// Show the name of the context in use.
    CurrentContext,
    /// Use another context from now on.
    #[command(alias = "use")]
    UseContext {
        /// Its name.
        name: String,
    },
    /// Make or change a context.
    SetContext {
        /// Its name.
        name: Option<String>,
        /// The context in use.
        #[arg(long, conflicts_with = "name")]
        current: bool,
        /// Name of the cluster.
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        /// Name of the user.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Make or change a cluster.
    SetCluster {
        /// Its name.
        name: String,
        /// URL of the API server.
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// A file with the certificate of its authority.
        #[arg(long, value_name = "FILE")]
        certificate_authority: Option<PathBuf>,
        /// Write the contents of files, not their paths.
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
            action = clap::ArgAction::Set)]
        embed_certs: bool,
        /// Name that the server's certificate has.
        #[arg(long, value_name = "NAME")]
        tls_server_name: Option<String>,
        /// Trust any certificate.
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
        insecure_skip_tls_verify: Option<bool>,
    },
    /// Make or change a user.
    SetCredentials {
        /// Its name.
        name: String,
        /// A bearer token.
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
        /// A file with a certificate.
        #[arg(long, value_name = "FILE")]
        client_certificate: Option<PathBuf>,
        /// A file with its key.
        #[arg(long, value_name = "FILE")]
        client_key: Option<PathBuf>,
        /// Write the contents of files, not their paths.
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false,
            action = clap::ArgAction::Set)]
        embed_certs: bool,
    },
    /// Give a context another name.
    RenameContext {
        /// Its name.
        from: String,
        /// The new one.
        to: String,
    },
    /// Delete a context.
    DeleteContext {
        /// Its name.
        name: String,
    },
    /// Delete a cluster.
    DeleteCluster {
        /// Its name.
        name: String,
    },
    /// Delete a user.
    DeleteUser {
        /// Its name.
        name: String,
    },
}

/// Flags of `gantry config view`.
#[derive(Debug, clap::Args)]
pub(crate) struct View {
    /// With keys, certificates and tokens.
    #[arg(long)]
    raw: bool,
    /// Only what the context in use needs.
    #[arg(long)]
    minify: bool,
    /// yaml or json.
    #[arg(short = 'o', long, default_value = "yaml", value_name = "FORMAT")]
    output: String,
}

/// Secrets and what stands in their place.
const HIDDEN: [(&str, &str); 6] = [
    ("certificate-authority-data", "DATA+OMITTED"),
    ("client-certificate-data", "DATA+OMITTED"),
    ("client-key-data", "DATA+OMITTED"),
    ("token", "REDACTED"),
    ("password", "REDACTED"),
    ("id-token", "REDACTED"),
];

/// The lists of a kubeconfig and the field of their entries.
const LISTS: [(&str, &str); 3] = [("contexts", "context"), ("clusters", "cluster"), ("users", "user")];

/// Kubeconfigs as they stand in their files, the first with precedence.
struct Files(Vec<(PathBuf, Value)>);

pub(crate) fn run(connect: &ConnectArgs, verb: &Verb) -> Result<ExitCode, Failure> {
    let mut files = Files::read(connect)?;
    match verb {
        Verb::View(args) => view(&files, args)?,
        Verb::GetContexts { names, no_headers, output } => contexts(&files, names, *no_headers, output.as_deref())?,
        Verb::GetClusters => names(&files, "clusters")?,
        Verb::GetUsers => names(&files, "users")?,
        Verb::CurrentContext => match files.current() {
            Some(name) => screen::line(screen::plain(&name))?,
            None => return Err(Failure::error("current-context is not set")),
        },
        Verb::UseContext { name } => {
            files.expect("contexts", name)?;
            files.0[0].1["current-context"] = json!(name);
            files.write(0)?;
            screen::line(format!("Switched to context \"{name}\"."))?;
        }
        Verb::SetContext { name, current, cluster, user } => {
            let name = match (name, current) {
                (Some(name), _) => name.clone(),
                (None, true) => files.current().ok_or_else(|| Failure::error("no current context is set"))?,
                (None, false) => return Err(Failure::error("expected the name of a context, or --current")),
            };
            let fields = [("cluster", cluster), ("user", user), ("namespace", &connect.namespace)];
            let fields = fields.into_iter().filter_map(|(key, value)| Some((key, json!(value.as_ref()?))));
            let done = files.set("contexts", &name, fields.collect())?;
            screen::line(format!("Context \"{name}\" {done}."))?;
        }
        Verb::SetCluster {
            name,
            server,
            certificate_authority,
            embed_certs,
            tls_server_name,
            insecure_skip_tls_verify,
        } => {
            let mut fields = Vec::new();
            fields.extend(server.as_ref().map(|url| ("server", json!(url))));
            fields.extend(tls_server_name.as_ref().map(|name| ("tls-server-name", json!(name))));
            fields.extend(insecure_skip_tls_verify.map(|skip| ("insecure-skip-tls-verify", json!(skip))));
            if let Some(file) = certificate_authority {
                fields.push(of_file("certificate-authority", "certificate-authority-data", file, *embed_certs)?);
            }
            files.set("clusters", name, fields)?;
            screen::line(format!("Cluster \"{name}\" set."))?;
        }
        Verb::SetCredentials { name, token, client_certificate, client_key, embed_certs } => {
            let mut fields = Vec::new();
            fields.extend(token.as_ref().map(|token| ("token", json!(token))));
            if let Some(file) = client_certificate {
                fields.push(of_file("client-certificate", "client-certificate-data", file, *embed_certs)?);
            }
            if let Some(file) = client_key {
                fields.push(of_file("client-key", "client-key-data", file, *embed_certs)?);
            }
            files.set("users", name, fields)?;
            screen::line(format!("User \"{name}\" set."))?;
        }
        Verb::RenameContext { from, to } => rename(&mut files, from, to)?,
        Verb::DeleteContext { name } => {
            if files.current().as_deref() == Some(name) {
                screen::note(
                    "warning: this removed your active context, use \"gantry config use-context\" to select a different one",
                );
            }
            let file = files.delete("contexts", name, "context")?;
            screen::line(format!("deleted context {name} from {}", file.display()))?;
        }
        Verb::DeleteCluster { name } => {
            let file = files.delete("clusters", name, "cluster")?;
            screen::line(format!("deleted cluster {name} from {}", file.display()))?;
        }
        Verb::DeleteUser { name } => {
            let file = files.delete("users", name, "user")?;
            screen::line(format!("deleted user {name} from {}", file.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file by its path, or its contents.
fn of_file(
    by_path: &'static str,
    by_content: &'static str,
    file: &Path,
    embed: bool,
) -> Result<(&'static str, Value), Failure> {
    let failed = |error: std::io::Error| Failure::error(format!("{}: {error}", file.display()));
    match embed {
        true => {
            let bytes = std::fs::read(file).map_err(failed)?;
            Ok((by_content, json!(base64::engine::general_purpose::STANDARD.encode(bytes))))
        }
        false => Ok((by_path, json!(std::path::absolute(file).map_err(failed)?))),
    }
}

impl Files {
    fn read(connect: &ConnectArgs) -> Result<Self, Failure> {
        let mut files = Vec::new();
        for path in connect.files()? {
            let value = match std::fs::read_to_string(&path) {
                Ok(text) => api::yaml::document(&text).map_err(|error| {
                    Failure::error(format!("{}: {}", path.display(), crate::failure::chain(&error)))
                })?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
                Err(error) => return Err(Failure::error(format!("{}: {error}", path.display()))),
            };
            let value = match value {
                Value::Null => json!({"apiVersion": "v1", "kind": "Config", "preferences": {},
                    "clusters": [], "contexts": [], "users": [], "current-context": ""}),
                value if value.is_object() => value,
                _ => return Err(Failure::error(format!("{}: expected a kubeconfig", path.display()))),
            };
            files.push((path, value));
        }
        match files.is_empty() {
            true => Err(Failure::error("no kubeconfig: name one with --kubeconfig or KUBECONFIG")),
            false => Ok(Self(files)),
        }
    }

    fn current(&self) -> Option<String> {
        let names = self.0.iter().filter_map(|(_, file)| file.get("current-context")?.as_str());
        names.map(str::to_owned).find(|name| !name.is_empty())
    }

    /// The entries of a list, the first of each name.
    fn entries(&self, list: &str) -> Vec<&Value> {
        let mut found: Vec<&Value> = Vec::new();
        for (_, file) in &self.0 {
            for entry in file.get(list).and_then(Value::as_array).into_iter().flatten() {
                if !found.iter().any(|known| known["name"] == entry["name"]) {
                    found.push(entry);
                }
            }
        }
        found.sort_by_key(|entry| name_of(entry).to_owned());
        found
    }

    fn place(&self, list: &str, name: &str) -> Option<(usize, usize)> {
        self.0.iter().enumerate().find_map(|(file, (_, value))| {
            let entries = value.get(list)?.as_array()?;
            Some((file, entries.iter().position(|entry| entry["name"] == name)?))
        })
    }

    fn expect(&self, list: &str, name: &str) -> Result<(usize, usize), Failure> {
        self.place(list, name).ok_or_else(|| match list {
            "contexts" => Failure::error(format!("no context exists with the name: \"{name}\"")),
            list => Failure::error(format!("no entry {name:?} in {list}")),
        })
    }

    /// Sets fields of an entry where it stands, or makes it in the first file.
    fn set(&mut self, list: &str, name: &str, fields: Vec<(&str, Value)>) -> Result<&'static str, Failure> {
        let field = LISTS.iter().find(|(known, _)| *known == list).map_or("context", |(_, field)| *field);
        let (done, (file, position)) = match self.place(list, name) {
            Some(place) => ("modified", place),
            None => {
                let value = &mut self.0[0].1;
                if !value.get(list).is_some_and(Value::is_array) {
                    value[list] = json!([]);
                }
                let entries = value[list].as_array_mut().into_iter().flat_map(|entries| {
                    entries.push(json!({"name": name, (field): {}}));
                    entries.len().checked_sub(1)
                });
                ("created", (0, entries.last().unwrap_or(0)))
            }
        };
        let entry = &mut self.0[file].1[list][position];
        if !entry.get(field).is_some_and(Value::is_object) {
            entry[field] = json!({});
        }
        for (key, value) in fields {
            // A path and its contents exclude each other.
            let twin = key.strip_suffix("-data").map_or_else(|| format!("{key}-data"), str::to_owned);
            if let Some(map) = entry[field].as_object_mut() {
                map.remove(&twin);
            }
            entry[field][key] = value;
        }
        self.write(file)?;
        Ok(done)
    }

    fn delete(&mut self, list: &str, name: &str, word: &str) -> Result<PathBuf, Failure> {
        let missing = |path: &Path| Failure::error(format!("cannot delete {word} {name}, not in {}", path.display()));
        let Some((file, position)) = self.place(list, name) else { return Err(missing(&self.0[0].0)) };
        if let Some(entries) = self.0[file].1[list].as_array_mut() {
            entries.remove(position);
        }
        self.write(file)?;
        Ok(self.0[file].0.clone())
    }

    /// Writes a file beside the old one and puts it in its place; keys in it are for its owner only.
    fn write(&self, file: usize) -> Result<(), Failure> {
        let (path, value) = &self.0[file];
        // A link stays a link: what it leads to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        let failed = |error: std::io::Error| Failure::error(format!("{}: {error}", path.display()));
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(failed)?;
        // A temporary file is 0600.
        let mut new = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        new.write_all(api::yaml::print(value)?.as_bytes()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn name_of(entry: &Value) -> &str {
    entry.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn view(files: &Files, args: &View) -> Result<(), Failure> {
    let current = files.current().unwrap_or_default();
    let mut merged = json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": current});
    let context = files.place("contexts", &current).map(|(file, entry)| files.0[file].1["contexts"][entry].clone());
    for (list, field) in LISTS {
        let mut entries: Vec<Value> = files.entries(list).into_iter().cloned().collect();
        if args.minify {
            let context =
                context.as_ref().ok_or_else(|| Failure::error("current-context must exist in order to minify"))?;
            let wanted = if list == "contexts" { json!(current) } else { context["context"][field].clone() };
            entries.retain(|entry| entry["name"] == wanted);
        }
        if !args.raw {
            for entry in &mut entries {
                for (key, shown) in HIDDEN {
                    if let Some(secret) = entry[field].get_mut(key) {
                        *secret = json!(shown);
                    }
                }
            }
        }
        merged[list] = json!(entries);
    }
    match args.output.as_str() {
        "yaml" => screen::put(api::yaml::print(&merged)?),
        "json" => screen::put(json_text(&merged)),
        other => Err(Failure::error(format!("--output {other:?}: expected yaml or json"))),
    }
}

fn contexts(files: &Files, names: &[String], no_headers: bool, form: Option<&str>) -> Result<(), Failure> {
    for name in names {
        if files.place("contexts", name).is_none() {
            return Err(Failure::error(format!("context {name} not found")));
        }
    }
    let entries = files.entries("contexts");
    let shown = entries.iter().filter(|entry| names.is_empty() || names.iter().any(|name| name == name_of(entry)));
    match form.unwrap_or_default() {
        "name" => return shown.map(|entry| name_of(entry)).try_for_each(|name| screen::line(screen::plain(name))),
        "" => {}
        other => return Err(Failure::error(format!("output must be one of '' or 'name': {other}"))),
    }
    let current = files.current();
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !no_headers {
        rows.push(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec());
    }
    for entry in shown {
        let part = |field: &str| entry["context"][field].as_str().unwrap_or_default().to_owned();
        let mark = if current.as_deref() == Some(name_of(entry)) { "*" } else { "" };
        rows.push(vec![mark.into(), name_of(entry).to_owned(), part("cluster"), part("user"), part("namespace")]);
    }
    screen::put(Columns::default().set(&rows))
}

fn names(files: &Files, list: &str) -> Result<(), Failure> {
    screen::line("NAME")?;
    files.entries(list).into_iter().try_for_each(|entry| screen::line(screen::plain(name_of(entry))))
}

fn rename(files: &mut Files, from: &str, to: &str) -> Result<(), Failure> {
    let Some((file, entry)) = files.place("contexts", from) else {
        return Err(Failure::error(format!(
            "cannot rename the context \"{from}\", it's not in {}",
            files.0[0].0.display()
        )));
    };
    if files.place("contexts", to).is_some() {
        return Err(Failure::error(format!(
            "cannot rename the context \"{from}\", the context \"{to}\" already exists in {}",
            files.0[0].0.display()
        )));
    }
    files.0[file].1["contexts"][entry]["name"] = json!(to);
    for position in 0..files.0.len() {
        if files.0[position].1["current-context"] == from {
            files.0[position].1["current-context"] = json!(to);
            files.write(position)?;
        }
    }
    files.write(file)?;
    screen::line(format!("Context \"{from}\" renamed to \"{to}\"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_set_and_deleted_where_they_stand() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let context =
            |name: &str| json!({"contexts": [{"name": name, "context": {"cluster": "c"}}], "current-context": name});
        let mut files = Files(vec![(one.clone(), context("a")), (two.clone(), context("b"))]);
        let set = files.set("contexts", "b", vec![("namespace", json!("x"))]);
        assert_eq!(set.map_err(|failure| failure.to_string()), Ok("modified"));
        assert!(!one.exists(), "the other file is left alone");
        assert!(std::fs::read_to_string(&two)?.contains("namespace: x"));
        let made = files.set("users", "u", vec![("client-key-data", json!("a2V5"))]);
        assert_eq!(made.map_err(|failure| failure.to_string()), Ok("created"));
        let replaced = files.set("users", "u", vec![("client-key", json!("/k"))]);
        assert_eq!(replaced.map_err(|failure| failure.to_string()), Ok("modified"));
        let text = std::fs::read_to_string(&one)?;
        assert!(text.contains("client-key: /k") && !text.contains("a2V5"), "{text}");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&one)?.permissions().mode() & 0o777, 0o600);
        assert_eq!(files.delete("contexts", "a", "context").ok(), Some(one));
        assert!(files.delete("contexts", "a", "context").is_err());
        Ok(())
    }
}
