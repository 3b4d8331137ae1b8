//! `imagePullSecrets`: which of their credentials are for an image, as the kubelet decides.
//! Kubernetes documentation, "Images", interpretation of config.json.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::credential::Credential;
use crate::reference::Reference;

/// A secret is at most 1 MiB; so many entries are more than anybody has.
const ENTRIES_MAX: usize = 10_000;

/// The credentials of some secrets.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    entries: Vec<(Pattern, Credential)>,
}

/// A secret's content that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It is not JSON of the expected form; the parser's words could quote secrets, so only their place is told.
    #[error("is not valid JSON of a Docker configuration: line {line}, column {column}")]
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// An `auth` field is not what it should be.
    #[error("auths[{registry:?}].auth: expected base64 of USER:PASSWORD")]
    Auth {
        /// Of which registry.
        registry: String,
    },
    /// More entries than anybody has.
    #[error("holds more than {ENTRIES_MAX} registries")]
    TooMany,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// A registry and maybe a path in it; `*` stands for characters of one part of the host's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pattern {
    host: String,
    port: Option<String>,
    path: String,
}

impl Keyring {
    /// Adds what a secret of type `kubernetes.io/dockerconfigjson` holds at `.dockerconfigjson`.
    pub fn add_config_json(&mut self, bytes: &[u8]) -> Result<(), KeyringError> {
        let config: ConfigJson = serde_json::from_slice(bytes).map_err(place)?;
        self.add(config.auths)
    }

    /// Adds what a secret of type `kubernetes.io/dockercfg` holds at `.dockercfg`.
    pub fn add_dockercfg(&mut self, bytes: &[u8]) -> Result<(), KeyringError> {
        self.add(serde_json::from_slice(bytes).map_err(place)?)
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) -> Result<(), KeyringError> {
        if self.entries.len() + entries.len() > ENTRIES_MAX {
            return Err(KeyringError::TooMany);
        }
        for (registry, entry) in entries {
            let credential = match entry.auth.is_empty() {
                true => Credential::password(entry.username, entry.password),
                false => Credential::from_auth_field(&entry.auth)
                    .map_err(|_| KeyringError::Auth { registry: registry.chars().take(200).collect() })?,
            };
            self.entries.push((Pattern::of(&registry), credential));
        }
        Ok(())
    }

    /// The credentials for an image, those of the longest path first. None is no error: many registries ask for nothing.
    pub fn matching(&self, image: &Reference) -> Vec<Credential> {
        let mut found: Vec<&(Pattern, Credential)> =
            self.entries.iter().filter(|(pattern, _)| pattern.matches(image)).collect();
        found.sort_by(|(a, _), (b, _)| b.cmp_specific(a));
        let mut credentials: Vec<Credential> = Vec::new();
        for (_, credential) in found {
            if !credentials.contains(credential) {
                credentials.push(credential.clone());
            }
        }
        credentials
    }
}

fn place(error: serde_json::Error) -> KeyringError {
    KeyringError::Json { line: error.line(), column: error.column() }
}

impl Pattern {
    /// Reads `registry.example.com/team`, `https://index.docker.io/v1/`, `*.example.com:5000`.
    fn of(text: &str) -> Self {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // The version of the API that Docker writes behind the host says nothing of repositories.
        let path = match path {
            "/v1" | "/v2" => "",
            _ => path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")).unwrap_or(path),
        };
        let (host, port) = split_port(authority);
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            host => host,
        };
        Self { host: host.into(), port: port.map(str::to_owned), path: path.trim_start_matches('/').into() }
    }

    fn matches(&self, image: &Reference) -> bool {
        let (host, port) = split_port(&image.registry);
        let parts: Vec<&str> = self.host.split('.').collect();
        let wanted: Vec<&str> = host.split('.').collect();
        self.port.as_deref() == port
            && parts.len() == wanted.len()
            && parts.iter().zip(&wanted).all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
            && image.repository.starts_with(&self.path)
    }

    /// Longer paths are about fewer images.
    fn cmp_specific(&self, other: &Self) -> std::cmp::Ordering {
        (self.path.len(), self).cmp(&(other.path.len(), other))
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// `*` any characters, `?` one; in the time of their product, whatever they are.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The last star takes one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ring(auths: serde_json::Value) -> Keyring {
        let mut ring = Keyring::default();
        ring.add_config_json(json!({"auths": auths}).to_string().as_bytes()).unwrap();
        ring
    }

    fn users(ring: &Keyring, image: &str) -> Vec<String> {
        ring.matching(&image.parse().unwrap()).into_iter().map(|credential| credential.username).collect()
    }

    #[test]
    fn hosts_ports_and_paths_decide() {
        let entry = |user: &str| json!({"username": user, "password": "p"});
        let ring = ring(json!({
            "https://index.docker.io/v1/": entry("hub"),
            "registry.example.com": entry("all"),
            "registry.example.com/team": entry("team"),
            "*.example.com": entry("star"),
            "*.kubernetes.io:5000/x": entry("port"),
            "http://localhost:5000": entry("local")}));
        assert_eq!(users(&ring, "nginx"), ["hub"]);
        assert_eq!(users(&ring, "docker.io/a/b"), ["hub"]);
        assert_eq!(users(&ring, "registry.example.com/team/app:1"), ["team", "all", "star"]);
        assert_eq!(users(&ring, "registry.example.com/other"), ["all", "star"]);
        assert!(users(&ring, "a.registry.example.com/x").is_empty(), "a star is one part of the name");
        assert!(users(&ring, "example.com/x").is_empty());
        assert_eq!(users(&ring, "k.kubernetes.io:5000/x/y"), ["port"]);
        assert!(users(&ring, "k.kubernetes.io/x/y").is_empty());
        assert_eq!(users(&ring, "localhost:5000/x"), ["local"]);
        assert!(users(&ring, "evil.com/registry.example.com/team").is_empty());
    }

    #[test]
    fn both_kinds_of_secrets_are_read_and_bad_ones_named() {
        let mut ring = Keyring::default();
        ring.add_dockercfg(br#"{"quay.io": {"auth": "dTpw", "email": "x"}}"#).unwrap();
        assert_eq!(ring.matching(&"quay.io/a/b".parse().unwrap()), [Credential::password("u", "p")]);
        let bad = ring.add_config_json(br#"{"auths": {"quay.io": {"auth": "%"}}}"#).unwrap_err();
        assert_eq!(bad.to_string(), "auths[\"quay.io\"].auth: expected base64 of USER:PASSWORD");
        let bad = ring.add_config_json(br#"{"auths": {"quay.io": {"password": 5}}}"#).unwrap_err().to_string();
        assert!(bad.ends_with("line 1, column 36"), "{bad}");
    }

    #[test]
    fn globs_take_no_long_time() {
        let pattern = "*a".repeat(50);
        assert!(!glob(pattern.as_bytes(), "a".repeat(49).as_bytes()));
        assert!(glob(b"a*c?", b"abbcd") && !glob(b"a*c?", b"abbc") && glob(b"*", b"") && !glob(b"?", b""));
    }
}
