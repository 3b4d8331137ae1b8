//! Keys that certificates of pods are asked for: made here, and the request that each signs. The request says nothing
//! but the key; who it is for stands beside it (API reference, PodCertificateRequest, `stubPKCS10Request`).

use getrandom::SysRng;
use p521::ecdsa::signature::Signer as _;
use p521::elliptic_curve::Generate as _;
use p521::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SignatureAlgorithm};

/// A new key and what asks for its certificate.
pub(super) struct PodKey {
    /// PKCS#8, PEM.
    pub(super) private: String,
    /// PKCS#10, DER.
    pub(super) request: Vec<u8>,
}

/// Makes a key of a type of the API's names. Takes up to seconds for RSA, so not inside an executor.
pub(super) fn make(key_type: &str) -> Result<PodKey, String> {
    let known = |algorithm| KeyPair::generate_for(algorithm).map_err(|error| error.to_string()).and_then(stub);
    match key_type {
        "ECDSAP256" => known(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => known(&rcgen::PKCS_ECDSA_P384_SHA384),
        "ED25519" => known(&rcgen::PKCS_ED25519),
        "ECDSAP521" => p521(),
        "RSA3072" => rsa(3072, &rcgen::PKCS_RSA_SHA256),
        "RSA4096" => rsa(4096, &rcgen::PKCS_RSA_SHA256),
        other => Err(format!("podCertificate.keyType {other:?} is not one that this node can make")),
    }
}

fn stub(key: KeyPair) -> Result<PodKey, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|error| error.to_string())?;
    Ok(PodKey { private: key.serialize_pem(), request: request.der().to_vec() })
}

fn rsa(bits: usize, algorithm: &'static SignatureAlgorithm) -> Result<PodKey, String> {
    let key = rsa::PrivateKey::new(&mut SysRng, bits).map_err(|error| error.to_string())?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| error.to_string())?;
    KeyPair::from_pkcs8_pem_and_sign_algo(&pem, algorithm).map_err(|error| error.to_string()).and_then(stub)
}

/// The one curve that the signing backend lacks: the request is put together here (RFC 2986).
fn p521() -> Result<PodKey, String> {
    const SEQUENCE: u8 = 0x30;
    /// ecdsa-with-SHA512, RFC 5758.
    const ALGORITHM: [u8; 12] = [SEQUENCE, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
    let key = p521::SecretKey::try_generate_from_rng(&mut SysRng).map_err(|error| error.to_string())?;
    let public = key.public_key().to_public_key_der().map_err(|error| error.to_string())?;
    // version 0, no subject, the key, no attributes
    let info = tagged(SEQUENCE, &[&[0x02, 1, 0][..], &[SEQUENCE, 0], public.as_bytes(), &[0xa0, 0]].concat());
    let signature: p521::ecdsa::DerSignature = p521::ecdsa::SigningKey::from(&key).sign(&info);
    let bits = tagged(0x03, &[&[0][..], signature.as_bytes()].concat());
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| error.to_string())?;
    Ok(PodKey { private: private.to_string(), request: tagged(SEQUENCE, &[&info[..], &ALGORITHM, &bits].concat()) })
}

/// A DER value: tag, length, content.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut der = vec![tag];
    if content.len() > 0x7f {
        der.push(0x80 | u8::try_from(length.len()).unwrap_or(u8::MAX));
    }
    der.extend_from_slice(length);
    der.extend_from_slice(content);
    der
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer as _;

    use super::*;

    #[test]
    fn every_type_of_key_asks_for_itself() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ED25519", "RSA3072"] {
            let key = make(key_type).unwrap();
            let (rest, request) = X509CertificationRequest::from_der(&key.request).unwrap();
            assert!(rest.is_empty() && request.verify_signature().is_ok(), "{key_type}");
            assert!(key.private.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{key_type}");
            assert_eq!(request.certification_request_info.subject.iter().count(), 0);
        }
        assert!(make("DSA").is_err_and(|said| said.contains("keyType")));
    }

    #[test]
    fn a_request_of_the_large_curve_is_read_and_its_signature_holds() {
        use p521::ecdsa::signature::Verifier as _;
        use p521::pkcs8::DecodePublicKey as _;
        let key = make("ECDSAP521").unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&key.request).unwrap();
        assert!(rest.is_empty());
        let info = &request.certification_request_info;
        let public = p521::PublicKey::from_public_key_der(info.subject_pki.raw).unwrap();
        let signature = p521::ecdsa::DerSignature::try_from(&*request.signature_value.data).unwrap();
        p521::ecdsa::VerifyingKey::from(public).verify(info.raw, &signature).unwrap();
    }
}
