//! The cluster's certificate authority and what it signs.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// What a certificate lives before it is replaced, in days.
const LEAF_DAYS: i64 = 365;
const AUTHORITY_DAYS: i64 = 3650;

/// Why keys or certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("certificate file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate could not be made or understood.
    #[error("certificate {name}")]
    Certificate {
        /// What it was for.
        name: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// A stored certificate is not X.509.
    #[error("certificate file {} holds no valid certificate", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// What a certificate is for.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The subject's common name: the user name of a client.
    pub common_name: String,
    /// The subject's organizations: the groups of a client.
    pub organizations: Vec<String>,
    /// Names and addresses that a server answers to; empty for a client.
    pub names: Vec<String>,
}

impl Leaf {
    /// A client certificate of a user in a group.
    pub fn client(user: &str, group: &str) -> Self {
        Self { common_name: user.into(), organizations: vec![group.into()], names: Vec::new() }
    }
}

/// Signs certificates for one cluster.
pub struct Authority {
    dir: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority in `dir`, or makes one.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        fs::create_dir_all(dir).map_err(|source| PkiError::File { path: dir.into(), source })?;
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !certificate_path.exists() {
            let fail = |source| PkiError::Certificate { name: "ca".into(), source };
            let key = KeyPair::generate().map_err(fail)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, format!("gantry-ca@{}", crate::time::epoch()));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages =
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
            set_validity(&mut params, AUTHORITY_DAYS);
            let certificate = params.self_signed(&key).map_err(fail)?.pem();
            // The key first: a certificate without its key would be found at the next start.
            write_private(&key_path, key.serialize_pem().as_bytes())?;
            write_private(&certificate_path, certificate.as_bytes())?;
        }
        let certificate = read(&certificate_path)?;
        let fail = |source| PkiError::Certificate { name: "ca".into(), source };
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(fail)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(fail)?;
        Ok(Self { dir: dir.into(), certificate, issuer })
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate for a fresh key.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, PkiError> {
        self.issue_for(leaf, LEAF_DAYS)
    }

    pub(crate) fn issue_for(&self, leaf: &Leaf, days: i64) -> Result<Issued, PkiError> {
        let fail = |source| PkiError::Certificate { name: leaf.common_name.clone(), source };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name.clone());
        // Several organizations are several RDNs; rcgen keeps one per type, so groups beyond the first
        // are refused rather than dropped.
        debug_assert!(leaf.organizations.len() <= 1);
        if let Some(group) = leaf.organizations.first() {
            params.distinguished_name.push(DnType::OrganizationName, group.clone());
        }
        params.extended_key_usages = match leaf.names.is_empty() {
            true => vec![ExtendedKeyUsagePurpose::ClientAuth],
            false => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for name in &leaf.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.clone().try_into().map_err(fail)?),
            });
        }
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, days);
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// A certificate (PEM) of somebody's own key, as `request` has it.
    pub(crate) fn sign(&self, request: &rcgen::CertificateSigningRequestParams) -> Result<String, PkiError> {
        let fail = |source| PkiError::Certificate { name: "a signing request".into(), source };
        Ok(request.signed_by(&self.issuer).map_err(fail)?.pem())
    }

    /// Whether this authority signed a certificate (DER).
    pub(crate) fn signed(&self, der: &[u8]) -> bool {
        use x509_parser::prelude::FromDer as _;
        let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(der) else { return false };
        let Ok((_, own)) = x509_parser::pem::parse_x509_pem(self.certificate.as_bytes()) else { return false };
        let Ok(own) = own.parse_x509() else { return false };
        certificate.issuer() == own.subject() && certificate.verify_signature(Some(own.public_key())).is_ok()
    }

    /// The stored certificate `file`, renewed when a third of its life or less is left, when another
    /// authority signed it, or when it does not answer to a name that it should.
    pub fn ensure(&self, file: &str, leaf: &Leaf) -> Result<Issued, PkiError> {
        let (certificate_path, key_path) = (self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key")));
        if certificate_path.exists() && key_path.exists() {
            let issued = Issued { certificate: read(&certificate_path)?, key: read(&key_path)? };
            if self.is_current(&issued.certificate, leaf, crate::time::epoch()) {
                return Ok(issued);
            }
        }
        let issued = self.issue(leaf)?;
        write_private(&key_path, issued.key.as_bytes())?;
        write_private(&certificate_path, issued.certificate.as_bytes())?;
        Ok(issued)
    }

    /// When a certificate (PEM) expires, in seconds since 1970.
    pub(crate) fn expiry(pem: &str) -> Option<i64> {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        Some(block.parse_x509().ok()?.validity().not_after.timestamp())
    }

    fn is_current(&self, pem: &str, leaf: &Leaf, now: i64) -> bool {
        let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
        let Ok(certificate) = block.parse_x509() else { return false };
        let Ok((_, own)) = x509_parser::pem::parse_x509_pem(self.certificate.as_bytes()) else { return false };
        let Ok(own) = own.parse_x509() else { return false };
        let (from, to) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        let fresh = now >= from && now < to - (to - from) / 3;
        let ours =
            certificate.issuer() == own.subject() && certificate.verify_signature(Some(own.public_key())).is_ok();
        let names = certificate.subject_alternative_name().ok().flatten().map_or(0, |san| {
            san.value.general_names.iter().filter(|name| leaf.names.contains(&general_name(name))).count()
        });
        let subject = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
        fresh && ours && names == leaf.names.len() && subject == Some(leaf.common_name.as_str())
    }
}

fn general_name(name: &x509_parser::extensions::GeneralName<'_>) -> String {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => IpAddr::from(v4).to_string(),
            (_, Ok(v6)) => IpAddr::from(v6).to_string(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    // An hour of slack for clocks that disagree.
    let now = crate::time::epoch();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs((now - 3600).max(0) as u64);
    params.not_after = params.not_before + std::time::Duration::from_secs(days as u64 * 86_400);
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.into(), source })
}

/// Makes or empties a file that only its owner can read.
pub(crate) fn create_private(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes a file only its owner can read: temporary name, sync, rename.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = create_private(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| PkiError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_kept_until_they_must_change() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let mut leaf = Leaf {
            common_name: "kube-apiserver".into(),
            organizations: vec![],
            names: vec!["localhost".into(), "127.0.0.1".into()],
        };
        let first = authority.ensure("server", &leaf).unwrap();
        let again = Authority::open(dir.path()).unwrap();
        assert_eq!(again.ensure("server", &leaf).unwrap().certificate, first.certificate);
        assert!(authority.is_current(&first.certificate, &leaf, crate::time::epoch() + 240 * 86_400));
        assert!(!authority.is_current(&first.certificate, &leaf, crate::time::epoch() + 250 * 86_400));
        leaf.names.push("::1".into());
        assert_ne!(authority.ensure("server", &leaf).unwrap().certificate, first.certificate);
        let other = tempfile::tempdir().unwrap();
        let stranger = Authority::open(other.path()).unwrap();
        assert!(!stranger.is_current(&first.certificate, &leaf, crate::time::epoch()));
    }
}
