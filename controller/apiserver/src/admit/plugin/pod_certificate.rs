//! Certificates of pods: what a node asks for is signed by the key that it is about, and what a signer answers is a
//! certificate as it says. API reference, PodCertificateRequest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use controller_object::resource::Subresource;
use controller_object::status::{Cause, Status};
use k8s_openapi::jiff::Timestamp;
use p521::ecdsa::signature::Verifier as _;
use p521::pkcs8::DecodePublicKey as _;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::admit::{Attributes, Operation};
use crate::registry::names;

/// Of these at most one is set.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];
/// What a signer says once.
const ONCE: [&str; 4] = ["certificateChain", "notBefore", "notAfter", "beginRefreshAt"];

/// Judges a request and its status.
pub(super) fn validate(attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if !attributes.is("certificates.k8s.io", "podcertificaterequests") {
        return Ok(());
    }
    let causes = match (attributes.operation, attributes.subresource) {
        (Operation::Create, None) => {
            let encoded = &object["spec"]["stubPKCS10Request"];
            let said = check_request(encoded.as_str().unwrap_or_default()).err();
            said.map(|said| Cause::invalid("spec.stubPKCS10Request", encoded, &said)).into_iter().collect()
        }
        (Operation::Update, Some(Subresource::Status)) => {
            status(attributes.old.map_or(&Value::Null, |old| &old["status"]), &object["status"])
        }
        _ => return Ok(()),
    };
    match causes.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(attributes.resource, names(object).1, causes)),
    }
}

/// Reads base64 of a DER-encoded PKCS#10 request: the kind of its key is one of those that pods may have, and the key
/// has signed it.
fn check_request(encoded: &str) -> Result<(), String> {
    let der = STANDARD.decode(encoded).map_err(|_| "must be base64".to_owned())?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|error| format!("must be a DER PKCS#10 request: {error}"))?;
    if !rest.is_empty() {
        return Err("must be one DER PKCS#10 request and nothing after it".into());
    }
    let key = &request.certification_request_info.subject_pki;
    let is_p521 = key_type(key)
        .ok_or("key type must be RSA3072, RSA4096, ECDSAP256, ECDSAP384, ECDSAP521 or ED25519")?
        == OID_NIST_EC_P521;
    let signed = match is_p521 {
        // The parser's backend has no such curve.
        true => check_p521(&request, key),
        false => request.verify_signature().map_err(|error| error.to_string()),
    };
    signed.map_err(|error| format!("must be signed by its own key: {error}"))
}

/// The identifier of a key's algorithm or curve; `None` for a kind that pods may not have.
fn key_type<'a>(key: &'a SubjectPublicKeyInfo<'a>) -> Option<x509_parser::asn1_rs::Oid<'a>> {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return Some(OID_SIG_ED25519);
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let bits = match key.parsed().ok()? {
            PublicKey::RSA(own) => own.key_size(),
            _ => return None,
        };
        return matches!(bits, 3072 | 4096).then_some(OID_PKCS1_RSAENCRYPTION);
    }
    if *algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return None;
    }
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].into_iter().find(|known| *known == curve)
}

fn check_p521(request: &X509CertificationRequest<'_>, key: &SubjectPublicKeyInfo<'_>) -> Result<(), String> {
    let key = p521::PublicKey::from_public_key_der(key.raw).map_err(|error| error.to_string())?;
    let signature =
        p521::ecdsa::DerSignature::try_from(&*request.signature_value.data).map_err(|error| error.to_string())?;
    let key = p521::ecdsa::VerifyingKey::from(key);
    key.verify(request.certification_request_info.raw, &signature).map_err(|error| error.to_string())
}

/// What is wrong with what a signer says.
fn status(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ends = |status: &'_ Value| -> Vec<Value> {
        let all = status["conditions"].as_array().into_iter().flatten();
        all.filter(|condition| ENDS.iter().any(|end| condition["type"] == *end)).cloned().collect()
    };
    let (before, ends) = (ends(old), ends(new));
    for end in &ends {
        if end["status"] != "True" {
            causes.push(Cause::unsupported("status.conditions.status", &end["status"], &["True"]));
        }
    }
    if ends.len() > 1 {
        let said = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
        causes.push(Cause::invalid("status.conditions", &Value::from(ends.len()), said));
    }
    if let Some(before) = before.first()
        && ends.first().is_none_or(|after| after["type"] != before["type"])
    {
        causes.push(Cause::invalid("status.conditions", &before["type"], "what was decided stays"));
    }
    for field in ONCE {
        if !old[field].is_null() && old[field] != new[field] {
            causes.push(Cause::invalid(format!("status.{field}"), &new[field], "field is immutable"));
        }
    }
    let is_issued = ends.iter().any(|end| end["type"] == "Issued");
    let is_said = |field: &&str| !new[*field].is_null() && new[*field] != "";
    match is_issued {
        true => {
            let missing = ONCE.iter().filter(|field| !is_said(field));
            causes.extend(
                missing.map(|field| {
                    Cause::required(format!("status.{field}"), "must be set when the condition Issued is")
                }),
            );
        }
        false => {
            let early = ONCE.iter().filter(|field| is_said(field));
            causes.extend(
                early.map(|field| {
                    Cause::forbidden(format!("status.{field}"), "may only be set with the condition Issued")
                }),
            );
        }
    }
    if causes.is_empty() && is_issued && old["conditions"] != new["conditions"] {
        causes.extend(issued(new));
    }
    causes
}

/// What is wrong with an issued certificate, beside what is said of it.
fn issued(status: &Value) -> Option<Cause> {
    let chain = status["certificateChain"].as_str().unwrap_or_default();
    let wrong = |said: &str| Some(Cause::invalid("status.certificateChain", &Value::from("<value omitted>"), said));
    let mut leaf = None;
    for block in Pem::iter_from_buffer(chain.as_bytes()) {
        let Ok(block) = block else { return wrong("must be PEM") };
        if block.label != "CERTIFICATE" {
            return wrong(&format!("must hold blocks CERTIFICATE, not {}", block.label));
        }
        let Ok(certificate) = block.parse_x509() else { return wrong("must hold X.509 certificates") };
        let validity = certificate.validity();
        leaf.get_or_insert((validity.not_before.timestamp(), validity.not_after.timestamp()));
    }
    let Some((from, to)) = leaf else { return wrong("must hold at least one certificate") };
    let said =
        |field: &str| status[field].as_str().and_then(|time| time.parse::<Timestamp>().ok()).map(Timestamp::as_second);
    for (field, own) in [("notBefore", from), ("notAfter", to)] {
        if said(field) != Some(own) {
            let detail = format!("must be the {field} of the leaf certificate");
            return Some(Cause::invalid(format!("status.{field}"), &status[field], &detail));
        }
    }
    let refresh = said("beginRefreshAt")?;
    let is_inside = (from..=to).contains(&refresh);
    (!is_inside).then(|| {
        Cause::invalid("status.beginRefreshAt", &status["beginRefreshAt"], "must lie between notBefore and notAfter")
    })
}
