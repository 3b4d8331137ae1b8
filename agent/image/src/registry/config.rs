//! `registries.yaml`: mirrors, credentials and trust, as k3s defines the file ("Private Registry Configuration").

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use http::uri::Uri;
use regex::Regex;
use serde::Deserialize;

use super::credential::Credential;

/// The file is written by an administrator; more than this is a mistake.
const FILE_MAX: u64 = 1 << 20;

/// Stands for every registry that has no entry of its own.
const ANY: &str = "*";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is too large to be meant.
    #[error("{} is larger than {FILE_MAX} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// It is no YAML of the expected form.
    #[error("{}", path.display())]
    Yaml {
        /// Which.
        path: PathBuf,
        /// The cause, with the place.
        #[source]
        source: serde_yaml::Error,
    },
    /// A field has a value that makes no sense.
    #[error("{}: {field}: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A certificate or key file cannot be used.
    #[error("configs[{host:?}].tls.{field}: {}: {problem}", path.display())]
    Tls {
        /// Of which host.
        host: String,
        /// The field.
        field: &'static str,
        /// The file that it names.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirrors: Option<BTreeMap<String, Option<MirrorEntry>>>,
    #[serde(default)]
    configs: Option<BTreeMap<String, Option<HostEntry>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MirrorEntry {
    #[serde(default)]
    endpoint: Option<Vec<String>>,
    #[serde(default)]
    rewrite: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    #[serde(default)]
    auth: Option<AuthEntry>,
    #[serde(default)]
    tls: Option<TlsFiles>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthEntry {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    identity_token: Option<String>,
}

impl std::fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthEntry(...)")
    }
}

/// Whom to trust, and who we are, by files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Authorities to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Our certificate.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Trust anybody.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// A place that speaks the distribution protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Base {
    pub(crate) scheme: Scheme,
    /// Host and maybe port.
    pub(crate) authority: String,
    /// `/v2`, or what a mirror has in its place.
    pub(crate) path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    pub(crate) bases: Vec<Base>,
    pub(crate) rewrites: Vec<(Regex, String)>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct HostConfig {
    pub(crate) credential: Option<Credential>,
    pub(crate) tls: TlsFiles,
}

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, HostConfig>,
}

impl Registries {
    /// Reads a file that must be there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        if fs::metadata(path).map_err(read)?.len() > FILE_MAX {
            return Err(ConfigError::TooLarge { path: path.into() });
        }
        Self::parse(path, &fs::read_to_string(path).map_err(read)?)
    }

    /// Reads a file that may be missing; then nothing is special about any registry.
    pub fn load_if_there(path: &Path) -> Result<Self, ConfigError> {
        match Self::load(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            loaded => loaded,
        }
    }

    /// `path` is for error messages.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let yaml = |source| ConfigError::Yaml { path: path.into(), source };
        let file: File = serde_yaml::from_str(text).map_err(yaml)?;
        let field = |field: String, problem: String| ConfigError::Field { path: path.into(), field, problem };
        let mut registries = Self::default();
        for (name, entry) in file.mirrors.into_iter().flatten() {
            let mirror = mirror(entry.unwrap_or_default())
                .map_err(|(inner, problem)| field(format!("mirrors[{name:?}].{inner}"), problem))?;
            registries.mirrors.insert(registry_name(&name), mirror);
        }
        for (name, entry) in file.configs.into_iter().flatten() {
            let config = host_config(entry.unwrap_or_default())
                .map_err(|(inner, problem)| field(format!("configs[{name:?}].{inner}"), problem))?;
            registries.configs.insert(host_name(&name), config);
        }
        Ok(registries)
    }

    /// The mirrors of a registry, by its own name or by `*`.
    pub(crate) fn mirror(&self, registry: &str) -> Option<&Mirror> {
        self.mirrors.get(registry).or_else(|| self.mirrors.get(ANY))
    }

    /// What is set for a host, by its own name or by `*`.
    pub(crate) fn host(&self, authority: &str) -> Option<&HostConfig> {
        self.configs.get(authority).or_else(|| self.configs.get(ANY))
    }
}

type Problem = (&'static str, String);

fn mirror(entry: MirrorEntry) -> Result<Mirror, Problem> {
    let bases = entry.endpoint.unwrap_or_default().iter().map(|text| base(text)).collect::<Result<_, _>>();
    let rewrites = entry.rewrite.unwrap_or_default().into_iter().map(|(pattern, replacement)| {
        let regex = Regex::new(&pattern).map_err(|error| {
            let reason = error.to_string();
            format!("{pattern:?} is no regular expression: {}", reason.lines().last().unwrap_or_default())
        })?;
        Ok((regex, replacement))
    });
    Ok(Mirror {
        bases: bases.map_err(|problem| ("endpoint", problem))?,
        rewrites: rewrites.collect::<Result<_, String>>().map_err(|problem| ("rewrite", problem))?,
    })
}

fn host_config(entry: HostEntry) -> Result<HostConfig, Problem> {
    let tls = entry.tls.unwrap_or_default();
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => return Err(("tls.key_file", "expected the key of cert_file".into())),
        (None, Some(_)) => return Err(("tls.cert_file", "expected the certificate of key_file".into())),
        _ => {}
    }
    Ok(HostConfig { credential: entry.auth.map(credential).transpose()?.flatten(), tls })
}

fn credential(entry: AuthEntry) -> Result<Option<Credential>, Problem> {
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(token) = filled(entry.identity_token) {
        let username = entry.username.unwrap_or_default();
        return Ok(Some(Credential { username, password: String::new(), identity_token: Some(token) }));
    }
    match (filled(entry.auth), filled(entry.username), filled(entry.password)) {
        (_, Some(username), Some(password)) => Ok(Some(Credential::password(username, password))),
        (Some(auth), _, _) => match Credential::from_auth_field(&auth) {
            Ok(credential) => Ok(Some(credential)),
            Err(error) => Err(("auth.auth", error.to_string())),
        },
        (None, Some(_), None) => Err(("auth.password", "expected a password for the username".into())),
        (None, None, Some(_)) => Err(("auth.username", "expected a username for the password".into())),
        (None, None, None) => Ok(None),
    }
}

/// Where a registry is by default: https, but http for this machine itself on a port that is not 443, as containerd has it.
pub(crate) fn default_base(registry: &str) -> Base {
    let authority = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_this_machine = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let scheme = match is_this_machine && port.is_some_and(|port| port != "443") {
        true => Scheme::Http,
        false => Scheme::Https,
    };
    Base { scheme, authority: authority.into(), path: "/v2".into() }
}

/// Reads an endpoint: a URL, or a host with an optional port.
fn base(text: &str) -> Result<Base, String> {
    let expected = || format!("{text:?}: expected a URL such as https://mirror.example.com:5000");
    let (scheme, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        Some(_) => return Err(expected()),
        None => (None, text),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = if authority == "docker.io" { "registry-1.docker.io" } else { authority };
    // What a URI takes as authority is what we can connect to; names and passwords have their own place in the file.
    let parsed: Uri = format!("https://{authority}/").parse().map_err(|_| expected())?;
    if authority.is_empty() || authority.contains('@') || parsed.host().is_none_or(str::is_empty) {
        return Err(expected());
    }
    let path_ok = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\' | b'"'));
    if !path_ok || path.split('/').any(|part| part == "..") {
        return Err(expected());
    }
    let default = default_base(authority);
    let path = match path.trim_end_matches('/') {
        "" | "/v2" => "/v2".to_owned(),
        path => path.to_owned(),
    };
    Ok(Base { scheme: scheme.unwrap_or(default.scheme), authority: default.authority, path })
}

fn registry_name(name: &str) -> String {
    match name {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        name => name.into(),
    }
}

/// The name of a host as endpoints have it.
fn host_name(name: &str) -> String {
    let bare = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let bare = bare.trim_end_matches('/');
    match bare {
        "docker.io" | "index.docker.io" => "registry-1.docker.io".into(),
        bare => bare.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registries, ConfigError> {
        Registries::parse(Path::new("r.yaml"), text)
    }

    fn told(text: &str) -> String {
        super::super::error::chain(&parse(text).unwrap_err())
    }

    #[test]
    fn the_file_of_k3s_is_read() {
        let registries = parse(
            r#"
mirrors:
  docker.io:
    endpoint:
      - "https://mirror.example.com:5000"
      - http://other.example.com/v2/hub/
      - localhost:5000
    rewrite:
      "^library/(.*)": "mirrored/$1"
  "*":
    endpoint: ["https://catch-all"]
configs:
  "mirror.example.com:5000":
    auth: {username: user, password: secret}
    tls: {ca_file: /ca.pem, insecure_skip_verify: true}
  docker.io:
    auth:
      auth: dXNlcjpwYXNz
"#,
        )
        .unwrap();
        let shown = |base: &Base| format!("{}://{}{}", base.scheme.as_str(), base.authority, base.path);
        let mirror = registries.mirror("docker.io").unwrap();
        assert_eq!(
            mirror.bases.iter().map(shown).collect::<Vec<_>>(),
            ["https://mirror.example.com:5000/v2", "http://other.example.com/v2/hub", "http://localhost:5000/v2"]
        );
        assert_eq!(mirror.rewrites[0].0.replace("library/nginx", &mirror.rewrites[0].1), "mirrored/nginx");
        assert_eq!(shown(&registries.mirror("quay.io").unwrap().bases[0]), "https://catch-all/v2");
        let host = registries.host("mirror.example.com:5000").unwrap();
        assert_eq!(host.credential, Some(Credential::password("user", "secret")));
        assert!(host.tls.insecure_skip_verify && host.tls.ca_file.is_some());
        assert!(registries.host("registry-1.docker.io").unwrap().credential.is_some());
        assert!(registries.host("quay.io").is_none());
        assert!(parse("# nothing\n").is_ok() && parse("mirrors:\nconfigs:\n  a:\n").is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            (
                "mirrors: {docker.io: {endpoint: [\"ftp://x\"]}}",
                "mirrors[\"docker.io\"].endpoint: \"ftp://x\": expected a URL",
            ),
            ("mirrors: {a: {endpoint: [\"https://user@x\"]}}", "expected a URL"),
            ("mirrors: {a: {rewrite: {\"(\": x}}}", "mirrors[\"a\"].rewrite: \"(\" is no regular expression"),
            ("mirrors: {a: {endpoints: []}}", "unknown field `endpoints`"),
            ("configs: {a: {auth: {username: u}}}", "configs[\"a\"].auth.password: expected a password"),
            ("configs: {a: {auth: {auth: '%'}}}", "configs[\"a\"].auth.auth: expected base64"),
            ("configs: {a: {tls: {cert_file: x}}}", "configs[\"a\"].tls.key_file: expected the key"),
            ("configs: {a: {tls: {insecure_skip_verify: maybe}}}", "insecure_skip_verify"),
            ("- a", "r.yaml: "),
        ] {
            let told = told(text);
            assert!(told.starts_with("r.yaml") && told.contains(part), "{text}: {told}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (registry, url) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("quay.io", "https://quay.io"),
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("localhost", "https://localhost"),
            ("localhost:443", "https://localhost:443"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000"),
            ("localhost.evil.com:5000", "https://localhost.evil.com:5000"),
        ] {
            let base = default_base(registry);
            assert_eq!(format!("{}://{}", base.scheme.as_str(), base.authority), url);
        }
    }

    #[test]
    fn a_missing_default_is_fine_and_a_missing_named_file_is_not() {
        let absent = Path::new("/nonexistent/registries.yaml");
        assert!(Registries::load_if_there(absent).is_ok());
        assert!(matches!(Registries::load(absent), Err(ConfigError::Read { .. })));
    }
}
