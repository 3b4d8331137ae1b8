//! Secrets made of flags.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Data;
use crate::failure::Failure;

/// Kinds of secrets.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Secret {
    /// Of literals and files.
    Generic {
        /// Its name.
        name: String,
        #[command(flatten)]
        data: Data,
        /// Its type.
        #[arg(long = "type", default_value = "Opaque", value_name = "TYPE")]
        kind: String,
    },
    /// A certificate and its key.
    Tls {
        /// Its name.
        name: String,
        /// The certificate, in PEM.
        #[arg(long, value_name = "FILE")]
        cert: Option<PathBuf>,
        /// Its private key, in PEM.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// What logs in to a registry.
    DockerRegistry(Registry),
}

/// Flags of `gantry create secret docker-registry`.
#[derive(Debug, clap::Args)]
pub(crate) struct Registry {
    /// Its name.
    name: String,
    /// The registry.
    #[arg(long, default_value = "https://index.docker.io/v1/", value_name = "URL")]
    docker_server: String,
    /// The user there.
    #[arg(long, value_name = "NAME")]
    docker_username: Option<String>,
    /// The user's password.
    #[arg(long, value_name = "PASSWORD")]
    docker_password: Option<String>,
    /// The user's address.
    #[arg(long, default_value = "", value_name = "ADDRESS")]
    docker_email: String,
    /// [KEY=]FILE in the form of docker's config.json, instead of the other flags.
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
}

/// One registry in docker's config.json, in the order in which docker's own clients write it.
#[derive(Serialize)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    email: &'a str,
    auth: String,
}

const DOCKER_CONFIG: &str = ".dockerconfigjson";

impl Secret {
    /// The secret.
    pub(crate) fn object(&self) -> Result<Value, Failure> {
        let (name, kind, data) = match self {
            Self::Generic { name, data, kind } => (name, kind.as_str(), data.read()?),
            Self::Tls { name, cert, key } => {
                let (Some(cert), Some(key)) = (cert, key) else {
                    return Err(Failure::error("key and cert must be specified"));
                };
                let (cert, key) = (read(cert)?, read(key)?);
                check_pair(&cert, &key)?;
                (name, "kubernetes.io/tls", vec![("tls.crt".to_owned(), cert), ("tls.key".to_owned(), key)])
            }
            Self::DockerRegistry(registry) => (&registry.name, "kubernetes.io/dockerconfigjson", registry.data()?),
        };
        let data = data.into_iter().map(|(key, bytes)| (key, Value::String(STANDARD.encode(bytes))));
        let data: Map<String, Value> = data.collect();
        Ok(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "data": data}))
    }
}

impl Registry {
    fn data(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        if !self.from_file.is_empty() {
            let files = Data { from_literal: Vec::new(), from_file: self.from_file.clone() };
            let mut data = files.read()?;
            // The one file may have any name; its key has but one.
            if let ([one], [source]) = (data.as_mut_slice(), self.from_file.as_slice())
                && !source.contains('=')
            {
                one.0 = DOCKER_CONFIG.to_owned();
            }
            return Ok(data);
        }
        let (Some(username), Some(password)) = (&self.docker_username, &self.docker_password) else {
            return Err(Failure::error(
                "either --from-file or the combination of --docker-username, --docker-password and \
                 --docker-server is required",
            ));
        };
        let login = Login {
            username,
            password,
            email: &self.docker_email,
            auth: STANDARD.encode(format!("{username}:{password}")),
        };
        let auths =
            [("auths", [(&self.docker_server, login)].into_iter().collect::<std::collections::BTreeMap<_, _>>())];
        let config = serde_json::to_vec(&auths.into_iter().collect::<std::collections::BTreeMap<_, _>>());
        let config = config.map_err(|error| Failure::error(error.to_string()))?;
        Ok(vec![(DOCKER_CONFIG.to_owned(), config)])
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::error(format!("{}: {error}", path.display())))
}

/// A key of another certificate would be noticed by clients of the server that uses it, at night.
fn check_pair(cert: &[u8], key: &[u8]) -> Result<(), Failure> {
    let bad = |flag: &str, why: &dyn std::fmt::Display| Failure::error(format!("{flag}: {why}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.map_err(|error| bad("--cert", &error))?;
    if chain.is_empty() {
        return Err(bad("--cert", &"expected a certificate in PEM"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| bad("--key", &error))?;
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider).map(drop).map_err(|error| bad("--cert, --key", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_written_as_docker_does() {
        let registry = |username: Option<&str>| Registry {
            name: "r".into(),
            docker_server: "reg.io".into(),
            docker_username: username.map(str::to_owned),
            docker_password: Some("p".into()),
            docker_email: String::new(),
            from_file: vec![],
        };
        let data = registry(Some("u")).data().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&data[0].1),
            r#"{"auths":{"reg.io":{"username":"u","password":"p","auth":"dTpw"}}}"#
        );
        assert!(registry(None).data().is_err());
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let said = check_pair(b"no", b"no").unwrap_err().to_string();
        assert!(said.contains("--cert"), "{said}");
    }
}
