//! The built-in signers of certificate requests: which requests each takes, and the certificate it gives.
//! Kubernetes documentation, "Certificates and Certificate Signing Requests", Kubernetes signers.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SerialNumber};
use serde_json::Value;
use x509_parser::prelude::FromDer as _;

use crate::authn::{MASTERS, NODES};
use crate::pki::Authority;

/// A signed certificate lives no longer, in seconds: a year.
const LONGEST_SECONDS: i64 = 365 * 86_400;
/// Nor shorter than a request may ask for.
const SHORTEST_SECONDS: i64 = 600;
/// How long a clock may be behind, in seconds.
const SLACK_SECONDS: i64 = 300;

/// The signers that this cluster has itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    /// Clients of the API server.
    Client,
    /// Agents as clients.
    AgentClient,
    /// Agents as servers.
    AgentServer,
}

impl Signer {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Self::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Self::AgentClient),
            "kubernetes.io/kubelet-serving" => Some(Self::AgentServer),
            _ => None,
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Self::Client | Self::AgentClient => "client auth",
            Self::AgentServer => "server auth",
        }
    }
}

/// A request for a certificate, understood.
pub(crate) struct Request {
    params: CertificateSigningRequestParams,
    common_name: String,
    pub(crate) organizations: Vec<String>,
    has_dns_or_ip: bool,
    has_other_names: bool,
}

impl Request {
    /// Reads `spec.request`: base64 of PEM. The signature inside is checked.
    pub(crate) fn parse(encoded: &str) -> Result<Self, String> {
        let pem = STANDARD.decode(encoded).map_err(|_| "must be base64".to_owned())?;
        let pem = String::from_utf8(pem).map_err(|_| "must be PEM".to_owned())?;
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
        }
        let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| format!("not a PKCS#10 request: {error}"))?;
        let subject = &request.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).unwrap_or_default()
        };
        let common_name = subject.iter_common_name().next().map(text).unwrap_or_default();
        let organizations: Vec<String> = subject.iter_organization().map(text).collect();
        let params = CertificateSigningRequestParams::from_pem(&pem).map_err(|error| error.to_string())?;
        let names = &params.params.subject_alt_names;
        let is_reachable =
            |name: &rcgen::SanType| matches!(name, rcgen::SanType::DnsName(_) | rcgen::SanType::IpAddress(_));
        Ok(Self {
            has_dns_or_ip: names.iter().any(is_reachable),
            has_other_names: !names.iter().all(is_reachable),
            common_name,
            organizations,
            params,
        })
    }

    /// What keeps a signer from taking the request, in words.
    fn refusal(&self, signer: Signer, usages: &BTreeSet<&str>) -> Option<String> {
        let allowed = ["digital signature", "key encipherment", signer.purpose()];
        if let Some(other) = usages.iter().find(|usage| !allowed.contains(usage)) {
            return Some(format!("usage {other:?} is not among {allowed:?}"));
        }
        if !usages.contains(signer.purpose()) {
            return Some(format!("usages did not contain {:?}", signer.purpose()));
        }
        if self.organizations.len() > 1 {
            return Some(format!("subject has {} organizations, at most one is signed here", self.organizations.len()));
        }
        let names_a_node = self.common_name.starts_with("system:node:") && self.organizations == [NODES];
        match signer {
            Signer::Client => None,
            Signer::AgentClient | Signer::AgentServer if !names_a_node => Some(
                "subject must be the organization system:nodes with a common name that begins with system:node:".into(),
            ),
            Signer::AgentClient if self.has_dns_or_ip || self.has_other_names => {
                Some("subject alternative names are not allowed".into())
            }
            Signer::AgentServer if self.has_other_names => Some("e-mail and URI names are not allowed".into()),
            Signer::AgentServer if !self.has_dns_or_ip => Some("at least one DNS or IP name is needed".into()),
            Signer::AgentClient | Signer::AgentServer => None,
        }
    }

    /// Whether it asks to be one of those who may do everything.
    pub(crate) fn asks_for_everything(&self) -> bool {
        self.organizations.iter().any(|organization| organization == MASTERS)
    }
}

/// Signs an approved CertificateSigningRequest of a built-in signer: base64 of PEM, or why it was not signed.
pub(crate) fn sign(authority: &Authority, signer: Signer, spec: &Value) -> Result<String, String> {
    let mut request = Request::parse(spec["request"].as_str().unwrap_or_default())?;
    let usages: BTreeSet<&str> = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(refusal) = request.refusal(signer, &usages) {
        return Err(refusal);
    }
    let params = &mut request.params.params;
    params.is_ca = IsCa::NoCa;
    params.key_usages = [
        ("digital signature", KeyUsagePurpose::DigitalSignature),
        ("key encipherment", KeyUsagePurpose::KeyEncipherment),
    ]
    .into_iter()
    .filter_map(|(name, usage)| usages.contains(name).then_some(usage))
    .collect();
    params.extended_key_usages = vec![match signer {
        Signer::Client | Signer::AgentClient => ExtendedKeyUsagePurpose::ClientAuth,
        Signer::AgentServer => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    let seconds =
        spec["expirationSeconds"].as_i64().unwrap_or(LONGEST_SECONDS).clamp(SHORTEST_SECONDS, LONGEST_SECONDS);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |second: i64| epoch + std::time::Duration::from_secs(u64::try_from(second).unwrap_or_default());
    let now = crate::time::epoch();
    (params.not_before, params.not_after) = (at(now - SLACK_SECONDS), at(now + seconds));
    let pem = authority.sign(&request.params).map_err(|error| api::causes::chain(&error))?;
    Ok(STANDARD.encode(pem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};
    use serde_json::json;

    fn request(common_name: &str, organization: &str, names: &[&str]) -> String {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        STANDARD.encode(params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap())
    }

    #[test]
    fn each_signer_signs_what_it_should() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let client = json!(["client auth", "digital signature"]);
        let server = json!(["server auth", "digital signature"]);
        let node = request("system:node:n", NODES, &[]);
        for (signer, request, usages, want) in [
            (Signer::Client, request("u", "g", &[]), &client, None),
            (Signer::Client, request("u", "g", &[]), &server, Some("usage \"server auth\"")),
            (Signer::AgentClient, node.clone(), &client, None),
            (Signer::AgentClient, request("u", NODES, &[]), &client, Some("common name")),
            (Signer::AgentClient, request("system:node:n", NODES, &["a.example"]), &client, Some("alternative")),
            (Signer::AgentServer, request("system:node:n", NODES, &["a.example"]), &server, None),
            (Signer::AgentServer, node, &server, Some("at least one DNS")),
            (Signer::Client, STANDARD.encode("x"), &client, Some("PEM")),
        ] {
            let spec = json!({"request": request, "usages": usages, "expirationSeconds": 3600});
            match (sign(&authority, signer, &spec), want) {
                (Ok(signed), None) => {
                    let pem = STANDARD.decode(signed).unwrap();
                    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
                    let certificate = block.parse_x509().unwrap();
                    let validity = certificate.validity();
                    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3600 + SLACK_SECONDS);
                    assert!(!certificate.is_ca());
                }
                (Err(said), Some(want)) => assert!(said.contains(want), "{said}"),
                (got, want) => panic!("{signer:?}: {got:?}, not {want:?}"),
            }
        }
    }
}
