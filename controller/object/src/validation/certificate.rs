//! Rules of certificates.k8s.io: requests, pods' requests, and trust bundles.
use super::check::{Faults, is_blank, join};
use super::metadata::annotations;
use crate::status::Cause;
use crate::tree::{at, entries, integer, list, text};
use serde_json::Value;
use std::collections::BTreeSet;

/// The shortest life that may be asked for, in seconds.
const SHORTEST_SECONDS: i64 = 600;
/// Lives of pods' certificates, in seconds: an hour to 91 days.
const POD_SECONDS: std::ops::RangeInclusive<i64> = 3600..=91 * 86_400;
/// Lives that Kubernetes' own signers give, in seconds: up to a day.
const OWN_POD_SECONDS: i64 = 86_400;

/// `domain/path` with a domain of at least two labels.
fn signer_name(name: &str, path: &str, faults: &mut Faults) {
    if name.is_empty() {
        return faults.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/') else {
        return faults.invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    };
    if !domain.contains('.') || !api::name::rfc1123_subdomain(domain).is_empty() || rest.is_empty() {
        faults.invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    }
}

const USAGES: [&str; 23] = [
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

pub(super) fn signing_request(object: &Value, faults: &mut Faults) {
    signer_name(text(object, &["spec", "signerName"]).unwrap_or_default(), "spec.signerName", faults);
    if text(object, &["spec", "signerName"]) == Some("kubernetes.io/legacy-unknown") {
        faults.invalid(
            "spec.signerName",
            "kubernetes.io/legacy-unknown",
            "the legacy signerName is not allowed via this API version",
        );
    }
    match text(object, &["spec", "request"]) {
        None | Some("") => faults.required("spec.request", ""),
        Some(request) if !is_pem(request, "CERTIFICATE REQUEST") => {
            faults.invalid("spec.request", request, "PEM block type must be CERTIFICATE REQUEST");
        }
        Some(_) => {}
    }
    let usages = list(object, &["spec", "usages"]);
    if usages.is_empty() {
        faults.required("spec.usages", "");
    }
    for (index, usage) in usages.iter().enumerate() {
        if !usage.as_str().is_some_and(|usage| USAGES.contains(&usage)) {
            faults.add(Cause::unsupported(format!("spec.usages[{index}]"), usage, &USAGES));
        }
    }
    if let Some(seconds) = integer(object, &["spec", "expirationSeconds"])
        && seconds < SHORTEST_SECONDS
    {
        faults.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

/// Whether base64 holds a PEM block of this label.
fn is_pem(encoded: &str, label: &str) -> bool {
    use base64::Engine as _;
    let Ok(bytes) = base64::prelude::BASE64_STANDARD.decode(encoded) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    text.contains(&format!("-----BEGIN {label}-----")) && text.contains(&format!("-----END {label}-----"))
}

/// Kinds of keys that pods may have certificates for.
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// What a pod's projected volume asks a signer for.
pub(super) fn projection(part: &Value, path: &str, faults: &mut Faults) {
    let signer = text(part, &["signerName"]).unwrap_or_default();
    signer_name(signer, &join(path, "signerName"), faults);
    faults.needs_one_of(part, "keyType", path, &KEY_TYPES);
    // What is missing is filled in by the defaults.
    if let Some(seconds) = integer(part, &["maxExpirationSeconds"]) {
        pod_life(signer, seconds, join(path, "maxExpirationSeconds"), faults);
    }
    let mut paths = BTreeSet::new();
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let Some(file) = text(part, &[field]).filter(|file| !file.is_empty()) else { continue };
        super::volume::inner_path(file, &join(path, field), faults);
        if !paths.insert(file) {
            faults.invalid(join(path, field), file, "conflicting duplicate paths");
        }
    }
    if paths.is_empty() {
        faults.required(path, "specify at least one of keyPath, certificateChainPath, or credentialBundlePath");
    }
    told(part, "userAnnotations", path, faults);
}

/// What a pod's author tells a signer: like annotations, but with a domain before every key.
fn told(holder: &Value, field: &str, path: &str, faults: &mut Faults) {
    let path = join(path, field);
    annotations(holder, field, &path, faults);
    for (key, _) in entries(holder, &[field]).filter(|(key, _)| !key.contains('/')) {
        faults.invalid(path.as_str(), key.as_str(), "must be a domain-prefixed key");
    }
}

fn pod_life(signer: &str, seconds: i64, field: String, faults: &mut Faults) {
    let longest = if signer.starts_with("kubernetes.io/") { OWN_POD_SECONDS } else { *POD_SECONDS.end() };
    if !(*POD_SECONDS.start()..=longest).contains(&seconds) {
        let detail = format!("must be in the range [{}, {longest}]", POD_SECONDS.start());
        faults.invalid(field, seconds, &detail);
    }
}

pub(super) fn pod_request(object: &Value, faults: &mut Faults) {
    let signer = text(object, &["spec", "signerName"]).unwrap_or_default();
    signer_name(signer, "spec.signerName", faults);
    for field in ["podName", "podUID", "serviceAccountName", "serviceAccountUID", "nodeName", "nodeUID"] {
        if is_blank(at(object, &["spec", field])) {
            faults.required(format!("spec.{field}"), "");
        }
    }
    match integer(object, &["spec", "maxExpirationSeconds"]) {
        None => faults.required("spec.maxExpirationSeconds", "must be set"),
        Some(seconds) => pod_life(signer, seconds, "spec.maxExpirationSeconds".into(), faults),
    }
    // The request itself is read where its signature is checked, by the API server.
    if is_blank(at(object, &["spec", "stubPKCS10Request"])) {
        faults.required("spec.stubPKCS10Request", "");
    }
    told(&object["spec"], "unverifiedUserAnnotations", "spec", faults);
}

pub(super) fn trust_bundle(object: &Value, faults: &mut Faults) {
    let signer = text(object, &["spec", "signerName"]).unwrap_or_default();
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    if signer.is_empty() {
        if name.contains(':') {
            faults.invalid(
                "metadata.name",
                name,
                "ClusterTrustBundle without signer name must not have \":\" in its name",
            );
        }
    } else {
        signer_name(signer, "spec.signerName", faults);
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !name.starts_with(&prefix) {
            let detail = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            faults.invalid("metadata.name", name, &detail);
        }
    }
    certificates(text(object, &["spec", "trustBundle"]).unwrap_or_default(), faults);
}

/// PEM blocks of certificates, without headers, each once.
fn certificates(bundle: &str, faults: &mut Faults) {
    let path = "spec.trustBundle";
    if bundle.len() > 1 << 20 {
        return faults.add(Cause::too_long(path, 1 << 20));
    }
    let mut seen = std::collections::BTreeSet::new();
    let (mut rest, mut count) = (bundle, 0usize);
    while let Some(start) = rest.find("-----BEGIN ") {
        let block = &rest[start + "-----BEGIN ".len()..];
        let Some((label, body)) = block.split_once("-----") else { break };
        let Some(end) = body.find("-----END ") else {
            return faults.invalid(path, "<value omitted>", "a PEM block has no end");
        };
        if label != "CERTIFICATE" {
            let detail = format!("entry {count} has bad block type: {label}");
            return faults.invalid(path, "<value omitted>", &detail);
        }
        let content: String = body[..end].split_whitespace().collect();
        use base64::Engine as _;
        if body[..end].contains(':') {
            let detail = format!("entry {count} has PEM block headers");
            return faults.invalid(path, "<value omitted>", &detail);
        }
        match base64::prelude::BASE64_STANDARD.decode(&content) {
            // A certificate is a DER sequence.
            Ok(der) if der.first() == Some(&0x30) => {}
            Ok(_) | Err(_) => {
                let detail = format!("entry {count} does not parse as X.509");
                return faults.invalid(path, "<value omitted>", &detail);
            }
        }
        if !seen.insert(content) {
            return faults.invalid(path, "<value omitted>", "the same certificate stands twice");
        }
        count += 1;
        rest = &body[end + "-----END ".len()..];
    }
    if count == 0 {
        faults.invalid(path, "<value omitted>", "at least one trust anchor must be provided");
    }
}
