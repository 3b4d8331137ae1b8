//! A key of this machine and the certificate that the cluster gave for it: as files, and by a
//! CertificateSigningRequest (Kubernetes documentation, "Certificates and Certificate Signing Requests").

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::wait::{Condition, await_condition};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use x509_parser::pem::parse_x509_pem;

use super::JoinError;

/// Whoever approves requests by hand has this long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What a certificate is to say.
pub(super) struct Wanted<'a> {
    pub(super) node: &'a str,
    /// As whom it is shown.
    pub(super) part: Part<'a>,
}

/// As whom a node shows a certificate.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// To the API server.
    Client,
    /// To the API server and others who ask this node's kubelet API, at these addresses.
    Server(&'a [IpAddr]),
}

impl Part<'_> {
    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Server(_) => "kubernetes.io/kubelet-serving",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Client => "client auth",
            Self::Server(_) => "server auth",
        }
    }
}

impl Identity {
    /// The files `NAME.crt` and `NAME.key` of a directory; `None` where one of them is missing.
    pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Self>, JoinError> {
        let (certificate, key) = paths(dir, name);
        match (read(&certificate)?, read(&key)?) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            _ => Ok(None),
        }
    }

    /// Writes both files, readable by their owner only.
    pub(super) fn write(&self, dir: &Path, name: &str) -> Result<(), JoinError> {
        let (certificate, key) = paths(dir, name);
        // A key without its certificate is asked for anew; the other way round it would be found and not fit.
        super::write_private(&certificate, "")?;
        super::write_private(&key, &self.key)?;
        super::write_private(&certificate, &self.certificate)
    }

    /// Asks the cluster for a certificate of a new key, and waits until it is signed.
    pub(super) async fn request(client: &kube::Client, wanted: &Wanted<'_>) -> Result<Self, JoinError> {
        let key = KeyPair::generate().map_err(JoinError::Key)?;
        let request = signing_request(wanted, &key).map_err(JoinError::Key)?;
        let api: Api<CertificateSigningRequest> = Api::all(client.clone());
        let object = CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(request.into_bytes()),
                signer_name: wanted.part.signer().into(),
                usages: Some(vec!["digital signature".into(), wanted.part.usage().into()]),
                ..Default::default()
            },
            ..Default::default()
        };
        let asking = |source| JoinError::Ask { source: Box::new(source) };
        let name = api.create(&PostParams::default(), &object).await.map_err(asking)?.metadata.name.unwrap_or_default();
        tracing::info!(request = name, signer = wanted.part.signer(), "asked for a certificate");
        let waiting = tokio::time::timeout(PATIENCE, await_condition(api, &name, is_decided())).await;
        let unanswered = || JoinError::Unanswered { request: name.clone() };
        let decided = waiting.map_err(|_| unanswered())?.map_err(|_| unanswered())?.ok_or_else(unanswered)?;
        let status = decided.status.unwrap_or_default();
        match status.certificate {
            Some(certificate) => {
                let certificate = String::from_utf8(certificate.0).map_err(|_| unanswered())?;
                Ok(Self { certificate, key: key.serialize_pem() })
            }
            None => {
                let why = status.conditions.into_iter().flatten().find_map(|condition| condition.message);
                Err(JoinError::Refused { request: name, why: why.unwrap_or_default() })
            }
        }
    }

    /// The node that the certificate is of.
    pub(super) fn node(&self) -> Option<String> {
        let (_, block) = parse_x509_pem(self.certificate.as_bytes()).ok()?;
        let certificate = block.parse_x509().ok()?;
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        Some(name.strip_prefix("system:node:")?.to_owned())
    }

    /// Whether a third of its life or less is left, or it is none.
    pub(super) fn is_old(&self, now: Timestamp) -> bool {
        let validity = parse_x509_pem(self.certificate.as_bytes()).ok().and_then(|(_, block)| {
            let certificate = block.parse_x509().ok()?;
            Some((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
        });
        validity.is_none_or(|(from, to)| to - now.as_second() <= (to - from) / 3)
    }

    /// Whether it answers to an address.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        parse_x509_pem(self.certificate.as_bytes()).ok().is_some_and(|(_, block)| {
            let Ok(certificate) = block.parse_x509() else { return false };
            let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
            names
                .value
                .general_names
                .iter()
                .any(|name| matches!(name, x509_parser::extensions::GeneralName::IPAddress(own) if *own == octets))
        })
    }
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

/// The text of a file; `None` for one that is missing or empty.
pub(super) fn read(path: &Path) -> Result<Option<String>, JoinError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(JoinError::File { path: path.into(), source }),
    }
}

fn signing_request(wanted: &Wanted<'_>, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", wanted.node));
    if let Part::Server(addresses) = wanted.part {
        params.subject_alt_names.push(SanType::DnsName(wanted.node.to_owned().try_into()?));
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    }
    params.serialize_request(key)?.pem()
}

/// Holds once there is a certificate or will be none.
fn is_decided() -> impl Condition<CertificateSigningRequest> {
    |request: Option<&CertificateSigningRequest>| {
        let Some(status) = request.and_then(|request| request.status.as_ref()) else { return false };
        let is_refused = |kind: &str| matches!(kind, "Denied" | "Failed");
        status.certificate.is_some() || status.conditions.iter().flatten().any(|condition| is_refused(&condition.type_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_tells_whose_it_is_how_old_it_is_and_what_it_answers_to() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:shop-2");
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.2".parse().unwrap()));
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 1, 31));
        let certificate = params.self_signed(&key).unwrap().pem();
        let identity = Identity { certificate, key: key.serialize_pem() };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(identity.node().as_deref(), Some("shop-2"));
        assert!(!identity.is_old(at("2026-01-20T23:00:00Z")) && identity.is_old(at("2026-01-21T00:00:00Z")));
        assert!(identity.is_old(at("2027-01-01T00:00:00Z")));
        assert!(identity.names("10.0.0.2".parse().unwrap()) && !identity.names("10.0.0.3".parse().unwrap()));

        let dir = tempfile::tempdir().unwrap();
        assert!(Identity::read(dir.path(), "client").unwrap().is_none());
        identity.write(dir.path(), "client").unwrap();
        assert_eq!(Identity::read(dir.path(), "client").unwrap().unwrap().node().as_deref(), Some("shop-2"));
        // A crash between the two files leaves no certificate that fits another key.
        super::super::write_private(&dir.path().join("client.crt"), "").unwrap();
        assert!(Identity::read(dir.path(), "client").unwrap().is_none());
    }
}
